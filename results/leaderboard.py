"""`clipeval leaderboard`: the published models and one's own runs in one table, over the same named tasks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from clipeval.configs.errors import ClipevalError, closest
from clipeval.results import published
from clipeval.results.published.registry import FOLDER
from clipeval.results.published.table import SHIFTS
from clipeval.results.robustness import above_trend, trend
from clipeval.results.runs import Run
from clipeval.results.suites import tasks_of

TRAINING_DATA: Mapping[str, str] = {
    "openai": "OpenAI WIT-400M",
    "laion400m": "LAION-400M",
    "laion2b": "LAION-2B",
    "laion5b": "LAION-5B",
    "laion_aesthetic": "LAION-Aesthetic",
    "commonpool": "CommonPool",
    "datacomp1b": "DataComp-1B",
    "datacompdr": "DataCompDR-1B",
    "datacomp": "DataComp",
    "dfndr2b": "DFNDR-2B",
    "dfn2b": "DFN-2B",
    "dfn5b": "DFN-5B",
    "metaclip": "MetaCLIP",
    "webli": "WebLI",
    "apple/mobileclip-s": "DataCompDR-1B",
    "merged2b": "Merged-2B",
    "yfcc15m": "YFCC-15M",
    "cc12m": "CC-12M",
    "meta": "PE's",
}
"""{a part of a tag: the data that it names}; the first that fits counts."""


@dataclass(frozen=True)
class Filters:
    """Which models to show. None stands for no limit.

    Attributes:
        max_params: millions of parameters; models whose number is unknown are left out where it is given, as with `max_gflops`.
        max_gflops: of one image and one text.
        data: a part of a tag or of a name of training data, in any case.
        since: the day (`2024-01-01`) since which the source's file was last changed.
    """

    max_params: float | None = None
    max_gflops: float | None = None
    data: str | None = None
    since: str | None = None


@dataclass(frozen=True)
class Leaderboard:
    """The table.

    Attributes:
        suite: its name.
        tasks: {key: name to print} of the tasks that the score averages, the same for each row.
        rows: best first: place, model, pretrained, source, mine, score, params, gflops, data, date, frontier, robustness, and a
            column for each key.
        left_out: models with some but not all of the tasks, which therefore have no place.
        dropped: names of the suite's tasks that are not counted, for nobody published them or a run lacks them.
        correlation: Spearman's, between the tasks over all models.
    """

    suite: str
    tasks: Mapping[str, str]
    rows: pd.DataFrame
    left_out: int
    dropped: tuple[str, ...]
    correlation: pd.DataFrame = field(repr=False)

    def like(self, name: str, count: int = 5) -> pd.DataFrame:
        """The models whose scores, task by task, are nearest to one's: `distance` is the mean absolute difference.

        Raises:
            ClipevalError: no row has this name.
        """
        row = self.row(name)
        keys = list(self.tasks)
        others = self.rows[self.rows.index != row.name].copy()
        others["distance"] = (others[keys] - row[keys].astype(float)).abs().mean(axis=1)
        return others.sort_values("distance", kind="stable").head(count)

    def row(self, name: str) -> pd.Series[Any]:
        """The row of a model: its label, its architecture's name where one row has it, or any of its names."""
        labels = label(self.rows)
        for item in [name, *(f"{n.model} {n.pretrained}" for n in published.published_names(*_split(name)))]:
            matching = self.rows[labels == item]
            if len(matching):
                return matching.iloc[0]
        matching = self.rows[self.rows["model"] == name]
        if len(matching) == 1:
            return matching.iloc[0]
        near = closest(name, list(labels))
        raise ClipevalError(
            f"--like {name}: no row of this leaderboard has this name"
            + (f"; near it: {', '.join(near)}" if near else "")
        )


def label(rows: pd.DataFrame) -> pd.Series[Any]:
    """Each row's name and tag, as `--like` takes them."""
    return (rows["model"] + " " + rows["pretrained"]).str.strip()


def leaderboard(suite: str = "datacomp", runs: Sequence[Run] = (), filters: Filters | None = None) -> Leaderboard:
    """Ranks the published models and some runs over a suite's tasks.

    Args:
        suite: one of clipeval's.
        runs: one's own, which stand among the others, marked.
        filters: which models to show; runs are always shown. The trend, the correlation and places are over all of them.

    Raises:
        ClipevalError: an unknown suite, or one of which nothing was published; a run without any of its tasks.
    """
    wanted = {key: (name, metric) for key, metric, name in tasks_of(suite).values() if metric}
    table = published.rows(keys=list(wanted))
    main = [wanted[key][1] == metric for key, metric in zip(table["key"], table["metric"], strict=True)]
    table = table[np.array(main, dtype=bool)]
    keys = [key for key in wanted if (table["key"] == key).any()]
    if not keys:
        raise ClipevalError(
            f"nothing was published of the tasks of suite={suite}: take another suite, such as suite=datacomp"
        )
    mine = [_of_run(run, wanted) for run in runs]
    for run, row in zip(runs, mine, strict=True):
        keys = [key for key in keys if key in row]
        if not keys:
            raise ClipevalError(
                f"{run.folder.place} has recorded no published task of suite={suite} that the others have: leave it out"
            )
    rows = pd.DataFrame([*_published(table), *mine])
    keys = _shared(rows, keys)
    complete = rows[keys].notna().all(axis=1)
    left_out = int((~complete & ~rows["mine"]).sum())
    rows = (
        rows[complete].drop(columns=[key for key in wanted if key in rows and key not in keys]).reset_index(drop=True)
    )
    rows = _ranked(rows, keys)
    correlation = rows[keys].corr(method="spearman")
    dropped = tuple(name for key, (name, _) in wanted.items() if key not in keys)
    shown = rows[_passes(rows, filters or Filters()) | rows["mine"]].reset_index(drop=True)
    return Leaderboard(suite, {key: wanted[key][0] for key in keys}, shown, left_out, dropped, correlation)


def _shared(rows: pd.DataFrame, keys: list[str]) -> list[str]:
    """Which of the tasks are averaged: of the sets of tasks that models were published with, the one that makes the fullest
    table, models times tasks; of equal ones that of more tasks."""
    there = rows[keys].notna()
    candidates = there.drop_duplicates().to_numpy()
    models = [int(there.to_numpy()[:, tasks].all(axis=1).sum()) for tasks in candidates]
    best = max(zip(models, candidates, strict=True), key=lambda item: (item[0] * item[1].sum(), item[1].sum()))[1]
    return [key for key, counted in zip(keys, best, strict=True) if counted]


def _published(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A row for each published model; where two sources have one value, the first of `sources()` counts."""
    order = {source.name: index for index, source in enumerate(published.sources())}
    table = table.sort_values("source", key=lambda names: names.map(order), kind="stable")
    table = table.drop_duplicates(["model", "pretrained", "key"])
    entries = []
    for (model, pretrained), part in table.groupby(["model", "pretrained"], sort=False):
        about = {"model": model, "pretrained": pretrained, "mine": False, "date": max(part["date"])}
        sources = ", ".join(dict.fromkeys(part["source"]))
        entries.append(
            {**about, "source": sources, **_size(str(model)), **dict(zip(part["key"], part["value"], strict=True))}
        )
    return entries


def _of_run(run: Run, wanted: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    values = {
        record.key: record.metrics[wanted[record.key][1]]
        for record in run.records.values()
        if record.key in wanted and record.metrics.get(wanted[record.key][1]) is not None
    }
    size = _size(str(run.model.get("name")))
    size["params"] = run.model.get("params_m") or size["params"]
    size["gflops"] = run.model.get("gflops") or size["gflops"]
    about = {
        "model": run.label,
        "pretrained": "",
        "mine": True,
        "source": "this run",
        "date": str(run.info.get("created") or "")[:10],
    }
    return {**about, **size, **values, "tag": str(run.model.get("pretrained") or "")}


def _size(model: str) -> dict[str, Any]:
    return {"params": _params().get(model), "gflops": _gflops().get(model)}


@cache
def _gflops() -> Mapping[str, float]:
    profile, table = published.profile(), published.table()
    gflops = dict(zip(profile["model"], profile["gflops"], strict=True))
    return {**gflops, **dict(zip(table["name"], table["FLOPs (B)"], strict=True))}


@cache
def _params() -> Mapping[str, float]:
    profile, table = published.profile(), published.table()
    more = pd.read_csv(FOLDER / "models.csv", comment="#")
    params = dict(zip(more["model"], more["mparams"], strict=True))
    params |= dict(zip(profile["model"], profile["mparams"], strict=True))
    return {**params, **dict(zip(table["name"], table["params (M)"], strict=True))}


def training_data(tag: str) -> str:
    """The data that a tag names; empty where it names none that is known."""
    return next((name for part, name in TRAINING_DATA.items() if part in tag.lower()), "")


def _ranked(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """With score, place, data, frontier and robustness; best first. A model's own runs take no place from it."""
    rows["score"] = rows[keys].mean(axis=1)
    tags = rows["pretrained"].where(~rows["mine"], rows.get("tag", ""))
    rows["data"] = [training_data(str(tag)) for tag in tags]
    rows = rows.sort_values("score", ascending=False, kind="stable").reset_index(drop=True)
    rows["place"] = rows["score"].round(6).rank(method="min", ascending=False).astype(int)
    rows["frontier"] = _frontier(rows)
    shifts = [key for key in SHIFTS if key in keys]
    rows["robustness"] = np.nan
    theirs = rows[~rows["mine"]]
    if "imagenet1k" in keys and shifts and len(theirs) > 2:
        line = trend(theirs["imagenet1k"], theirs[shifts].mean(axis=1))
        rows["robustness"] = above_trend(rows["imagenet1k"], rows[shifts].mean(axis=1), line)
    return rows.drop(columns=["tag"], errors="ignore")


def _frontier(rows: pd.DataFrame) -> list[bool]:
    """Whether no other row has a better score for as few or fewer GFLOPs. Rows are sorted by score."""
    best = float("inf")
    frontier = []
    for gflops in rows["gflops"].astype(float):
        frontier.append(bool(gflops < best))
        best = min(best, gflops) if gflops == gflops else best
    return frontier


def _passes(rows: pd.DataFrame, filters: Filters) -> pd.Series[Any]:
    kept = pd.Series(True, index=rows.index)
    if filters.max_params is not None:
        kept &= rows["params"].astype(float) <= filters.max_params
    if filters.max_gflops is not None:
        kept &= rows["gflops"].astype(float) <= filters.max_gflops
    if filters.data is not None:
        text = rows["pretrained"] + " " + rows["data"]
        kept &= text.str.contains(re.escape(filters.data), case=False)
    if filters.since is not None:
        kept &= rows["date"] >= filters.since
    return kept


def _split(name: str) -> tuple[str, str | None]:
    first, _, rest = name.partition(" ")
    return first, rest or None
