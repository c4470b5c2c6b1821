"""The claims about a session: whether each holds, and why."""

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from perf.judge.exact import LEAST_RUNS, counter_differences, loss_differences, session_refusal, work_changes
from perf.judge.stats import (
    FAMILY_ERROR,
    SHARED_PHASES,
    Effect,
    compare_rates,
    falls,
    holm,
    run_rate,
    scaling_contrasts,
)
from perf.printable import printable
from perf.records.baselines import Baseline
from perf.records.fingerprint import differences
from perf.records.sessions import Measurement, Session

CLAIMS = ("loss_decreases", "losses", "rate", "counters", "scaling")
"""All claims, in the order in which failures are reported: first whether training is the same, then how fast it is."""

MOST_HIDDEN = 0.5
"""The largest slowdown that may hide behind stored times: beside themselves they must show at least this one."""

DECREASE_SIGNIFICANCE = 0.001
DECREASE_STEPS = 8  # the fewest steps that show a trend at that significance, with a pair or two out of order


class Verdict(StrEnum):
    """The outcome of a comparison with a baseline."""

    IMPROVED = "IMPROVED"
    UNCHANGED = "UNCHANGED"
    REGRESSED = "REGRESSED"
    LOSSES_DIFFER = "LOSSES_DIFFER"
    INCONCLUSIVE = "INCONCLUSIVE"
    NO_BASELINE = "NO_BASELINE"
    NOT_COMPARABLE = "NOT_COMPARABLE"


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """The outcome of one claim."""

    holds: bool | None  # whether it does; None if it could not be checked
    reason: str  # why, in words
    verdict: Verdict | None = None  # of a comparison of times; None for an exact claim that could be checked
    effect: Effect | None = None  # the comparison of times behind it, if there was one


ONLY_OTHERS_FASTER = "slower only relative to the others, which got faster; its own rate did not decrease"

HOLDS = {Verdict.IMPROVED: True, Verdict.UNCHANGED: True, Verdict.REGRESSED: False, Verdict.LOSSES_DIFFER: False}


def decide(effect: Effect, *, p_in_family: float, threshold: float) -> Verdict:
    """Return the verdict on a comparison.

    REGRESSED or IMPROVED: the change is significant within its family, and at least as large as `threshold`.
    UNCHANGED: the whole interval lies within the threshold, and a change of that size would have shown. Otherwise
    INCONCLUSIVE. `p_in_family` is the p-value, corrected for the other comparisons.
    """
    if p_in_family <= FAMILY_ERROR and abs(effect.effect_size) >= threshold:
        return Verdict.REGRESSED if effect.effect_size < 0 else Verdict.IMPROVED
    inside = -threshold < effect.low and effect.high < threshold
    if inside and effect.minimal_detectable_effect <= threshold:
        return Verdict.UNCHANGED
    return Verdict.INCONCLUSIVE


def judge_rates(session: Session, baseline: Baseline | None, *, threshold: float) -> dict[int, Judgement]:
    """Return by batch size whether its rate is that of the baseline; one family. The threshold is a fraction."""
    return _judge_family(session, baseline, threshold)


def judge_scaling(session: Session, baseline: Baseline | None, *, threshold: float) -> dict[int, Judgement]:
    """Return by batch size whether its rate relative to the others' is the baseline's.

    A batch size that is relatively slower only because others got faster is not REGRESSED: its own rate must have
    decreased too, by at least half the threshold.
    """
    found = _judge_family(session, baseline, threshold, is_scaling=True)
    for size in [size for size, judgement in found.items() if judgement.verdict is Verdict.REGRESSED]:
        assert baseline is not None  # without one, every batch size has met an obstacle
        change = mean_rate(session.measurements[size]) / mean_rate(baseline.session.measurements[size]) - 1
        if change > -threshold / 2:
            found[size] = replace(found[size], holds=None, verdict=Verdict.INCONCLUSIVE, reason=ONLY_OTHERS_FASTER)
    return found


def _judge_family(
    session: Session, baseline: Baseline | None, threshold: float, *, is_scaling: bool = False
) -> dict[int, Judgement]:
    """Return the judgements of all batch sizes: of those without an obstacle, by their rates or scaling contrasts."""
    obstacles = {size: _obstacle(session, baseline, size) for size in session.measurements}
    judgements = {size: obstacle for size, obstacle in obstacles.items() if obstacle}
    family = [size for size in obstacles if size not in judgements]
    if is_scaling and len(family) == 1:
        reason = "scaling needs two batch sizes; measure at least two that the baseline has"
        judgements[family.pop()] = _unknown(Verdict.INCONCLUSIVE, reason)
    if baseline and family:
        rates = [np.array([_rates(s.measurements[size]) for size in family]) for s in (session, baseline.session)]
        # Phases of the machine's speed cancel within a round, so neighbouring contrasts are independent.
        measured, stored = (np.exp(scaling_contrasts(np.log(side))) if is_scaling else side for side in rates)
        widen = 1.0 if is_scaling else SHARED_PHASES
        effects = [
            compare_rates(ours, theirs, family_size=len(family), widen=widen)
            for ours, theirs in zip(measured.tolist(), stored.tolist(), strict=True)
        ]
        for size, effect, p in zip(family, effects, holm([effect.p_value for effect in effects]), strict=True):
            verdict = decide(effect, p_in_family=p, threshold=threshold)
            reason = _explain(verdict, effect, threshold, session, baseline, size)
            judgements[size] = Judgement(holds=HOLDS.get(verdict), reason=reason, verdict=verdict, effect=effect)
    return {size: judgements[size] for size in session.measurements}


def _unknown(verdict: Verdict, reason: str) -> Judgement:
    return Judgement(holds=None, reason=reason, verdict=verdict)


def _obstacle(session: Session, baseline: Baseline | None, size: int) -> Judgement | None:
    """Return why a batch size cannot be compared with the baseline, or None."""
    if baseline is None:
        reason = f"no baseline of {session.configuration} for this machine; {_how_to_store(session)}"
        return _unknown(Verdict.NO_BASELINE, reason)
    if unlike := incomparable(session, baseline):
        reason = f"{baseline.path} is of a different machine or configuration: {'; '.join(unlike)}"
        return _unknown(Verdict.NOT_COMPARABLE, reason)
    if size not in baseline.session.measurements:
        advice = _how_to_store(session)
        if not baseline.promotions:
            advice = "name a file that has it"
        elif not set(baseline.session.measurements) <= set(session.measurements):
            advice = "make one: measure all batch sizes, then stepmark promote"
        sizes = ", ".join(map(str, baseline.session.measurements))
        return _unknown(Verdict.NO_BASELINE, f"{baseline.path} has no such batch size (it has {sizes}); {advice}")
    if baseline.times_unfit:
        unfit = printable(baseline.times_unfit)
        reason = f"the times in {baseline.path} are unfit for comparisons: {unfit}; compare {_side_by_side(baseline)}"
        return _unknown(Verdict.NO_BASELINE, reason)
    stored, measured = (source.measurements[size] for source in (baseline.session, session))
    if stored.micro_batch_size != measured.micro_batch_size:
        change = f"micro_batch_size {stored.micro_batch_size} -> {measured.micro_batch_size}"
        return _unknown(Verdict.NOT_COMPARABLE, f"{change}: not the same experiment")
    if min(len(stored.runs), len(measured.runs)) < 2:
        reason = "one run does not show how much runs vary; measure at least two: --perf-runs 2"
        return _unknown(Verdict.INCONCLUSIVE, reason)
    return None


def judge_loss_decreases(measurement: Measurement) -> Judgement:
    """Return whether the loss decreases, in every run."""
    losses = measurement.runs[0].losses
    if len(losses) < DECREASE_STEPS:
        reason = f"{len(losses)} steps are too few for a trend; measure at least --perf-steps {DECREASE_STEPS}"
        return _unknown(Verdict.INCONCLUSIVE, reason)
    p = max(falls(run.losses) for run in measurement.runs)
    reason = f"{losses[0]:.4f} to {losses[-1]:.4f} nats in {len(losses)} steps (trend: p = {p:.2g})"
    return Judgement(holds=p <= DECREASE_SIGNIFICANCE, reason=reason)


def judge_losses(session: Session, size: int, expected: Baseline | None) -> Judgement:
    """Return whether all runs have the same losses, and those of the stored curve."""
    runs = session.measurements[size].runs
    for number, run in enumerate(runs[1:], start=2):
        for name in {**runs[0].curves, **run.curves}:
            first, curve = (one.curves.get(name, ()) for one in (runs[0], run))
            if curve != first:
                step = next((i for i, (a, b) in enumerate(zip(curve, first, strict=False), 1) if a != b), 1)
                before, now = ([*one, None][step - 1] for one in (first, curve))
                values = f"the {name} is {before!r} in run 1 and {now!r} in run {number}"
                reason = f"runs differ from step {step} on: {values}; this training is not repeatable"
                return Judgement(holds=False, reason=reason)
    if expected is None:
        return _nothing_stored("losses", session)
    problem, how = loss_differences(session, size, expected)
    return Judgement(holds=not problem, reason=problem or how)


def judge_counters(session: Session, size: int, expected: Baseline | None) -> Judgement:
    """Return whether all runs do the same work in a step, and that of the baseline."""
    runs = session.measurements[size].runs
    for number, run in enumerate(runs[1:], start=2):
        if found := counter_differences(runs[0].counters, run.counters):
            reason = f"the work of run {number} differs from run 1: {', '.join(found)} per step"
            return Judgement(holds=False, reason=reason)
    if expected is None:
        return _nothing_stored("counters", session)
    before, here = expected.session.fingerprint, session.fingerprint
    if before.torch_release != here.torch_release:
        torch = before.software["torch"], here.software["torch"]
        reason = f"{expected.path} was made with torch {torch[0]}, this session with {torch[1]}: operations may differ"
        return _unknown(Verdict.NOT_COMPARABLE, reason)
    found = work_changes(expected.session, session, size)
    where = f"per step, compared with {expected.path}"
    cuts = [source.measurements[size].micro_batch_size for source in (expected.session, session)]
    if cuts[0] != cuts[1]:
        found.insert(0, f"micro_batch_size {cuts[0]} -> {cuts[1]}")
    if found:
        return Judgement(holds=False, reason=f"{', '.join(found)} {where}")
    python = expected.session.python
    rest = "" if python == session.python else f"; Python calls not compared (stored by {python})"
    return Judgement(holds=True, reason=f"no difference {where}{rest}")


def incomparable(session: Session, baseline: Baseline) -> list[str]:
    """Return what makes times incomparable: differences of the hardware, the workload, the device or the precision."""
    facts = [
        {"workload": s.workload, "device": s.device, "precision": s.precision, **s.fingerprint.hardware}
        for s in (baseline.session, session)
    ]
    return differences(facts[0], facts[1])


def _nothing_stored(claim: str, session: Session) -> Judgement:
    torch = session.fingerprint.software["torch"]
    reason = f"no baseline has {claim} of {session.configuration} with torch {torch}; {_how_to_store(session)}"
    return _unknown(Verdict.NO_BASELINE, reason)


def _how_to_store(session: Session) -> str:
    problem = session_refusal(session)
    return f"this session cannot become one: {problem}" if problem else "make one: stepmark promote"


def _side_by_side(baseline: Baseline) -> str:
    """Return how to compare with a baseline's commit instead of its stored times."""
    problem = baseline.rerun_problem
    return f"side by side: --perf-duet{f' (needs a baseline of a clean commit: this one {problem})' if problem else ''}"


def _explain(
    verdict: Verdict, effect: Effect, threshold: float, session: Session, baseline: Baseline, size: int
) -> str:
    """Return the first reason that applies to a verdict."""
    if verdict is Verdict.INCONCLUSIVE:
        return f"{why_inconclusive(effect, threshold, 'runs')}; compare {_side_by_side(baseline)}"
    if verdict is Verdict.UNCHANGED:
        return f"the interval lies within {threshold:.1%}"
    advice = "; promote it, or a slowdown back to the old rate will pass" if verdict is Verdict.IMPROVED else ""
    if found := work_changes(baseline.session, session, size):
        return f"work differs: {', '.join(found[:3])} per step{advice}"
    if found := differences(baseline.session.fingerprint.software, session.fingerprint.software):
        return f"software differs: {', '.join(found[:3])}{advice}"
    return f"same work, same software: the speed of the code or of the machine changed{advice}"


def why_inconclusive(effect: Effect, threshold: float, what: str) -> str:
    """Return why a comparison of `what`, runs or pairs, does not decide."""
    if effect.minimal_detectable_effect <= threshold:
        return f"the interval contains both no change and one of {threshold:.1%}"
    return f"the {what} vary too much: only slowdowns above {effect.minimal_detectable_effect:.1%} would have shown"


def with_fitness(session: Session) -> Session:
    """Return a session that says in `times_unfit` why its times are too noisy to compare with later, if they are."""
    for size, measurement in session.measurements.items():
        rates = _rates(measurement)
        if len(rates) < LEAST_RUNS:
            continue  # it cannot become a baseline at all
        hidden = compare_rates(rates, rates, family_size=len(session.measurements)).minimal_detectable_effect
        if hidden > MOST_HIDDEN:
            unfit = (
                f"the rates at {size} spread so much ({min(rates):,.0f} to {max(rates):,.0f} samples/sec) that a "
                f"slowdown of {hidden:.0%} could hide behind them"
            )
            return replace(session, times_unfit=unfit)
    return replace(session, times_unfit="")


def mean_rate(measurement: Measurement) -> float:
    """Return the rate of a batch size, samples/sec: the geometric mean over its runs, as `judge_rates` compares."""
    return float(np.exp(np.mean(np.log(_rates(measurement)))))


def _rates(measurement: Measurement) -> list[float]:
    return [run_rate(run.timed_step_s, measurement.global_batch_size) for run in measurement.runs]
