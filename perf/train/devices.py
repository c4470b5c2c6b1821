"""Where a run computes: device, precision, clock synchronization and the group of ranks."""

import ctypes
import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from msgspec import Struct
from torch import Tensor

from perf.errors import MainRankError

T = TypeVar("T")


def resolve_device(name: str) -> torch.device:
    """Return the device for "auto" (CUDA where there is one), "cpu" or "cuda"; under torchrun, this rank's GPU.

    Raises:
        ValueError: CUDA was asked for and this torch sees no GPU, or none for this rank.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError(f"--device {name}: torch {torch.__version__} sees no GPU; use --device cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if device.index >= torch.cuda.device_count():
        raise ValueError(
            f"local rank {device.index} has no GPU: there are {torch.cuda.device_count()}; start fewer ranks"
        )
    torch.cuda.set_device(device)
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """Return "fp32" or "bf16". "auto" is bf16 on a GPU that multiplies it natively, and fp32 on a CPU.

    So a CPU's portable baselines hold on every other one, and training and measuring compute alike.
    """
    if name != "auto":
        return name
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if native else "fp32"


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was asked to; a clock read before that measures the asking."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seed_device(device: torch.device, seed: int) -> None:
    """Seed what operations on `device` draw from, and nothing else.

    ``torch.manual_seed`` also formats a stack trace for each accelerator library that is not in use, and keeps one of
    them for ever: not for every step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def keep_freed_memory() -> None:
    """Ask glibc to keep freed memory rather than return it to the kernel; do nothing on other C libraries.

    A step frees and allocates the same buffers again. Returned to the kernel, each of them costs page faults: on two
    cores, `pico` in micro-batches of 1024 ran at 0.82 of its speed at 256 without this, and at 1.09 with it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
        mallopt(mmap_threshold, 32 * 2**20)  # the most glibc accepts
        mallopt(trim_threshold, 2**30)


class World(Struct, frozen=True, kw_only=True):
    """The ranks that train one model together: this one's number, and how many there are."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this rank logs and saves."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of `values` over the ranks, elementwise."""
        if self.size == 1:
            return values
        dist.all_reduce(values)
        return values / self.size

    def any(self, flag: bool) -> bool:
        """Return on every rank whether `flag` is true on one of them."""
        if self.size == 1:
            return flag
        flags: list[bool] = [False] * self.size
        dist.all_gather_object(flags, flag)
        return True in flags

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier()

    def from_main(self, action: Callable[[], T]) -> T:
        """Run `action` on the main rank only and return its result on every rank.

        Raises:
            MainRankError: on the other ranks, when the main one raised: none is left waiting.
        """
        if self.size == 1:
            return action()
        outcome: list[Any] = [None, False]
        try:
            if self.is_main:
                outcome = [action(), True]
        finally:
            dist.broadcast_object_list(outcome)
        result, succeeded = outcome
        if not succeeded:
            raise MainRankError
        return cast(T, result)


def join_ranks(device: torch.device, held: ExitStack) -> World:
    """Join the ranks that torchrun started until `held` ends (gloo on CPU, NCCL on CUDA); else be the only one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    held.callback(dist.destroy_process_group)
    return World(rank=dist.get_rank(), size=size)
