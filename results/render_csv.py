"""The report as CSV: a row for each run and task, metric, group and average. For programs; nothing is rounded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from clipeval.results.against import ReferenceComparison
from clipeval.results.runs import Run, group_name, long_rows, tasks
from clipeval.results.sheet import average_cell

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
        rows += _averages(run)
    frame = pd.DataFrame(rows, columns=COLUMNS)
    whole = dict.fromkeys(("samples", "classes", "counted", "expected"), "Int64")
    numbers = dict.fromkeys(("value", "low", "high", "chance", "corrected"), "float64")
    return str(frame.astype({**whole, **numbers}).to_csv(index=False, lineterminator="\n"))


def _averages(run: Run) -> list[dict[str, Any]]:
    union = tasks([run])
    groups: dict[str, list[str]] = {}
    for task, spec in union.items():
        groups.setdefault(str(spec.get("group")), []).append(task)
    wanted = [("group", group, group_name(group), members) for group, members in groups.items()]
    wanted.append(("average", "", "Average", list(union)))
    rows = []
    for kind, group, name, members in wanted:
        cell = average_cell(run, members)
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


def against(found: Sequence[ReferenceComparison]) -> str:
    """A comparison as CSV: a row for each run and task, and one for its average."""
    rows = [
        {
            **{"run": item.run, "reference": item.reference, "kind": kind, "task": line.task, "key": line.key},
            **{"name": line.name, "metric": line.metric, "reference_value": line.reference, "value": line.measured},
            **{"difference": line.difference, "low": (line.interval or (None, None))[0]},
            **{"high": (line.interval or (None, None))[1], "verdict": line.verdict, "place": line.place},
            "flagged": line.flagged,
        }
        for item in found
        for kind, lines in (("task", item.lines), ("average", [item.average] if item.average else []))
        for line in lines
    ]
    return str(pd.DataFrame(rows).astype({"place": "Int64"}).to_csv(index=False, lineterminator="\n"))
