"""The leaderboard as a page: a table with filters, the score against compute, and how the tasks go together."""

from __future__ import annotations

import json
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

from clipeval.results.leaderboard import Leaderboard, label
from clipeval.results.page.charts import COLOURS, GREY, common
from clipeval.results.page.page import asset, fill, library, packed, safe_json


def render(board: Leaderboard, like: str | None = None) -> str:
    """The page, one file with its data, styles and scripts inside."""
    rows = board.rows
    near = board.like(like) if like else None
    return fill(
        "leaderboard.html",
        title=f"Leaderboard, {board.suite}",
        suite=board.suite,
        tasks=board.tasks,
        rows=[{str(name): _known(value) for name, value in row.items()} for row in rows.to_dict("records")],
        like=like,
        near=None if near is None else list(zip(label(near), near["score"], near["distance"], strict=True)),
        dropped=board.dropped,
        left_out=board.left_out,
        data=sorted({name for name in rows["data"] if name}),
        compute=Markup(safe_json(str(compute(board).to_json()))),
        correlation=Markup(safe_json(json.dumps(_correlation(board)))),
        css=asset("page.css") + asset("leaderboard.css"),
        script=asset("leaderboard.js"),
        plotly=packed(library("plotly", "package_data/plotly.min.js")),
    )


def compute(board: Leaderboard) -> go.Figure:
    """Score against GFLOPs, with the frontier; runs of one's own as stars. The page takes out what its filters hide."""
    rows = board.rows[board.rows["gflops"].notna()]
    figure = go.Figure()
    frontier = rows[rows["frontier"]].sort_values("gflops")
    figure.add_scatter(
        name="frontier",
        mode="lines",
        x=frontier["gflops"].tolist(),
        y=frontier["score"].round(6).tolist(),
        line={"color": GREY, "width": 1.5, "shape": "hv", "dash": "dot"},
        hoverinfo="skip",
    )
    for name, part, marker in (
        ("published", rows[~rows["mine"]], {"color": COLOURS[0], "size": 8, "opacity": 0.75}),
        ("your runs", rows[rows["mine"]], {"color": COLOURS[1], "size": 15, "symbol": "star"}),
    ):
        if len(part):
            figure.add_scatter(
                name=name,
                mode="markers",
                x=part["gflops"].tolist(),
                y=part["score"].round(6).tolist(),
                text=label(part).tolist(),
                marker=marker,
                hovertemplate="%{text}<br>%{x:.1f} GFLOPs, %{y:.4f}<extra></extra>",
            )
    figure.update_layout(
        xaxis={"type": "log", "title": {"text": "GFLOPs for an image and a text"}, "dtick": 1},
        yaxis={"title": {"text": f"average of {len(board.tasks)} task{'s' if len(board.tasks) > 1 else ''}"}},
    )
    common(figure, several=True)
    return figure


def _correlation(board: Leaderboard) -> dict[str, Any]:
    """The heat map's data: tasks in the order of how well they go with the others."""
    matrix = board.correlation
    order = matrix.mean().sort_values(ascending=False, kind="stable").index
    values = matrix.loc[order, order].round(2)
    return {
        "names": [board.tasks[key] for key in order],
        "values": values.astype(object).where(values.notna(), None).to_numpy().tolist(),
    }


def _known(value: Any) -> Any:
    """None for NaN, which templates can test."""
    return None if isinstance(value, float) and value != value else value
