"""The page's charts as SVG and PDF, for papers. The same numbers: they are read off the page's own figures."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from clipeval.configs.errors import ClipevalError, nearest
from clipeval.configs.files import write_atomically
from clipeval.results.page.charts import Chart, charts
from clipeval.results.runs import load

FORMATS = ("svg", "pdf", "png")

SIZE = (5.5, 3.4)
"""Inches: the width of a page's text."""

STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "clipeval",
    "pdf.fonttype": 42,
}
"""Text stays text, and the same runs give the same bytes."""

GREY = "#9a9a9a"
INK, RULE = "#1d2530", "#dde2e8"
"""Text and rules on the page; `for_page` makes them follow the reader's light or dark scheme."""
PAGE_SIZE = (7.6, 3.7)
PAGE_STYLE: Any = {
    **STYLE,
    "font.size": 9.5,
    "grid.color": RULE,
    "axes.edgecolor": RULE,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}


def figures(paths: Sequence[str | Path], folder: str | Path, formats: Sequence[str] = ("svg", "pdf")) -> list[Path]:
    """Draws every chart that the runs have data for.

    Args:
        paths: run folders.
        folder: where the files go, `<chart>.<format>`.
        formats: some of `FORMATS`.

    Returns:
        The files written.

    Raises:
        ClipevalError: an unknown format, or no chart can be drawn.
    """
    for name in formats:
        if name not in FORMATS:
            raise ClipevalError(nearest("figure format", name, FORMATS))
    drawn = charts(load(paths))
    if not drawn:
        raise ClipevalError("there is nothing to draw: no run has a score yet")
    written = []
    for chart in drawn:
        for name in formats:
            path = Path(folder) / f"{chart.name}.{name}"
            write_atomically(path, draw(chart, name))
            written.append(path)
    return written


def for_page(chart: Chart) -> str:
    """One chart as an `<svg>` element that stands in an HTML page: its colours and its type are the page's, what a point is
    stands in its title, and it says in words what it shows."""
    text = draw(chart, "svg", PAGE_SIZE, PAGE_STYLE).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'^<svg [^>]*?(viewBox="[^"]*")[^>]*>', lambda tag: _opening(tag[1], chart), text, count=1)
    # Several pictures stand in one page, where an id may be given once.
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{chart.name}-", text)
    text = text.replace(INK, "var(--ink)").replace(RULE, "var(--rule)").replace("#333333", "var(--ink)")
    return _titled(text, chart)


def _opening(box: str, chart: Chart) -> str:
    label = escape(f"{chart.title}. {chart.text}")
    return f'<svg {box} role="img" aria-label="{label}" xmlns:xlink="http://www.w3.org/1999/xlink">'


def _titled(text: str, chart: Chart) -> str:
    """Gives each point the title that a reader sees over it: a group of as many markers as a trace has points is that trace's."""
    titles = {trace.name: list(map(str, trace.text)) for trace in chart.figure.data if trace.text is not None}
    for words in titles.values():
        for group in re.findall(r'<g id="[\w-]*PathCollection_\d+">.*?</g>\s*</g>', text, flags=re.DOTALL):
            uses = re.findall(r"<use [^>]*/>", group)
            if len(uses) == len(words):
                titled = group
                for use, name in zip(uses, words, strict=True):
                    title = escape(name.replace("<br>", " "))
                    titled = titled.replace(use, f"{use[:-2]}><title>{title}</title></use>", 1)
                text = text.replace(group, titled)
    return text


def draw(chart: Chart, format: str, size: tuple[float, float] = SIZE, style: Any = STYLE) -> bytes:
    """One chart as the bytes of a file, `size` in inches."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(style):
        figure = Figure(figsize=size, layout="constrained", facecolor="none" if style is PAGE_STYLE else None)
        axes = figure.add_subplot(facecolor="none" if style is PAGE_STYLE else None)
        layout = chart.figure.layout
        bars = [trace for trace in chart.figure.data if trace.type == "bar"]
        _bars(axes, bars)
        for trace in chart.figure.data:
            if trace.type == "scatter":
                _points(axes, trace)
            elif trace.type == "heatmap":
                _map(axes, trace)
        for shape in layout.shapes or ():
            axes.axhline(shape.y0, color=shape.line.color, linestyle="--", linewidth=1)
        if layout.xaxis.type == "log":
            axes.set_xscale("log")
        axes.set_xlabel(layout.xaxis.title.text or "")
        axes.set_ylabel(layout.yaxis.title.text or "")
        if layout.showlegend:
            figure.legend(loc="outside upper left", ncols=3, fontsize=8)
        sink = io.BytesIO()
        # A date in the file would make each drawing of the same numbers another file.
        dates: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
        figure.savefig(sink, format=format, metadata=dates[format], dpi=200)
    return sink.getvalue()


def _bars(axes: Any, bars: Sequence[Any]) -> None:
    """Grouped bars; a group that a run lacks keeps its place."""
    names = list(dict.fromkeys(name for trace in bars for name in trace.x))
    width = 0.75 / max(1, len(bars))
    for index, trace in enumerate(bars):
        places = [names.index(name) + (index - (len(bars) - 1) / 2) * width for name in trace.x]
        errors = [list(trace.error_y.arrayminus), list(trace.error_y.array)]
        axes.bar(
            places,
            list(trace.y),
            width,
            color=trace.marker.color,
            label=trace.name,
            yerr=errors,
            error_kw={"elinewidth": 0.9, "capsize": 2, "ecolor": "#333333"},
        )
    if names:
        # Names of one line each stand side by side only where all of them fit.
        slant = {"rotation": 28, "ha": "right", "rotation_mode": "anchor"} if len("  ".join(names)) > 60 else {}
        axes.set_xticks(range(len(names)), names, **slant)
        axes.grid(axis="x", visible=False)


def _map(axes: Any, trace: Any) -> None:
    """Cells with what they say; the further below 0, the darker."""
    import numpy as np

    values = np.array(trace.z, dtype=float)
    low = min(float(np.nanmin(values)), -1e-9)
    axes.grid(visible=False)
    axes.imshow(values, cmap="Blues_r", vmin=low, vmax=max(0.0, float(np.nanmax(values))), aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            words = str(trace.customdata[row][column]).replace("<br>", "\n")
            dark = value < low * 0.55
            axes.text(column, row, words, ha="center", va="center", fontsize=5.5, color="white" if dark else "#10161d")
    axes.set_xticks([])
    axes.set_yticks([])


def _points(axes: Any, trace: Any) -> None:
    if trace.mode == "lines":
        axes.plot(list(trace.x), list(trace.y), color=GREY, linestyle=":", linewidth=1.2, label=trace.name)
        return
    if trace.name == "published":
        axes.scatter(list(trace.x), list(trace.y), s=12, color=GREY, alpha=0.7, linewidths=0, label=trace.name)
        return
    axes.errorbar(
        list(trace.x),
        list(trace.y),
        yerr=[list(trace.error_y.arrayminus), list(trace.error_y.array)],
        xerr=[list(trace.error_x.arrayminus), list(trace.error_x.array)] if trace.error_x.array is not None else None,
        color=trace.marker.color,
        ecolor="#333333",
        elinewidth=0.9,
        marker="*",
        markersize=11,
        linestyle="none",
        label=trace.name,
    )
