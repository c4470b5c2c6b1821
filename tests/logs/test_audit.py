"""The audit believes true logs, however incomplete, and finds false rates and totals."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from perf.logs import audit as audit_module
from perf.logs import runlog
from perf.logs.audit import RunAudit, audit_run
from perf.logs.parsing import parse_line, parse_log
from perf.logs.runlog import EndLine, LoggedRun, LogLine, Mark, Rates, StartLine
from tests.logs import published


def audit(lines: list[str]) -> list[RunAudit]:
    """Return the audits of all runs of a log."""
    return [audit_run(found) for found in parse_log(lines) if isinstance(found, LoggedRun)]


def true_log(start_step: int, steps: list[int], window_s: list[float], global_batch_size: int) -> list[str]:
    """Return the log of a run that began at `start_step`, with a line at each of `steps`."""
    zero = Mark(samples=0, time_s=0.0)
    rates = Rates(began=zero, latest=zero)
    lines = []
    for step, seconds in zip(steps, window_s, strict=True):
        mark = Mark(samples=(step - start_step) * global_batch_size, time_s=rates.latest.time_s + seconds)
        rates = rates.at(mark)
        lines.append(str(LogLine(global_step=step, loss=1.0, rate=rates.rate, global_rate=rates.global_rate)))
    return [*lines, str(EndLine(samples=rates.latest.samples, seconds=rates.latest.time_s))]


def wild_log(prefix: str, tail: str) -> list[str]:
    """Return the reference's log as it was: two runs, noise between the lines, and the third run's refusal."""
    lines = ["Found 1 workers", "2024-03-14 03:14:01,002 INFO:   Compiling the model"]
    for size in (1024, 2048):
        lines += [f"2024-03-14 03:20:31,277 INFO:   {prefix}{line}{tail}" for line in published.log_lines(size)]
        lines += ["INFO:   Saved checkpoint checkpoint_1000.mdl", f"INFO:   {published.END_LINES[size]}"]
    return [*lines, "RuntimeError: Initial global step 1000 already exceeds max step 1000."]


@pytest.mark.parametrize("tail", ["", ", LoopTimeRemaining=0:07:35, TimeRemaining>0:07:35"])
@pytest.mark.parametrize("prefix", ["", "| Train Device=CSX, ", "| Train Device=xla:0, ", "| Train Device=cpu, "])
def test_the_reference_log_passes(prefix: str, tail: str) -> None:
    """In each known format: three runs, all 20 rates within 0.02, and the batch sizes follow from the lines alone."""
    assert all(isinstance(found, LoggedRun) for found in parse_log(wild_log(prefix, tail)))
    audits = audit(wild_log(prefix, tail))
    assert [a.problems for a in audits] == [[], [], []]
    assert [(a.start_step, a.start_is_certain, a.global_batch_size) for a in audits[:2]] == [
        (0, True, 1024),
        (0, True, 2048),
    ]
    assert [len(a.lines) for a in audits] == [10, 10, 0]
    assert all(c.agrees and abs(c.line.rate - (c.recomputed_rate or 0)) <= 0.02 for a in audits for c in a.lines)


@given(
    start_step=st.integers(0, 60),
    log_steps=st.integers(1, 20),
    num_steps=st.integers(1, 90),
    seconds=st.lists(st.floats(0.5, 2.0), min_size=100, max_size=100),
    global_batch_size=st.integers(1, 4096),
    says_where=st.booleans(),
)
@settings(max_examples=150)
def test_a_true_log_is_never_called_false(
    start_step: int,
    log_steps: int,
    num_steps: int,
    seconds: list[float],
    global_batch_size: int,
    says_where: bool,
) -> None:
    """Fresh or resumed at any step, logged at any interval and the end: its rates agree, its size is not misread."""
    last = start_step + num_steps
    steps = [step for step in range(start_step + 1, last + 1) if step % log_steps == 0 or step == last]
    log = true_log(start_step, steps, seconds[: len(steps)], global_batch_size)
    if says_where:
        start = StartLine(global_batch_size=global_batch_size, first_step=start_step + 1, last_step=last)
        log = [str(start), *log]
    (found,) = audit(log)
    assert found.problems == []
    if says_where:
        assert (found.start_step, found.global_batch_size) == (start_step, global_batch_size)
        # Two decimals of a rate of one or two leave no time between late lines; of a hundred they do.
        assert global_batch_size < 100 or all(check.agrees for check in found.lines)
    elif found.start_is_certain and found.global_batch_size is not None:
        assert (found.start_step, found.global_batch_size) == (start_step, global_batch_size)


def log_of_three_readings(
    start_step: int, steps: list[int], window_s: list[float], moments_s: list[float], global_batch_size: int
) -> list[str]:
    """Return a true log of a tracker that reads the clock for Rate, then for GlobalRate, and later for the total."""
    moments = iter(moments_s)
    began = now = 0.0
    at_last_rate, last_step, rate = began, start_step, None
    lines = []
    for step, seconds in zip(steps, window_s, strict=True):
        now = at_last_rate + seconds
        window = (step - last_step) * global_batch_size / seconds
        rate = window if rate is None else 0.6 * window + 0.4 * rate
        at_last_rate, last_step = now, step
        now += next(moments)
        global_rate = (step - start_step) * global_batch_size / (now - began)
        lines.append(str(LogLine(global_step=step, loss=1.0, rate=rate, global_rate=global_rate)))
    now += next(moments)
    return [*lines, str(EndLine(samples=(last_step - start_step) * global_batch_size, seconds=now - began))]


@given(
    start_step=st.integers(0, 30),
    log_steps=st.integers(1, 20),
    num_lines=st.integers(1, 20),
    extra=st.integers(0, 5),
    window_s=st.lists(st.floats(0.05, 1.0), min_size=21, max_size=21),
    moments_s=st.lists(st.floats(0.0, 0.001), min_size=22, max_size=22),
    global_batch_size=st.integers(1, 4096),
    ends=st.booleans(),
    num_unlogged=st.integers(0, 9),
)
@settings(max_examples=300)
def test_a_true_log_of_short_windows_is_never_called_false(
    start_step: int,
    log_steps: int,
    num_lines: int,
    extra: int,
    window_s: list[float],
    moments_s: list[float],
    global_batch_size: int,
    ends: bool,
    num_unlogged: int,
) -> None:
    """However short the windows, up to a millisecond between two readings of the clock makes no rate or total false.

    Nor do last steps without a line, which take as long as those before, where the run began on the grid of its lines.
    """
    steps = [(start_step // log_steps + number) * log_steps for number in range(1, num_lines + 1)]
    steps += [steps[-1] + extra] if 0 < extra < log_steps else []
    log = log_of_three_readings(start_step, steps, window_s[: len(steps)], moments_s, global_batch_size)
    if num_unlogged < log_steps and num_lines > 3 and not extra and start_step % log_steps == 0:
        halves_s = [moment_s / 2 for moment_s in moments_s]  # the samples of these steps may make the size look larger
        *lines, last, _ = log_of_three_readings(start_step, steps, window_s[:num_lines], halves_s, global_batch_size)
        samples = (steps[-1] + num_unlogged - start_step) * global_batch_size
        seconds = samples / structs.asdict(parse_line(last))["global_rate"]
        (found,) = audit([*lines, last, str(EndLine(samples=samples, seconds=seconds))])
        assert found.problems == []
    (found,) = audit(log if ends else log[:-1])
    assert found.problems == []
    assert not any("longer" in note for note in found.notes)
    if found.start_is_certain and found.global_batch_size is not None:
        assert (found.start_step, found.global_batch_size) == (start_step, global_batch_size)


def test_a_log_of_windows_under_a_second_has_no_problem_and_no_note() -> None:
    """Windows of 0.8 s at batch 512, the clock read 9 us later for GlobalRate and 1.2 ms later for the total.

    The first Rate and GlobalRate, which rounding alone would make equal, differ by 0.07; the total by 1 sample/sec.
    """
    moments = [9e-6] * 10 + [1.2e-3]
    log = log_of_three_readings(0, list(range(10, 101, 10)), [0.809293] + [0.7817776] * 9, moments, 512)
    assert log[0] == "Step=10, Loss=1.00000, Rate=6326.51 samples/sec, GlobalRate=6326.44 samples/sec"
    assert log[-2].endswith("GlobalRate=6526.20 samples/sec")
    assert log[-1].startswith("Processed 51200 sample(s) in 7.8465")
    (found,) = audit(log)
    assert (found.global_batch_size, found.problems, found.notes) == (512, [], [])
    assert all(check.agrees for check in found.lines)


def test_without_an_end_line_a_small_difference_is_explained_and_a_large_one_a_note() -> None:
    """The batch size may be 1, and the start any step before the first line: nothing is called false."""
    *log, end = log_of_three_readings(0, list(range(10, 101, 10)), [0.8] * 10, [5e-4] * 11, 512)
    (found,) = audit(log)
    of_size = "its batch size is not known, so each rate may differ by as much as a batch size of 1 allows"
    assert (found.problems, found.notes) == ([], [of_size])
    assert all(check.agrees for check in found.lines)
    log[4] = log[4].replace("Rate=6400.00", "Rate=26400.00", 1)
    (found,) = audit(log)
    of_start = "rates that do not follow the published smoothing: 1 of 10; the step it began at is not known"
    assert (found.problems, found.notes) == ([], [of_start, of_size])
    assert [check.agrees for check in found.lines].count(None) == 1
    (found,) = audit([*log, end])
    (problem,) = found.problems
    assert problem.startswith("Step=50: Rate=26400.00 printed")


@pytest.mark.parametrize(
    ("seconds", "problems", "notes"),
    [
        (210.627 + 0.0035, 0, 1),  # two moments, and what the last digit of GlobalRate explains (0.7 ms)
        (210.627 + 0.0020, 0, 0),
        (210.627 - 0.0020, 0, 0),
        (210.627 - 0.0040, 1, 0),
        (400.0, 0, 1),
    ],
)
def test_a_longer_total_is_a_note_and_a_shorter_one_a_problem(seconds: float, problems: int, notes: int) -> None:
    """Compilation, checkpoints and evaluation lie outside the lines; nothing makes a run shorter than its lines."""
    lines = [str(line) for line in published.log_lines(1024)]
    (found,) = audit([*lines, f"Processed 1024000 training sample(s) in {seconds:.6f} seconds."])
    assert (len(found.problems), len(found.notes)) == (problems, notes)
    assert all(check.agrees for check in found.lines)
    assert all("compilation, checkpoints and evaluation" in note for note in found.notes)


def test_the_total_of_a_run_whose_last_steps_have_no_line_is_no_problem() -> None:
    """Its samples make no whole number for each step: faster steps at the end may be the reason for a shorter time."""
    lines = [str(line) for line in published.log_lines(1024)]
    (found,) = audit([*lines, "Processed 1030001 sample(s) in 210.700000000 seconds."])
    assert (found.problems, found.notes) == ([], [])
    assert all(check.agrees and check.explained < 1 for check in found.lines if check.explained)


def test_lines_with_remaining_times_are_spoken_of_once() -> None:
    """Releases that print them smooth in another way: one note for the run, and no rate is called false."""
    tail = ", LoopTimeRemaining=0:07:35, TimeRemaining>0:07:35"
    lines = [str(structs.replace(line, rate=line.rate + 7)) + tail for line in published.log_lines(1024)]
    lines.append(str(published.END_LINES[1024]))
    (found,) = audit(lines)
    assert found.problems == []
    (note,) = found.notes
    assert note.startswith("rates that do not follow the published smoothing: 10 of 10; its lines end in a remaining")
    (without,) = audit([line.removesuffix(tail) for line in lines])
    assert without.problems


def test_an_end_line_alone_is_a_note() -> None:
    """A log that lacks the step lines (its end alone, or evaluations) shows nothing false."""
    (found,) = audit(["Processed 8 sample(s) in 1.000000000 seconds."])
    assert (found.problems, found.notes) == ([], ["an end line without step lines before it"])


def long_run(num_lines: int) -> LoggedRun:
    """Return a run that was resumed at step 1,000,000 and logged every 2,500 steps, so many starts are possible."""
    steps = [1_000_000 + 2_500 * number for number in range(1, num_lines + 1)]
    log = true_log(1_000_000, steps, [1.0 + number % 7 / 10 for number in range(num_lines)], 64)
    (run,) = parse_log(log)
    assert isinstance(run, LoggedRun)
    return run


def test_the_work_of_an_audit_is_proportional_to_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many starts are possible, two are tried with each line where no end line speaks for others."""
    num_checks = 0
    real_checks = audit_module._checks

    def checks(*arguments: Any) -> Iterator[Any]:
        nonlocal num_checks
        for found in real_checks(*arguments):
            num_checks += 1
            yield found

    def work(num_lines: int) -> int:
        nonlocal num_checks
        num_checks = 0
        run = long_run(num_lines)
        run.end = None
        found = audit_run(run)
        assert (found.start_step, found.problems) == (1_000_000, [])
        return num_checks

    monkeypatch.setattr(audit_module, "_checks", checks)
    assert work(3000) - work(1000) == 3 * 2000  # for each start, and for that which fits best


def test_an_audit_keeps_one_check_for_each_line() -> None:
    """Memory, beside the run itself, stays under a kilobyte for each line."""
    run = long_run(3000)
    tracemalloc.start()
    try:
        found = audit_run(run)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.lines) == 3000
    assert peak < 3000 * 1000


def test_a_huge_log_window_costs_no_more_than_a_small_one() -> None:
    """A window of 10**14 steps has as many possible starts; only a bounded number of them is tried."""
    lines = [
        f"Step={number * 10**14}, Loss=1.0, Rate=100.00 samples/sec, GlobalRate=100.00 samples/sec"
        for number in (3, 4, 5)
    ]
    (found,) = audit([*lines, f"Processed {5 * 10**14} sample(s) in 5000000000000.0 seconds."])
    assert found.problems == []


def test_lines_that_were_left_out_are_spoken_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines that were kept are checked, the total is still compared, and how many were left out is said."""
    monkeypatch.setattr(runlog, "MOST_LINES", 4)
    lines = [str(line) for line in [*published.log_lines(1024), published.END_LINES[1024]]]
    (found,) = audit(lines)
    assert [check.agrees for check in found.lines] == [True] * 4
    assert (found.global_batch_size, found.problems) == (1024, [])
    assert found.notes == ["only its first 4 lines were checked; 6 more were left out"]


def test_a_resumed_run_is_audited_from_its_start() -> None:
    """A run resumed at step 1000, or off the log grid at 1007, counts from there, and the audit finds that out."""
    for start, steps in ((1000, [1050, 1100, 1150, 1200]), (1007, [1050, 1100, 1150, 1200])):
        (found,) = audit(true_log(start, steps, [1.0, 1.5, 0.6, 1.8], 1024))
        assert (found.start_step, found.start_is_certain, found.problems) == (start, True, [])
        assert found.global_batch_size == 1024


def test_a_start_that_the_lines_do_not_tell_is_said_to_be_uncertain() -> None:
    """One line of a resumed run fits many starts: none is claimed."""
    (found,) = audit(true_log(500, [1000], [2.0], 1024))
    assert found.problems == []
    assert not found.start_is_certain
    (found,) = audit(["Step=500, Loss=1.0, Rate=4000.00 samples/sec, GlobalRate=5000.00 samples/sec"])
    assert (found.start_step, found.start_is_certain, found.problems) == (0, False, [])


def test_a_start_that_the_samples_of_the_end_line_fit_comes_first() -> None:
    """One line fits many starts; 510,500 samples are a whole number for each step first if it began at step 500."""
    (found,) = audit(true_log(500, [1000], [2.0], 1021))
    assert (found.start_step, found.global_batch_size, found.start_is_certain) == (500, 1021, False)


def test_a_start_off_the_grid_without_an_end_line_leaves_the_rates_unchecked() -> None:
    """Neither 0 nor one log window before the first line fits, and no other step is guessed."""
    (found,) = audit(true_log(1007, [1050, 1100, 1150, 1200], [10.0, 15.0, 6.0, 18.0], 8)[:-1])
    assert (found.start_is_certain, found.problems) == (False, [])
    assert "the step it began at is not known" in found.notes[0]


@pytest.mark.parametrize("index", range(1, 10))
@pytest.mark.parametrize("error", [-0.5, 0.5])
def test_a_false_rate_is_found_and_only_that_one(index: int, error: float) -> None:
    """Half a sample/sec off, in any line but the first, is more than rounding explains.

    The lines after it stay true.
    """
    lines = published.log_lines(1024)
    lines[index] = structs.replace(lines[index], rate=lines[index].rate + error)
    (found,) = audit([str(line) for line in [*lines, published.END_LINES[1024]]])
    (problem,) = found.problems
    assert problem.startswith(f"Step={lines[index].global_step}: Rate={lines[index].rate:.2f} printed")


def test_where_all_lines_disagree_each_is_named() -> None:
    """A log whose rates are all false, or of another smoothing; its end line still tells that it began at step 0."""
    lines = [structs.replace(line, rate=line.rate + 7) for line in published.log_lines(1024)]
    (found,) = audit([str(line) for line in [*lines, published.END_LINES[1024]]])
    assert (found.start_step, found.start_is_certain, found.global_batch_size) == (0, True, 1024)
    assert len(found.problems) == 10


def test_a_false_first_rate_is_found() -> None:
    """The first Rate is the GlobalRate."""
    lines = published.log_lines(1024)
    lines[0] = structs.replace(lines[0], rate=lines[0].rate + 5)
    (found,) = audit([str(line) for line in [*lines, published.END_LINES[1024]]])
    assert found.problems[0].startswith("Step=100: Rate=4935.28 printed")


@pytest.mark.parametrize("missing", range(9))
def test_a_missing_line_leaves_the_others_checked(missing: int) -> None:
    """A line cut short or left out makes the next one uncheckable, and no other line false."""
    lines = [str(line) for line in published.log_lines(1024)]
    for damaged in (
        [*lines[:missing], lines[missing][:40], *lines[missing + 1 :]],
        lines[:missing] + lines[missing + 1 :],
    ):
        (found,) = audit(damaged)
        assert found.problems == []
        assert sum(check.agrees is True for check in found.lines) == 8
        assert sum(check.agrees is None for check in found.lines) == 1


def test_a_damaged_line_between_two_is_enough_to_know_of_a_gap() -> None:
    """Two lines have no usual step between them, nor a first that must be its run's; the damaged line itself tells."""
    lines = [str(line) for line in published.log_lines(1024)[:3]]
    end = EndLine(samples=300 * 1024, seconds=300 * 1024 / published.log_lines(1024)[2].global_rate)
    (found,) = audit([lines[0], lines[1][:40], lines[2], str(end)])
    assert found.problems == []
    assert [check.agrees for check in found.lines] == [None, None]


def test_a_log_that_begins_in_the_middle_is_checked_from_there() -> None:
    """Its first rate carries a past that is not there; the others follow."""
    (found,) = audit([str(line) for line in published.log_lines(1024)[4:]])
    assert found.problems == []
    assert [check.agrees for check in found.lines] == [None, True, True, True, True, True]


def test_a_false_total_is_found() -> None:
    """A total time shorter than the lines took is a problem."""
    lines = [str(line) for line in published.log_lines(1024)]
    (found,) = audit([*lines, "Processed 1024000 sample(s) in 210.000000000 seconds."])
    (problem,) = found.problems
    assert "its last GlobalRate of 4861.66 samples/sec makes 210.628 s of them: one of them is false" in problem


def test_an_end_line_that_contradicts_the_start_is_found() -> None:
    """The batch size is said twice: by our own heading, and by samples over steps."""
    lines = [str(line) for line in [*published.log_lines(1024), published.END_LINES[1024]]]
    (found,) = audit([str(StartLine(global_batch_size=512, first_step=1, last_step=1000)), *lines])
    assert found.problems == ["its end line makes 1024 samples a step, and its start 512"]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["Step=10, Loss=1.0, Rate=0.00 samples/sec, GlobalRate=0.00 samples/sec"], "GlobalRate=0.0 cannot be"),
        (["Step=0, Loss=1.0, Rate=1.0 samples/sec, GlobalRate=1.0 samples/sec"], "cannot be"),
        (["Step=5, Loss=1.0, Rate=inf samples/sec, GlobalRate=inf samples/sec"], "GlobalRate=inf cannot be"),
        (["Step=5, Loss=1.0, Rate=nan samples/sec, GlobalRate=nan samples/sec"], "GlobalRate=nan cannot be"),
        (
            [
                "Step=10, Loss=1.0, Rate=10.00 samples/sec, GlobalRate=10.00 samples/sec",
                "Step=20, Loss=1.0, Rate=90.00 samples/sec, GlobalRate=90.00 samples/sec",
                "Processed 20 sample(s) in 1.0 seconds.",
            ],
            "Step=20: GlobalRate=90.0 cannot be, after the lines before it",
        ),
        (
            [
                "Step=0, Loss=1.0, Rate=1.0 samples/sec, GlobalRate=1.0 samples/sec",
                "Processed 0 sample(s) in 0.0 seconds.",
            ],
            "Step=0: GlobalRate=1.0 cannot be",
        ),
    ],
)
def test_what_cannot_be_is_a_problem_and_not_a_crash(lines: list[str], problem: str) -> None:
    """Zero, infinite and undefined rates, a step 0, time that runs backwards."""
    (found,) = audit(lines)
    assert problem in "; ".join(found.problems)
    found.as_json()


counts = st.integers(0, 10**15)
numbers = st.floats(0, 1e300) | st.sampled_from([0.0, float("inf"), float("nan")])


@given(
    st.lists(
        st.builds(LogLine, global_step=counts, loss=numbers, rate=numbers, global_rate=numbers)
        | st.builds(EndLine, samples=counts, seconds=numbers)
        | st.builds(StartLine, global_batch_size=counts, first_step=counts, last_step=counts),
        max_size=8,
    )
)
def test_no_log_breaks_the_audit(lines: list[LogLine | EndLine | StartLine]) -> None:
    """Any lines at all are audited to an end."""
    for found in audit([str(line) for line in lines]):
        found.as_json()
