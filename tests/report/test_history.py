"""The history of a workload: since when it is bad, where it changed, and a trend that shows it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from perf.judge.changes import Change
from perf.records.baselines import Baseline
from perf.report.history import _grouped, history_section, since_when
from perf.report.sections import as_text
from tests.judge.noise import COUNTERS
from tests.report.nights import night


def stepping(at: int, *, nights: int = 60, size: float = 0.03, seed: int = 0) -> list[Baseline]:
    """Return nights with a noise of 2 %; from night `at` on their steps take longer."""
    noise = np.random.default_rng(seed).normal(scale=0.02, size=nights)
    return [night(i, slower=float(np.exp(noise[i]) * (1 + size * (i >= at)))) for i in range(nights)]


def test_the_third_night_names_its_commits_and_its_software() -> None:
    """Since when it is bad, what is new there, and a row for each session."""
    nights = [night(0, "NO_BASELINE"), night(1), night(2, "REGRESSED", 1.1, torch="2.14.0")]
    assert since_when(nights[:2]) == ""
    assert since_when(nights) == "since session 3 of 3 (2026-09-03, commit 020202020202)"
    assert since_when([*nights, night(3, "INCONCLUSIVE")]).startswith("REGRESSED since session 3 of 4 (2026-09-03")
    section = history_section(nights)
    assert section.notes[0] == (
        "REGRESSED since session 3 of 3 (2026-09-03, commit 020202020202); "
        "git log --oneline 010101010101..020202020202; software: torch 2.13.0+cpu -> 2.14.0"
    )
    assert section.plots[0].marks["first bad session"] == [2.5]
    assert [row[3] for row in section.rows] == ["NO_BASELINE", "UNCHANGED", "REGRESSED"]
    rates = [float(row[4].replace(",", "")) for row in section.rows]
    assert rates[1] == pytest.approx(rates[0])
    assert rates[2] == pytest.approx(rates[0] / 1.1, rel=0.01)
    assert list(section.plots[0].series[0].x) == [1.0, 2.0, 3.0]


def test_a_step_among_sixty_nights_is_named_near_its_place() -> None:
    """With its size, the sessions between which it lies, and a mark in the plots; the table has the last ones."""
    section = history_section(stepping(30))
    (note,) = section.notes
    assert note.startswith("rate at 512 -")
    assert "rate at all batch sizes -" in note
    (mark,) = section.plots[0].marks["change"]
    assert abs(mark - 30.5) <= 5
    assert [row[0] for row in section.rows][-1] == "60"
    assert len(section.rows) < 60 == len(section.plots[0].series[0].x)


def test_nights_that_only_vary_have_no_change() -> None:
    """Nothing is named where there is only noise."""
    assert history_section(stepping(60)).notes == []


def test_other_work_is_named_the_first_night() -> None:
    """An exact number needs no second one; all batch sizes are one change."""
    nights = [night(0), night(1), night(2, flops=COUNTERS.flops * 2), night(3, flops=COUNTERS.flops * 2)]
    (note,) = history_section(nights).notes
    assert note.startswith("flops at 512 +100.0%, flops at 1024 +100.0%, flops at 2048 +100.0% from session 3 of 4 (")
    assert "git log --oneline 010101010101..020202020202; same software" in note


def test_the_trend_fits_a_terminal() -> None:
    """Its table keeps to 80 columns, and says what its numbers are."""
    text = as_text([msgspec.structs.replace(history_section(stepping(30)), is_detail=False)])
    assert max(map(len, text.splitlines())) <= 80
    assert "60 sessions on this machine, samples/sec by batch size" in text


def test_pages_that_are_there_are_linked(tmp_path: Path) -> None:
    """Of the sessions from which something changed."""
    nights = [msgspec.structs.replace(one, path=tmp_path / one.path) for one in stepping(30, size=0.2)]
    assert history_section(nights).links == {}
    (tmp_path / "night-30.html").write_text("a page")
    assert history_section(nights).links == {"page of session 31": str(tmp_path / "night-30.html")}


def test_changes_that_overlap_are_one_event() -> None:
    """Also where a long interval covers two short ones that do not touch each other; the surest comes first."""
    spans = [(1, 9), (2, 3), (5, 6), (10, 11)]
    found = [
        Change(metric=f"{a}", index=a, earliest=a, latest=b, effect_size=0.1, p_value=0.001) for a, b in reversed(spans)
    ]
    assert [[change.index for change in group] for group in _grouped(found)] == [[2, 5, 1], [10]]
