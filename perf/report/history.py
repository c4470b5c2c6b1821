"""The history of a workload on one machine: its trend, where it changed, and since when it is bad."""

from collections.abc import Mapping, Sequence

from msgspec.structs import asdict

from perf.judge.changes import BAD, Change, bad_streak, exact_changes, find_changes, pooled
from perf.judge.verdicts import mean_rate
from perf.records.baselines import Baseline, commit_text
from perf.records.sessions import differences
from perf.report.sections import Plot, Section, Series, number, percent

MOST_ROWS = 14  # sessions in the table, and changes below it, the latest ones; the plots have all
MOST_METRICS = 4  # of a change that are named

Curves = Mapping[int, Sequence[float]]  # a value of each session, by batch size


def since_when(past: Sequence[Baseline]) -> str:
    """Return since which session all that decided something are bad; "" if the last one that did is not.

    If the last session decided nothing, it begins with the verdict of the first bad one. The sessions are as from
    `perf.records.history.alike`: all have the batch sizes of the last one.
    """
    streak = bad_streak([one.verdict for one in past])
    if streak is None or len(past) == 1:
        return ""
    first = streak[1]
    return f"{'' if past[-1].verdict in BAD else f'{past[first].verdict} '}since {_name(past, first)}"


def history_section(past: Sequence[Baseline]) -> Section:
    """Return the trend of sessions, and where it changed; they are as for `since_when`."""
    runs = {size: [one.session.measurements[size] for one in past] for size in sorted(past[-1].session.measurements)}
    rates = {size: [mean_rate(measurement) for measurement in some] for size, some in runs.items()}
    steps = min(len(measurement.runs[0].losses) for some in runs.values() for measurement in some)
    losses = {size: [measurement.runs[0].losses[steps - 1] for measurement in some] for size, some in runs.items()}
    groups = _grouped(_changes(past, rates, losses))
    marks = {"change": [surest.index for surest, *_ in groups]}
    notes = [_event(past, group) for group in groups[: -MOST_ROWS - 1 : -1]]
    if streak := bad_streak([one.verdict for one in past]):
        good, first = streak
        notes.insert(0, f"{past[first].verdict} since {_name(past, first)}{_between(past, good, first)}")
        marks["first bad session"] = [first]
    pages = {i + 1: past[i].path.with_suffix(".html") for places in marks.values() for i in places}
    unit, plural = f"{past[-1].session.sample}/sec", "s" if len(past) > 1 else ""
    rows = []
    for i, one in enumerate(past):
        now = [number(some[i]) for some in rates.values()]
        rows.append((str(i + 1), one.provenance["date"][:10], commit_text(one.provenance), one.verdict, *now))
    return Section(
        title=f"History: {len(past)} session{plural} on this machine, {unit} by batch size",
        header=("session", "date", "commit", "verdict", *map(str, rates)),
        rows=rows[-MOST_ROWS:],
        left=("date", "commit", "verdict"),
        notes=notes,
        plots=[_trend(unit, rates, marks), _trend(f"loss of step {steps}, nats", losses, marks)],
        links={f"page of session {i}": str(page.absolute()) for i, page in sorted(pages.items()) if page.exists()},
        is_detail=True,
    )


def _changes(past: Sequence[Baseline], rates: Curves, losses: Curves) -> list[Change]:
    series = {f"rate at {size}": values for size, values in rates.items()}
    if len(rates) > 1:
        series["rate at all batch sizes"] = pooled(list(rates.values()))
    found = find_changes(series)
    for size in rates:
        runs = [one.session.measurements[size].runs[0] for one in past]
        counters = [asdict(run.counters) for run in runs if run.counters]  # commands have none
        found += exact_changes(f"loss at {size}", losses[size])
        found += exact_changes(f"operations at {size}", [sum(counts.pop("ops").values()) for counts in counters])
        for name in counters[0] if counters else ():
            found += exact_changes(f"{name} at {size}", [counts[name] for counts in counters])
    return found


def _grouped(changes: Sequence[Change]) -> list[list[Change]]:
    """Return changes whose intervals overlap together, in order; of each group the surest comes first."""
    groups: list[list[Change]] = []
    latest = -1
    for change in sorted(changes, key=lambda change: change.earliest):
        if change.earliest > latest:
            groups.append([])
        groups[-1].append(change)
        latest = max(latest, change.latest)
    return [sorted(group, key=lambda change: (change.p_value, change.latest - change.earliest)) for group in groups]


def _event(past: Sequence[Baseline], group: Sequence[Change]) -> str:
    begin, end = min(change.earliest for change in group), max(change.latest for change in group)
    named = [f"{change.metric} {percent(change.effect_size, '+')}" for change in group[:MOST_METRICS]]
    rest = f" and {len(group) - MOST_METRICS} more" if len(group) > MOST_METRICS else ""
    span = f", or from another of sessions {begin + 1} to {end + 1}" if begin < end else ""
    where = f"from {_name(past, group[0].index)}{span}{_between(past, begin - 1, end)}"
    return f"{', '.join(named)}{rest} {where}"


def _name(past: Sequence[Baseline], index: int) -> str:
    one = past[index]
    return f"session {index + 1} of {len(past)} ({one.provenance['date'][:10]}, commit {commit_text(one.provenance)})"


def _between(past: Sequence[Baseline], before: int, after: int) -> str:
    if before < 0:
        return ""
    commits = [past[index].provenance["commit"][:12] for index in (before, after)]
    log = f"git log --oneline {'..'.join(commits)}" if commits[0] != commits[1] else "same commit"
    software = differences(*(past[index].session.fingerprint.software for index in (before, after)))
    return f"; {log}; {'software: ' + ', '.join(software) if software else 'same software'}"


def _trend(label: str, curves: Curves, marks: Mapping[str, Sequence[float]]) -> Plot:
    """Return a value of each session, by batch size; marks are indexes of sessions."""
    places = list(range(1, len(next(iter(curves.values()))) + 1))
    return Plot(
        title=f"{label.capitalize()}, session by session",
        caption=f"By global batch size, {len(places)} sessions, the oldest first",
        x_label="session",
        y_label=label,
        series=[Series(name=str(size), style="dots", x=places, y=values) for size, values in curves.items()],
        marks={name: [index + 0.5 for index in indexes] for name, indexes in marks.items()},
    )
