"""The published run beside this machine: what was run, what was not, and what that would have given."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from perf.records.baselines import load_published
from perf.report.published import published_section
from tests.judge.noise import session, step_times

BASELINES = Path(__file__).parents[2] / "baselines"


def test_both_machines_and_the_prediction_are_told() -> None:
    """A row for each batch size of both; 512 is marked as predicted, with its model, assumption and interval."""
    published = load_published(BASELINES)
    section = published_section(published, session(step_times(np.random.default_rng(1))))
    machines = [(row[0], row[1]) for row in section.rows]
    assert machines[:3] == [("Cerebras CS-2", size) for size in ("512", "1024", "2048")]
    assert {machine for machine, _ in machines[3:]} == {"here"}
    assert section.rows[0][2].startswith("~3,1")
    assert section.rows[1][2] == "4,862"
    notes = " ".join(section.notes)
    for told in (
        "already exceeds max step 1000",
        "95% interval 3,1",
        "fixed part and a part per sample",
        "independent",
    ):
        assert told in notes
    titles = [plot.title for plot in section.plots]
    assert "Published loss by samples" in titles
    assert "Loss by samples" in titles


def test_without_two_runs_nothing_is_predicted() -> None:
    """From one published batch size no other follows."""
    published = load_published(BASELINES)
    fewer = {run: lines for run, lines in published.items() if run.global_batch_size != 2048}
    section = published_section(fewer, session(step_times(np.random.default_rng(1))))
    assert section.rows[0][2] == "-"
    assert not any("would have been" in note for note in section.notes)
