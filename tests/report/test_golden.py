"""What a person reads, as whole texts: each begins with one sentence and what to do next, and fits 80 columns.

``STEPMARK_GOLDEN=write python -m pytest tests/report/test_golden.py`` writes the texts anew; review the change.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec
import pytest

from perf.judge.duets import DuetResult
from perf.judge.verdicts import judge_rates
from perf.printable import emphasized, wrapped
from perf.report.answers import of_session
from perf.report.bench import verdict_section
from perf.report.duet import duet_text
from perf.report.sections import as_markdown, as_text
from tests.judge.noise import SIZES
from tests.judge.test_verdicts import as_baseline, quiet
from tests.report.nights import judged, night, report_of
from tests.report.test_duet import SLOWER, WORK, duet

GOLDEN = Path(__file__).with_name("golden")
LOSSES = msgspec.structs.replace(WORK, losses=(*WORK.losses[:2], *(loss + 0.01 for loss in WORK.losses[2:])))
DUETS: dict[str, DuetResult] = {
    "regressed": msgspec.structs.replace(SLOWER, show_change="git diff 0123456789ab"),
    "unchanged": duet(dict.fromkeys(SIZES, 0.0)),
    "improved": duet({512: 0.05}),
    "inconclusive": duet({512: 0.0, 1024: -0.1}, num_pairs=5),
    "losses-differ": msgspec.structs.replace(
        duet({512: 0.0}, LOSSES), pairs=[], judgements={}, show_change="git diff HEAD"
    ),
    "stopped": msgspec.structs.replace(
        duet({512: 0.0}, num_pairs=5), problem="ended after 5 pairs: stopped by a signal", interrupted=True
    ),
}


def check(name: str, text: str) -> None:
    """Compare a text with the stored one, or store it where that was asked for."""
    path = GOLDEN / name
    if os.environ.get("STEPMARK_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{text}\n", encoding="utf-8")
    assert f"{text}\n" == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", DUETS)
def test_the_report_of_a_duet(name: str) -> None:
    """Every verdict, and a duet that was stopped."""
    text = duet_text(DUETS[name])
    assert max(map(len, text.splitlines())) <= 80
    check(f"duet-{name}.txt", text)


@pytest.mark.parametrize("name", ["slower", "noisy", "first"])
def test_the_summary_of_a_session(name: str) -> None:
    """Stored times that show a slowdown, that cannot tell, and a first session without a baseline."""
    now = {"slower": quiet(0.0, 0.3, 0.0, seed=1), "noisy": quiet(spread=0.08, seed=1), "first": quiet()}[name]
    baseline = None if name == "first" else as_baseline(quiet(spread=0.08 if name == "noisy" else 0.01))
    rates = judge_rates(now, baseline, threshold=0.05)
    judgements = {("rate", size): judgement for size, judgement in rates.items()}
    answer = of_session(now, judgements, baseline, None, "")
    check(f"session-{name}.txt", f"{answer}\n\n{as_text([verdict_section(now, judgements)])}")


def test_a_night_as_markdown_and_as_text() -> None:
    """A regression found side by side: batch size, size, cause and first bad night come first."""
    past = [night(0), night(1, "REGRESSED", 1.1), night(2, "INCONCLUSIVE", 1.1), night(3, "REGRESSED", 1.1)]
    found = report_of(quiet(), judged(SLOWER), duet=SLOWER, past=past)
    for text in (as_markdown(found, "runs/bench.html"), f"{wrapped(str(found.answer))}\n\n{as_text(found.sections)}"):
        assert re.match(
            r"(\*\*)?REGRESSED: 9\.5% slower .* at 1024.* in forward \(kernel\.py:81\).* since session 2 of 4",
            " ".join(text.split()),
        )
        check("night.md" if text.startswith("*") else "night.txt", text)


def test_colours_are_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in a file or a pipe, and not where NO_COLOR is set."""
    assert emphasized("text", is_bad=True) == "text"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert emphasized("text", is_bad=True) == "\x1b[1;31mtext\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert emphasized("text", is_bad=True) == "text"
