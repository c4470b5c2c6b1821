"""The history: since when the latest sessions are bad, and a trend that says so."""

from __future__ import annotations

import pytest

from perf.records.history import Entry
from perf.report.history import first_bad, history_sections
from perf.report.sections import as_text


def entry(day: int, verdict: str, rate: float = 4000.0, *, torch: str = "2.13.0", **ratios: float) -> Entry:
    """Return a session of a day in November."""
    return Entry(
        provenance={
            "date": f"2026-11-{day:02}T01:02:03+00:00",
            "command": "",
            "commit": f"{day:02x}" * 20,
            "dirty": False,
        },
        verdict=verdict,
        sentence="",
        software={"torch": torch},
        rates={512: rate},
        ratios=dict.fromkeys([512] if ratios else [], ratios.get("ratio", 1.0)),
    )


@pytest.mark.parametrize(
    ("verdicts", "first"),
    [
        ([], None),
        (["UNCHANGED", "REGRESSED"], 1),
        (["REGRESSED", "UNCHANGED"], None),
        (["REGRESSED", "UNCHANGED", "INCONCLUSIVE", "REGRESSED", "INCONCLUSIVE", "FAILED"], 3),
        (["NO_BASELINE", "INCONCLUSIVE"], None),
        (["LOSSES_DIFFER"], 0),
    ],
)
def test_only_a_good_session_ends_a_streak(verdicts: list[str], first: int | None) -> None:
    """What decided nothing neither begins nor ends it."""
    assert first_bad(verdicts) == first


def test_the_third_night_names_its_commits_and_its_software() -> None:
    """The trend has a row for each session, and a point in each plot."""
    nights = [entry(1, "NO_BASELINE"), entry(2, "UNCHANGED", ratio=1.0)]
    (trend,) = history_sections(nights)
    assert len(trend.rows) == 2
    since, trend = history_sections([*nights, entry(3, "REGRESSED", 3600.0, torch="2.14.0", ratio=0.9)])
    assert as_text([since]).split() == [
        "REGRESSED",
        "since",
        "session",
        "3",
        "of",
        "3,",
        "2026-11-03;",
        "commit",
        "000000000000;",
        "software:",
        "torch",
        "2.13.0",
        "->",
        "2.14.0",
    ]
    assert trend.plots[0].series[0].y == [4000.0, 4000.0, 3600.0]
    assert trend.plots[1].series[0].x == [2.0, 3.0]
