"""A training step of the small CNN in shapes.py, fed by a data loader."""

import torch
from shapes import ConvNet, draw_batches
from torch.nn.functional import cross_entropy

import perf


@perf.workload(global_batch_sizes=(64, 256), sample="images")
def cnn(case):
    """Train a small CNN on images of four shapes."""
    torch.manual_seed(case.seed)
    model = ConvNet().to(case.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = draw_batches(case.global_batch_size, case.seed)

    def step():
        images, labels = (tensor.to(case.device) for tensor in next(batches))
        loss = cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
