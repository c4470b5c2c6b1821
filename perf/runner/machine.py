"""This process's machine and software, as facts."""

import os
import platform
import re
import subprocess
from pathlib import Path

import numpy as np
import torch

from perf.records.sessions import Facts, Fingerprint

_ENVIRONMENT = re.compile(
    r"(OMP|GOMP|KMP|MKL|OPENBLAS|ONEDNN|DNNL|MALLOC|TORCH|PYTORCH|TORCHINDUCTOR|ATEN|CUDA|CUBLAS|NCCL|GLIBC)_\w+"
    r"|LD_PRELOAD|PYTHONOPTIMIZE|PYTHONMALLOC"
)


def fingerprint() -> Fingerprint:
    """Return this process's machine and software."""
    num_gpus = torch.cuda.device_count()
    hardware: Facts = {
        "cpu": _cpu_model(),
        "cores": _usable_cores(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpu": " + ".join(sorted({torch.cuda.get_device_name(index) for index in range(num_gpus)})) or "none",
        "num_gpus": num_gpus,
    }
    software: Facts = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torch_commit": str(torch.version.git_version),
        "numpy": np.__version__,
        "os": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()) or "unknown",
        "threads": torch.get_num_threads(),
        "matmul_precision": torch.get_float32_matmul_precision(),
    }
    if torch.cuda.is_available():
        software |= {
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]  # torch: unannotated
            "gpu_driver": _gpu_driver(),
            "tf32": int(torch.backends.cuda.matmul.allow_tf32),
        }
    software |= {f"${name}": value for name, value in sorted(os.environ.items()) if _ENVIRONMENT.fullmatch(name)}
    return Fingerprint(hardware=hardware, software=software)


def _cpu_model() -> str:
    """Return the processor's name with its family and model: one name is sold for several generations."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    numbers = [f"{key.split()[-1]} {facts[key]}" for key in ("cpu family", "model") if key in facts]
    return " ".join([facts.get("model name") or platform.machine(), *numbers])


def _usable_cores() -> int:
    """Return how many cores this process may use: by affinity, and by the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else min(cores, max(1, int(quota) // int(period)))


def _gpu_driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.split("\n")[0].strip()
