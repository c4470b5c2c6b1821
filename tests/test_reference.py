"""The published run: read or refused; shown beside this machine; and what its missing batch size would have given."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from perf.errors import BaselineError
from tests.benchmarks.reference import PublishedLine, load_published, predict, published_sections, window_step_s
from tests.judge.noise import session, step_times

ROOT = Path(__file__).parents[1]
BASELINES = ROOT / "baselines"


def lines(size: int, window_s: list[float]) -> list[PublishedLine]:
    """Return the log lines of a run whose log windows of 100 steps took these times."""
    ends = np.cumsum(window_s)
    return [
        PublishedLine(
            global_batch_size=size,
            global_step=100 * number,
            loss=9.0,
            global_rate_samples_per_sec=100 * number * size / end,
        )
        for number, end in enumerate(ends, start=1)
    ]


def test_step_times_are_those_of_the_windows_but_the_first() -> None:
    """They follow from step and GlobalRate."""
    assert window_step_s(lines(512, [5.0, 10.0, 20.0])) == pytest.approx([0.1, 0.2])


def test_a_straight_line_is_followed_exactly() -> None:
    """Where a step takes 100 ms and 0.1 ms for each sample, 512 takes 151.2 ms."""
    windows = {1024: [0.2024 - 1e-9, 0.2024 + 1e-9], 2048: [0.3048 - 1e-9, 0.3048 + 1e-9]}
    found = predict(windows, 512)
    assert found.samples_per_sec == pytest.approx(512 / 0.1512)
    assert (found.fixed_s, found.per_sample_s) == (pytest.approx(0.1), pytest.approx(1e-4))
    assert found.low < found.samples_per_sec < found.high


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Nine windows of each of two batch sizes, independent normal noise: 95 % of 2000 within 3 standard errors."""
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(2000):
        windows = {size: list(0.1 + 1e-4 * size + rng.normal(scale=0.002, size=9)) for size in (1024, 2048)}
        found = predict(windows, 512)
        held += found.low <= 512 / 0.1512 <= found.high
    assert abs(held / 2000 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 2000)


def test_what_512_would_have_given_on_the_reference_machine() -> None:
    """About 3,120 samples/sec: fewer than at 1024, more than half of it."""
    windows = {run.global_batch_size: window_step_s(found) for run, found in load_published(BASELINES).items() if found}
    found = predict(windows, 512)
    assert 4861.66 / 2 < found.low < found.samples_per_sec < found.high < 4861.66
    assert found.samples_per_sec == pytest.approx(3122, abs=1)


def test_both_machines_and_the_prediction_are_told() -> None:
    """A row for each batch size of both; 512 is marked as predicted, with its model, assumption and interval."""
    published = load_published(BASELINES)
    lines, section = published_sections(published, session(step_times(np.random.default_rng(1))))
    assert [note.partition(": ")[0] for note in lines.notes] == ["reference"] * 3
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
    _, section = published_sections(fewer, session(step_times(np.random.default_rng(1))))
    assert section.rows[0][2] == "-"
    assert not any("would have been" in note for note in section.notes)


def test_the_published_run_is_there_with_its_failure() -> None:
    """The reference machine's two rates, and the batch size that did not run."""
    runs = {run.global_batch_size: run for run in load_published(ROOT / "baselines")}
    assert runs[1024].samples_per_sec == 4861.66
    assert runs[2048].samples_per_sec == 6731.53
    assert runs[512].samples_per_sec is None
    assert "Initial global step 1000 already exceeds max step 1000." in runs[512].failure


@pytest.mark.parametrize(
    "line",
    [
        "CS-2,bert",
        "CS-2,bert,many,0,0,,4.5,",
        "CS-2,bert,512,0,0,,fast,",
        "CS-2,bert,-5,0,0,,4.5,",
        "CS-2,bert,512,0,0,,nan,",
        "CS-2,bert,512,0,0,,-1,",
        "CS-2,bert,512,0,0,,inf,",
        'CS-2,bert,512,0,0,,4.5,"cut',
        "CS-2," + "b" * 200_000 + ",512,0,0,,4.5,",
    ],
)
def test_a_damaged_published_run_is_told(tmp_path: Path, line: str) -> None:
    """A row that cannot be read names the file and the line."""
    (tmp_path / "machine").mkdir()
    header = "machine,workload,global_batch_size,steps,samples,seconds,samples_per_sec,failure"
    (tmp_path / "machine" / "runs.csv").write_text(f"{header}\n{line}\n")
    with pytest.raises(BaselineError, match=r"runs.csv: line 2"):
        load_published(tmp_path)


@pytest.mark.parametrize("loss", ["nan", "inf", "1e300"])
def test_a_published_loss_that_no_plot_can_have_is_told(tmp_path: Path, loss: str) -> None:
    """When the log is read, not when the page of a session is written."""
    (run, *_) = load_published(ROOT / "baselines")
    (log,) = (ROOT / "baselines").glob(f"*/{run.workload}.csv")
    (runs,) = (ROOT / "baselines").glob("*/runs.csv")
    header, first, *_ = log.read_text().splitlines()
    values = dict(zip(header.split(","), first.split(","), strict=True)) | {"loss": loss}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / runs.name).write_text(runs.read_text())
    (tmp_path / "other" / log.name).write_text(f"{header}\n{','.join(values.values())}\n")
    with pytest.raises(BaselineError, match=r"line 2.*loss"):
        load_published(tmp_path)
