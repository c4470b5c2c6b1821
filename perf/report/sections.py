"""Sections of a report, and how they are rendered: as text for a terminal, as Markdown."""

import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from perf.judge.stats import POWER, Effect

WIDTH = 80  # columns of a terminal that tables and wrapped lines use
NONE = "-"  # the cell of a value that does not exist

EFFECT_HEADER = ("change", "95% interval", "detectable")
DETECTABLE = f"the smallest slowdown this data would have shown ({POWER:.0%} power)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A title, a table and notes below it; each may be empty. A column without any value is not shown."""

    title: str = ""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    # names of the columns with words: aligned to the left, and shortened where the text would be too wide
    left: Collection[str] = ()
    notes: Sequence[str] = ()
    # what columns mean, by name; shown last, for the columns that are
    legend: Mapping[str, str] = field(default_factory=dict)

    def shown(self) -> tuple[list[str], list[list[str]], list[str]]:
        """Return the header and the rows without the columns that have no value, and the notes with the legend."""
        columns = [i for i in range(len(self.header)) if any(row[i] != NONE for row in self.rows)]
        header = [self.header[i] for i in columns]
        legend = "; ".join(f"{names}: {text}" for names, text in self.legend.items() if names.split(", ")[0] in header)
        notes = [*self.notes, f"({legend})"] if legend else [*self.notes]
        return header, [[row[i] for i in columns] for row in self.rows], notes


def as_text(sections: Sequence[Section]) -> str:
    """Return sections as text."""
    blocks = []
    for section in sections:
        header, rows, notes = section.shown()
        table = text_table(header, rows, left=section.left) if rows else ""
        blocks.append("\n".join(filter(None, [wrapped(section.title), table, *map(wrapped, notes)])))
    return "\n\n".join(blocks)


def as_markdown(sections: Sequence[Section]) -> str:
    """Return sections as Markdown."""
    blocks = []
    for section in sections:
        header, rows, notes = section.shown()
        table = markdown_table(header, rows) if rows else ""
        blocks += [section.title, table, "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(filter(None, blocks))


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[str] = ()) -> str:
    """Return a table.

    Columns in `left` are aligned to the left, and lose the middle of long cells to keep to `WIDTH`.
    """
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


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table of text cells."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def wrapped(text: str) -> str:
    """Return each line of a text within `WIDTH` columns, if its words are shorter; continued lines are indented."""
    wrap = textwrap.TextWrapper(WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(wrap.fill(line) for line in text.splitlines())


def number(value: float, style: str = ",.0f") -> str:
    """Return a number in a format, or, where that is longer than 11 characters, as a power of ten."""
    text = f"{value:{style}}"
    return text if len(text) <= 11 else f"{value:{'+' if '+' in style else ''}.3g}"


def percent(fraction: float, sign: str = "") -> str:
    """Return a fraction in percent with one decimal; of more than 1000% only that it is more."""
    return f"{fraction:{sign}.1%}" if fraction < 10 else ">1000%"


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
    """Return the notes of each batch size, those of the same text in one: ``512, 1024: text``."""
    sizes: dict[str, list[int]] = {}
    for size, texts in sorted(notes.items()):
        for text in texts:
            sizes.setdefault(text, []).append(size)
    return [f"{', '.join(map(str, found))}: {text}" for text, found in sizes.items()]
