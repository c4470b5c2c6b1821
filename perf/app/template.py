"""A training step for stepmark. Put your own model and data in place of these.

pytest FILE                          measure it
stepmark promote --reason TEXT       make that result the baseline of this machine
pytest FILE --benchmark-compare      measure again, and compare
stepmark duet                        compare the last commit with your changes
"""

import torch
from torch import nn

import perf


@perf.workload(global_batch_sizes=(256, 1024))  # samples per optimizer step; each is measured and judged by itself
def classifier(case):
    """A small network learns to tell ten noisy patterns apart."""
    # Seed everything: with the same seed every process must see the same data and have the same losses.
    torch.manual_seed(case.seed)
    patterns = torch.randn(10, 256, device=case.device)
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    model.to(case.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step():
        """Make one optimizer step."""
        labels = torch.randint(10, (case.global_batch_size,), device=case.device)
        inputs = patterns[labels] + torch.randn(len(labels), 256, device=case.device)
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()  # not loss.item(): that would wait for the device in every step

    return step
