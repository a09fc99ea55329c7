"""Scores as loggers of training runs take them: a flat {name: number} for each step."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from clipeval.results.records import Record

PREFIX = "zero_shot"
QUICK = "a quick subset, "
"""How the flag of `data.limit` begins."""


def metric_name(task: str, metric: str, flags: Sequence[str] = (), samples: int | None = None) -> str:
    """`zero_shot/<task>/<metric>`, of characters that every logger takes; a quick subset's task has its size."""
    quick = f"_quick{samples}" if any(flag.startswith(QUICK) for flag in flags) else ""
    parts = [task + quick, metric.replace("@", "_at_")]
    return "/".join([PREFIX, *(re.sub(r"[^A-Za-z0-9_. -]", "_", part) for part in parts)])


def metric_names(table: pd.DataFrame) -> dict[str, float]:
    """Every metric of a table of `clipeval.evaluate`, and the average of the main ones where there are several."""
    found: dict[str, float] = {}
    for row in table.to_dict("records"):
        values: Mapping[str, float | None] = row["metrics"]
        for metric, value in values.items():
            if value is not None:
                found[metric_name(str(row["task"]), metric, str(row["flags"]).split("; "), row.get("samples"))] = float(
                    value
                )
    main = _main(table)
    if len(main) > 1:
        found[f"{PREFIX}/average"] = float(main.mean())
    return found


def scores_of(records: Sequence[Record]) -> dict[str, float]:
    """The same of a run's records."""
    found: dict[str, float] = {}
    for record in records:
        for metric, value in record.metrics.items():
            if value is not None:
                found[metric_name(record.task, metric, record.flags, record.samples)] = float(value)
    main = [record.value for record in records if record.value is not None]
    return {**found, f"{PREFIX}/average": sum(main) / len(main)} if len(main) > 1 else found


def averaged(table: pd.DataFrame) -> str:
    """One line for a log: each main score, or where there are many their average."""
    main = _main(table)
    if len(main) > 5:
        return f"average {main.mean():.4f} over {len(main)} of {int(table['metric'].notna().sum())} tasks"
    rows = table.loc[main.index].to_dict("records")
    return ", ".join(f"{row['name']} {row['metric']} {row['value']:.4f}" for row in rows)


def _main(table: pd.DataFrame) -> pd.Series:
    return table.loc[table["metric"].notna() & table["value"].notna(), "value"].astype(float)
