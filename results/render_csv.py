"""The report as CSV: a row for each run and task, metric, group and average. For programs; nothing is rounded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from clipeval.results.against import ComparisonRow, ReferenceComparison
from clipeval.results.runs import Run, long_rows, tasks
from clipeval.results.sheet import average_cell, averages, groups, meant_to_count

COLUMNS = [
    "run",
    "model",
    "pretrained",
    "kind",
    "group",
    "task",
    "key",
    "name",
    "metric",
    "value",
    "low",
    "high",
    "chance",
    "corrected",
    "samples",
    "classes",
    "counted",
    "expected",
    "status",
    "flags",
    "notes",
]


def render(runs: Sequence[Run]) -> str:
    """The CSV.

    `kind` is `task` (the main metric), `metric` (each other metric of the task), `group` or `average`; for the last two
    `counted` and `expected` say over how many tasks. Flags and notes are joined by "; ".
    """
    rows: list[dict[str, Any]] = []
    for run, entries in zip(runs, long_rows(runs), strict=True):
        for entry in entries:
            joined = {name: "; ".join(entry[name]) for name in ("flags", "notes")}
            rows.append({**entry, "kind": "task", **joined})
            record = run.records.get(str(entry["task"]))
            for metric, value in (record.metrics if record else {}).items():
                if record is not None and metric != record.metric:
                    low, high = record.intervals.get(metric) or (None, None)
                    rows.append(
                        {
                            **{
                                name: entry[name]
                                for name in ("run", "model", "pretrained", "group", "task", "key", "name")
                            },
                            **{"kind": "metric", "metric": metric, "value": value, "low": low, "high": high},
                            **{"samples": record.samples, "classes": record.classes, "status": "done"},
                            "flags": joined["flags"],
                        }
                    )
        rows += _averages(run, runs)
    frame = pd.DataFrame(rows, columns=COLUMNS)
    whole = dict.fromkeys(("samples", "classes", "counted", "expected"), "Int64")
    numbers = dict.fromkeys(("value", "low", "high", "chance", "corrected"), "float64")
    return str(frame.astype({**whole, **numbers}).to_csv(index=False, lineterminator="\n"))


def _averages(run: Run, runs: Sequence[Run]) -> list[dict[str, Any]]:
    union = tasks(runs)
    wanted = [
        ("group", str(union[members[0]].get("group")), name, members)
        for name, members in groups(runs).items()
        if any(task in run.planned for task in members)
    ]
    wanted += [("average", "", name, members) for name, members in averages(runs).items()]
    rows = []
    for kind, group, name, members in wanted:
        cell = average_cell(run, members, meant_to_count(runs, members))
        low, high = cell.interval or (None, None)
        counted, expected = cell.of or (0, 0)
        rows.append(
            {
                **{"run": run.label, "model": run.model.get("name"), "pretrained": run.model.get("pretrained")},
                **{"kind": kind, "group": group, "name": name, "value": cell.value, "low": low, "high": high},
                **{"corrected": cell.corrected, "samples": cell.samples, "counted": counted, "expected": expected},
                "status": "partial" if cell.partial else "done",
            }
        )
    return rows


def against(comparisons: Sequence[ReferenceComparison]) -> str:
    """A comparison as CSV: a row for each run and task, one for its average, and one for each other published metric."""
    rows = [
        {
            **{"run": item.run, "reference": item.reference, "kind": kind, "task": line.task, "key": line.key},
            **{"name": line.name, "metric": line.metric, "reference_value": line.reference, "value": line.measured},
            **{"difference": line.difference, "low": (line.interval or (None, None))[0]},
            **{"high": (line.interval or (None, None))[1], "verdict": line.verdict, "place": line.place},
            **{"flagged": line.flagged, "source": sources.get((item.run, line.task, line.metric), "")},
        }
        for item in comparisons
        for sources in [_sources(item)]
        for kind, lines in (
            ("task", item.lines),
            ("average", [item.average] if item.average else []),
            ("metric", _others(item)),
        )
        for line in lines
    ]
    return str(pd.DataFrame(rows).astype({"place": "Int64"}).to_csv(index=False, lineterminator="\n"))


def _sources(item: ReferenceComparison) -> dict[tuple[str, str, str], str]:
    """{(run, task, metric): every source of the value, with what it prints}."""
    lines = item.reproduction.lines if item.reproduction else ()
    return {
        (item.run, line.task, line.metric): "; ".join(f"{figure.source}={figure.value}" for figure in line.figures)
        for line in lines
    }


def _others(item: ReferenceComparison) -> list[ComparisonRow]:
    """The published metrics that are not the main ones, as lines."""
    lines = item.reproduction.scored(main=False) if item.reproduction else []
    return [
        ComparisonRow(line.task, line.name, line.metric, line.figure.value, line.measured, line.interval, line.verdict)
        for line in lines
    ]
