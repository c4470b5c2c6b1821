"""A multi-layer perceptron whose element-wise operations torch.compile can fuse, and a function for it to learn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

NUM_INPUTS = 32


class Perceptron(nn.Module):
    """Four gated layers: inputs [batch, 32] in, predictions [batch] out."""

    def __init__(self, width: int = 128, num_layers: int = 4) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(NUM_INPUTS, width), nn.Linear(width, 1)
        self.layers = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(num_layers))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return one prediction for each row of the inputs."""
        x = self.first(inputs)
        for layer in self.layers:
            value, gate = layer(x).chunk(2, dim=-1)
            x = x + torch.tanh(value) * torch.sigmoid(gate)
        return self.last(x).squeeze(-1)


def squared_error(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the model's mean squared error on the sum of the inputs' sines."""
    error: Tensor = (model(inputs) - inputs.sin().sum(-1)).square().mean()
    return error
