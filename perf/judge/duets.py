"""A duet from its beginning to its end: the same work, the verdicts, and why."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from perf.judge.attribution import Contribution, PhaseTotal, attribute_difference, phase_totals
from perf.judge.exact import counter_differences
from perf.judge.sequential import DuetJudgement, decide_pairs
from perf.judge.verdicts import HOLDS, Judgement, Verdict
from perf.measure.duet import Duet, Mode, SideWork
from perf.measure.fingerprint import Facts, differences
from perf.measure.pairs import Pair

DIFFERS = (Verdict.REGRESSED, Verdict.IMPROVED)

LOSS_TOLERANCE = {"fp32": 1e-3, "bf16": 2e-2}
"""How far, in nats, the losses of the first steps may lie apart: rounding, and nothing that learns otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DuetResult:
    """A duet and what became of it.

    Attributes:
        sides: what the baseline and the candidate were.
        mode, mode_reason: how they shared the machine, and why so.
        threshold, budget_s: what was asked; the budget is of the whole duet.
        work: what both did in a step, by batch size.
        pairs: all of them, raw.
        judgements: by batch size.
        phases, contributions: where the difference comes from, for the batch size it was looked for at: each phase's
            time, and each operation's, the largest difference first.
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

    def as_json(self) -> dict[str, Any]:
        """Return everything, raw values included, as JSON data; an infinite bound is null."""
        data = {"kind": "duet", **asdict(self)}
        data["pairs"] = [asdict(pair) for pair in self.pairs]
        data["judgements"] = {
            size: {**asdict(judgement), "effect": {k: _finite(v) for k, v in asdict(judgement.effect).items()}}
            for size, judgement in self.judgements.items()
        }
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

    Args:
        duet: what to measure.
        mode_reason: why the duet has its mode.
        threshold: the smallest change that matters, a fraction.
        budget_s: for all batch sizes together, seconds; checking the work and saying why come on top.
        on_pair: called after each pair.

    Raises:
        MeasureError: a side failed.
    """
    work = duet.work()
    sizes = list(work)
    wanted, pairs = set(sizes), list[Pair]()

    def noted() -> Generator[Pair, None, None]:
        for pair in duet.pairs(lambda: wanted, budget_s=budget_s):
            pairs.append(pair)
            on_pair(pair)
            yield pair

    with closing(noted()) as measured:
        judgements = decide_pairs(measured, sizes, threshold=threshold, budget_s=budget_s, wanted=wanted)
    phases, contributions = {}, {}
    if differing := [size for size in sizes if judgements[size].verdict in DIFFERS or work_differences(work[size])]:
        size = max(differing, key=lambda size: abs(judgements[size].effect.effect_size))
        visits = duet.attribution(size)
        phases[size], contributions[size] = phase_totals(*visits), attribute_difference(*visits)
    return DuetResult(
        sides=(duet.sides[0].text, duet.sides[1].text),
        mode=duet.mode,
        mode_reason=mode_reason,
        threshold=threshold,
        budget_s=budget_s,
        work=work,
        pairs=pairs,
        judgements=judgements,
        phases=phases,
        contributions=contributions,
    )


def as_claims(result: DuetResult, size: int) -> dict[str, Judgement]:
    """Return what a duet makes of the claims on times, "rate" and "scaling", of one batch size.

    Side by side every batch size is judged by itself, so one that fell behind the others is one whose own rate fell.
    """
    found = result.judgements[size]
    rate = Judgement(
        claim="rate",
        holds=HOLDS.get(found.verdict),
        verdict=found.verdict,
        effect=found.effect,
        reason=f"side by side with {result.sides[0]}: {found.reason}",
    )
    return {
        "rate": rate,
        "scaling": replace(rate, claim="scaling", reason="as its rate, which was judged side by side"),
    }


def loss_problem(work: tuple[SideWork, SideWork]) -> str:
    """Return how the losses of two sides differ beyond rounding, or nothing."""
    baseline, candidate = work
    tolerance = max(LOSS_TOLERANCE[side.precision] for side in work)
    apart = np.abs(np.subtract(candidate.losses, baseline.losses))
    if apart.max() <= tolerance:
        return ""
    step = int(np.argmax(apart > tolerance))
    return (
        f"the loss of step {step + 1} is {candidate.losses[step]:.5f}, and {baseline.losses[step]:.5f} on the baseline "
        f"side (rounding explains {tolerance:g}): not the same training"
    )


def work_differences(work: tuple[SideWork, SideWork]) -> list[str]:
    """Return what a step does otherwise on the candidate's side, by name and number; of other precision, all of it."""
    baseline, candidate = work
    facts: list[Facts] = [
        {"device": side.device, "precision": side.precision, "micro_batch_size": side.micro_batch_size} for side in work
    ]
    return differences(facts[0], facts[1]) + counter_differences(
        baseline.counters, candidate.counters, python_calls=baseline.python == candidate.python
    )


def software_differences(work: Mapping[int, tuple[SideWork, SideWork]]) -> list[str]:
    """Return what software the sides differ in."""
    baseline, candidate = next(iter(work.values()))
    return differences(baseline.fingerprint.software, candidate.fingerprint.software)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
