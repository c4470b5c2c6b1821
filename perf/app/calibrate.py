"""Measure how small a change a machine can show: the same side twice."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from perf.app.side_by_side import EXIT_PROBLEM, compared, keep, require_file, what
from perf.signals import EXIT_STOPPED


def calibrate(*, json: Path | None = None, **asked_for: Any) -> int:
    """Run the working tree beside itself, say what budget finds what, and return the exit code.

    Arguments as in `duet`, of the first workload only.
    """
    from perf.judge.duets import loss_problem
    from perf.judge.sequential import LAST_SHARE
    from perf.judge.stats import FAMILY_ERROR
    from perf.measure.sides import parse_recipe
    from perf.report.duet import calibration

    require_file(json)
    asked = what(**asked_for)[0]
    own = parse_recipe(["self"])
    # A threshold that nothing is within: unless chance finds a difference, the whole budget is spent.
    result = compared((own, own), asked, threshold=1e-9)
    effects = [judgement.effect for judgement in result.judgements.values()]
    level = FAMILY_ERROR * LAST_SHARE / len(asked.sizes)
    budgets = {
        change: max((effect.budget_for(change, level=level) for effect in effects), default=math.inf)
        for change in (0.01, 0.02, 0.05)
    }
    if not all(map(math.isfinite, budgets.values())):
        budgets = {}
        print("too few pairs to say what budget finds what; give a larger --budget")
    notes = [calibration(result, budgets), result.problem, *map(loss_problem, result.work.values())]
    keep(json, result, asked.target, "\n".join(filter(None, notes)))
    if result.interrupted:
        return EXIT_STOPPED
    return EXIT_PROBLEM if result.problem else 0
