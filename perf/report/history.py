"""The history of a workload on one machine: its trend, and since when it is bad."""

from collections.abc import Mapping, Sequence

from perf.judge.verdicts import Verdict
from perf.records.history import Entry
from perf.records.sessions import differences
from perf.report.sections import NONE, Plot, Section, Series, number

MOST_ROWS = 14  # sessions in the table, the latest ones; the plots have all

GOOD = (Verdict.UNCHANGED, Verdict.IMPROVED)
BAD = (Verdict.REGRESSED, Verdict.LOSSES_DIFFER, "FAILED")


def history_sections(entries: Sequence[Entry]) -> list[Section]:
    """Return since when the latest sessions are bad, if they are, and the trend; the oldest entry comes first."""
    first = first_bad([entry.verdict for entry in entries])
    sizes = sorted({size for entry in entries for size in entry.rates})
    rows = []
    for place, entry in enumerate(entries, start=1):
        rates = [number(entry.rates[size]) if size in entry.rates else NONE for size in sizes]
        rows.append(
            (str(place), entry.provenance["date"][:16].replace("T", " "), _commit(entry), entry.verdict, *rates)
        )
    trend = Section(
        title=f"History: {len(entries)} session{'s' if len(entries) > 1 else ''} on this machine",
        header=("session", "date", "commit", "verdict", *map(str, sizes)),
        rows=rows[-MOST_ROWS:],
        left=("date", "commit", "verdict"),
        notes=["Rates are in samples/sec at each global batch size, the geometric mean over a session's runs."],
        plots=[
            _trend("Rate by session", "samples/sec", [entry.rates for entry in entries]),
            *(
                [_trend("Side by side", "rate, times the baseline's", [entry.ratios for entry in entries])]
                if any(entry.ratios for entry in entries)
                else []
            ),
        ],
        is_detail=True,
    )
    return [trend] if first is None else [Section(title=_since(entries, first)), trend]


def first_bad(verdicts: Sequence[str]) -> int | None:
    """Return where the streak of bad verdicts at the end begins; None where there is none.

    Only a good one ends a streak: one that decided nothing neither begins nor ends it.
    """
    begin = 1 + max((place for place, verdict in enumerate(verdicts) if verdict in GOOD), default=-1)
    return next((place for place in range(begin, len(verdicts)) if verdicts[place] in BAD), None)


def _commit(entry: Entry) -> str:
    return entry.provenance["commit"][:12] + "+" * entry.provenance["dirty"]


def _since(entries: Sequence[Entry], first: int) -> str:
    """Return since which session it is bad, and which commits and software that one has that the one before lacks."""
    bad, before = entries[first], entries[max(first - 1, 0)]
    parts = [f"{bad.verdict} since session {first + 1} of {len(entries)}, {bad.provenance['date'][:10]}"]
    parts.append(f"commit {_commit(bad)}")
    if _commit(before) != _commit(bad):
        parts.append(f"git log --oneline {before.provenance['commit'][:12]}..{bad.provenance['commit'][:12]}")
    if changed := differences(before.software, bad.software):
        parts.append(f"software: {', '.join(changed)}")
    return "; ".join(parts)


def _trend(title: str, y_label: str, values: Sequence[Mapping[int, float]]) -> Plot:
    """Return a value of each session, by batch size."""
    series = []
    for size in sorted({size for value in values for size in value}):
        x = [place for place, value in enumerate(values, start=1) if size in value]
        series.append(Series(name=str(size), style="dots", x=x, y=[values[place - 1][size] for place in x]))
    caption = f"By global batch size, the oldest of {len(values)} sessions first"
    return Plot(title=title, caption=caption, x_label="session", y_label=y_label, series=series)
