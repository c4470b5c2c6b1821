"""Duets: verdicts on pairs, start by start; the result, the claims that follow, and where the sides' work differs.

Verdicts are decided at two looks, each with its share of the error.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from perf.judge.attribution import Contribution, PhaseDifference
from perf.judge.exact import counter_differences, printed_loss_difference
from perf.judge.stats import CONFIDENCE, FAMILY_ERROR, DuetEffect, estimate, scaling_contrasts
from perf.judge.verdicts import UNTOLD, Judgement, Verdict, spare_left_behind, why_inconclusive
from perf.records.sessions import FEWEST_STARTS, Marks, Mode, Pair, differences
from perf.records.wire import SideWork

Work = tuple[SideWork, SideWork]  # what baseline and candidate do in a step at one batch size

CHANGED = (Verdict.REGRESSED, Verdict.IMPROVED)
# How the budget of a batch size is given to ``stepmark duet``, and to pytest with ``--perf-duet``.
DUET_BUDGET, SESSION_BUDGET = "--budget {:.0f}s", "-o perf_duet_budget={:.0f}"
# The largest difference between losses of the first steps that rounding explains, nats, by precision.
LOSS_TOLERANCE = {"fp32": 1e-3, "bf16": 2e-2}
INTERIM_LOOK = 0.5  # the share of the budget after which there is a look before the last one
LATEST_INTERIM_LOOK = 0.7  # after this share the interim look is left out: it would take most of the error


class DuetJudgement(Struct, frozen=True, kw_only=True):
    """The verdict on the times of one batch size."""

    verdict: Verdict  # IMPROVED, UNCHANGED, REGRESSED or INCONCLUSIVE
    effect: DuetEffect  # the comparison behind it
    reason: str  # why, in words
    # the budget for each batch size that about would have decided it, seconds; 0 if it is decided, or unknown
    needed_s: float = 0.0

    def advice(self, budget_option: str) -> str:
        """Return the reason, and the option that gives the needed budget: a format such as ``--budget {:.0f}s``."""
        return f"{self.reason}; use about {budget_option.format(self.needed_s)}" if self.needed_s else self.reason


def spent(share: float) -> float:
    """Return what part of the error may be spent once `share` of the budget is: its square (Kim and DeMets 1987)."""
    return min(1.0, share) ** 2


LAST_SHARE = 1 - spent(INTERIM_LOOK)  # the last look's share of the error


class Decisions:
    """The judgements so far of each batch size, and which are undecided; measures nothing.

    There is a look when half of the budget is spent, and one at its end. The shares of the error are added as if the
    looks were independent, so the actual error is smaller than the allowed one. A look at fewer than `FEWEST_STARTS`
    starts decides nothing, and its share is left for the next.

    The batch sizes are one family, and `budget_s` is of the whole duet.
    """

    def __init__(self, sizes: Sequence[int], *, threshold: float, budget_s: float, error: float = FAMILY_ERROR) -> None:
        self._threshold, self._budget_s = threshold, budget_s
        self._error = error / max(1, len(sizes))  # of a batch size
        self._starts: dict[int, list[list[float]]] = {size: [] for size in sizes}
        self._decided: dict[int, DuetJudgement] = {}
        self._ended_s = self._spent = 0.0

    @property
    def undecided(self) -> list[int]:
        """Batch sizes to be measured further, ascending; none when the budget is spent."""
        return sorted(size for size in self._starts if size not in self._decided)

    @property
    def judgements(self) -> dict[int, DuetJudgement]:
        """The judgement of each batch size that has a whole start; if undecided, INCONCLUSIVE."""
        found = dict(self._decided)
        for size in self.undecided:
            if self._starts[size]:
                effect, reason = self._estimate(size, LAST_SHARE), "stopped before it was decided"
                found[size] = DuetJudgement(verdict=Verdict.INCONCLUSIVE, effect=effect, reason=reason)
        return dict(sorted(found.items()))

    def add(self, pairs: Sequence[Pair], *, ended_s: float) -> None:
        """Add the pairs of one whole start, which ended at `ended_s` of the duet, and look at them if a look is due."""
        for size in {pair.global_batch_size for pair in pairs}:
            self._starts[size].append([pair.effect for pair in pairs if pair.global_batch_size == size])
        took_s, self._ended_s = ended_s - self._ended_s, ended_s
        share = ended_s / self._budget_s
        are_enough = all(len(self._starts[size]) >= FEWEST_STARTS for size in self.undecided)
        if ended_s + took_s / 2 > self._budget_s:  # another start would end late by more than half of it
            self._look(1.0)
        elif INTERIM_LOOK <= share <= LATEST_INTERIM_LOOK and are_enough and not self._spent:
            self._look(share)

    def _look(self, share_of_budget: float) -> None:
        is_last = share_of_budget == 1.0
        share, self._spent = spent(share_of_budget) - self._spent, spent(share_of_budget)
        last_level = self._error * LAST_SHARE
        for size in self.undecided:
            effect = self._estimate(size, share)
            found = judge(effect, threshold=self._threshold, share=1.0 if is_last else share, last_level=last_level)
            if is_last or found.verdict is not Verdict.INCONCLUSIVE:
                self._decided[size] = found

    def _estimate(self, size: int, share: float) -> DuetEffect:
        elapsed_s = self._ended_s / len(self._starts)  # a budget is given for each batch size
        return estimate(self._starts[size], level=self._error * share, elapsed_s=elapsed_s)


def judge(effect: DuetEffect, *, threshold: float, share: float, last_level: float) -> DuetJudgement:
    """Return the verdict on one batch size at a look.

    UNCHANGED: the whole 95% interval lies within the threshold; before the last look a wider interval must, so that the
    first look adds little to the error of the last. REGRESSED or IMPROVED: it does not, and the change is significant.
    So a slowdown exactly as large as the threshold is found, which a rule that wants the whole interval beyond the
    threshold would miss; and a significant change smaller than the threshold is UNCHANGED.

    `threshold` is the smallest change that matters, a fraction; `share` what this look may spend of the 95% interval's
    error, 1 for the last look; `last_level` the error of the last look, for the forecast of a budget.
    """
    verdict, needed_s = Verdict.INCONCLUSIVE, 0.0
    if effect.num_starts < FEWEST_STARTS:
        reason = f"only {effect.num_starts} of the {FEWEST_STARTS} starts that a verdict needs"
        needed_s = effect.elapsed_s / effect.num_starts * FEWEST_STARTS
    elif effect.within(threshold, error=(1 - CONFIDENCE) * share):
        verdict, reason = Verdict.UNCHANGED, f"the interval lies within {threshold:.1%}"
        if effect.is_significant:
            reason = f"the change of {effect.effect_size:+.1%} is significant, but smaller than {threshold:.1%}"
    elif effect.is_significant:
        verdict, word = (Verdict.REGRESSED, "slower") if effect.effect_size < 0 else (Verdict.IMPROVED, "faster")
        num_pairs, num_starts = effect.num_runs, effect.num_starts
        reason = f"significantly {word}: p = {effect.p_value:.1g}, {num_pairs} pairs in {num_starts} starts"
    else:
        reason = why_inconclusive(effect, threshold, "pairs")
        could_show = effect.minimal_detectable_effect <= threshold
        needed_s = 2 * effect.elapsed_s if could_show else effect.budget_for(threshold, level=last_level)
    return DuetJudgement(verdict=verdict, effect=effect, reason=reason, needed_s=float(np.ceil(needed_s)))


class DuetResult(Struct, frozen=True, kw_only=True):
    """What a duet measured, and its verdicts."""

    sides: tuple[str, str]  # what the baseline and the candidate are
    # mode, mode_reason: how they shared the machine, and why
    mode: Mode
    mode_reason: str
    threshold: float  # the smallest change that matters, a fraction
    budget_s: float  # of all batch sizes that were timed together
    work: dict[int, Work]  # what both did in a step, by batch size
    pairs: list[Pair]  # all of them, raw
    judgements: dict[int, DuetJudgement]  # of the times, by batch size; only of those that have a whole start
    # phases, contributions: of the batch size whose difference was located: the time of each phase, and of each
    # operation, the largest difference first
    phases: dict[int, list[PhaseDifference]]
    contributions: dict[int, list[Contribution]]
    start_s: float = 0.0  # what starting the processes of both sides takes, seconds
    problem: str = ""  # why it ended before all was decided; "" if it did not
    attribution_problem: str = ""  # why `phases` and `contributions` are missing although there is a difference
    interrupted: bool = False  # whether a signal ended it
    show_change: str = ""  # the command that shows what changed between the sides; "" if no commit is compared
    sample: str = "samples"  # what one sample is called
    budget_option: str = DUET_BUDGET  # how the tool at hand is given a budget; or `SESSION_BUDGET`

    def verdict(self, size: int) -> Verdict:
        """Return the verdict on a batch size; where losses differ, the times do not matter."""
        if loss_problem(self.work[size]):
            return Verdict.LOSSES_DIFFER
        return self.judgements[size].verdict if size in self.judgements else Verdict.INCONCLUSIVE

    def rates(self, size: int) -> tuple[float, float] | None:
        """Return the rates of baseline and candidate, samples/sec: medians over runs of a run's mean rate."""

        def rate(run: Sequence[Marks], num_steps: int) -> float:
            return size * sum(num_steps or len(marks) - 1 for marks in run) / sum(marks[-1] - marks[0] for marks in run)

        pairs = [pair for pair in self.pairs if pair.global_batch_size == size]
        rates = [[rate(side, pair.num_steps) for side in (pair.baseline, pair.candidate)] for pair in pairs]
        return tuple(np.median(rates, axis=0).tolist()) if rates else None

    def as_json(self) -> dict[str, Any]:
        """Return everything, raw values included, as JSON data; an infinite bound is null."""
        data = {"kind": "duet", **msgspec.to_builtins(self, enc_hook=float)}
        for judgement in data["judgements"].values():
            effect = judgement["effect"]
            effect |= {name: None for name, value in effect.items() if not np.isfinite(value)}
        data["verdicts"] = {size: self.verdict(size) for size in self.work}
        return data


def size_to_attribute(work: Mapping[int, Work], judgements: Mapping[int, DuetJudgement]) -> int | None:
    """Return a batch size whose time or work differs: the smallest, whose steps are the shortest, with a large effect.

    Large is at least half of the largest. None if there is none.
    """
    differing = [size for size in judgements if judgements[size].verdict in CHANGED or work_differences(work[size])]
    effects = {size: abs(judgements[size].effect.effect_size) for size in differing}
    return min((size for size in effects if effects[size] >= max(effects.values()) / 2), default=None)


def as_claims(result: DuetResult, size: int) -> dict[str, Judgement]:
    """Return what becomes of "losses", "counters", "rate", and with several batch sizes "scaling", at one of them."""
    beside = f"side by side with {result.sides[0]}"
    problem, work = loss_problem(result.work[size]), work_differences(result.work[size])
    other = f"not the same training: {problem}" if problem else ""
    claims = {}
    for claim, what in {"losses": other, "counters": f"{', '.join(work)} per step" if work else ""}.items():
        claims[claim] = Judgement(holds=not what, reason=f"{beside}: {what or 'no difference'}")
    if not (result.work[size][0].counters and result.work[size][1].counters):
        claims["counters"] = Judgement.of(Verdict.NOT_MEASURED, f"{beside}: {UNTOLD}")
    found, verdict = result.judgements.get(size), result.verdict(size)
    ended_early = verdict is Verdict.INCONCLUSIVE and bool(result.problem)  # the comparison was not finished: it fails
    reason = other or (found.advice(result.budget_option) if found and not ended_early else result.problem)
    rate = Judgement.of(verdict, f"{beside}: {reason}", found.effect if found else None)
    claims["rate"] = replace(rate, holds=False) if ended_early else rate
    if relative := judge_scaling(result.pairs, size, threshold=result.threshold):
        scaling = Judgement.of(relative.verdict, relative.reason, relative.effect)
        scaling = spare_left_behind(scaling, rate.effect.effect_size if rate.effect else 0.0, result.threshold)
        claims["scaling"] = replace(scaling, reason=f"side by side: {scaling.reason}")
    return claims


def judge_scaling(pairs: Sequence[Pair], size: int, *, threshold: float) -> DuetJudgement | None:
    """Return whether the rate of a batch size relative to the others' is the baseline's; None if there are no others.

    A value is a start: the effect at one batch size less the mean of the effects at the others. Only starts that have
    all batch sizes count. A duet ends at one of its two looks, so each may spend half of the error.
    """
    sizes = sorted({pair.global_batch_size for pair in pairs})
    starts = [[pair for pair in pairs if pair.start == start] for start in sorted({pair.start for pair in pairs})]
    effects = [[[pair.effect for pair in start if pair.global_batch_size == s] for s in sizes] for start in starts]
    whole = [[float(np.mean(some)) for some in start] for start in effects if all(start)]
    if len(sizes) < 2 or not whole or size not in sizes:
        return None
    contrasts = scaling_contrasts(np.array(whole).T)[sizes.index(size)]
    level, elapsed_s = FAMILY_ERROR / 2 / len(sizes), pairs[-1].ended_s / len(sizes)
    effect = estimate([[contrast] for contrast in contrasts], level=level, elapsed_s=elapsed_s)
    effect = replace(effect, num_runs=sum(pair.global_batch_size == size for pair in pairs))
    return judge(effect, threshold=threshold, share=0.5, last_level=level)


def loss_problem(work: Work) -> str:
    """Return how the losses of two sides differ by more than rounding, or nothing."""
    tolerance = max(LOSS_TOLERANCE.get(str(side.facts.get("precision")), max(LOSS_TOLERANCE.values())) for side in work)
    if any(side.reruns for side in work):
        return printed_loss_difference(*([side.losses, *side.reruns] for side in work))[0]
    baseline, candidate = ({"loss": side.losses, **side.scalars} for side in work)
    for name in [name for name in baseline if name in candidate]:
        for step, (before, now) in enumerate(zip(baseline[name], candidate[name], strict=False), start=1):
            rounding = tolerance * (1.0 if name == "loss" else max(1.0, abs(before)))  # other scalars have any size
            if not abs(now - before) <= rounding:
                values = f"{before:.5f} on the baseline side and {now:.5f} on the candidate side"
                return f"the {name} of step {step} is {values} (rounding explains {rounding:g})"
    return ""


def with_reruns(work: Work, pairs: Sequence[Pair]) -> Work:
    """Return what both sides do, with the losses that their runs in pairs printed."""
    runs = [tuple(run for pair in pairs for run in pair.losses[side]) for side in (0, 1)]
    return replace(work[0], reruns=work[0].reruns + runs[0]), replace(work[1], reruns=work[1].reruns + runs[1])


def work_differences(work: Work) -> list[str]:
    """Return what differs in a step of the candidate, by name and number; facts that one side lacks are left out."""
    baseline, candidate = work
    known = [{name: side.facts[name] for name in baseline.facts if name in candidate.facts} for side in work]
    same_python = baseline.python == candidate.python != ""
    return differences(*known) + counter_differences(baseline.counters, candidate.counters, python_calls=same_python)


def not_compared(work: Work) -> list[str]:
    """Return what at least one of the sides lacks: losses, software, facts and counters."""
    baseline, candidate = work
    names = [name for name in ("losses", "software") if not all(getattr(side, name) for side in work)]
    names += sorted({*baseline.facts} ^ {*candidate.facts})
    if not (baseline.counters and candidate.counters):
        return [*names, "counters"]
    same_python = baseline.python == candidate.python != ""
    calls = {"python_calls"} if "python_calls" in baseline.counters and not same_python else set()
    return names + sorted({*baseline.counters} ^ {*candidate.counters} | calls)


def software_differences(work: Work) -> list[str]:
    """Return which software differs between the sides, if that of both is known."""
    software = [side.software for side in work]
    return differences(software[0], software[1]) if all(software) else []
