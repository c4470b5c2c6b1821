"""What a SPEC means: one side of a duet, as plain data."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[\w,.-]+\])?([=<>!~]=?=?[A-Za-z0-9.*+!_-]+)?")
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)

_NEEDED = {
    "baseline": "takes no value; it is the baseline of this machine",
    "git": "is no revision; one is needed, such as git:HEAD~1",
    "pip": "each package needs a name, as in pip:numpy==2.2.0,scipy",
    "python": "is no program; the path of an interpreter is needed",
    "env": "each setting needs a name and a value, as in env:NAME=VALUE,OTHER=VALUE",
}
"""The parts of a SPEC that have a value, and what is said where it does not fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What makes a side differ from what is here."""

    text: str  # as it was asked for
    commit: str = ""  # a git revision to check out; "" for the working tree
    packages: tuple[str, ...] = ()  # pip requirements to put before what is installed
    python: Path | None = None  # an interpreter; None for this one
    environ: Mapping[str, str] = field(default_factory=dict)  # environment variables to set
    is_baseline: bool = False  # whether commit and packages are to be those of the promoted baseline


def parse_recipe(parts: Sequence[str]) -> Recipe:
    """Return what the parts of a SPEC ask for together.

    Raises:
        ValueError: a part is not understood, or two of them exclude each other.
    """
    recipe = Recipe(text=" ".join(parts))
    seen: set[str] = set()
    for part in parts:
        kind, colon, value = part.partition(":")
        if kind in seen or not (part == "self" or (colon and kind in _NEEDED)):
            raise ValueError(
                f"{part!r}: each of self, baseline:, git:REF, pip:NAME==VERSION,..., python:/path, env:NAME=VALUE,... "
                "at most once"
            )
        seen.add(kind)
        if part != "self":
            recipe = _with_part(recipe, kind, value)
    for one, other in (("git", "baseline"), ("git", "self"), ("baseline", "self"), ("pip", "baseline")):
        if {one, other} <= seen:
            raise ValueError(f"{recipe.text!r}: {one} and {other} exclude each other")
    return recipe


def _with_part(recipe: Recipe, kind: str, value: str) -> Recipe:
    values = value.split(",")
    if kind == "baseline" and not value:
        return replace(recipe, is_baseline=True)
    if kind == "git" and value and not value.startswith("-"):
        return replace(recipe, commit=value)
    if kind == "pip" and all(map(_REQUIREMENT.fullmatch, values)):
        return replace(recipe, packages=tuple(values))
    if kind == "python" and os.access(value, os.X_OK) and not Path(value).is_dir():
        return replace(recipe, python=Path(value).absolute())
    if kind == "env" and all(map(_SETTING.fullmatch, values)):
        return replace(recipe, environ={name: setting for name, _, setting in (v.partition("=") for v in values)})
    raise ValueError(f"{kind}:{value}: {_NEEDED[kind]}")
