"""The phases of a training step, and what each took."""

from collections.abc import Mapping
from dataclasses import dataclass, field

STEP_PHASES = ("data", "forward", "backward", "clip", "optimizer", "other")
"""What a step is made of: "forward" has the loss, "optimizer" the update with dropping gradients, "other" the rest."""

PHASES = (*STEP_PHASES, "logging", "checkpoint")
"""All phases; what is not part of a step is given for one reading of the losses and for one checkpoint."""

PYTHON = "(Python)"
"""The operation that stands for a phase's time outside of all operations: Python, numpy, dispatch, files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseTime:
    """What one operation took in one phase."""

    phase: str  # of a step, such as "forward"; or "logging" or "checkpoint"
    operation: str  # its name and the type of its first tensor, such as ``aten::mm float32``; or "(Python)"
    count: float  # how often it was dispatched, per step; a whole number if the steps are alike
    seconds: float  # its time, per step; in "logging" and "checkpoint", per occurrence
    # the source lines that call it, such as ``kernel.py:81: total = a @ b``, and how often, per step
    lines: Mapping[str, float] = field(default_factory=dict)
