"""The page of a session or a duet: one HTML file that needs nothing else; it renders, and computes nothing."""

import base64
import gzip
import io
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from matplotlib.ticker import MaxNLocator

from perf.printable import printable
from perf.report.sections import Plot, Report

# Colours that are put into the drawings, and the style of the page that replaces them: light or dark is the reader's.
INK, GRID, BAND = "#010101", "#020202", "#030303"
_COLOURS = ("#110001", "#110002", "#110003", "#110004", "#110005", "#110006")
_VARIABLES = {INK: "ink", GRID: "grid", BAND: "band", **{colour: f"c{i}" for i, colour in enumerate(_COLOURS)}}
_LOOKS = cycler(color=_COLOURS, marker=[*"osD^vP"], linestyle=("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1))))


def as_html(reports: Sequence[Report], raw: Mapping[str, Any], folder: Path) -> str:
    """Return a page of one or more workloads, with the raw data in it; `folder` is where it will be.

    Every value is escaped; characters that do not print are shown as such.
    """
    environment = Environment(
        loader=PackageLoader("perf.report", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=lambda value: printable(value) if type(value) is str else value,
    )  # fmt: skip
    packed = base64.b64encode(gzip.compress(json.dumps(raw, allow_nan=False).encode(), mtime=0)).decode()
    functions = {"as_svg": as_svg, "relpath": os.path.relpath}
    return environment.get_template("page.html").render(reports=reports, raw=packed, folder=folder, **functions)


def as_svg(plot: Plot) -> str:
    """Draw a plot: an ``<svg>`` element.

    Its text is text, laid out for a wide font: whatever a browser takes instead fits, too.
    """
    file = io.StringIO()
    # What one drawing calls its parts, another must not. A name that the font cannot show must not end a session.
    with rc_context({"svg.hashsalt": plot.title, "svg.fonttype": "none"}), warnings.catch_warnings(action="ignore"):
        figure_of(plot).savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    # Only the element, without names of groups, which several drawings of a page would share.
    svg = re.sub(r'\A.*?(?=<svg)|<metadata>.*?</metadata>|(?<=<g) id="\w+"', "", file.getvalue(), flags=re.DOTALL)
    for colour, name in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg


def figure_of(plot: Plot) -> Figure:
    """Return a plot as a figure of matplotlib."""
    style: Any = {
        "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
        "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.6, "legend.frameon": False, "text.parse_math": False,
        "axes.prop_cycle": _LOOKS,
    }  # fmt: skip
    with rc_context(style):
        figure = Figure(figsize=(4.8, 1.6 + 0.35 * len(plot.categories) if plot.categories else 3.2))
        figure.set_layout_engine("constrained")
        axes = figure.add_subplot()
        if plot.band:
            (axes.axvspan if plot.categories else axes.axhspan)(*plot.band, color=BAND, label="does not matter")
            (axes.axvline if plot.categories else axes.axhline)(0, color=INK, linewidth=0.8)
        for (meaning, places), dash in zip(plot.marks.items(), ((0, (1, 2)), "--"), strict=False):
            for index, place in enumerate(places):
                label = meaning if index == 0 else None
                axes.axvline(place, color=INK, linewidth=0.7, linestyle=dash, alpha=0.6, label=label)
        for series in plot.series:
            label = printable(series.name)
            if series.style == "line":
                axes.plot(series.x, series.y, marker="", linewidth=1.4, label=label)
            elif series.style == "dots":
                axes.plot(series.x, series.y, linestyle="none", markersize=4, label=label)
            elif series.style == "bars":
                axes.barh(series.y, series.x, 0.4, label=label)
            else:
                ends = np.abs(np.subtract([series.low, series.high], series.x))
                axes.errorbar(series.x, series.y, xerr=ends, fmt="o", elinewidth=3, label=label, mfc=INK, mec=INK)
        if plot.categories:
            axes.set_yticks(range(len(plot.categories)), [printable(name) for name in plot.categories])
            axes.set_ylim(len(plot.categories) - 0.4, -0.6)
        if not any(x % 1 for series in plot.series for x in series.x):
            axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes.set_xlabel(printable(plot.x_label))
        axes.set_ylabel(printable(plot.y_label))
        if len(axes.get_legend_handles_labels()[1]) > 1:
            figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure
