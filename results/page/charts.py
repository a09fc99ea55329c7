"""The page's charts, as plotly figures without colours of their own for text and rules: the page gives those."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from clipeval.results import published, sheet
from clipeval.results.languages import language_tables
from clipeval.results.published.table import SHIFTS
from clipeval.results.robustness import expit, logit, trend
from clipeval.results.runs import Run, tasks
from clipeval.results.sheet import average_cell
from clipeval.results.uncertainty import Interval, average_interval

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#7A7A7A")
"""One for each run: Okabe and Ito's, told apart by the colour-blind and on light and dark alike."""

GREY = "rgba(128,128,128,0.55)"
BINS = 15
"""Of a reliability diagram, as of the expected calibration error."""
RELIABILITIES = 12
"""Diagrams that a page shows at most."""
MAP_COLUMNS = 12
"""Languages in a row of the map."""


@dataclass(frozen=True)
class Chart:
    """A figure and what it shows, in words."""

    name: str
    title: str
    text: str
    figure: go.Figure


def charts(runs: Sequence[Run]) -> list[Chart]:
    """Those charts for which the runs hold what they need."""
    drawn = [groups(runs), compute(runs), robustness(runs), *reliability(runs), *languages(runs)]
    return [chart for chart in drawn if chart is not None]


def colour(index: int) -> str:
    """A run's colour."""
    return COLOURS[index % len(COLOURS)]


def groups(runs: Sequence[Run]) -> Chart | None:
    """A bar for each group and run, with the interval of the group's average; of each task where there is one group."""
    union = tasks(runs)
    members = sheet.groups(runs)
    title, what = "By group", "The average over each group's tasks"
    if len(members) == 1:
        members = {str(spec.get("name") or task): [task] for task, spec in union.items()}
        title, what = "By task", "Each task's score"
    figure = go.Figure()
    for index, run in enumerate(runs):
        cells = {name: average_cell(run, inside) for name, inside in members.items()}
        shown = {name: cell for name, cell in cells.items() if cell.value is not None}
        if not shown:
            continue
        figure.add_bar(
            name=run.label,
            x=list(shown),
            y=[cell.value for cell in shown.values()],
            error_y=_errors([(cell.value or 0.0, cell.interval) for cell in shown.values()]),
            marker={"color": colour(index)},
            customdata=[[*(cell.of or (0, 0))] for cell in shown.values()],
            hovertemplate="%{x}: %{y:.4f}<br>%{customdata[0]} of %{customdata[1]} tasks<extra></extra>",
        )
    if not figure.data:
        return None
    axis = "average" if title == "By group" else "score"
    figure.update_layout(barmode="group", bargap=0.35, yaxis={"title": {"text": axis}, "rangemode": "tozero"})
    common(figure, several=len(runs) > 1)
    return Chart("groups", title, f"{what}; the whiskers are 95% intervals over samples.", figure)


def compute(runs: Sequence[Run]) -> Chart | None:
    """Accuracy against GFLOPs: the published models, and the runs among them."""
    keys = _shared_keys(runs)
    if not keys:
        return None
    rows = published.table()
    figure = go.Figure()
    figure.add_scatter(
        name="published",
        mode="markers",
        x=rows["FLOPs (B)"].to_list(),
        y=published.average(keys).round(6).to_list(),
        text=(rows["name"] + "<br>" + rows["pretrained"]).to_list(),
        marker={"color": GREY, "size": 7},
        hovertemplate="%{text}<br>%{x:.1f} GFLOPs, %{y:.4f}<extra></extra>",
    )
    unknown = []
    for index, run in enumerate(runs):
        values, pairs = _scores(run, keys)
        if not values:
            continue
        mean, interval = math.fsum(values) / len(values), average_interval(values, pairs)
        flops = run.model.get("gflops") or published.flops(run.model.get("name"))
        if flops is None:
            unknown.append(run.label)
            figure.add_hline(y=mean, line={"color": colour(index), "dash": "dash"})
            continue
        figure.add_scatter(**_star(run.label, float(flops), mean, interval, None, index))
    figure.update_layout(
        xaxis={"type": "log", "title": {"text": "GFLOPs for an image and a text"}, "dtick": 1},
        yaxis={"title": {"text": f"average of {len(keys)} task{'s' if len(keys) > 1 else ''}"}},
    )
    common(figure, several=True)
    text = f"Over the {len(keys)} tasks that the runs share with the published table; grey: 121 models that open_clip published."
    if unknown:
        text += f" Dashed: no count of operations is known for {', '.join(unknown)}."
    return Chart("compute", "Accuracy against compute", text, figure)


def robustness(runs: Sequence[Run]) -> Chart | None:
    """ImageNet against the mean of its distribution shifts, with the trend of the published models."""
    # A run without ImageNet, or without any shift, has no place here and takes none from the others.
    able = [run for run in runs if _scores(run, ["imagenet1k"])[0] and _scores(run, SHIFTS)[0]]
    keys = [key for key in _shared_keys(able) if key in SHIFTS]
    if not keys:
        return None
    rows = published.table()
    x, y = rows["ImageNet 1k"], published.average(keys)
    slope, offset = trend(x, y)
    figure = go.Figure()
    figure.add_scatter(
        name="published",
        mode="markers",
        x=x.to_list(),
        y=y.round(6).to_list(),
        text=(rows["name"] + "<br>" + rows["pretrained"]).to_list(),
        marker={"color": GREY, "size": 7},
        hovertemplate="%{text}<br>ImageNet %{x:.4f}, shifts %{y:.4f}<extra></extra>",
    )
    line = np.linspace(max(0.02, float(x.min())), min(0.98, float(x.max())), 80)
    figure.add_scatter(
        name="their trend",
        mode="lines",
        x=line.round(5).tolist(),
        y=expit(slope * logit(line) + offset).round(5).tolist(),
        line={"color": GREY, "width": 1.5, "dash": "dot"},
        hoverinfo="skip",
    )
    words = []
    for index, run in enumerate(runs):
        if run not in able:
            continue
        (at, pair), (values, pairs) = _scores(run, ["imagenet1k"]), _scores(run, keys)
        mean = math.fsum(values) / len(values)
        figure.add_scatter(**_star(run.label, at[0], mean, average_interval(values, pairs), pair[0], index))
        above = mean - float(expit(slope * logit(np.array(at[0])) + offset))
        words.append(f"{run.label}: {above:+.4f}")
    figure.update_layout(
        xaxis={"title": {"text": "ImageNet 1k"}},
        yaxis={"title": {"text": f"mean of {len(keys)} shift{'s' if len(keys) > 1 else ''}"}},
    )
    common(figure, several=True)
    text = (
        "Effective robustness is the height above the trend of the published models (a line between the logits of the two). "
        f"{'; '.join(words)}."
    )
    return Chart("robustness", "Effective robustness", text, figure)


def reliability(runs: Sequence[Run]) -> list[Chart]:
    """For each calibration of a run how often its top class is right, against how sure it is, in the bins of its error."""
    found = []
    for index, run in enumerate(runs):
        for record in (r for r in run.records.values() if r.protocol == "calibration" and r.imported is None):
            from clipeval.tasks.intervals import wilson  # here: the protocols beside it load torch

            table = run.folder.predictions(record)
            figure = go.Figure()
            figure.add_scatter(
                name="as sure as right",
                mode="lines",
                x=[0, 1],
                y=[0, 1],
                line={"color": GREY, "dash": "dot"},
                hoverinfo="skip",
            )
            right = (table["prediction"] == table["label"]).to_numpy()
            for number, (ending, label) in enumerate((("", "the model's scale"), ("_best", "the best scale"))):
                confidence = table[f"confidence{ending}"].to_numpy(dtype=float)
                bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
                inside = [bins == b for b in range(BINS) if (bins == b).any()]
                rates = [
                    (float(right[rows].mean()), wilson(float(right[rows].mean()), int(rows.sum()))) for rows in inside
                ]
                scale = float(table[f"scale{ending}"].iloc[0])
                figure.add_scatter(
                    name=f"{label}, {scale:.1f}",
                    mode="markers",
                    x=[float(confidence[rows].mean()) for rows in inside],
                    y=[rate for rate, _ in rates],
                    error_y=_errors(rates),
                    marker={"color": colour(number)},
                )
            figure.update_layout(xaxis={"title": {"text": "confidence"}}, yaxis={"title": {"text": "accuracy"}})
            common(figure, several=True)
            owner = f"{run.label}: " if len(runs) > 1 else ""
            text = f"{owner}below the line the model is surer than it is right; {BINS} bins of equal width, with 95% intervals."
            found.append(Chart(f"reliability-{index}-{record.task}", f"Reliability: {record.name}", text, figure))
    return found[:RELIABILITIES]


def languages(runs: Sequence[Run]) -> list[Chart]:
    """For each run and set asked in several languages a map of how far each language lies behind English, the nearest first."""
    found = []
    for run in runs:
        for number, table in enumerate(language_tables(run)):
            gaps = table.gaps.dropna().sort_values(ascending=False, kind="stable")
            if len(gaps) < 2:
                continue
            columns = min(len(gaps), MAP_COLUMNS)
            height = -(-len(gaps) // columns)
            cells = np.full(height * columns, np.nan)
            cells[: len(gaps)] = gaps
            words = [f"{name}<br>{gap:+.3f}" for name, gap in gaps.items()] + [""] * (height * columns - len(gaps))
            figure = go.Figure()
            figure.add_heatmap(
                z=cells.reshape(height, columns), customdata=np.array(words, dtype=object).reshape(height, columns)
            )
            common(figure, several=False)
            owner = f"{run.label}: " if len(runs) > 1 else ""
            text = f"{owner}{table.metric} of each language less that of English; darker is further behind."
            name = f"languages-{runs.index(run)}-{number}" if len(runs) > 1 else f"languages-{number}"
            found.append(Chart(name, f"{table.name}: gaps to English", text, figure))
    return found


def _shared_keys(runs: Sequence[Run]) -> list[str]:
    """The published tasks that every run with any of them has recorded."""
    sets = []
    for run in runs:
        mine = {str(record.key) for record in run.records.values()} & published.COLUMNS.keys()
        mine = {key for key in mine if _scores(run, [key])[0]}
        if mine:
            sets.append(mine)
    return [key for key in published.COLUMNS if sets and all(key in mine for mine in sets)]


def _scores(run: Run, keys: Sequence[str]) -> tuple[list[float], list[Interval | None]]:
    """A run's scores on some published tasks, on the published metric, and their intervals."""
    by_key = {record.key: record for record in run.records.values()}
    values, pairs = [], []
    for key in keys:
        record, metric = by_key.get(key), published.COLUMNS[key][1]
        value = record.metrics.get(metric) if record else None
        if record is not None and value is not None:
            values.append(value)
            pairs.append(record.intervals.get(metric))
    return values, pairs


def _star(
    name: str, x: float, y: float, interval: Interval | None, across: Interval | None, index: int
) -> dict[str, Any]:
    """A run among the published models."""
    return {
        "name": name,
        "mode": "markers",
        "x": [x],
        "y": [y],
        "error_y": _errors([(y, interval)]),
        "error_x": _errors([(x, across)]) if across else None,
        "marker": {"color": colour(index), "size": 15, "symbol": "star"},
        "hovertemplate": f"{name}<br>%{{x:.4~g}}, %{{y:.4f}}<extra></extra>",
    }


def _errors(cells: Sequence[tuple[float, Interval | None]]) -> dict[str, Any]:
    """Whiskers from values and intervals."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [(pair[1] - value) if pair else 0 for value, pair in cells],
        "arrayminus": [(value - pair[0]) if pair else 0 for value, pair in cells],
        "thickness": 1.3,
        "width": 3,
    }


def common(figure: go.Figure, several: bool) -> None:
    """What the layout of all charts has in common."""
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 56, "r": 12, "t": 12, "b": 48},
        height=400,
        showlegend=several,
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.01, "x": 0},
        hoverlabel={"align": "left"},
        dragmode=False,
    )
