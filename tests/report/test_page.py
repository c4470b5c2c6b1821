"""The page: whole in itself, harmless whatever it is told, readable in light, in dark and on a phone."""

from __future__ import annotations

import base64
import functools
import gzip
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from perf.judge.attribution import PhaseDifference
from perf.judge.verdicts import judge_rates
from perf.report.page import as_html, as_svg, figure_of
from perf.report.plots import phases_plot
from perf.report.sections import Plot, Report, Section, Series, as_markdown, as_text
from tests.benchmarks.reference import load_published, published_sections
from tests.judge.test_verdicts import as_baseline, quiet
from tests.report.nights import judged, night, report_of
from tests.report.test_duet import SLOWER

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PUBLISHED = Path(__file__).parents[2] / "baselines"
RAW = {"pairs": [1.5, 2.5], "text": "</script><b>"}
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\x1b[31m|`**[a](javascript:alert(1))\u202e$x_{"


PAST = [night(0), night(1), night(2, "REGRESSED", 1.1)]


def whole() -> list[Report]:
    """Return a night that has everything a page can show, and a session with stored times."""
    night = msgspec.structs.replace(quiet(), health={"clock": "2,600 MHz"})
    more = published_sections(load_published(PUBLISHED), night)
    found = report_of(night, judged(SLOWER), baseline=as_baseline(quiet(seed=1)), duet=SLOWER, more=more, past=PAST)
    stored = {("rate", size): j for size, j in judge_rates(night, as_baseline(quiet()), threshold=0.05).items()}
    return [found, report_of(night, stored, baseline=as_baseline(quiet()))]


@functools.cache
def whole_page() -> str:
    """Return the page of that."""
    return as_html(whole(), RAW, Path())


def plots_of(reports: list[Report]) -> list[Plot]:
    """Return all plots of reports."""
    return [plot for report in reports for section in report.sections for plot in section.plots]


class _Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_answer_comes_before_all_else() -> None:
    """A reader finds the verdict, the batch size, the size of the change and the cause without scrolling."""
    page = whole_page()
    text = re.sub(r"<[^>]*>|\s+", " ", page[page.index("<main>") :])
    assert "REGRESSED: 9.5% slower (between 9.4% and 9.6%) at 1024" in " ".join(text.split())[:400]
    assert page.index("in forward (kernel.py:81); since session 3 of 3 (2026-09-03") < page.index("<svg")


def test_a_link_leads_to_a_file_beside_the_page_and_nowhere_else(tmp_path: Path) -> None:
    """Whatever a result says that it is: no scheme, no other host."""
    paths = [str(tmp_path / "history" / "a night.html"), "javascript:alert(1)", "//evil.example/x", '"><script>']
    section = Section(title="t", links={f"{i} {HOSTILE}": path for i, path in enumerate(paths)})
    found = msgspec.structs.replace(whole()[0], sections=[section])
    elements = _Elements(as_html([found], {}, tmp_path / "runs")).found
    links = [attributes["href"] or "" for name, attributes in elements if name == "a"][:-1]
    assert links[0] == "../history/a%20night.html"
    assert all(re.fullmatch(r"(\.\./)+[\w%./-]+", link) for link in links)
    assert len(links) == len(paths)
    assert "script" not in {name for name, _ in elements}


def test_steps_are_drawn_with_their_warm_up_and_their_log_windows() -> None:
    """A curve for each batch size, beside its run's median."""
    (plot,) = (plot for plot in plots_of(whole()[:1]) if plot.title == "Rate of each step, run 1")
    assert plot.marks == {"log line": [20], "end of warm-up": [0.5]}
    assert [series.name for series in plot.series] == ["512", "1024", "2048"]
    assert all(list(series.y) == pytest.approx([100.0] * 20) for series in plot.series)


def test_phases_are_drawn_as_bars_of_both_sides() -> None:
    """Those of a step that take time, beside each other."""
    phases = [("forward", 0.04, 0.045), ("clip", 0.0, 0.0), ("backward", 0.02, 0.02)]
    found = [PhaseDifference(phase=name, baseline_s=a, candidate_s=b) for name, a, b in phases]
    plot = phases_plot(found, 1024)
    assert plot.categories == ["forward", "backward"]
    assert [list(series.x) for series in plot.series] == [pytest.approx([40, 20]), pytest.approx([45, 20])]
    (axes,) = figure_of(plot).axes
    middles = [bar.get_y() + bar.get_height() / 2 for bar in axes.patches]
    assert middles == pytest.approx([-0.2, 0.8, 0.2, 1.2])
    assert plot.title in [one.title for one in plots_of(whole())]


def test_the_raw_values_are_in_the_page() -> None:
    """Unpacked, the link has them as they were."""
    packed = re.search(r"data:application/gzip;base64,([\w+/=]+)", whole_page())
    assert packed
    assert json.loads(gzip.decompress(base64.b64decode(packed[1]))) == RAW


def test_a_page_needs_nothing_else_and_each_plot_has_a_name() -> None:
    """No element fetches anything; it is smaller than 1 MB; ids are used once."""
    page = whole_page()
    elements = _Elements(page).found
    outside = [value for _, attributes in elements for name, value in attributes.items() if name in ("src", "href")]
    assert all(value and value.startswith(("data:", "#")) for value in outside)
    assert "script" not in {tag for tag, _ in elements}
    assert len(page) < 1e6
    named = [attributes["aria-label"] for _, attributes in elements if attributes.get("role") == "img"]
    assert len(named) == len(plots_of(whole())) == page.count("<svg")
    assert all(named)


@pytest.mark.parametrize("kind", ["page", "markdown", "text"])
def test_hostile_strings_are_harmless(kind: str) -> None:
    """Markup in the name of a workload, a commit, a batch of notes is shown as text, and does nothing."""
    plot = Plot(title=HOSTILE, caption=HOSTILE, x_label=HOSTILE, series=[Series(name=HOSTILE, x=[1, 2], y=[1, 2])])
    section = Section(title=HOSTILE, header=("a",), rows=[(HOSTILE,)], left=("a",), notes=[HOSTILE], plots=[plot, plot])
    night = msgspec.structs.replace(quiet(), about={"name": "x"}, sample="samples")
    found = report_of(night, judged(SLOWER), duet=SLOWER, commit=HOSTILE, date=HOSTILE)
    found = msgspec.structs.replace(
        found, title=HOSTILE, command=HOSTILE, warnings=[HOSTILE], sections=[*found.sections, section]
    )
    if kind == "page":
        elements = _Elements(as_html([found], {"x": HOSTILE}, Path())).found
        assert not {"script", "img"} & {tag for tag, _ in elements}
        assert not any(name.startswith("on") for _, attributes in elements for name in attributes)
        text = as_html([found], {}, Path())
    else:
        text = as_markdown(found, HOSTILE) if kind == "markdown" else as_text(found.sections)
    assert not {"\x1b", "\u202e"} & {*text}
    if kind == "markdown":
        assert not re.search(r"<(script|img)", text)
        assert not re.search(r"(?<!\\)(\[a\]\(|`|\*\*\[)", text)
        cells = [line for line in text.splitlines() if line.startswith("| &lt;")]
        assert cells
        assert all(len(re.findall(r"(?<!\\)\|", cell)) == 2 for cell in cells)


def test_names_in_any_script_are_drawn() -> None:
    """Also those that the font has no glyphs for, where warnings are errors."""
    names = ["\u6d4b\u8bd5", "\U0001f40d" * 40, "long " * 60]
    series = [Series(name=name, style="bars", x=[1.0], y=[0.0]) for name in names]
    plot = Plot(title=names[0], caption="", x_label=names[0], series=series, categories=[names[2]])
    assert as_svg(plot).count(names[0]) > 1


def test_no_text_of_a_plot_lies_on_another() -> None:
    """Titles, labels, ticks and legends of every plot on the page, as drawn."""
    for plot in plots_of(whole()):
        figure = figure_of(plot)
        FigureCanvasAgg(figure).draw()
        (axes,) = figure.axes
        texts = [axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
        texts += [text for legend in figure.legends for text in legend.get_texts()]
        boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]
        assert all(figure.bbox.x0 - 1 <= box.x0 and box.x1 <= figure.bbox.x1 + 1 for _, box in boxes), plot.title
        for index, (name, box) in enumerate(boxes):
            for other, another in boxes[index + 1 :]:
                assert not box.overlaps(another), f"{plot.title}: {name!r} and {other!r}"


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here to open the page in")
@pytest.mark.parametrize(("scheme", "width"), [("light", 1100), ("dark", 1100), ("light", 360)])
def test_a_browser_shows_the_page(scheme: str, width: int, tmp_path: Path) -> None:
    """Without an error or a request, no wider than the window, with ink that can be read on its paper."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = tmp_path / "page.html"
    path.write_text(whole_page(), encoding="utf-8")
    with sync_api.sync_playwright() as playwright:
        # Root has no sandbox; the page has no scripts.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
        said: list[str] = []
        requests: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        colours = "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        ink, paper = ([int(part) for part in re.findall(r"\d+", text)[:3]] for text in page.evaluate(colours))
        assert (sum(ink) > sum(paper)) is (scheme == "dark")
        assert abs(sum(ink) - sum(paper)) > 400
        answer = page.locator(".answer").first.bounding_box()
        assert answer
        assert answer["y"] + answer["height"] < 800
        browser.close()
    assert said == []
    assert requests == [path.as_uri()]
