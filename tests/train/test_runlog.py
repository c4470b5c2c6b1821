"""Log lines survive formatting and parsing, logs in the wild are read, and false rates are found."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf.train.rates import Mark, Rates
from perf.train.runlog import EndLine, LogLine, RefusedStart, audit_run, parse_line, parse_log
from tests.train import published

finite = st.floats(0, 1e9)
log_lines = st.builds(
    LogLine,
    global_step=st.integers(1, 10**9),
    loss=finite | st.just(math.inf) | st.just(math.nan),
    rate=finite,
    global_rate=finite,
)
prefixes = st.sampled_from(
    [
        "",
        "2024-03-14 03:20:31,277 INFO:   ",
        "| Train Device=CSX, ",
        "2024-03-14 03:20:31,277 INFO:   | Train Device=xla:0, ",
        "[rank0] | Train Device=cpu, ",
    ]
)
tails = st.sampled_from(["", ", LoopTimeRemaining=0:07:35, TimeRemaining>0:07:35", "  "])


@given(line=log_lines, prefix=prefixes, tail=tails)
def test_a_step_line_round_trips_in_every_known_dress(line: LogLine, prefix: str, tail: str) -> None:
    """Parsing what was formatted gives the same values, to the printed digits, whatever stands around it."""
    parsed = parse_line(f"{prefix}{line}{tail}\n")
    assert isinstance(parsed, LogLine)
    assert str(parsed) == str(line)
    assert parsed.global_step == line.global_step
    assert parsed.rate == pytest.approx(line.rate, abs=0.005001, rel=1e-15)


@given(end=st.builds(EndLine, samples=st.integers(0, 10**12), seconds=st.floats(0, 1e6)))
def test_an_end_line_round_trips(end: EndLine) -> None:
    """Samples come back exactly, seconds to the nanosecond."""
    parsed = parse_line(f"2024-03-14 03:20:31,277 INFO:   {end}")
    assert isinstance(parsed, EndLine)
    assert parsed.samples == end.samples
    assert parsed.seconds == pytest.approx(end.seconds, abs=1e-9)


def test_lines_are_printed_as_published() -> None:
    """The format is the reference's to the character."""
    assert str(published.log_lines(2048)[0]) == (
        "Step=100, Loss=9.48438, Rate=6858.71 samples/sec, GlobalRate=6858.72 samples/sec"
    )
    assert str(published.END_LINES[2048]) == "Processed 2048000 sample(s) in 304.240142671 seconds."


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Compiling the model. This may take a few minutes.",
        "Saved checkpoint model_dir/checkpoint_100.mdl at global step 100",
        "WARNING: Step sizes differ; the Rate may vary",
        "Loss=1.0",
    ],
)
def test_other_lines_say_nothing(text: str) -> None:
    """Compilation notes, checkpoints and warnings are passed over."""
    assert parse_line(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "Step=100, Loss=9.48438, Rate=6858.71 samples/s",
        "Step=100, Loss=9.48",
        "Step=100, Loss=abc, Rate=1.00 samples/sec, GlobalRate=1.00 samples/sec",
        "Processed 2048000 sample(s) in 304.2",
    ],
)
def test_a_damaged_line_is_told_and_not_passed_over(text: str) -> None:
    """What begins like a line of the log but is cut or garbled is an error that shows it."""
    with pytest.raises(ValueError, match="not a whole one") as caught:
        parse_line(text)
    assert text[:20] in str(caught.value)
    log = parse_log(["noise", text])
    assert log.runs == []
    assert [number for number, _ in log.damaged] == [2]


def wild_log(prefix: str, tail: str) -> list[str]:
    """Return the reference's log as it was: two runs, noise between the lines, and the third run's refusal."""
    lines = ["Found 1 workers", "2024-03-14 03:14:01,002 INFO:   Compiling the model"]
    for size in (1024, 2048):
        lines += [f"2024-03-14 03:20:31,277 INFO:   {prefix}{line}{tail}" for line in published.log_lines(size)]
        lines += ["INFO:   Saved checkpoint checkpoint_1000.mdl", f"INFO:   {published.END_LINES[size]}"]
    return [*lines, "RuntimeError: Initial global step 1000 already exceeds max step 1000."]


@pytest.mark.parametrize("tail", ["", ", LoopTimeRemaining=0:07:35, TimeRemaining>0:07:35"])
@pytest.mark.parametrize("prefix", ["", "| Train Device=CSX, ", "| Train Device=xla:0, ", "| Train Device=cpu, "])
def test_the_reference_log_passes_the_audit(prefix: str, tail: str) -> None:
    """In each known format: three runs are found, all 20 rates agree, and the batch sizes follow from the lines."""
    log = parse_log(wild_log(prefix, tail))
    assert log.damaged == []
    audits = [audit_run(run) for run in log.runs]
    assert [audit.global_batch_size for audit in audits] == [1024, 2048, None]
    assert [audit.problems for audit in audits] == [[], [], []]
    assert [len(audit.checks) for audit in audits] == [10, 10, 0]
    assert all(abs(c.line.rate - c.recomputed_rate) <= 0.02 for audit in audits for c in audit.checks)
    assert log.runs[2].refused == RefusedStart(global_step=1000, max_steps=1000)


def test_runs_part_where_the_step_stops_rising() -> None:
    """Without end lines, a step that does not rise begins another run."""
    lines = [str(line) for line in published.log_lines(1024)]
    log = parse_log(lines[:4] + lines[2:])
    assert [[line.global_step for line in run.lines] for run in log.runs] == [
        [100, 200, 300, 400],
        list(range(300, 1001, 100)),
    ]
    assert [run.first_line_number for run in log.runs] == [1, 5]


@pytest.mark.parametrize("index", range(1, 10))
@pytest.mark.parametrize("error", [-0.5, 0.5])
def test_a_false_rate_is_found(index: int, error: float) -> None:
    """Half a sample/sec off, in any line but the first, is more than rounding explains and is named with its step."""
    lines = published.log_lines(1024)
    lines[index] = dataclasses.replace(lines[index], rate=lines[index].rate + error)
    (run,) = parse_log(map(str, lines)).runs
    (problem,) = audit_run(run).problems
    assert problem.startswith(f"Step={lines[index].global_step}: Rate={lines[index].rate:.2f} printed")


def test_a_false_total_is_found() -> None:
    """Samples and seconds that do not give the last GlobalRate are a problem."""
    lines = [str(line) for line in published.log_lines(1024)]
    (run,) = parse_log([*lines, "Processed 1024000 sample(s) in 211.000000000 seconds."]).runs
    (problem,) = audit_run(run).problems
    assert "4853.08 samples/sec, but the last GlobalRate is 4861.66" in problem


def test_rates_of_a_resumed_run_are_audited_from_its_start() -> None:
    """A run resumed at step 1000 counts its samples from there, and the audit finds that out."""
    rates = Rates.since(Mark(samples=0, time_s=0.0))
    lines = []
    for index, time_s in enumerate([1.0, 2.5, 3.1, 4.9], start=1):
        rates = rates.at(Mark(samples=index * 51200, time_s=time_s))
        assert rates.rate is not None
        lines.append(LogLine(global_step=1000 + 50 * index, loss=1.0, rate=rates.rate, global_rate=rates.global_rate))
    (run,) = parse_log([*map(str, lines), str(EndLine(samples=204800, seconds=4.9))]).runs
    audit = audit_run(run)
    assert (audit.start_step, audit.global_batch_size, audit.problems) == (1000, 1024, [])


def test_rates_that_cannot_be_are_a_problem_not_a_crash() -> None:
    """A GlobalRate of zero, or one that makes time run backwards, is reported."""
    zero = "Step=10, Loss=1.00000, Rate=0.00 samples/sec, GlobalRate=0.00 samples/sec"
    backwards = [
        "Step=10, Loss=1.00000, Rate=10.00 samples/sec, GlobalRate=10.00 samples/sec",
        "Step=20, Loss=1.00000, Rate=90.00 samples/sec, GlobalRate=90.00 samples/sec",
    ]
    for lines in ([zero], backwards):
        (run,) = parse_log(lines).runs
        (problem,) = audit_run(run).problems
        assert problem.startswith("the rates cannot be true")
    (run,) = parse_log(["Processed 8 sample(s) in 1.000000000 seconds."]).runs
    assert audit_run(run).problems == ["an end line without step lines before it"]
