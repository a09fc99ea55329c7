"""Accuracy by group, under the names that the wilds package and DataComp gave."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from clipeval.tasks.statistics import Count, Proportion, Statistic, WorstGroup


def by_group(
    hits: np.ndarray, columns: Mapping[str, np.ndarray], prefix: str, worst: str | None = None
) -> dict[str, Statistic | None]:
    """Accuracy overall, in each group, and in the worst.

    Groups are the combinations of the fields' values from 0 to the largest that occurs, as wilds' CombinatorialGrouper
    makes them; one without samples counts 0, has no accuracy, and cannot be the worst.

    Args:
        hits: bool [N].
        columns: for each field, int64 [N], in the order in which the names list them.
        prefix: how the names begin.
        worst: the name of the worst group's accuracy; None: `<prefix>_wg`.

    Returns:
        `<prefix>_avg`; `<prefix>_<field>:<i>` and `count_<field>:<i>` for each group (fields joined by `_`); the worst.
    """
    shape = tuple(int(values.max()) + 1 for values in columns.values())
    index = np.ravel_multi_index(tuple(columns.values()), shape)
    metrics: dict[str, Statistic | None] = {f"{prefix}_avg": Proportion(hits)}
    order = np.argsort(index, kind="stable")
    bounds = np.searchsorted(index[order], np.arange(int(np.prod(shape)) + 1))
    for group, values in enumerate(product(*(range(size) for size in shape))):
        name = "_".join(f"{column}:{value}" for column, value in zip(columns, values, strict=True))
        inside = hits[order[bounds[group] : bounds[group + 1]]]
        metrics[f"{prefix}_{name}"] = Proportion(inside) if len(inside) else None
        metrics[f"count_{name}"] = Count(len(inside))
    metrics[worst or f"{prefix}_wg"] = WorstGroup(hits, index)
    return metrics


@dataclass(frozen=True)
class GroupMetrics:
    """Metrics by the values of one metadata field, declared in a task's config."""

    field: str
    """The metadata column: whole numbers from 0."""
    top: int = 1
    """1: right if the class is the best; 5: if it is among the five best."""
    prefix: str = "acc"
    """How the names begin."""
    worst: str | None = None
    """The worst group's name; None: `<prefix>_wg`."""
    worst_without: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict, hash=False)
    """Further worsts: {name: the groups left out}."""

    def __post_init__(self) -> None:
        if self.top not in (1, 5):
            raise ValueError(f"group metrics by {self.field!r}: top must be 1 or 5, got {self.top}")
        plain = {str(name): tuple(int(g) for g in groups) for name, groups in self.worst_without.items()}
        object.__setattr__(self, "worst_without", plain)

    def statistics(self, hits: np.ndarray, groups: np.ndarray) -> dict[str, Statistic | None]:
        """`hits`: bool [N], right or not; `groups`: int64 [N]."""
        metrics = by_group(hits, {self.field: groups}, self.prefix, self.worst)
        for name, left_out in self.worst_without.items():
            kept = ~np.isin(groups, left_out)
            metrics[name] = WorstGroup(hits[kept], groups[kept]) if kept.any() else None
        return metrics
