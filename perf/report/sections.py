"""What is to be said, as data; and how it is rendered as text for a terminal and as Markdown."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from msgspec import Struct

from perf.judge.stats import POWER, Effect
from perf.printable import WIDTH, printable, wrapped

NONE = "-"  # the cell of a value that does not exist


class Answer(Struct, frozen=True, kw_only=True):
    """The most important result of a duet or a session."""

    verdict: str  # a `Verdict`, or "FAILED", "NOT MEASURED" or "MEASURED"
    sentence: str  # what happened, without the verdict
    next_step: str  # what to do: a command where there is one

    @property
    def line(self) -> str:
        """The verdict and the sentence."""
        return f"{self.verdict}: {self.sentence}"

    def __str__(self) -> str:
        return f"{self.line}\nNext: {self.next_step}"


class Series(Struct, frozen=True, kw_only=True):
    """Points of a plot that belong together."""

    name: str
    x: Sequence[float]
    y: Sequence[float]  # in a plot with categories the numbers of these, of bars places beside them
    style: Literal["line", "dots", "bars", "intervals"] = "line"
    # low, high: the ends of each interval along x
    low: Sequence[float] = ()
    high: Sequence[float] = ()


class Plot(Struct, frozen=True, kw_only=True):
    """A picture of numbers."""

    title: str
    caption: str  # what it shows, in words: also for those who cannot see it
    x_label: str
    y_label: str = ""
    series: Sequence[Series]
    categories: Sequence[str] = ()  # names of the places along y, from the top
    band: tuple[float, float] | None = None  # the region of the measured axis that does not matter
    marks: Mapping[str, Sequence[float]] = {}  # vertical lines, by what they mean


class Section(Struct, frozen=True, kw_only=True):
    """A title, plots, a table and notes below it; each may be empty. A column without any value is not shown."""

    title: str = ""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    # names of the columns with words: aligned to the left, and shortened where the text would be too wide
    left: Sequence[str] = ()
    notes: Sequence[str] = ()
    # what columns mean, by name; shown last, for the columns that are
    legend: Mapping[str, str] = {}
    plots: Sequence[Plot] = ()  # on a page only
    links: Mapping[str, str] = {}  # files to open, by what they are called; on a page only
    is_detail: bool = False  # folded in Markdown, and left out of a terminal

    def shown(self) -> tuple[list[str], list[list[str]], list[str]]:
        """Return the header and the rows without the columns that have no value, and the notes with the legend."""
        columns = [i for i in range(len(self.header)) if any(row[i] != NONE for row in self.rows)]
        header = [self.header[i] for i in columns]
        legend = "; ".join(f"{names}: {text}" for names, text in self.legend.items() if names.split(", ")[0] in header)
        notes = [*self.notes, f"({legend})"] if legend else [*self.notes]
        return header, [[row[i] for i in columns] for row in self.rows], notes


class Report(Struct, frozen=True, kw_only=True):
    """All that is said of one workload: the answer first, then sections in the order a reader needs them."""

    title: str  # what was measured
    about: str  # when, where, at which commit
    answer: Answer
    sections: Sequence[Section]
    command: str = ""  # what to type to measure the same again
    warnings: Sequence[str] = ()  # what a reviewer must see although nothing failed, one line each
    is_bad: bool = False  # whether a claim does not hold, or the session fails for another reason


EFFECT_HEADER = ("change", "95% interval", "detectable")
DETECTABLE = f"the smallest slowdown this data would have shown ({POWER:.0%} power)"


def as_text(sections: Sequence[Section]) -> str:
    """Return sections as text, without plots and details."""
    blocks = []
    for section in sections:
        if not section.is_detail:
            header, rows, notes = section.shown()
            table = text_table(header, rows, left=section.left) if rows else ""
            blocks.append("\n".join(filter(None, [wrapped(section.title), table, *map(wrapped, notes)])))
    return "\n\n".join(filter(None, blocks))


def as_markdown(report: Report, page: str) -> str:
    """Return a report as Markdown: its first line says it all, tables follow, and what explains them is folded."""
    blocks = [f"**{_markdown(report.answer.line)}**", f"Next: {_markdown(report.answer.next_step)}"]
    blocks += [_markdown(f"{report.title} {report.about}"), *(f"- {_markdown(one)}" for one in report.warnings)]
    for section in report.sections:
        header, rows, notes = section.shown()
        lines = [header, ["---"] * len(header), *rows] if rows else []
        table = "\n".join(f"| {' | '.join(map(_markdown, line))} |" for line in lines)
        listed = "\n".join(f"- {_markdown(note)}" for note in notes)
        title = _markdown(section.title)
        if section.is_detail and (table or listed):
            blocks += [f"<details><summary>{title}</summary>", table, listed, "</details>"]
        elif not section.is_detail:
            blocks += [title, table, listed]
    return "\n\n".join(filter(None, [*blocks, f"Plots, details and raw values: {_markdown(page)}"])) + "\n"


def _markdown(text: str) -> str:
    """Return text as Markdown that shows it as it is: no markup, HTML or control character in it has an effect."""
    escaped = printable(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"(?<!\w)_|_(?!\w)|[\\`*\[\]|~#]", r"\\\g<0>", escaped)


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[str] = ()) -> str:
    """Return a table; columns in `left` are aligned to the left, and shortened in the middle to keep to `WIDTH`."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for index in sorted((i for i, name in enumerate(header) if name in left), key=lambda i: -widths[i]):
        excess = max(0, sum(widths) + 2 * (len(widths) - 1) - WIDTH)
        widths[index] = max(len(header[index]), widths[index] - excess)

    def aligned(name: str, cell: str, width: int) -> str:
        if len(cell) > width:
            cell = f"{cell[: (width - 2) // 2]}..{cell[len(cell) - (width - 1) // 2 :]}"
        return cell.ljust(width) if name in left else cell.rjust(width)

    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join("  ".join(map(aligned, header, line, widths)).rstrip() for line in lines)


def number(value: float, style: str = ",.0f") -> str:
    """Return a number in a format, or, where that is longer than 11 characters, as a power of ten."""
    text = f"{value:{style}}"
    return text if len(text) <= 11 else f"{value:{'+' if '+' in style else ''}.3g}"


def percent(fraction: float, sign: str = "") -> str:
    """Return a fraction in percent with one decimal; of more than 1000% only that it is more."""
    return f"{fraction:{sign}.1%}" if abs(fraction) < 10 else ">1000%" if fraction > 0 else "<-1000%"


def effect_cells(effect: Effect | None) -> tuple[str, str, str]:
    """Return the cells under `EFFECT_HEADER`."""
    if effect is None:
        return NONE, NONE, NONE
    low, high, detectable = effect.low, effect.high, effect.minimal_detectable_effect
    interval = f"{percent(low, '+')} to {percent(high, '+')}" if math.isfinite(low + high) else NONE
    return percent(effect.effect_size, "+"), interval, percent(detectable) if detectable < 1 else NONE


def duration(seconds: float) -> str:
    """Return a time in words: ``45 s``, ``2 min``, ``2 min 30 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes and rest else f"{minutes} min" if minutes else f"{rest} s"


def by_text(notes: Mapping[int, Sequence[str]]) -> list[str]:
    """Return the notes of each batch size, those of the same text in one: ``512, 1024: text``; none of an empty one."""
    sizes: dict[str, list[int]] = {}
    for size, texts in sorted(notes.items()):
        for text in filter(None, texts):
            sizes.setdefault(text, []).append(size)
    return [f"{', '.join(map(str, found))}: {text}" for text, found in sizes.items()]
