"""What is to be said of a session or a duet: plain data that text, Markdown and HTML are rendered from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

NONE = "-"  # the cell of a value that does not exist


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Points of a plot that belong together."""

    name: str
    x: Sequence[float]
    y: Sequence[float]  # in a plot with categories, `x` are lengths and `y` the numbers of categories
    style: Literal["line", "dots", "bars", "intervals"] = "line"
    # low, high: the ends of each interval along x
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """A picture of numbers."""

    title: str
    caption: str  # what it shows, in words: also for those who cannot see it
    x_label: str
    y_label: str = ""
    series: Sequence[Series]
    categories: Sequence[str] = ()  # names of the places along y, from the top
    band: tuple[float, float] | None = None  # the region of the measured axis that does not matter
    marks: Mapping[str, Sequence[float]] = field(default_factory=dict)  # vertical lines, by what they mean
    log_x: bool = False  # whether x is drawn on a logarithmic scale


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A title, plots, a table and notes below it; each may be empty. A column without any value is not shown."""

    title: str = ""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    # names of the columns with words: aligned to the left, and shortened where the text would be too wide
    left: Sequence[str] = ()
    notes: Sequence[str] = ()
    # what columns mean, by name; shown last, for the columns that are
    legend: Mapping[str, str] = field(default_factory=dict)
    plots: Sequence[Plot] = ()  # on a page only
    is_detail: bool = False  # folded in Markdown, and left out of a terminal

    def shown(self) -> tuple[list[str], list[list[str]], list[str]]:
        """Return the header and the rows without the columns that have no value, and the notes with the legend."""
        columns = [i for i in range(len(self.header)) if any(row[i] != NONE for row in self.rows)]
        header = [self.header[i] for i in columns]
        legend = "; ".join(f"{names}: {text}" for names, text in self.legend.items() if names.split(", ")[0] in header)
        notes = [*self.notes, f"({legend})"] if legend else [*self.notes]
        return header, [[row[i] for i in columns] for row in self.rows], notes


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All that is said of one workload: the answer first, then sections in the order a reader needs them."""

    title: str  # what was measured
    about: str  # when, where, at which commit
    answer: Answer
    sections: Sequence[Section]
    command: str = ""  # what to type to measure the same again
    warnings: Sequence[str] = ()  # what a reviewer must see although nothing failed, one line each
    is_bad: bool = False  # whether a claim does not hold
