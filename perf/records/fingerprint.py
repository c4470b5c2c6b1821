"""What machine and what software a measurement was made with.

Other hardware makes times incomparable. Other software is what an upgrade is about, and is listed beside a verdict.
What changes by itself (clock frequency, load, host name) is in neither.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, TypedDict

import msgspec
from msgspec import Meta

from perf.printable import printable
from perf.records.fields import Fact, Release, Word

Facts = Annotated[dict[Word, Fact], Meta(max_length=1000)]


class _Hardware(TypedDict):
    """Facts that every machine has. They name its folder: bounds keep that name short."""

    cpu: Annotated[str, Meta(min_length=1, max_length=100)]
    cores: Annotated[int, Meta(ge=1, le=10**6)]
    isa: Annotated[str, Meta(min_length=1, max_length=20)]
    memory_gib: Annotated[int, Meta(ge=0, le=10**9)]
    gpu: Annotated[str, Meta(min_length=1, max_length=80)]
    num_gpus: Annotated[int, Meta(ge=0, le=10**5)]


class _Software(TypedDict):
    """What is said of all software, and compared by name."""

    python: Release
    torch: Release
    numpy: Release
    threads: Annotated[int, Meta(ge=1, le=10**6)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    """A machine and the software on it."""

    hardware: Facts  # facts that make times incomparable when they differ
    software: Facts  # facts that explain a difference

    @property
    def slug(self) -> str:
        """The machine class as a folder name."""
        facts = self.hardware
        parts = [facts["cpu"], f"{facts['cores']}c", f"{facts['memory_gib']}gib", facts["isa"]]
        if facts["num_gpus"]:
            parts += [f"{facts['num_gpus']}x", facts["gpu"]]
        return re.sub(r"[^a-z0-9]+", "-", " ".join(map(str, parts)).lower()).strip("-")

    @property
    def torch_release(self) -> str:
        """The version of torch without its build, such as ``+cpu``."""
        return str(self.software["torch"]).partition("+")[0]

    def require_named(self) -> None:
        """Raise ValueError where a fact that others are told apart by is missing, or is not what it should be."""
        for name, facts, kind in (("hardware", self.hardware, _Hardware), ("software", self.software, _Software)):
            try:
                msgspec.convert(facts, kind)
            except msgspec.ValidationError as error:
                raise ValueError(f"fingerprint.{name}: {str(error).replace('$.', '')}") from None


def differences(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Return each fact that differs, as ``name before -> now``, in order; printable, for facts come from files, too."""
    return [
        printable(f"{name} {before.get(name, 'not set')} -> {now.get(name, 'not set')}")
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]
