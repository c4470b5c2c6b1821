"""Verdicts on whole runs of commands err as rarely as those on pairs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from perf.judge.stats import FAMILY_ERROR
from perf.judge.verdicts import Verdict
from tests.judge.noise import PHASES
from tests.judge.whole_runs import duet

CHANGED = (Verdict.REGRESSED, Verdict.IMPROVED)


@pytest.mark.parametrize("phases", PHASES)
@pytest.mark.parametrize("run_s", [5.0, 20.0])
def test_equal_commands_are_rarely_called_changed(phases: str, run_s: float) -> None:
    """Of 400 duets without a difference, so few that a true error of 1 % has more in one of a thousand tests."""
    rng = np.random.default_rng(7)
    found = sum(duet(rng, run_s=run_s, num_runs=24, phases=phases).verdict in CHANGED for _ in range(400))
    assert found <= stats.binom.ppf(1 - 1e-3, 400, FAMILY_ERROR)


def test_a_slowdown_of_ten_percent_is_found() -> None:
    """In 40 runs, mostly: processes that are equal otherwise differ by 2.5 % here."""
    rng = np.random.default_rng(8)
    slower = float(np.log(0.9))
    found = [duet(rng, run_s=10.0, num_runs=40, phases="anywhere", effect=slower).verdict for _ in range(100)]
    assert found.count(Verdict.REGRESSED) >= 75
