"""Workloads that tests train, by the ids "tests.workloads:small" and so on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import msgspec
import torch

import perf
from perf.seam import Case, Step
from perf.train.workloads import BERT_CONFIGS, bert_workload

SMALL = msgspec.structs.replace(
    BERT_CONFIGS["pico"],
    name="small",
    hidden_size=16,
    intermediate_size=32,
    vocab_size=100,
    max_positions=24,
    seq_len=16,
    masked_per_sample=3,
    dropout=0.1,
    micro_batch_size=8,
    global_batch_sizes=(8, 16, 32),
    max_steps=10,
    log_steps=2,
)
"""It trains in milliseconds, with everything on: dropout, a padded vocabulary, several layers."""

small = bert_workload(SMALL)


@perf.workload(global_batch_sizes=(8, 16, 32))
def fails_at_32(case: Case) -> Step:
    """Learns, except at 32, where its second loss is no number."""
    step = small(dataclasses.replace(case, micro_batch_size=8))
    losses = [1.0, float("nan")] if case.global_batch_size == 32 else []

    def maybe() -> object:
        loss = step()
        return losses.pop(0) if losses else loss

    return maybe


@perf.workload(global_batch_sizes=(4, 8), precision="bf16", threshold=0.03, sample="rows", about={"width": 3})
def line(case: Case) -> Callable[[], dict[str, object]]:
    """Fits a line, and returns a second scalar."""
    torch.manual_seed(case.seed)
    x = torch.randn(case.global_batch_size, 3)
    weight = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)

    def step() -> dict[str, object]:
        loss = ((x @ weight - 1) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        with case.phase("clip"):
            norm = torch.nn.utils.clip_grad_norm_([weight], 1.0)
        optimizer.step()
        return {"loss": loss.detach(), "grad_norm": norm}

    return step


@perf.workload(global_batch_sizes=(4,))
def broken(case: Case) -> Step:
    """Cannot be built."""
    raise RuntimeError("no data here")


@perf.workload(global_batch_sizes=(4,))
def fussy(case: Case) -> Step:
    """Fails in its first step, as torch does where shapes do not fit."""

    def step() -> float:
        raise ValueError("4 and 5 do not fit")

    return step
