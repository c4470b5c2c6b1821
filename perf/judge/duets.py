"""The result of a duet: its verdicts, the claims that follow from it, and where the work of its sides differs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from perf.judge.attribution import Contribution, PhaseDifference
from perf.judge.exact import counter_differences
from perf.judge.sequential import DuetJudgement, judge_scaling
from perf.judge.verdicts import HOLDS, Judgement, Verdict, spare_left_behind
from perf.records.fingerprint import differences
from perf.records.pairs import Mode, Pair
from perf.records.wire import SideWork

CHANGED = (Verdict.REGRESSED, Verdict.IMPROVED)

DUET_BUDGET, SESSION_BUDGET = "--budget {:.0f}s", "-o perf_duet_budget={:.0f}"
"""How the budget of a batch size is given to ``stepmark duet``, and to pytest with ``--perf-duet``."""

LOSS_TOLERANCE = {"fp32": 1e-3, "bf16": 2e-2}
"""The largest difference between losses of the first steps that rounding explains, nats, by precision."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DuetResult:
    """What a duet measured, and its verdicts."""

    sides: tuple[str, str]  # what the baseline and the candidate are
    # mode, mode_reason: how they shared the machine, and why
    mode: Mode
    mode_reason: str
    threshold: float  # the smallest change that matters, a fraction
    budget_s: float  # of all batch sizes that were timed together
    work: dict[int, tuple[SideWork, SideWork]]  # what both did in a step, by batch size
    pairs: list[Pair]  # all of them, raw
    judgements: dict[int, DuetJudgement]  # of the times, by batch size; only of those that have a whole start
    # phases, contributions: of the batch size whose difference was located: the time of each phase, and of each
    # operation, the largest difference first
    phases: dict[int, list[PhaseDifference]]
    contributions: dict[int, list[Contribution]]
    start_s: float = 0.0  # what starting the processes of both sides takes, seconds
    problem: str = ""  # why it ended before all was decided; "" if it did not
    # why `phases` and `contributions` are missing although a difference was to be located
    attribution_problem: str = ""
    interrupted: bool = False  # whether a signal ended it
    show_change: str = ""  # the command that shows what changed between the sides; "" if no commit is compared
    sample: str = "samples"  # what one sample is called
    # how the tool at hand is given the budget of a batch size; `DUET_BUDGET` or `SESSION_BUDGET`
    budget_option: str = DUET_BUDGET

    def verdict(self, size: int) -> Verdict:
        """Return the verdict on a batch size; where losses differ, the times do not matter."""
        if loss_problem(self.work[size]):
            return Verdict.LOSSES_DIFFER
        return self.judgements[size].verdict if size in self.judgements else Verdict.INCONCLUSIVE

    def rates(self, size: int) -> tuple[float, float] | None:
        """Return the rates of baseline and candidate, samples/sec: medians over runs of a run's mean rate."""
        pairs = [pair for pair in self.pairs if pair.global_batch_size == size]
        if not pairs:
            return None
        baseline, candidate = (
            float(np.median([size * sum(len(m) - 1 for m in run) / sum(m[-1] - m[0] for m in run) for run in runs]))
            for runs in ([pair.baseline for pair in pairs], [pair.candidate for pair in pairs])
        )
        return baseline, candidate

    def as_json(self) -> dict[str, Any]:
        """Return everything, raw values included, as JSON data; an infinite bound is null."""
        data = {"kind": "duet", **asdict(self)}
        for judgement in data["judgements"].values():
            effect = judgement["effect"]
            effect |= {name: None for name, value in effect.items() if not np.isfinite(value)}
        data["verdicts"] = {size: self.verdict(size) for size in self.work}
        return data


def size_to_attribute(
    work: Mapping[int, tuple[SideWork, SideWork]], judgements: Mapping[int, DuetJudgement]
) -> int | None:
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
    counters = f"{', '.join(work)} per step" if work else ""
    found, verdict = result.judgements.get(size), result.verdict(size)
    ended_early = verdict is Verdict.INCONCLUSIVE and bool(result.problem)  # the comparison was not finished: it fails
    reason = other or (found.advice(result.budget_option) if found and not ended_early else result.problem)
    rate = Judgement(
        holds=False if ended_early else HOLDS.get(verdict),
        verdict=verdict,
        effect=found.effect if found else None,
        reason=f"{beside}: {reason}",
    )
    claims = {
        "losses": Judgement(holds=not other, reason=f"{beside}: {other or 'no difference'}"),
        "counters": Judgement(holds=not counters, reason=f"{beside}: {counters or 'no difference'}"),
        "rate": rate,
    }
    if relative := judge_scaling(result.pairs, size, threshold=result.threshold):
        scaling = Judgement.of(relative.verdict, relative.reason, relative.effect)
        scaling = spare_left_behind(scaling, rate.effect.effect_size if rate.effect else 0.0, result.threshold)
        claims["scaling"] = replace(scaling, reason=f"side by side: {scaling.reason}")
    return claims


def loss_problem(work: tuple[SideWork, SideWork]) -> str:
    """Return how the losses of two sides differ by more than rounding, or nothing."""
    tolerance = max(LOSS_TOLERANCE.get(str(side.facts.get("precision")), max(LOSS_TOLERANCE.values())) for side in work)
    baseline, candidate = ({"loss": side.losses, **side.scalars} for side in work)
    for name in [name for name in baseline if name in candidate]:
        steps = min(len(baseline[name]), len(candidate[name]))
        curves = [np.asarray(side[name][:steps], dtype=np.float64) for side in (baseline, candidate)]
        scale = 1.0 if name == "loss" else np.maximum(1.0, np.abs(curves[0]))  # other scalars have any size
        rounding = tolerance * scale * np.ones(steps)
        equal = np.abs(curves[1] - curves[0]) <= rounding
        if not equal.all():
            step = int(np.argmin(equal))
            return (
                f"the {name} of step {step + 1} is {curves[0][step]:.5f} on the baseline side and "
                f"{curves[1][step]:.5f} on the candidate side (rounding explains {rounding[step]:g})"
            )
    return ""


def work_differences(work: tuple[SideWork, SideWork]) -> list[str]:
    """Return what differs in a step of the candidate, by name and number; facts that one side lacks are left out."""
    baseline, candidate = work
    known = [{name: side.facts[name] for name in baseline.facts if name in candidate.facts} for side in work]
    counts = counter_differences(baseline.counters, candidate.counters, python_calls=_same_python(work))
    return differences(known[0], known[1]) + counts


def not_compared(work: tuple[SideWork, SideWork]) -> list[str]:
    """Return what at least one of the sides lacks: losses, software, facts and counters."""
    baseline, candidate = work
    names = [name for name in ("losses", "software") if not all(getattr(side, name) for side in work)]
    names += sorted({*baseline.facts} ^ {*candidate.facts})
    if not (baseline.counters and candidate.counters):
        return [*names, "counters"]
    calls = {"python_calls"} if "python_calls" in baseline.counters and not _same_python(work) else set()
    return names + sorted({*baseline.counters} ^ {*candidate.counters} | calls)


def _same_python(work: tuple[SideWork, SideWork]) -> bool:
    """Return whether counts of Python calls can be compared."""
    return bool(work[0].python) and work[0].python == work[1].python


def software_differences(work: tuple[SideWork, SideWork]) -> list[str]:
    """Return which software differs between the sides, if that of both is known."""
    software = [side.software for side in work]
    return differences(software[0], software[1]) if all(software) else []
