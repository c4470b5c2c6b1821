"""Results are told again, with their page, by `stepmark report`; and what is said goes where people look."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from perf.app.report import keep_page, publish
from perf.cli import main
from perf.records.baselines import KEY, result_json
from perf.records.history import keep
from tests.judge.test_verdicts import quiet
from tests.report.nights import judged, night, report_of
from tests.report.test_duet import SLOWER

NIGHT = report_of(quiet(), judged(SLOWER), duet=SLOWER)


UNEVEN = {"title": "t", "caption": "c", "x_label": "x", "series": [{"name": "n", "x": [1, 2], "y": [1]}]}


def said(**changes: object) -> str:
    """Return a result whose report has other parts."""
    return json.dumps({KEY: {"reports": [{**msgspec.to_builtins(NIGHT), **changes}]}})


def result(path: Path, *reports: object) -> Path:
    """Write a result that says so much."""
    path.write_text(json.dumps({KEY: {"reports": reports}}))
    return path


def test_a_result_is_told_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The answer comes first; page and summary are beside the file."""
    path = result(tmp_path / "night.json", msgspec.to_builtins(NIGHT))
    assert main(["report", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if ": " in line).startswith("REGRESSED: 9.5% slower (between 9.4% and 9.6%) at")
    assert lines[-1] == f"page: {tmp_path / 'night.html'}"
    assert "<svg" in (tmp_path / "night.html").read_text()
    assert (tmp_path / "night.md").read_text().startswith("**REGRESSED: 9.5% slower")


def test_the_worst_workload_comes_first(tmp_path: Path) -> None:
    """On the page and in the summary."""
    fine = msgspec.structs.replace(NIGHT, title="fine", is_bad=False)
    publish([fine, NIGHT], {}, tmp_path / "bench")
    for suffix, titled in ((".html", "<h1>{}</h1>"), (".md", "\n{} on ")):
        text = (tmp_path / "bench").with_suffix(suffix).read_text()
        assert 0 < text.index(titled.format(NIGHT.title)) < text.index(titled.format("fine"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not whole JSON"),
        ("{}", "has no whole report"),
        (json.dumps({KEY: []}), "has no whole report"),
        (json.dumps({KEY: {"reports": [{"title": 3}]}}), "has no whole report"),
        (json.dumps({KEY: {"reports": []}}), "has no whole report"),
        (said(sections=[{"header": ["a", "b"], "rows": [["1"]]}]), "has no whole report"),
        (said(sections=[{"plots": [UNEVEN]}]), "has no whole report"),
    ],
)
def test_what_is_no_result_is_refused(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the file's name and what to do; no page is written."""
    path = tmp_path / "odd.json"
    path.write_text(content)
    assert main(["report", str(path)]) == 3
    said = capsys.readouterr().err
    assert str(path) in said
    assert message in said
    assert not (tmp_path / "odd.html").exists()


def test_github_hears_of_what_is_bad_and_of_other_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error for the verdict, a warning for each difference; no text ends its command or begins another."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    hostile = "a\n::error::b%0A\r::stop-commands::x"
    report = msgspec.structs.replace(NIGHT, title=hostile, warnings=["work differs: +1 aten::mm per step", hostile])
    assert publish([report], {}, tmp_path / "duet") == [f"page: {tmp_path / 'duet.html'}"]
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    lines = publish([report], {}, tmp_path / "duet")[1:]
    assert [line.split(" ")[0] for line in lines] == ["::error", "::warning", "::warning"]
    assert "\n" not in "".join(lines)
    assert "\r" not in "".join(lines)
    assert "::REGRESSED: 9.5%25 slower" in lines[0]
    assert "title=a%0A%3A%3Aerror%3A%3Ab%250A%0D%3A%3Astop-commands%3A%3Ax::" in lines[0]
    assert (tmp_path / "summary.md").read_text() == 2 * (tmp_path / "duet.md").read_text()


def test_links_of_a_page_hold_where_it_is_kept(tmp_path: Path) -> None:
    """Beside the pages that they lead to, as well as in the project."""
    page, folder = tmp_path / "project" / "runs" / "bench.html", tmp_path / "a store"
    for path in (page.parent, folder):
        path.mkdir(parents=True)
    page.write_text('<a href="../../a%20store/night.html">page of session 1</a> <a href="data:x">raw</a>')
    copy = keep_page(page, folder / "new.json")
    assert copy == folder / "new.html"
    assert copy.read_text() == '<a href="night.html">page of session 1</a> <a href="data:x">raw</a>'


def kept(folder: Path, *verdicts: str, **changes: object) -> Path:
    """Return a history of so many nights in September; `changes` are to all their provenances."""
    for number, verdict in enumerate(verdicts):
        one = night(number, verdict)
        said = {"title": one.session.configuration, "answer": {"verdict": verdict}}
        made = {**one.provenance, "date": f"2026-09-{number + 1:02}T02:17:00+00:00", **changes}
        document = {KEY: result_json([one.session], cast(Any, made), {}, [said])}
        keep(folder, {"machine_info": one.session.fingerprint.hardware, "benchmarks": [], **document})
    return folder


def test_the_history_is_told_with_the_bisection_that_comes_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the last good session to the first bad one; the page is in the project, and leads to that one's."""
    monkeypatch.chdir(tmp_path)
    folder = kept(tmp_path / "history", "NO_BASELINE", "UNCHANGED", "REGRESSED", "INCONCLUSIVE", "REGRESSED")
    monkeypatch.setenv("STEPMARK_HISTORY", str(folder))
    bad = sorted(folder.glob("*.json"))[2].with_suffix(".html")
    bad.write_text("the page of that night")
    assert main(["history"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "REGRESSED: since session 3 of 5 (2026-09-03, commit 020202020202) Next: stepmark bisect" in out
    assert "stepmark bisect --good 010101010101 --bad 020202020202 --workload pico" in out
    assert out.endswith("page: runs/history.html")
    page = (tmp_path / "runs" / "history.html").read_text()
    assert "<svg" in page
    assert re.findall('href="(.*)">page of session 3</a>', page) == [f"../history/{bad.name}"]


def test_a_bisection_is_proposed_from_a_good_session_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from one that decided nothing; and not where there is none, or nothing that can be run between the two."""
    monkeypatch.chdir(tmp_path)
    assert main(["history", str(kept(tmp_path / "gap", "UNCHANGED", "INCONCLUSIVE", "REGRESSED"))]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "stepmark bisect --good 000000000000 --bad 020202020202 --workload pico --precision fp32" in out
    assert "git log --oneline 000000000000..020202020202" in out
    same = kept(tmp_path / "same", "UNCHANGED", "REGRESSED", commit="a" * 40)  # other software
    for folder in (
        kept(tmp_path / "bad", "REGRESSED", "REGRESSED"), same,
        kept(tmp_path / "dirty", "UNCHANGED", "REGRESSED", dirty=True),
    ):  # fmt: skip
        assert main(["history", str(folder)]) == 0
        assert "stepmark bisect" not in capsys.readouterr().out


def test_a_history_that_is_not_there_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a folder, and without a session in it."""
    monkeypatch.delenv("STEPMARK_HISTORY", raising=False)
    assert main(["history"]) == 2
    assert "name it, or set STEPMARK_HISTORY" in capsys.readouterr().err
    assert main(["history", str(tmp_path)]) == 3
    assert "has no session yet; run pytest with STEPMARK_HISTORY=" in capsys.readouterr().err
