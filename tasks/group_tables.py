"""Metrics by group as tables, those that DataComp prints for FairFace and UTKFace among them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from clipeval.tasks.attributes import Attributes


def group_tables(
    task: Attributes, metrics: Mapping[str, float | None], names: Mapping[str, Sequence[str]] | None = None
) -> dict[str, pd.DataFrame]:
    """A table for each grouping.

    Groups by one field are the rows, every metric by that field is a column, and the last row is the overall rate (DataComp's
    Tables 3, 4 and, turned round, 6). Groups by two fields have a table to themselves, the first field across and the second
    down (its Table 5).

    Args:
        task: what was measured.
        metrics: its metrics, from `Scores.metrics` or from a record.
        names: {field: what its values mean}; a value without a name is shown as its number.

    Returns:
        {title: float64 table}, NaN where a group has no sample.
    """
    single: dict[str, dict[str, dict[str, float]]] = {}
    tables: dict[str, pd.DataFrame] = {}
    for part in task.parts:
        groups = by_values(metrics, part.name, part.by)
        named = {
            tuple(meaning(names or {}, name, index) for name, index in zip(part.by, group, strict=True)): value
            for group, value in groups.items()
        }
        if len(part.by) == 1:
            column = {group[0]: value for group, value in named.items()}
            column["overall"] = number(metrics.get(f"{part.name}_avg"))
            single.setdefault(part.by[0], {})[part.name] = column
        else:
            table: dict[str, dict[str, float]] = {}
            for group, value in named.items():
                table.setdefault(group[0], {})[" ".join(group[1:])] = value
            tables[f"{part.name} by {' and '.join(part.by)}"] = pd.DataFrame(table, dtype="float64")
    return {f"by {name}": pd.DataFrame(columns, dtype="float64") for name, columns in single.items()} | tables


def by_values(metrics: Mapping[str, float | None], prefix: str, by: Sequence[str]) -> dict[tuple[int, ...], float]:
    """The value of each group, by its fields' values, in their order."""
    pattern = re.compile(re.escape(prefix) + "".join(rf"_{re.escape(name)}:(\d+)" for name in by))
    matches = ((pattern.fullmatch(name), value) for name, value in metrics.items())
    return dict(sorted((tuple(map(int, match.groups())), number(value)) for match, value in matches if match))


def meaning(names: Mapping[str, Sequence[str]], field: str, value: int) -> str:
    """What a field's value means."""
    known = names.get(field, ())
    return known[value] if value < len(known) else str(value)


def number(value: float | None) -> float:
    return float("nan") if value is None else value
