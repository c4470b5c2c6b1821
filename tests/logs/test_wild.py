"""Logs of other people are read as a person reads them, and without a false alarm."""

import io

import pytest

from perf.logs.audit import audit_run
from perf.logs.parsing import DamagedLine, history_lines, parse_log, read_lines
from perf.logs.runlog import LoggedRun
from tests.logs.wild import SAMPLES, TRAINER_STATE, Sample


def found_in(sample: Sample) -> tuple[list[LoggedRun], list[DamagedLine]]:
    """Return the runs and the damaged lines of a sample."""
    lines = read_lines(io.TextIOWrapper(io.BytesIO(sample.text.encode()), encoding="utf-8"))
    found = [*parse_log(history_lines(sample.text) if sample.stack == TRAINER_STATE else lines)]
    return [f for f in found if isinstance(f, LoggedRun)], [f for f in found if isinstance(f, DamagedLine)]


named = pytest.mark.parametrize("sample", SAMPLES, ids=[f"{s.stack}: {s.source.rpartition('/')[2]}" for s in SAMPLES])


@named
def test_a_published_log_is_read_as_a_person_reads_it(sample: Sample) -> None:
    """What is whole has no damaged line and no problem; of what is torn, no line is made up."""
    runs, damaged = found_in(sample)
    audits = [audit_run(run) for run in runs]
    assert [audit.problems for audit in audits] == [[] for _ in runs]
    lines = [line for run in runs for line in run.lines]
    if sample.is_broken:
        assert len(lines) <= sample.num_lines
        assert [line.loss for line in lines[:1]] in ([], [sample.first and sample.first[1]])
        return
    assert damaged == []
    assert (len(runs), len(lines)) == (sample.num_runs, sample.num_lines)
    assert sum(run.num_evaluation_lines for run in runs) == sample.num_evaluation_lines
    assert [line.loss for line in (*lines[:1], *lines[-1:])] == [end[1] for end in (sample.first, sample.last) if end]
    for line, end in zip((*lines[:1], *lines[-1:]), (sample.first, sample.last), strict=False):
        assert end
        assert end[0] in (line.global_step, None)
    if sample.global_batch_size:
        assert {audit.global_batch_size for audit in audits} - {None} == {sample.global_batch_size}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "5", '{"log_history": 5}', '{"log_history": [5]}', "[" * 10_000, '{"log_history":' * 10_000],
)
def test_what_is_no_history_has_no_lines(text: str) -> None:
    """Foreign, cut and deeply nested JSON."""
    assert history_lines(text) == []


@pytest.mark.parametrize("loss", ['"abc"', "null", "[1]", "1e", "9", "NaN", "Infinity"])
def test_each_entry_of_a_history_is_a_whole_line_or_damaged(loss: str) -> None:
    """A loss that is none is told; one that is not finite is one."""
    text = '{"log_history": [{"epoch": 1.0, "loss": 1.5, "step": 5}, {"epoch": 2.0, "step": 10, "loss": LOSS}]}'
    found = [*parse_log(history_lines(text.replace("LOSS", loss)))]
    damaged = [one for one in found if isinstance(one, DamagedLine)]
    steps = [line.global_step for run in found if isinstance(run, LoggedRun) for line in run.lines]
    whole = loss in ("9", "NaN", "Infinity")
    assert (len(damaged), steps) == ((0, [5, 10]) if whole else (0, []) if loss == "1e" else (1, [5]))
