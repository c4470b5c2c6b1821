"""Runs of commands, of which only the log is known: losses, clock, ranks, and what is not measured."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from msgspec.structs import replace

from perf.judge.duets import as_claims, loss_problem, not_compared, with_reruns
from perf.judge.exact import clock_problem, printed_loss_difference
from perf.judge.verdicts import Verdict, judge_counters, judge_losses, rank_efficiencies
from perf.records.sessions import MeasuredRun, Measurement, Session
from tests.judge.noise import LOSSES
from tests.judge.test_verdicts import as_baseline, quiet
from tests.report.test_duet import WORK, duet

FIRST, OTHER = (3.0, 2.5, 2.2, 2.1), (3.0, 2.5, 2.3, 2.1)
SPREAD = 0.02  # of the mean losses of runs


def as_command(session: Session, change: Callable[[MeasuredRun], MeasuredRun] = lambda run: run) -> Session:
    """Return a session as if a command had printed it, a value for each ten steps."""
    steps = tuple(range(10, 10 * len(LOSSES) + 1, 10))
    measurements = {
        size: replace(one, runs=tuple(change(replace(run, counters=None, steps=steps)) for run in one.runs))
        for size, one in session.measurements.items()
    }
    return replace(session, workload="stepmark.toml:bert", device="", precision="", measurements=measurements)


def drawn(rng: np.random.Generator, num_runs: int = 6, *, higher: float = 0.0) -> list[list[float]]:
    """Return losses of runs that are never the same: a mean of its own in each, and noise of each line."""
    means = higher + SPREAD * rng.normal(size=(num_runs, 1))
    return (means + np.linspace(3.0, 2.0, 10) + 0.01 * rng.normal(size=(num_runs, 10))).tolist()


@pytest.mark.parametrize("candidate", [[FIRST], [FIRST] * 3])
def test_losses_that_repeat_are_equal(candidate: Sequence[Sequence[float]]) -> None:
    """In all runs of both sides, however many they are."""
    problem, how = printed_loss_difference([FIRST] * 3, candidate)
    assert (problem, how) == ("", f"equal in all {len(candidate)} runs to")


@pytest.mark.parametrize("candidate", [[OTHER], [OTHER] * 3, [FIRST, OTHER, FIRST]])
def test_where_the_baseline_repeats_one_other_loss_is_a_problem(candidate: Sequence[Sequence[float]]) -> None:
    """Also where the candidate is the baseline now and then: it no longer repeats. The line is named."""
    problem, _ = printed_loss_difference([FIRST] * 3, candidate)
    assert problem == "the loss of line 3 is 2.3, and 2.2 in all 3 runs"


def test_one_run_of_each_side_that_differ_tell_nothing() -> None:
    """Nobody knows whether the command repeats."""
    assert printed_loss_difference([FIRST], [OTHER]) == ("", "not known from one run of")


@pytest.mark.parametrize("baseline", [[FIRST], [FIRST, FIRST], [FIRST, OTHER]])
def test_another_number_of_lines_is_a_problem(baseline: Sequence[Sequence[float]]) -> None:
    """Whether or not the baseline repeats."""
    problem, _ = printed_loss_difference(baseline, [FIRST[:3]])
    assert problem == "runs print 3 or 4 losses, not the same number"


def test_losses_that_vary_give_at_most_one_false_alarm_in_a_thousand() -> None:
    """In 3000 comparisons of six and six runs without a difference; the tolerance is three standard errors."""
    rng = np.random.default_rng(1)
    alarms = sum(bool(printed_loss_difference(drawn(rng), drawn(rng))[0]) for _ in range(3000))
    assert alarms <= 3 + 3 * np.sqrt(3)


@pytest.mark.parametrize(("shift", "word"), [(5 * SPREAD, "higher"), (-5 * SPREAD, "lower")])
def test_losses_that_vary_show_a_shift_of_five_spreads(shift: float, word: str) -> None:
    """In nearly every comparison, with its direction."""
    rng = np.random.default_rng(2)
    found = [printed_loss_difference(drawn(rng), drawn(rng, higher=shift))[0] for _ in range(100)]
    assert sum(problem.startswith(f"the mean loss is {word}") for problem in found) >= 98


def test_losses_of_a_command_that_vary_do_not_fail_it() -> None:
    """Its runs need not repeat; a baseline of the same machine and software is compared by their means."""
    rng = np.random.default_rng(3)
    noisy = as_command(quiet(), lambda run: replace(run, losses=tuple(drawn(rng, 1)[0] * 2)))
    higher = as_command(quiet(), lambda run: replace(run, losses=tuple(drawn(rng, 1, higher=1.0)[0] * 2)))
    assert judge_losses(noisy, 512, as_baseline(noisy)).holds
    found = judge_losses(higher, 512, as_baseline(noisy))
    assert found.holds is False
    assert found.reason.startswith("the mean loss is higher")
    assert found.reason.endswith("beside baselines/somewhere/pico-cpu-fp32.json")


def timed(step_s: float, printed: float, *, num_windows: int = 6) -> MeasuredRun:
    """Return a run whose log says that a step took `printed` times what our clock says; its first window is slow."""
    slow_first = (9 * step_s, *[step_s] * (num_windows - 1))
    return MeasuredRun(
        losses=(1.0,) * num_windows,
        step_s=slow_first,
        steps=tuple(range(10, 10 * num_windows + 1, 10)),
        printed_s=(10 * step_s * printed,) * num_windows,
    )


def test_a_log_that_agrees_with_our_clock_is_nothing_to_say() -> None:
    """Within 2 %, and whatever the start of the command took."""
    assert clock_problem([timed(0.5, 1.0), timed(0.51, 1.005), timed(0.49, 0.99)]) == ""


@pytest.mark.parametrize(("printed", "says"), [(1 / 1.1, "10.0% higher"), (1 / 0.9, "10.0% lower")])
def test_a_log_whose_rates_are_a_tenth_off_disagrees(printed: float, says: str) -> None:
    """Its direction is that of the rates in the log."""
    assert clock_problem([timed(0.5, printed)] * 3) == f"DISAGREES with our clock: the rates in its log are {says}"


def test_short_runs_need_not_agree_closer_than_a_line_takes() -> None:
    """What is 3 % of a long run, is a moment of a short one."""
    assert "DISAGREES" in clock_problem([timed(0.5, 1.03)])
    assert clock_problem([timed(0.01, 1.03)]) == ""


def test_a_log_without_times_is_not_compared() -> None:
    """Nor is a session in which one run lacks them."""
    untold = replace(timed(0.5, 1.0), printed_s=())
    for runs in ([untold] * 3, [timed(0.5, 1.2), untold]):
        assert clock_problem(runs).startswith("the log's own rates are not compared with our clock")


def test_a_known_efficiency_lies_within_its_interval() -> None:
    """In about 95 % of sessions, though phases of the machine's speed are shared by the runs of a round."""
    true, worlds, num_sessions = {128: 0.97, 256: 0.9}, {64: 1, 128: 2, 256: 4}, 400
    rng = np.random.default_rng(4)
    inside = dict.fromkeys(true, 0)
    for _ in range(num_sessions):
        phases = 1 + 0.3 * rng.uniform(size=6)
        measurements = {}
        for size, world in worlds.items():
            times = 0.01 * size / world / true.get(size, 1.0) * phases * np.exp(0.02 * rng.normal(size=6))
            runs = tuple(MeasuredRun(losses=(1.0,) * 4, step_s=(step_s,) * 4, steps=(1, 2, 3, 4)) for step_s in times)
            measurements[size] = Measurement(global_batch_size=size, micro_batch_size=size, world_size=world, runs=runs)
        found = rank_efficiencies(replace(as_command(quiet()), measurements=measurements))
        assert found.keys() == true.keys()
        for size, efficiency in true.items():
            inside[size] += found[size].low <= efficiency - 1 <= found[size].high
    assert all(0.92 * num_sessions <= count <= 0.98 * num_sessions for count in inside.values())


def test_counters_of_a_command_are_not_measured() -> None:
    """In a session and side by side: neither a failure nor a claim that holds."""
    found = judge_counters(as_command(quiet()), 512, as_baseline(as_command(quiet())))
    untold = replace(WORK, counters={})
    assert (found.verdict, found.holds) == (Verdict.NOT_MEASURED, None)
    for work in ((untold, untold), (WORK, untold), (untold, WORK)):
        beside = as_claims(replace(duet({512: 0.0}), work={512: work}), 512)["counters"]
        assert (beside.verdict, beside.holds) == (Verdict.NOT_MEASURED, None)
        assert "counters" in not_compared(work)


def test_losses_of_all_runs_of_a_duet_are_compared() -> None:
    """Those of its pairs come after those that were there, each on its side."""
    before = (replace(WORK, losses=FIRST, reruns=(FIRST,)), replace(WORK, losses=FIRST))
    pair = replace(duet({512: 0.0}).pairs[0], losses=((FIRST, FIRST), (OTHER, FIRST)))
    after = with_reruns(before, [pair, pair])
    assert [side.reruns for side in after] == [(FIRST,) * 5, (OTHER, FIRST) * 2]
    assert loss_problem(with_reruns(before, [])) == ""
    assert loss_problem(after) == "the loss of line 3 is 2.3, and 2.2 in all 6 runs"
    assert with_reruns((WORK, WORK), duet({512: 0.0}).pairs) == (WORK, WORK)
