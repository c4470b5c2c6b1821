"""What a reader needs first: one sentence that says what happened, and what to do next."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from perf.judge import duets
from perf.judge.attribution import Contribution
from perf.judge.duets import DuetResult
from perf.judge.stats import Effect
from perf.judge.verdicts import CLAIMS, UNTOLD, Judgement, Verdict
from perf.records.baselines import Baseline
from perf.records.sessions import Session
from perf.report.sections import Answer, number, percent

Judgements = Mapping[tuple[str, int], Judgement]  # by claim and batch size

NOTHING_TO_DO = "nothing to do"
PROMOTE = "stepmark promote --reason TEXT"

_WORST_FIRST = (Verdict.LOSSES_DIFFER, Verdict.REGRESSED, Verdict.INCONCLUSIVE, Verdict.IMPROVED, Verdict.UNCHANGED)


def of_duet(result: DuetResult) -> Answer:
    """Return the worst verdict of a duet."""
    verdicts = {size: result.verdict(size) for size in result.work}
    effects = {size: abs(judgement.effect.effect_size) for size, judgement in result.judgements.items()}
    first = min(verdicts, key=lambda size: (_WORST_FIRST.index(verdicts[size]), -effects.get(size, 0.0)))
    verdict, judgement, work = verdicts[first], result.judgements.get(first), differing_work(result.work[first])
    alike = [size for size in verdicts if verdicts[size] is verdict]
    others = ", ".join(f"{size} {other}" for size, other in verdicts.items() if other is not verdict)
    rest = f" ({others})" if others else ""
    # A duet of the command line leaves no result to promote.
    promote = PROMOTE if result.budget_option == duets.SESSION_BUDGET else f"measure it with pytest, then {PROMOTE}"
    next_step = _if_meant(result.show_change, promote)
    if verdict is Verdict.LOSSES_DIFFER:
        sentence = f"not the same training at {_list(alike)}: {duets.loss_problem(result.work[first])}{rest}"
    elif judgement is None or (verdict is Verdict.INCONCLUSIVE and result.problem):
        sentence = f"cannot tell at {_list(alike)}: {result.problem or 'nothing was measured'}{rest}"
        next_step = "run it again"
    elif verdict is Verdict.INCONCLUSIVE:
        measured = f"measured {_change(judgement.effect, first, alike)}"
        sentence = f"cannot tell at {_list(alike)}: {measured}{rest}{work and f'; {work}'}"
        needed_s = max(result.judgements[size].needed_s for size in alike if size in result.judgements)
        next_step = f"give it more time: {result.budget_option.format(needed_s)}" if needed_s else "run it again"
    elif verdict is Verdict.UNCHANGED:
        found = sorted(result.judgements[size].effect.effect_size for size in alike)
        measured = " to ".join(dict.fromkeys(percent(change, "+") for change in (found[0], found[-1])))
        no_change = f"no change of {percent(result.threshold)} or more at {_list(alike)} (measured {measured})"
        sentence = f"{no_change}{work and f'; {work}'}"
        next_step = NOTHING_TO_DO
    else:
        changes = [f"{_change(judgement.effect)} at {first}"]
        changes += [
            f"{_direction(result.judgements[size].effect.effect_size)} at {size}" for size in alike if size != first
        ]
        sentence = f"{', '.join(changes)}{rest}: {_because(result, first)}"
        if verdict is Verdict.IMPROVED:
            next_step = f"{NOTHING_TO_DO}; to keep it, {promote}"
    return Answer(verdict=verdict, sentence=sentence, next_step=next_step)


def of_session(
    session: Session, judgements: Judgements, baseline: Baseline | None, duet: DuetResult | None, problem: str
) -> Answer:
    """Return the most important result of a session: a failed claim (`CLAIMS`), what is unknown, or that all is well.

    `problem` says why the session fails although no claim does.
    """
    commit = baseline.provenance["commit"][:12] if baseline and not baseline.rerun_problem else ""
    show_change = f"git diff {commit}" if commit else ""
    failed = [(claim, size) for claim, size in judgements if judgements[claim, size].holds is False]
    if failed:
        effects = {key: judgement.effect.effect_size for key, judgement in judgements.items() if judgement.effect}
        claim, size = min(failed, key=lambda key: (CLAIMS.index(key[0]), effects.get(key, 0.0)))
        judgement = judgements[claim, size]
        if duet and size in duet.work and (claim == "rate" or judgement.verdict is Verdict.LOSSES_DIFFER):
            return of_duet(duet)
        sizes = [other for name, other in failed if name == claim]
        change = f"{_change(judgement.effect, size, sizes)}; " if judgement.effect else ""
        sentence = f"{claim} at {_list(sizes)}: {change}{judgement.reason}"
        next_step = _if_meant(show_change)
        if claim == "loss_decreases":  # which no baseline changes
            next_step = "measure more steps, or find out why it does not learn"
        return Answer(verdict=str(judgement.verdict or "FAILED"), sentence=sentence, next_step=next_step)
    if session.failures:
        size, reason = next(iter(session.failures.items()))
        return Answer(verdict="NOT MEASURED", sentence=f"{size}: {reason}", next_step="mend that, and measure again")
    if problem:
        return Answer(verdict="FAILED", sentence=problem, next_step="measure again")
    rates = {size: judgement for (claim, size), judgement in judgements.items() if claim == "rate"}
    if duet and all(size in duet.work for size in rates):
        return of_duet(duet)
    # No claim failed, and stored times were compared, if any were.
    for notable in (Verdict.NO_BASELINE, Verdict.NOT_COMPARABLE, Verdict.INCONCLUSIVE, Verdict.IMPROVED):
        if found := [size for size, judgement in rates.items() if judgement.verdict is notable]:
            judgement = rates[found[0]]
            reason, _, advice = judgement.reason.partition("; ")
            change = f"{_change(judgement.effect, found[0], found)}; " if judgement.effect else ""
            sentence = f"rate at {_list(found)}: {change}{reason}"
            next_step = advice if notable is Verdict.INCONCLUSIVE or "cannot become one" in advice else PROMOTE
            return Answer(verdict=notable, sentence=sentence, next_step=next_step or "measure again")
    unknown = [claim for claim in CLAIMS if any(j.holds is None for (c, _), j in judgements.items() if c == claim)]
    rest = f"; unknown: {', '.join(unknown)}" if unknown else ""
    all_well = f"no claim fails at {_list(rates)}" if rates else "no rate was judged, and no claim fails"
    return Answer(verdict="UNCHANGED" if rates else "MEASURED", sentence=f"{all_well}{rest}", next_step=NOTHING_TO_DO)


def differing_work(work: duets.Work, most: int = 3) -> str:
    """Return what differs in a step, at most so many differences by name; "" if nothing does."""
    found = duets.work_differences(work)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return f"work differs: {', '.join(found[:most])}{more} per step" if found else ""


def _because(result: DuetResult, size: int) -> str:
    located = next(iter(result.contributions), size)
    if result.verdict(located) is result.verdict(size) and (row := _explaining_row(result, located)):
        at = f"at {located}, " if located != size else ""
        change = row.candidate_count - row.baseline_count
        more = f"{number(abs(change), ',g')} {'more' if change > 0 else 'fewer'} {row.operation} per step"
        took = f"{row.operation} takes {number(1e3 * row.difference_s, '+.2f')} ms per step"
        where = f" ({row.line.partition(': ')[0]})" if row.line else ""
        return f"{at}{more if change else took} in {row.phase}{where}"
    if work := differing_work(result.work[size]):
        return work
    if software := duets.software_differences(result.work[size]):
        return f"software differs: {', '.join(software[:3])}"
    if not any(side.counters for side in result.work[size]):
        return UNTOLD
    if missing := duets.not_compared(result.work[size]):
        return f"no difference in what was compared; not compared: {', '.join(missing[:3])}"
    return "same work, same software"


def _explaining_row(result: DuetResult, size: int) -> Contribution | None:
    """Return the operation that explains most of a changed rate: it and its phase differ in its direction."""
    sign = -np.sign(result.judgements[size].effect.effect_size)
    phases = {total.phase for total in result.phases.get(size, []) if np.sign(total.difference_s) == sign}
    rows = [row for row in result.contributions.get(size, []) if row.phase in phases and row.is_significant]
    return next((row for row in rows if np.sign(row.difference_s) == sign), None)


def _if_meant(show_change: str, promote: str = PROMOTE) -> str:
    return f"{show_change + '; ' if show_change else ''}if the change is meant: {promote}"


def _change(effect: Effect, size: int = 0, sizes: Sequence[int] = ()) -> str:
    """Return a change with its interval in words, and its batch size if that is one of several."""
    near, far = sorted((effect.low, effect.high), key=abs)
    if not math.isfinite(far):
        interval = "too little was measured to say more"
    elif near * far > 0:
        interval = f"between {percent(abs(near))} and {percent(abs(far))}"
    else:
        interval = f"between {_direction(effect.low)} and {_direction(effect.high)}"
    at = f" at {size}" if len(sizes) > 1 else ""
    return f"{_direction(effect.effect_size)} ({interval}){at}"


def _direction(fraction: float) -> str:
    return f"{percent(abs(fraction))} {'slower' if fraction < 0 else 'faster'}"


def _list(sizes: Iterable[int]) -> str:
    return ", ".join(map(str, sizes))
