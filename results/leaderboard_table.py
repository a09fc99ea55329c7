"""The leaderboard in a terminal, as Markdown and as CSV."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from clipeval.results import block, formatting
from clipeval.results.block import Severity, SummaryTable
from clipeval.results.leaderboard import Leaderboard, label

UNLIKE = 3
"""Tasks that are named as ranking models unlike the average."""


def build(board: Leaderboard, top: int | None = None, sort: str = "score", like: str | None = None) -> SummaryTable:
    """Title, a row a model, and below them what the whole table shows.

    Args:
        found: the leaderboard.
        top: how many rows; one's own runs are shown wherever they stand. None: all.
        sort: `score`, another column, or a task's key.
        like: a model whose nearest ones are named.
    """
    rows = board.rows
    if sort != "score":
        rows = rows.sort_values(sort, ascending=sort in ("params", "gflops", "model"), kind="stable")
    shown = rows if top is None else rows[(pd.RangeIndex(len(rows)) < top) | rows["mine"].to_numpy()]
    extra = [sort] if sort in board.tasks else []
    tones: list[Severity] = ["good" if mine else "plain" for mine in shown["mine"]]
    return SummaryTable(
        title=f"Leaderboard: suite={board.suite}",
        headline=f"{len(rows)} models by their average over the same {len(board.tasks)} tasks",
        tone="plain",
        header=(
            "Model",
            "",
            "Score",
            *(board.tasks[key] for key in extra),
            "M params",
            "GFLOPs",
            "Data",
            "Robust",
            "Place",
        ),
        rows=tuple(_row(row, extra) for _, row in shown.iterrows()),
        tones=tuple(tones),
        remarks=tuple(_remarks(board, like)),
        left=2,
        optional=(4 + len(extra), 5 + len(extra), 6 + len(extra)),
    )


def markdown(board: Leaderboard, **how: Any) -> str:
    """The table as Markdown."""
    return block.markdown(build(board, **how))


def csv(board: Leaderboard) -> str:
    """Every row and task, unrounded."""
    return str(board.rows.to_csv(index=False, lineterminator="\n"))


def _row(row: pd.Series[Any], extra: list[str]) -> tuple[str, ...]:
    def number(value: Any) -> str:
        return formatting.DASH if value is None or value != value else f"{value:,.1f}"

    robust = row["robustness"]
    return (
        row["model"] + (" *" if row["frontier"] else ""),
        row["pretrained"] or ("this run" if row["mine"] else ""),
        formatting.score(row["score"]),
        *(formatting.score(row[key]) for key in extra),
        number(row["params"]),
        number(row["gflops"]),
        row["data"],
        formatting.DASH if robust != robust else f"{robust:+.3f}",
        str(row["place"]),
    )


def _remarks(board: Leaderboard, like: str | None) -> list[str]:
    text = [
        "*: on the frontier, no model with as few GFLOPs scores better. Robust: height above the trend of ImageNet and its shifts."
    ]
    if board.dropped:
        text.append(f"Not counted, for not every one of these has them: {', '.join(board.dropped)}.")
    if board.left_out:
        text.append(f"{board.left_out} published models have some of these tasks and not all: they have no place.")
    keys = list(board.tasks)
    if len(keys) > 2:
        against = {key: _with_the_rest(board, key) for key in keys}
        known = [key for key in against if math.isfinite(against[key])]  # of two models, or equal scores, there is none
        unlike = sorted(known, key=lambda key: against[key])[:UNLIKE]
        if named := ", ".join(f"{board.tasks[key]} ({against[key]:+.2f})" for key in unlike):
            text.append(f"Tasks that rank models least like the others do (mean rank correlation): {named}.")
    if like is not None:
        near = board.like(like)
        named = ", ".join(
            f"{name} ({distance:.4f})" for name, distance in zip(label(near), near["distance"], strict=True)
        )
        text.append(f"Models most like {like}, by mean difference over the tasks: {named}.")
    titles = dict.fromkeys(source for sources in board.rows["source"] for source in sources.split(", "))
    text.append(f"Sources: {', '.join(titles)}; results/published/README.md says how each was computed.")
    return text


def _with_the_rest(board: Leaderboard, key: str) -> float:
    return float(board.correlation[key].drop(key).mean())
