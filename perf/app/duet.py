"""A duet from beginning to end: compare the work, make pairs until all is decided, locate a difference."""

from __future__ import annotations

from collections.abc import Callable

from perf.errors import MeasureError
from perf.judge.attribution import attribute_difference, phase_totals
from perf.judge.duets import DuetResult, loss_problem, size_to_attribute
from perf.judge.sequential import Decisions
from perf.measure.duet import Duet
from perf.records.pairs import Pair


def run_duet(
    duet: Duet,
    *,
    mode_reason: str,
    threshold: float,
    budget_s: float,
    on_pair: Callable[[Pair], object] = lambda pair: None,
) -> DuetResult:
    """Compare two sides until every batch size is decided or the budget is spent.

    A side that fails after the first pair, or Ctrl-C, ends the duet; the result has the pairs so far.

    Args:
        duet: what to measure.
        mode_reason: why the duet has its mode.
        threshold: the smallest change that matters, a fraction.
        budget_s: for all batch sizes together, seconds; comparing the work and locating a difference come on top.
        on_pair: called after each pair.

    Raises:
        MeasureError: a side failed before there was a pair.
    """
    work = duet.work()
    # Where losses differ it is not the same training, and its times do not matter.
    alike = [size for size in work if not loss_problem(work[size])]
    budget_s *= len(alike) / len(work)
    decisions = Decisions(alike, threshold=threshold, budget_s=budget_s)
    pairs: list[Pair] = []
    phases, contributions = {}, {}

    def keep(pair: Pair) -> None:
        pairs.append(pair)
        on_pair(pair)

    problem = attribution_problem = ""
    interrupted = False
    try:
        while sizes := decisions.undecided:
            decisions.add(duet.start(sizes, budget_s=budget_s, on_pair=keep), ended_s=duet.elapsed_s)
        if (size := size_to_attribute(work, decisions.judgements)) is not None:
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
            attribution_problem = f"where the time differs is not known: {reason}"
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
