"""What must be known of this machine before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from perf.records.fingerprint import Fingerprint


@dataclass(frozen=True, kw_only=True, slots=True)
class Here:
    """This machine, its software and what they choose where nobody says.

    Attributes:
        fingerprint: machine and software.
        device: the type of device: "cpu" or "cuda".
        auto_precision: what precision "auto" is here.
        default_workload: what to measure and train unless told otherwise.
    """

    fingerprint: Fingerprint
    device: str
    auto_precision: str
    default_workload: str

    def resolved(self, precision: str) -> str:
        """Return "fp32" or "bf16" for a precision that may be "auto"."""
        return self.auto_precision if precision == "auto" else precision


def here(environ: Mapping[str, str]) -> Here:
    """Return the facts of this machine for processes with the environment `environ`."""
    from perf.runner.machine import fingerprint
    from perf.train.devices import resolve_device, resolve_precision
    from perf.train.workloads import default_workload

    device = resolve_device("auto")
    return Here(
        fingerprint=fingerprint(),
        device=device.type,
        auto_precision=resolve_precision("auto", device),
        default_workload=default_workload(device.type),
    )
