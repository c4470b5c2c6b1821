"""What machine and what software a measurement was made with.

Other hardware makes times incomparable. Other software is what an upgrade is about, and is listed beside a verdict.
What changes by itself (clock frequency, load, host name) is in neither.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from perf.printable import printable

Facts = dict[str, str | int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    """A machine and the software on it.

    Attributes:
        hardware: facts that make times incomparable when they differ.
        software: facts that explain a difference.
    """

    hardware: Facts
    software: Facts

    @property
    def slug(self) -> str:
        """The machine class as a folder name."""
        facts = self.hardware
        parts = [facts["cpu"], f"{facts['cores']}c", f"{facts['memory_gib']}gib", facts["isa"]]
        if facts["num_gpus"]:
            parts += [f"{facts['num_gpus']}x", facts["gpu"]]
        return re.sub(r"[^a-z0-9]+", "-", " ".join(map(str, parts)).lower()).strip("-")


def differences(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Return each fact that differs, as ``name before -> now``, in order; printable, for facts come from files, too."""
    return [
        printable(f"{name} {before.get(name, 'not set')} -> {now.get(name, 'not set')}")
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]
