"""A training step under torch.compile. Needs a C++ compiler."""

import os
import shutil
import unittest

import torch
from regression import NUM_INPUTS, Perceptron, squared_error

import perf

if shutil.which(os.environ.get("CXX", "g++")) is None:
    raise unittest.SkipTest("bench_compiled.py needs a C++ compiler for torch.compile: install g++, or name one in CXX")


@perf.workload(global_batch_sizes=(1024, 4096))
def compiled(case):
    """Train a gated perceptron whose forward pass and loss are compiled."""
    torch.manual_seed(case.seed)
    model = Perceptron().to(case.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    forward = torch.compile(squared_error)

    def step():
        loss = forward(model, torch.randn(case.global_batch_size, NUM_INPUTS, device=case.device))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step
