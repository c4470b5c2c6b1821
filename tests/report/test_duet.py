"""The report of a duet: its headline names the batch size, how much, how significant, and why."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from perf.judge.attribution import Contribution, PhaseDifference
from perf.judge.duets import (
    SESSION_BUDGET,
    Decisions,
    DuetResult,
    as_claims,
    loss_problem,
    not_compared,
    work_differences,
)
from perf.judge.verdicts import Judgement, Verdict
from perf.records.sessions import Mode, Pair
from perf.records.wire import SideWork
from perf.report.answers import of_duet, of_session
from perf.report.duet import duet_report, duet_text
from perf.report.sections import as_markdown
from tests.judge.noise import COUNTERS, HERE, LOSSES, SIZES, session, step_times
from tests.report.nights import judged, report_of

WORK = SideWork(
    counters=msgspec.structs.asdict(COUNTERS),
    losses=LOSSES[:8],
    facts={"device": "cpu", "precision": "fp32", "micro_batch_size": 512},
    python="3.11",
    software=HERE.software,
    scalars={},
)
EXTRA = msgspec.structs.replace(WORK, counters={**WORK.counters, "ops": {**COUNTERS.ops, "aten::mm": 31}})
EXTRA_PRODUCTS = Contribution(
    phase="forward",
    operation="aten::mm float32",
    baseline_count=26,
    candidate_count=31,
    baseline_s=0.010,
    candidate_s=0.015,
    standard_error_s=0.0001,
    is_significant=True,
    line="kernel.py:81",
)


PAIRS_PER_START = 3


def duet(effects: dict[int, float], candidate: SideWork = WORK, *, num_pairs: int = 30) -> DuetResult:
    """Return a duet with the given effects, differences of logarithms, and next to no noise.

    Pairs come in starts of three.
    """
    pairs: list[Pair] = []
    decisions = Decisions(list(effects), threshold=0.02, budget_s=float(num_pairs))
    for first in range(0, num_pairs, PAIRS_PER_START):
        last = min(first + PAIRS_PER_START, num_pairs)
        own = [_pair(size, effect, number) for number in range(first, last) for size, effect in effects.items()]
        pairs += own
        decisions.add([pair for pair in own if pair.global_batch_size in decisions.undecided], ended_s=float(last))
    return DuetResult(
        sides=("baseline: 0123456789ab at 0123456", "self at 89abcde"),
        mode=Mode.SIMULTANEOUS,
        mode_reason="each side on 1 of 2 cores",
        threshold=0.02,
        budget_s=120.0,
        work=dict.fromkeys(effects, (WORK, candidate)),
        pairs=pairs,
        judgements=decisions.judgements,
        phases={1024: [PhaseDifference(phase="forward", baseline_s=0.04, candidate_s=0.045)]}
        if candidate is not WORK
        else {},
        contributions={1024: [EXTRA_PRODUCTS]} if candidate is not WORK else {},
        start_s=2.0,
    )


def _pair(size: int, effect: float, number: int) -> Pair:
    wiggle = 1e-3 * np.cos(number)
    steps = size / 4000 * np.arange(5)
    return Pair(
        global_batch_size=size,
        start=number // PAIRS_PER_START,
        ended_s=number + 1.0,
        effect=effect + wiggle,
        baseline=(tuple(steps),),
        candidate=(tuple(steps / np.exp(effect + wiggle)),),
    )


def row_of(result: DuetResult, size: int) -> list[str]:
    """Return the cells of a batch size in the table of a report."""
    return next(line.split() for line in duet_text(result).splitlines() if line.split()[:1] == [str(size)])


SLOWER = duet({512: 0.0, 1024: -0.1, 2048: -0.05}, EXTRA)


def test_the_first_sentence_names_the_worst_batch_size_how_much_and_why() -> None:
    """Of two that are slower the slower one comes first, with its range; then the operation, its phase and its line."""
    found = of_duet(SLOWER)
    assert found.line == (
        "REGRESSED: 9.5% slower (between 9.4% and 9.6%) at 1024, 4.9% slower at 2048 (512 UNCHANGED): "
        "5 more aten::mm float32 per step in forward (kernel.py:81)"
    )
    located = msgspec.structs.replace(
        SLOWER,
        phases={2048: SLOWER.phases[1024]},
        contributions={2048: SLOWER.contributions[1024]},
    )
    assert ": at 2048, 5 more aten::mm float32 per step in forward" in of_duet(located).line
    assert found.next_step == "if the change is meant: measure it with pytest, then stepmark promote --reason TEXT"
    assert of_duet(msgspec.structs.replace(SLOWER, show_change="git diff HEAD")).next_step.startswith(
        "git diff HEAD; if "
    )


def test_without_a_difference_the_first_sentence_says_so() -> None:
    """UNCHANGED with its interval: looked, and fine."""
    same = duet(dict.fromkeys(SIZES, 0.0))
    found = of_duet(same)
    assert found.line.startswith("UNCHANGED: no change of 2.0% or more at 512, 1024, 2048 (measured +0.0%")
    assert found.next_step == "nothing to do"
    assert "work: the same operations, and the same losses up to rounding" in duet_text(same)


def test_too_few_pairs_are_not_green() -> None:
    """INCONCLUSIVE has an exit code of its own, and what to do next is to give it more time."""
    few = duet({512: 0.0}, num_pairs=5)
    assert of_duet(few).line.startswith("INCONCLUSIVE: cannot tell at 512: measured 0.0% slower (between ")
    assert of_duet(few).next_step == "give it more time: --budget 10s"
    assert "only 2 of the 4 starts that a verdict needs; use about --budget 10s" in duet_text(few)
    in_a_session = msgspec.structs.replace(few, budget_option=SESSION_BUDGET)
    assert "; use about -o perf_duet_budget=10" in as_claims(in_a_session, 512)["rate"].reason


def test_the_report_has_a_line_for_each_batch_size_and_says_where_the_time_goes() -> None:
    """Rates of both sides, the verdicts, what a step does otherwise, and the operation it is spent in."""
    lines = duet_text(SLOWER).splitlines()
    assert max(map(len, lines)) <= 80
    assert row_of(SLOWER, 512)[-1] == "UNCHANGED"
    assert row_of(SLOWER, 1024)[-1] == "REGRESSED"
    assert row_of(SLOWER, 1024)[1] == "4,000"
    assert any(line == "512, 1024, 2048: work differs: +5 aten::mm per step" for line in lines)
    assert any(line.split() == ["forward", "(all)", "-", "40.000", "45.000", "+5.000"] for line in lines)
    assert any(line.split()[:4] == ["aten::mm", "float32", "26", "->"] for line in lines)


def test_losses_that_differ_by_more_than_rounding_are_reported() -> None:
    """A millionth is rounding, a hundredth is not; between fp32 and bf16 more is allowed."""
    near = msgspec.structs.replace(WORK, losses=tuple(loss + 1e-6 for loss in WORK.losses))
    far = msgspec.structs.replace(WORK, losses=(*WORK.losses[:2], *(loss + 0.01 for loss in WORK.losses[2:])))
    assert not loss_problem((WORK, near))
    assert loss_problem((WORK, far)).startswith("the loss of step 3 is ")
    half = msgspec.structs.replace(far, facts={**WORK.facts, "precision": "bf16"})
    assert not loss_problem((WORK, half))
    assert work_differences((WORK, half)) == ["precision fp32 -> bf16"]
    for wrong in (float("nan"), float("inf")):
        assert loss_problem((WORK, msgspec.structs.replace(WORK, losses=(*WORK.losses[:2], wrong, *WORK.losses[3:]))))


def test_sides_whose_losses_differ_have_a_verdict_of_their_own() -> None:
    """However alike their times are: it comes first, fails with exit code 1, and fails the claim of a session."""
    far = msgspec.structs.replace(WORK, losses=(*WORK.losses[:2], *(loss + 0.01 for loss in WORK.losses[2:])))
    other = duet({512: 0.0}, far)
    assert other.judgements[512].verdict is Verdict.UNCHANGED
    assert other.verdict(512) is Verdict.LOSSES_DIFFER
    assert of_duet(other).line.startswith("LOSSES_DIFFER: not the same training at 512: the loss of step 3 is ")
    assert row_of(other, 512)[-1] == "LOSSES_DIFFER"
    claims = as_claims(other, 512)
    assert [claims[name].holds for name in ("losses", "rate")] == [False, False]
    assert claims["rate"].verdict is Verdict.LOSSES_DIFFER
    night = session(step_times(np.random.default_rng(1)))
    assert of_session(night, judged(other), None, other, "").line.startswith("FAILED: losses at 512: side by side ")
    assert as_claims(duet({512: 0.0}), 512)["losses"].holds


def test_what_one_side_lacks_is_not_called_equal() -> None:
    """A counter that only one side knows, or no losses, are named, and differences in the rest are still found."""
    older = msgspec.structs.replace(
        WORK, counters={name: count for name, count in WORK.counters.items() if name != "host_syncs"}, losses=()
    )
    assert not_compared((older, WORK)) == ["losses", "host_syncs"]
    assert work_differences((older, EXTRA)) == ["+5 aten::mm"]
    found = msgspec.structs.replace(duet({512: 0.0}), work={512: (older, WORK)})
    assert "512: not compared, because a side lacks it: losses, host_syncs" in duet_text(found)
    slower = msgspec.structs.replace(duet({512: -0.1}), work={512: (older, WORK)})
    assert of_duet(slower).line.endswith("no difference in what was compared; not compared: losses, host_syncs")
    silent = msgspec.structs.replace(WORK, software={}, python="", counters={})
    assert not_compared((silent, silent)) == ["software", "counters"]
    nothing = msgspec.structs.replace(duet({512: 0.0}), work={512: (silent, silent)})
    assert "software: not known" in duet_text(nothing)
    assert not_compared((WORK, msgspec.structs.replace(WORK, python="3.12"))) == ["python_calls"]


def test_a_duet_that_ended_early_shows_what_is_known() -> None:
    """What its pairs show, why it ended, and an exit code that is not green; the claims of a session fail."""
    whole = duet(dict.fromkeys(SIZES, 0.0), num_pairs=5)
    only = {size: found for size, found in whole.judgements.items() if size != 2048}
    early = msgspec.structs.replace(whole, judgements=only, problem="candidate side (self): ended by SIGKILL")
    report = duet_text(early)
    assert "+0." in report
    assert report.endswith("candidate side (self): ended by SIGKILL")
    assert of_duet(early).line.endswith("candidate side (self): ended by SIGKILL")
    for size in SIZES:
        assert as_claims(early, size)["rate"].holds is False
    found = msgspec.structs.replace(duet({512: -0.1}), attribution_problem="where the time differs is not known: x")
    assert duet_text(found).endswith("where the time differs is not known: x")


def test_claims_of_a_session_follow_from_its_duet() -> None:
    """REGRESSED fails the rate; UNCHANGED holds. A session leaves out a scaling that its rate explains."""
    claims = as_claims(SLOWER, 1024)
    assert {name: claim.holds for name, claim in claims.items()} == {
        "losses": True,
        "counters": False,
        "rate": False,
        "scaling": False,
    }
    assert claims["rate"].reason.startswith("side by side with baseline: 0123456789ab")
    assert claims["scaling"].verdict is Verdict.REGRESSED
    assert as_claims(SLOWER, 512)["rate"].holds is True


def test_scaling_is_judged_from_the_pairs() -> None:
    """All slower by the same is no change of scaling; one that is slower than the others is, by its own start means."""
    level = as_claims(duet(dict.fromkeys(SIZES, -0.1)), 512)["scaling"]
    assert (level.verdict, level.holds) == (Verdict.UNCHANGED, True)
    alike = as_claims(duet(dict.fromkeys(SIZES, 0.0)), 512)["scaling"]
    assert (alike.verdict, alike.holds) == (Verdict.UNCHANGED, True)
    assert alike.effect is not None
    assert abs(alike.effect.effect_size) < 1e-3
    others = as_claims(duet({512: 0.0, 1024: 0.1, 2048: 0.1}), 512)["scaling"]
    assert others.holds is None
    assert others.reason.endswith("its own rate did not decrease")
    assert "scaling" not in as_claims(duet({512: 0.0}), 512)


def test_the_summary_of_a_night_begins_with_what_matters_most() -> None:
    """A regression with its batch size and cause; tables are Markdown; without a duet the claims speak."""
    night = session(step_times(np.random.default_rng(1)))
    judgements = {key: found for key, found in judged(SLOWER).items() if key[0] != "counters"}
    text = as_markdown(report_of(night, judgements, duet=SLOWER, dirty=True), "bench.html")
    lines = text.splitlines()
    assert lines[0] == f"**{of_duet(SLOWER).line}**"
    assert lines[4].endswith(", 2026-11-24T01:02:03+00:00, commit 0123456789ab with uncommitted changes")
    assert "| 1024 | 4,000 | 3,6" in text
    assert "|  | aten::mm float32 | 26 -> 31 |" in text
    counters = Judgement(holds=False, reason="+1 host_syncs per step")
    unknown = Judgement(holds=None, reason="make one", verdict=Verdict.NO_BASELINE)
    broken = msgspec.structs.replace(night, failures={512: "run 1: out of memory"})
    for of, found, problem, line in (
        (night, {("counters", 512): counters}, "", "FAILED: counters at 512: +1 host_syncs per step"),
        (night, {("rate", 512): unknown}, "", "NO_BASELINE: rate at 512: make one"),
        (night, {("rate", 512): unknown}, "nothing compared", "FAILED: nothing compared"),
        (broken, {}, "", "NOT MEASURED: 512: run 1: out of memory"),
    ):
        assert of_session(of, found, None, None, problem).line == line
    assert report_of(broken, {}).is_bad
    assert not report_of(night, {("rate", 512): unknown}).is_bad


def test_the_file_has_all_raw_values_and_no_infinity() -> None:
    """Every mark of every pair is there, and a bound that there is not is null."""
    found = duet({512: 0.0}, num_pairs=5).as_json()
    assert found["kind"] == "duet"
    assert len(found["pairs"]) == 5
    assert found["pairs"][0]["baseline"] == (tuple(512 / 4000 * np.arange(5)),)
    assert duet({512: 0.0}, num_pairs=3).as_json()["judgements"][512]["effect"]["high"] is None
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("size", SIZES)
def test_a_rate_is_samples_over_seconds(size: int) -> None:
    """Whatever the batch size, both sides of a duet without effect show what was put in."""
    assert row_of(duet({size: 0.0}), size)[1:3] == ["4,000", "4,000"]


def test_another_scalar_is_another_training() -> None:
    """Beyond rounding, in relation to its size.

    The loss is compared first, and a scalar of one side only not at all.
    """
    one = msgspec.structs.replace(WORK, scalars={"norm": (100.0,) * len(WORK.losses), "own": (1.0,) * len(WORK.losses)})
    near = msgspec.structs.replace(WORK, scalars={"norm": (100.05,) * len(WORK.losses)})
    far = msgspec.structs.replace(WORK, scalars={"norm": (101.0,) * len(WORK.losses)})
    assert loss_problem((one, near)) == ""
    assert loss_problem((one, far)).startswith("the norm of step 1 is 100.00000 on the baseline side and 101.00000 on")


def test_what_a_reviewer_must_see_although_nothing_failed() -> None:
    """Other work in a step, and that it could not be decided, with the budget that would; else nothing."""

    def warnings(result: DuetResult) -> list[str]:
        return list(duet_report(result, title="t", about="", command="").warnings)

    assert warnings(duet({512: 0.0})) == []
    undecided, other = warnings(duet({512: 0.0}, EXTRA, num_pairs=5))
    assert undecided == "512: work differs: +5 aten::mm per step"
    assert other.startswith("512: INCONCLUSIVE: only 2 of the 4 starts that a verdict needs; use about --budget ")
