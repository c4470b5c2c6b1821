"""A duet from its beginning to its end: the same work, the verdicts, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from perf.errors import MeasureError
from perf.judge.attribution import Contribution, PhaseTotal, attribute_difference, phase_totals
from perf.judge.exact import count_differences
from perf.judge.sequential import Decisions, DuetJudgement
from perf.judge.verdicts import HOLDS, Judgement, Verdict
from perf.measure.duet import Duet, Mode
from perf.records.fingerprint import differences
from perf.records.pairs import Pair
from perf.records.wire import SideWork

CHANGED = (Verdict.REGRESSED, Verdict.IMPROVED)

LOSS_TOLERANCE = {"fp32": 1e-3, "bf16": 2e-2}
"""How far, in nats, the losses of the first steps may lie apart: rounding only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DuetResult:
    """A duet and what became of it.

    Attributes:
        sides: what the baseline and the candidate were.
        mode, mode_reason: how they shared the machine, and why so.
        threshold, budget_s: what was asked; the budget is of the whole duet.
        work: what both did in a step, by batch size.
        pairs: all of them, raw.
        judgements: of the times, by batch size; only of those that have a whole start.
        phases, contributions: where the difference comes from, for the batch size it was looked for at: each phase's
            time, and each operation's, the largest difference first.
        start_s: what starting both sides' processes takes, seconds.
        problem: why it ended before all was decided; "" if it did not.
        attribution_problem: why `phases` and `contributions` are not known; "" if they are, or nobody asked.
        interrupted: whether a signal ended it.
    """

    sides: tuple[str, str]
    mode: Mode
    mode_reason: str
    threshold: float
    budget_s: float
    work: dict[int, tuple[SideWork, SideWork]]
    pairs: list[Pair]
    judgements: dict[int, DuetJudgement]
    phases: dict[int, list[PhaseTotal]]
    contributions: dict[int, list[Contribution]]
    start_s: float = 0.0
    problem: str = ""
    attribution_problem: str = ""
    interrupted: bool = False

    def verdict(self, size: int) -> Verdict:
        """Return the verdict on a batch size: a step that learns otherwise is not judged by its time."""
        if loss_problem(self.work[size]):
            return Verdict.LOSSES_DIFFER
        return self.judgements[size].verdict if size in self.judgements else Verdict.INCONCLUSIVE

    def as_json(self) -> dict[str, Any]:
        """Return everything, raw values included, as JSON data; an infinite bound is null."""
        data = {"kind": "duet", **asdict(self)}
        data["judgements"] = {
            size: {**asdict(judgement), "effect": {k: _finite(v) for k, v in asdict(judgement.effect).items()}}
            for size, judgement in self.judgements.items()
        }
        data["verdicts"] = {size: self.verdict(size) for size in self.work}
        return data


def run_duet(
    duet: Duet,
    *,
    mode_reason: str,
    threshold: float,
    budget_s: float,
    on_pair: Callable[[Pair], object] = lambda pair: None,
) -> DuetResult:
    """Check that both sides do the same work, compare them until all is decided or the budget is spent, and say why.

    A side that fails after the first pair, or Ctrl-C, ends the duet; what its pairs show is returned.

    Args:
        duet: what to measure.
        mode_reason: why the duet has its mode.
        threshold: the smallest change that matters, a fraction.
        budget_s: for all batch sizes together, seconds; checking the work and saying why come on top.
        on_pair: called after each pair.

    Raises:
        MeasureError: a side failed before there was a pair.
    """
    work = duet.work()
    decisions = Decisions(list(work), threshold=threshold, budget_s=budget_s)
    pairs: list[Pair] = []
    phases, contributions = {}, {}

    def note(pair: Pair) -> None:
        pairs.append(pair)
        on_pair(pair)

    problem = attribution_problem = ""
    interrupted = False
    try:
        while sizes := decisions.undecided:
            decisions.add(duet.start(sizes, budget_s=budget_s, on_pair=note), ended_s=duet.elapsed_s)
        if (size := _to_attribute(work, decisions.judgements)) is not None:
            visits = duet.attribution(size)
            phases[size], contributions[size] = phase_totals(*visits), attribute_difference(*visits)
    except (KeyboardInterrupt, MeasureError) as error:
        if not pairs:
            raise
        interrupted = isinstance(error, KeyboardInterrupt)
        reason = "stopped by a signal" if interrupted else str(error)
        if decisions.undecided:
            problem = f"ended after {len(pairs)} pairs: {reason}"
        else:
            attribution_problem = f"where the difference comes from is not known: {reason}"
    return DuetResult(
        sides=(duet.sides[0].text, duet.sides[1].text),
        mode=duet.mode,
        mode_reason=mode_reason,
        threshold=threshold,
        budget_s=budget_s,
        work=work,
        pairs=pairs,
        judgements=decisions.judgements,
        phases=phases,
        contributions=contributions,
        start_s=duet.start_s,
        problem=problem,
        attribution_problem=attribution_problem,
        interrupted=interrupted,
    )


def _to_attribute(work: Mapping[int, tuple[SideWork, SideWork]], judgements: Mapping[int, DuetJudgement]) -> int | None:
    """Return the batch size with the largest change among those that have any."""
    differing = [size for size in work if judgements[size].verdict in CHANGED or work_differences(work[size])]
    return max(differing, key=lambda size: abs(judgements[size].effect.effect_size), default=None)


def as_claims(result: DuetResult, size: int) -> dict[str, Judgement]:
    """Return what a duet makes of the claims "rate" and "scaling" of one batch size, and of "losses" if they differ.

    Side by side every batch size is judged by itself, so one that fell behind the others is one whose own rate fell.
    """
    found = result.judgements.get(size)
    verdict = found.verdict if found else Verdict.INCONCLUSIVE
    ended_early = verdict is Verdict.INCONCLUSIVE and bool(result.problem)  # nobody looked to the end: it fails
    reason = found.reason if found and not ended_early else result.problem
    rate = Judgement(
        claim="rate",
        holds=False if ended_early else HOLDS.get(verdict),
        verdict=verdict,
        effect=found.effect if found else None,
        reason=f"side by side with {result.sides[0]}: {reason}",
    )
    claims = {
        "rate": rate,
        "scaling": replace(rate, claim="scaling", reason="as its rate, which was judged side by side"),
    }
    if problem := loss_problem(result.work[size]):
        reason = f"side by side with {result.sides[0]}: {problem}"
        claims["losses"] = Judgement(claim="losses", holds=False, verdict=Verdict.LOSSES_DIFFER, reason=reason)
    return claims


def loss_problem(work: tuple[SideWork, SideWork]) -> str:
    """Return how the losses of two sides differ beyond rounding, or nothing."""
    baseline, candidate = work
    steps = min(len(baseline.losses), len(candidate.losses))
    tolerance = max(LOSS_TOLERANCE.get(side.facts.get("precision", ""), max(LOSS_TOLERANCE.values())) for side in work)
    apart = np.abs(np.subtract(candidate.losses[:steps], baseline.losses[:steps]))
    if (apart <= tolerance).all():
        return ""
    step = int(np.argmax(~(apart <= tolerance)))
    return (
        f"the loss of step {step + 1} is {candidate.losses[step]:.5f}, and {baseline.losses[step]:.5f} on the baseline "
        f"side (rounding explains {tolerance:g}): not the same training"
    )


def work_differences(work: tuple[SideWork, SideWork]) -> list[str]:
    """Return what a step does otherwise on the candidate's side, by name and number; of other precision, all of it."""
    baseline, candidate = work
    known = [{name: side.facts[name] for name in baseline.facts if name in candidate.facts} for side in work]
    return differences(known[0], known[1]) + count_differences(
        baseline.counters, candidate.counters, python_calls=_same_python(work)
    )


def not_compared(work: tuple[SideWork, SideWork]) -> list[str]:
    """Return what at least one of the sides did not tell: losses, software, facts and counters."""
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


def software_differences(work: Mapping[int, tuple[SideWork, SideWork]]) -> list[str]:
    """Return what software the sides differ in, if both have told it."""
    baseline, candidate = next(iter(work.values()))
    if not (baseline.software and candidate.software):
        return []
    return differences(baseline.software, candidate.software)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
