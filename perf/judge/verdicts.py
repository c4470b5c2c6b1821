"""Claims about a session, and what becomes of them: decided here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from perf.judge.exact import counter_differences, loss_differences
from perf.judge.fitness import session_refusal
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
from perf.records.baselines import Baseline, Expected
from perf.records.fingerprint import differences
from perf.records.sessions import Measurement, Session

DECREASE_SIGNIFICANCE = 0.001
DECREASE_STEPS = 8
"""Steps that can show a trend at that significance, with a pair or two out of order."""


class Verdict(StrEnum):
    """What can be said of a metric beside its baseline."""

    IMPROVED = "IMPROVED"
    UNCHANGED = "UNCHANGED"
    REGRESSED = "REGRESSED"
    LOSSES_DIFFER = "LOSSES_DIFFER"
    INCONCLUSIVE = "INCONCLUSIVE"
    NO_BASELINE = "NO_BASELINE"
    NOT_COMPARABLE = "NOT_COMPARABLE"


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What became of one claim.

    Attributes:
        claim: "loss_decreases", "losses", "counters", "rate" or "scaling".
        holds: whether it does; None when that could not be found out.
        verdict: of a metric; None for an exact claim.
        effect: the comparison it rests on, if there was one.
        reason: why, in words.
    """

    claim: str
    holds: bool | None
    reason: str
    verdict: Verdict | None = None
    effect: Effect | None = None


HOLDS = {Verdict.IMPROVED: True, Verdict.UNCHANGED: True, Verdict.REGRESSED: False}


def decide(effect: Effect, *, p_in_family: float, threshold: float) -> Verdict:
    """Return the verdict on a comparison.

    A change is one when no effect is rejected within its family and the estimate is beyond `threshold`. No change is
    one when the whole interval lies inside the threshold and a change of that size would have been seen. All else
    is INCONCLUSIVE.

    Args:
        effect: the comparison.
        p_in_family: its p-value, corrected for the other comparisons.
        threshold: the smallest change that matters, a fraction.
    """
    if p_in_family <= FAMILY_ERROR and abs(effect.effect_size) >= threshold:
        return Verdict.REGRESSED if effect.effect_size < 0 else Verdict.IMPROVED
    inside = -threshold < effect.low and effect.high < threshold
    if inside and effect.minimal_detectable_effect <= threshold:
        return Verdict.UNCHANGED
    return Verdict.INCONCLUSIVE


def judge_rates(session: Session, baseline: Baseline | None, *, threshold: float) -> dict[int, Judgement]:
    """Return by batch size whether it is as fast as in the baseline; one family.

    Args:
        session: what was measured.
        baseline: what to compare with; None where there is none.
        threshold: the smallest change that matters, a fraction.
    """
    rates = {size: _rates(measurement) for size, measurement in session.measurements.items()}
    stored = {size: _rates(m) for size, m in baseline.session.measurements.items()} if baseline else {}
    return _judge_family("rate", session, baseline, rates, stored, threshold, widen=SHARED_PHASES)


def judge_scaling(session: Session, baseline: Baseline | None, *, threshold: float) -> dict[int, Judgement]:
    """Return by batch size whether it keeps its place among the others; one family; arguments as in `judge_rates`.

    A batch size that fell behind only because others got faster is not REGRESSED: its own rate must have fallen too,
    by half the threshold at least.
    """
    sizes = [size for size in session.measurements if not _obstacle("scaling", session, baseline, size)]
    if baseline is None or not sizes:
        return _judge_family("scaling", session, baseline, {}, {}, threshold, widen=1.0)
    if len(sizes) == 1:
        reason = "one batch size has no others to stand among; measure at least two that the baseline has"
        alone = Judgement(claim="scaling", holds=None, reason=reason, verdict=Verdict.INCONCLUSIVE)
        return {size: _obstacle("scaling", session, baseline, size) or alone for size in session.measurements}
    stored, measured = (_contrasts(source, sizes) for source in (baseline.session, session))
    # Within a round all batch sizes meet the same phases, so these do not tie neighbouring runs together.
    found = _judge_family("scaling", session, baseline, measured, stored, threshold, widen=1.0)
    for size in sizes:
        own = np.mean(np.log(_rates(session.measurements[size])))
        own -= np.mean(np.log(_rates(baseline.session.measurements[size])))
        if found[size].verdict is Verdict.REGRESSED and np.expm1(own) > -threshold / 2:
            reason = "fell behind the others, which got faster; its own rate did not fall"
            found[size] = replace(found[size], holds=None, verdict=Verdict.INCONCLUSIVE, reason=reason)
    return found


def _judge_family(
    claim: str,
    session: Session,
    baseline: Baseline | None,
    measured: Mapping[int, Sequence[float]],
    stored: Mapping[int, Sequence[float]],
    threshold: float,
    *,
    widen: float,
) -> dict[int, Judgement]:
    found = {size: _obstacle(claim, session, baseline, size) for size in session.measurements}
    judgements = {size: judgement for size, judgement in found.items() if judgement}
    family = [size for size in found if size not in judgements]
    effects = [compare_rates(measured[size], stored[size], family_size=len(family), widen=widen) for size in family]
    corrected = holm([effect.p_value for effect in effects])
    for size, effect, p in zip(family, effects, corrected, strict=True):
        assert baseline is not None  # without one, every batch size has met an obstacle
        verdict = decide(effect, p_in_family=p, threshold=threshold)
        judgements[size] = Judgement(
            claim=claim,
            holds=HOLDS.get(verdict),
            reason=_explain(verdict, effect, threshold, session, baseline, size),
            verdict=verdict,
            effect=effect,
        )
    return {size: judgements[size] for size in found}


def _obstacle(claim: str, session: Session, baseline: Baseline | None, size: int) -> Judgement | None:
    """Return why a batch size cannot be compared with the baseline, or None."""
    if baseline is None:
        return _no_baseline(claim, session, baseline)
    if unlike := incomparable(session, baseline):
        reason = f"{baseline.path} is of another machine or configuration: {'; '.join(unlike)}"
        return Judgement(claim=claim, holds=None, reason=reason, verdict=Verdict.NOT_COMPARABLE)
    if size not in baseline.session.measurements:
        return _no_baseline(claim, session, baseline)
    if baseline.times_unfit:
        unfit = printable(baseline.times_unfit)
        reason = (
            f"{baseline.path} has no times fit to compare with: {unfit}; a comparison needs {_side_by_side(baseline)}"
        )
        return Judgement(claim=claim, holds=None, reason=reason, verdict=Verdict.NO_BASELINE)
    stored, measured = (source.measurements[size] for source in (baseline.session, session))
    if stored.micro_batch_size != measured.micro_batch_size:
        reason = f"micro_batch_size {stored.micro_batch_size} -> {measured.micro_batch_size}: another experiment"
        return Judgement(claim=claim, holds=None, reason=reason, verdict=Verdict.NOT_COMPARABLE)
    if min(len(stored.runs), len(measured.runs)) < 2:
        reason = "one run has no spread to compare with; measure at least two"
        return Judgement(claim=claim, holds=None, reason=reason, verdict=Verdict.INCONCLUSIVE)
    return None


def judge_loss_decreases(measurement: Measurement) -> Judgement:
    """Return whether the loss decreases, in every run."""
    if len(measurement.runs[0].losses) < DECREASE_STEPS:
        reason = f"{len(measurement.runs[0].losses)} steps show no significant trend; measure at least {DECREASE_STEPS}"
        return Judgement(claim="loss_decreases", holds=None, reason=reason, verdict=Verdict.INCONCLUSIVE)
    p = max(falls(run.losses) for run in measurement.runs)
    losses = measurement.runs[0].losses
    reason = f"{losses[0]:.4f} to {losses[-1]:.4f} nats in {len(losses)} steps (trend: p = {p:.2g})"
    return Judgement(claim="loss_decreases", holds=p <= DECREASE_SIGNIFICANCE, reason=reason)


def judge_losses(session: Session, size: int, expected: Expected | None) -> Judgement:
    """Return whether all runs learned alike, and as the stored curve did."""
    runs = session.measurements[size].runs
    for number, run in enumerate(runs[1:], start=2):
        if run.losses != runs[0].losses:
            step = next(i for i, (a, b) in enumerate(zip(run.losses, runs[0].losses, strict=True), 1) if a != b)
            return Judgement(
                claim="losses",
                holds=False,
                reason=f"run {number} has another loss than run 1 from step {step} on ({run.losses[step - 1]!r}, "
                f"{runs[0].losses[step - 1]!r}): training is not repeatable here",
            )
    if expected is None:
        return _nothing_stored("losses", session)
    same_cut = expected.micro_batch_size == session.measurements[size].micro_batch_size
    problem, how = loss_differences(runs[0].losses, expected, session.fingerprint if same_cut else None)
    return Judgement(claim="losses", holds=not problem, reason=problem or how)


def judge_counters(session: Session, size: int, expected: Expected | None) -> Judgement:
    """Return whether all runs do the same work in a step, and the stored work."""
    runs = session.measurements[size].runs
    for number, run in enumerate(runs[1:], start=2):
        if found := counter_differences(runs[0].counters, run.counters):
            return Judgement(
                claim="counters",
                holds=False,
                reason=f"run {number} does other work than run 1: {', '.join(found)} per step",
            )
    if expected is None:
        return _nothing_stored("counters", session)
    torch = [about.software["torch"] for about in (expected.fingerprint, session.fingerprint)]
    if _release(torch[0]) != _release(torch[1]):
        reason = f"{expected.path} is of torch {torch[0]}, this is {torch[1]}: its operations may differ"
        return Judgement(claim="counters", holds=None, reason=reason, verdict=Verdict.NOT_COMPARABLE)
    found = counter_differences(expected.counters, runs[0].counters, python_calls=expected.python == session.python)
    where = f"per step, against {expected.path}"
    micro_batch_size = session.measurements[size].micro_batch_size
    if expected.micro_batch_size != micro_batch_size:
        found.insert(0, f"micro_batch_size {expected.micro_batch_size} -> {micro_batch_size}")
    if found:
        return Judgement(claim="counters", holds=False, reason=f"{', '.join(found)} {where}")
    rest = "" if expected.python == session.python else f"; Python calls not compared (stored by {expected.python})"
    return Judgement(claim="counters", holds=True, reason=f"no difference {where}{rest}")


def incomparable(session: Session, baseline: Baseline) -> list[str]:
    """Return what makes times incomparable: other hardware, or another way to run the workload."""
    facts = [
        {"workload": s.workload, "device": s.device, "precision": s.precision, **s.fingerprint.hardware}
        for s in (baseline.session, session)
    ]
    return differences(facts[0], facts[1])


def _no_baseline(claim: str, session: Session, baseline: Baseline | None) -> Judgement:
    if baseline is None:
        reason = f"no baseline of {session.configuration} for this machine; {_how_to_store(claim, session)}"
    else:
        sizes = ", ".join(map(str, baseline.session.measurements))
        if not baseline.promotions:
            advice = "name a file that has it"
        elif set(baseline.session.measurements) <= set(session.measurements):
            advice = _how_to_store(claim, session)
        else:
            advice = "measure all batch sizes, then python -m perf promote"
        reason = f"{baseline.path} has no such batch size (it has {sizes}); {advice}"
    return Judgement(claim=claim, holds=None, reason=reason, verdict=Verdict.NO_BASELINE)


def _nothing_stored(claim: str, session: Session) -> Judgement:
    torch = session.fingerprint.software["torch"]
    reason = f"nothing is stored of {session.configuration} with torch {torch}; {_how_to_store(claim, session)}"
    return Judgement(claim=claim, holds=None, reason=reason, verdict=Verdict.NO_BASELINE)


def _how_to_store(claim: str, session: Session) -> str:
    """Return what makes a baseline with what a claim lacks."""
    if problem := session_refusal(session):
        return f"this session cannot become one: {problem}"
    # Only a session that times rates leaves a result.
    return f"make one: {'' if claim == 'rate' else 'measure rates, then '}python -m perf promote"


def _side_by_side(baseline: Baseline) -> str:
    """Return what it takes to compare with a baseline's commit, and not with its stored times."""
    if problem := baseline.rerun_problem:
        return f"a baseline of a clean commit (this one {problem}), then --perf-duet"
    return "both versions side by side: --perf-duet"


def _explain(
    verdict: Verdict, effect: Effect, threshold: float, session: Session, baseline: Baseline, size: int
) -> str:
    """Return the first thing that explains a verdict."""
    if verdict is Verdict.INCONCLUSIVE:
        if effect.minimal_detectable_effect <= threshold:
            return f"the interval reaches across the threshold of {threshold:.0%}; more runs would tell"
        runs = effect.runs_for(threshold)
        many = f"about {runs} runs" if runs < 1000 else "more than a thousand runs"
        return (
            f"this data shows {effect.minimal_detectable_effect:.1%} or more; {threshold:.0%} needs {many} on each "
            f"side, or {_side_by_side(baseline)}"
        )
    if verdict is Verdict.UNCHANGED:
        return f"the interval lies within {threshold:.0%}"
    advice = "; promote it, or a later slowdown hides behind it" if verdict is Verdict.IMPROVED else ""
    counters = [s.measurements[size].runs[0].counters for s in (baseline.session, session)]
    if found := counter_differences(counters[0], counters[1], python_calls=session.python == baseline.session.python):
        return f"other work: {', '.join(found[:3])} per step{advice}"
    if found := differences(baseline.session.fingerprint.software, session.fingerprint.software):
        return f"other software: {', '.join(found[:3])}{advice}"
    return f"same work, same software: the code's speed or the machine's{advice}"


def _release(version: str | int) -> str:
    """Return a version without its build, such as ``+cpu``."""
    return str(version).partition("+")[0]


def _rates(measurement: Measurement) -> list[float]:
    return [run_rate(run.timed_step_s, measurement.global_batch_size) for run in measurement.runs]


def _contrasts(session: Session, sizes: Sequence[int]) -> dict[int, Sequence[float]]:
    contrasts = scaling_contrasts(np.array([_rates(session.measurements[size]) for size in sizes]))
    return {size: row.tolist() for size, row in zip(sizes, contrasts, strict=True)}
