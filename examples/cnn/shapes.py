"""A small convolutional network, and a generated dataset of grey images of four shapes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

SIZE = 24
NUM_CLASSES = 4


def make_images(num_images: int, seed: int) -> TensorDataset:
    """Draw images [num_images, 1, 24, 24] of discs, squares, crosses and stripes, and their labels [num_images]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_CLASSES, (num_images,), generator=generator)
    centre = torch.rand(2, num_images, 1, 1, generator=generator) * 6 + (SIZE / 2 - 3)
    radius = torch.rand(num_images, 1, 1, generator=generator) * 4 + 5
    rows = (torch.arange(SIZE).view(1, SIZE, 1) - centre[0]).abs()
    columns = (torch.arange(SIZE).view(1, 1, SIZE) - centre[1]).abs()
    square = torch.maximum(rows, columns) < radius
    shapes = torch.stack(
        [
            rows**2 + columns**2 < radius**2,
            square,
            square & (torch.minimum(rows, columns) < 2),
            square & (rows % 4 < 2),
        ]
    )
    images = shapes[labels, torch.arange(num_images)].float()
    images += 0.3 * torch.randn(images.shape, generator=generator)
    return TensorDataset(images[:, None], labels)


def draw_batches(batch_size: int, seed: int) -> Iterator[list[Tensor]]:
    """Yield [images, labels] of a batch from a shuffled data loader, epoch after epoch without end."""
    loader = DataLoader(make_images(2048, seed), batch_size=batch_size, shuffle=True, drop_last=True)
    while True:
        yield from loader


class ConvNet(nn.Sequential):
    """Three convolutions and a linear layer: images [batch, 1, 24, 24] in, scores [batch, 4] out."""

    def __init__(self, width: int = 16) -> None:
        super().__init__(
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2 * width, NUM_CLASSES),
        )
