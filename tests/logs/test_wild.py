"""Logs of other people are read as a person reads them, and without a false alarm."""

import io
import os

import pytest

from perf.logs.audit import audit_run
from perf.logs.parsing import DamagedLine, parse_log, read_lines, read_trainer_state
from perf.logs.runlog import LoggedRun
from tests.logs.wild import SAMPLES, TRAINER_STATE, Sample


def found_in(sample: Sample) -> tuple[list[LoggedRun], list[DamagedLine]]:
    """Return the runs and the damaged lines of a sample."""
    if sample.stack == TRAINER_STATE:
        state = read_trainer_state(sample.text)
        return [state] if state else [], []
    found = [*parse_log(read_lines(io.TextIOWrapper(io.BytesIO(sample.text.encode()), encoding="utf-8")))]
    return [f for f in found if isinstance(f, LoggedRun)], [f for f in found if isinstance(f, DamagedLine)]


named = pytest.mark.parametrize("sample", SAMPLES, ids=[f"{s.stack}: {os.path.basename(s.source)}" for s in SAMPLES])


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
