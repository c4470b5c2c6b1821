"""The claims about a session: whether each holds, and why."""

from enum import StrEnum
from itertools import zip_longest
from typing import Self

import numpy as np
from msgspec import Struct
from msgspec.structs import asdict

from perf.judge import stats
from perf.judge.exact import counter_differences, loss_differences, session_refusal, work_changes
from perf.judge.stats import FAMILY_ERROR, Effect
from perf.records.baselines import Baseline
from perf.records.sessions import Measurement, Session, differences, is_command

# All claims, in the order in which failures are reported: first whether training is the same, then how fast it is.
CLAIMS = ("loss_decreases", "losses", "rate", "counters", "scaling")
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
    NOT_MEASURED = "NOT_MEASURED"


UNTOLD = "a log does not tell what a step does"  # of a command
HOLDS = {Verdict.IMPROVED: True, Verdict.UNCHANGED: True, Verdict.REGRESSED: False, Verdict.LOSSES_DIFFER: False}


class Judgement(Struct, frozen=True, kw_only=True):
    """The outcome of one claim."""

    holds: bool | None  # whether it does; None if it could not be checked
    reason: str  # why, in words
    verdict: Verdict | None = None  # of a comparison of times; None for an exact claim that could be checked
    effect: Effect | None = None  # the comparison of times behind it, if there was one

    @classmethod
    def of(cls, verdict: Verdict, reason: str, effect: Effect | None = None) -> Self:
        """Return the outcome that a verdict means."""
        return cls(holds=HOLDS.get(verdict), reason=reason, verdict=verdict, effect=effect)


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


def judge_rates(
    session: Session, baseline: Baseline | None, *, threshold: float, is_scaling: bool = False
) -> dict[int, Judgement]:
    """Return by batch size whether its rate is that of the baseline, or `is_scaling`: its rate relative to the others'.

    The batch sizes that can be compared are one family. The threshold is a fraction.
    """
    judgements = {size: found for size in session.measurements if (found := _obstacle(session, baseline, size))}
    family = [size for size in session.measurements if size not in judgements]
    if is_scaling and len(family) == 1:
        reason = "scaling needs two batch sizes; measure at least two that the baseline has"
        judgements[family.pop()] = Judgement.of(Verdict.INCONCLUSIVE, reason)
    if baseline and family:
        rates = [np.array([_rates(s.measurements[size]) for size in family]) for s in (session, baseline.session)]
        # Phases of the machine's speed cancel within a round, so neighbouring contrasts are independent.
        if is_scaling:
            rates = [np.exp(stats.scaling_contrasts(np.log(side))) for side in rates]
        num, widen = len(family), 1.0 if is_scaling else stats.SHARED_PHASES
        effects = [stats.compare_rates(*sides, family_size=num, widen=widen) for sides in zip(*rates, strict=True)]
        for size, effect, p in zip(family, effects, stats.holm([effect.p_value for effect in effects]), strict=True):
            verdict = decide(effect, p_in_family=p, threshold=threshold)
            found = Judgement.of(verdict, _explain(verdict, effect, threshold, session, baseline, size), effect)
            change = mean_rate(session.measurements[size]) / mean_rate(baseline.session.measurements[size]) - 1
            judgements[size] = spare_left_behind(found, change, threshold) if is_scaling else found
    return {size: judgements[size] for size in session.measurements}


def spare_left_behind(found: Judgement, change: float, threshold: float) -> Judgement:
    """Return a judgement of scaling; what is slower only relative to others, which got faster, is not REGRESSED.

    The `change` of its own rate must be a decrease, too, by at least half the threshold; both are fractions.
    """
    if found.verdict is not Verdict.REGRESSED or change <= -threshold / 2:
        return found
    reason = "slower only relative to the others, which got faster; its own rate did not decrease"
    return Judgement.of(Verdict.INCONCLUSIVE, reason, found.effect)


def _obstacle(session: Session, baseline: Baseline | None, size: int) -> Judgement | None:
    if baseline is None:
        return _no_baseline(session, f"no baseline of {session.configuration} for this machine")
    path, stored, measured = baseline.path, baseline.session.measurements, session.measurements
    if unlike := incomparable(session, baseline):
        reason = f"{path} is of a different machine or configuration: {'; '.join(unlike)}"
        return Judgement.of(Verdict.NOT_COMPARABLE, reason)
    if size not in stored:
        return _no_baseline(session, f"{path} has no such batch size (it has {', '.join(map(str, stored))})")
    cuts = [source[size].micro_batch_size for source in (stored, measured)]
    if cuts[0] != cuts[1]:
        return Judgement.of(Verdict.NOT_COMPARABLE, f"micro_batch_size {cuts[0]} -> {cuts[1]}: not the same experiment")
    if min(len(stored[size].runs), len(measured[size].runs)) < 2:
        reason = "one run does not show how much runs vary; measure at least two: --perf-runs 2"
        return Judgement.of(Verdict.INCONCLUSIVE, reason)
    return None


def judge_loss_decreases(measurement: Measurement) -> Judgement:
    """Return whether the loss decreases, in every run."""
    losses = measurement.runs[0].losses
    if len(losses) < DECREASE_STEPS:
        advice = f"a trend needs {DECREASE_STEPS}; measure more steps (--perf-steps), or log more often"
        return Judgement.of(Verdict.INCONCLUSIVE, f"has {len(losses)} losses, and {advice}")
    p = max(stats.falls(run.losses) for run in measurement.runs)
    steps = f"in {measurement.runs[0].at_steps[-1]} steps"
    reason = f"{losses[0]:.4f} to {losses[-1]:.4f} nats {steps} (trend: p = {p:.2g})"
    return Judgement(holds=p <= DECREASE_SIGNIFICANCE, reason=reason)


def judge_losses(session: Session, size: int, expected: Baseline | None) -> Judgement:
    """Return whether all runs have the same losses, and those of the stored curve."""
    first, *others = session.measurements[size].runs
    for number, run in enumerate(others, start=2):
        for name in {**first.curves, **run.curves} if not is_command(session.workload) else ():
            values = zip_longest(first.curves.get(name, ()), run.curves.get(name, ()))
            for step, (before, now) in enumerate(values, start=1):
                if before != now:
                    found = f"the {name} is {before!r} in run 1 and {now!r} in run {number}"
                    reason = f"runs differ from step {step} on: {found}; this training is not repeatable"
                    return Judgement(holds=False, reason=reason)
    if expected is None:
        return _no_baseline(session, f"no baseline has losses of {session.configuration} at {size}")
    problem, how = loss_differences(session, size, expected)
    return Judgement(holds=not problem, reason=problem or how)


def judge_counters(session: Session, size: int, expected: Baseline | None) -> Judgement:
    """Return whether all runs do the same work in a step, and that of the baseline."""
    first, *others = session.measurements[size].runs
    if first.counters is None:
        return Judgement.of(Verdict.NOT_MEASURED, UNTOLD)
    for number, run in enumerate(others, start=2):
        if run.counters and (found := counter_differences(asdict(first.counters), asdict(run.counters))):
            reason = f"the work of run {number} differs from run 1: {', '.join(found)} per step"
            return Judgement(holds=False, reason=reason)
    if expected is None:
        return _no_baseline(session, f"no baseline has counters of {session.configuration} at {size}")
    path, before = expected.path, expected.session
    stored, here = (source.fingerprint.torch_release for source in (before, session))
    if stored != here:
        reason = f"{path} was made with torch {stored}, this session with {here}: operations may differ"
        return Judgement.of(Verdict.NOT_COMPARABLE, reason)
    found = work_changes(before, session, size)
    rest = f"; Python calls not compared (stored by {before.python})" if before.python != session.python else ""
    where = f"per step, compared with {path}{'' if found else rest}"
    return Judgement(holds=not found, reason=f"{', '.join(found) or 'no difference'} {where}")


def incomparable(session: Session, baseline: Baseline) -> list[str]:
    """Return what makes times incomparable: differences of the hardware, the workload, the device or the precision."""
    return differences(*({"workload": s.configuration, **s.fingerprint.hardware} for s in (baseline.session, session)))


def _no_baseline(session: Session, found: str) -> Judgement:
    problem = session_refusal(session)
    advice = f"this session cannot become one: {problem}" if problem else "make one: stepmark promote"
    return Judgement.of(Verdict.NO_BASELINE, f"{found}; {advice}")


def _explain(
    verdict: Verdict, effect: Effect, threshold: float, session: Session, baseline: Baseline, size: int
) -> str:
    if verdict is Verdict.INCONCLUSIVE:
        problem = baseline.rerun_problem
        needs = f" (needs a baseline of a clean commit: this one {problem})" if problem else ""
        return f"{why_inconclusive(effect, threshold, 'runs')}; compare side by side: --perf-duet{needs}"
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


def rank_efficiencies(session: Session) -> dict[int, Effect]:
    """Return by batch size its samples/sec per rank over those of the fewest ranks, less 1; these are left out.

    The runs of a round are neighbours in time, so an effect is of pairs of runs.
    """
    base = min(session.measurements.values(), key=lambda one: one.world_size)
    logs = {size: np.log(_rates(one)) - np.log(one.world_size) for size, one in session.measurements.items()}
    least = logs.pop(base.global_batch_size)
    pairs = {size: [[effect] for effect in values - least] for size, values in logs.items()}
    return {size: stats.estimate(some, level=FAMILY_ERROR, elapsed_s=0.0) for size, some in pairs.items()}


def mean_rate(measurement: Measurement) -> float:
    """Return the rate of a batch size, samples/sec: the geometric mean over its runs, as `judge_rates` compares."""
    return float(np.exp(np.mean(np.log(_rates(measurement)))))


def _rates(measurement: Measurement) -> list[float]:
    return [stats.run_rate(run.timed_step_s, measurement.global_batch_size) for run in measurement.runs]
