"""Estimators: a metric as a value and its uncertainty.

Each is made of the per_unit_scores of its units (images, queries, instances), so that one object gives the number that the
reference defines, an interval around it, and its value under any resampling of the units, which is what a paired comparison
of two runs needs. Intervals are for the score on further images drawn as these were; classes and groups are held fixed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from clipeval.tasks.intervals import effective_sample_size, least, wilson

CELLS = 4_000_000
"""How many weights a bootstrap holds at once: 32 MB."""


class Statistic(ABC):
    """A metric's value and its uncertainty. Deterministic: nothing depends on the order of calls or on global state."""

    units: int
    """How many things were drawn: images mostly. Row i of everything below speaks of unit i."""

    @property
    @abstractmethod
    def value(self) -> float:
        """The metric, as the reference defines it."""

    @abstractmethod
    def interval(self, level: float = 0.95, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
        """The ends of a confidence interval. `draws` and `seed` matter only where it is a bootstrap's."""

    @abstractmethod
    def resample(self, weights: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
        """The value, had unit `units[j]` (default: unit j) occurred `weights[b, j]` times.

        Args:
            weights: float64 or int64 [B, M], not negative.
            units: int64 [M].

        Returns:
            float64 [B].
        """

    def per_unit_scores(self) -> np.ndarray | None:
        """float64 [units] whose plain mean is the value; None where the value is no mean of per-unit scores."""
        return None

    def rows(self) -> np.ndarray | None:
        """[units, d]: two units with equal rows are interchangeable. None: every unit is its own."""
        return None


class Count(Statistic):
    """How many samples there were: known, not estimated."""

    def __init__(self, count: int) -> None:
        self.units = int(count)

    @property
    def value(self) -> float:
        return float(self.units)

    def interval(self, level: float = 0.95, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
        return self.value, self.value

    def resample(self, weights: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
        return np.asarray(np.sum(weights, axis=1), dtype=np.float64)


class AsymptoticallyLinear(Statistic):
    """In [0, 1], and to first order a mean over units: Wilson's interval at the effective sample size."""

    @abstractmethod
    def influence(self) -> np.ndarray:
        """float64 [units]: how far each unit moves the value, to first order; their squares sum to its variance."""

    @property
    def trials(self) -> float:
        """The sample size to assume when all scores are right, or all wrong."""
        return float(self.units)

    @property
    def variance(self) -> float:
        n = self.units
        return float(np.sum(self.influence() ** 2)) * n / (n - 1) if n > 1 else 0.0

    def interval(self, level: float = 0.95, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
        return wilson(self.value, effective_sample_size(self.value, self.variance, self.trials), level)


class OneValueAUnit(Statistic):
    """A mean over units that have a number each, `values`: float [units]."""

    values: np.ndarray

    def resample(self, weights: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
        weights = np.asarray(weights, dtype=np.float64)
        return np.asarray(weights @ pick(self.values, units) / weights.sum(axis=1))

    def per_unit_scores(self) -> np.ndarray:
        return self.values.copy()

    def rows(self) -> np.ndarray:
        return self.values[:, None]


class Mean(OneValueAUnit, AsymptoticallyLinear):
    """The mean of scores in [0, 1], Jaccard indices say."""

    def __init__(self, values: np.ndarray) -> None:
        """`values`: float [units], at least one, each in [0, 1]."""
        self.values = unit_scores(values)
        self.units = len(self.values)

    @cached_property
    def value(self) -> float:
        return float(self.values.sum()) / self.units

    def influence(self) -> np.ndarray:
        return (self.values - self.value) / self.units


class Proportion(Mean):
    """The share of units that are right; Wilson's interval, whatever the sample size."""

    def __init__(self, hits: np.ndarray) -> None:
        """`hits`: bool [units], at least one."""
        super().__init__(np.asarray(hits, dtype=bool))

    def interval(self, level: float = 0.95, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
        return wilson(self.value, self.units, level)


class GroupMean(AsymptoticallyLinear):
    """The mean over groups of each group's mean: mean per-class recall, when the groups are the classes.

    Over the groups that occur. The variance is a stratified sample's, sum of s_g^2 / n_g over G^2. A group of one unit
    shows no spread of its own: such groups are pooled into one stratum (collapsed strata: Cochran, Sampling Techniques,
    3rd ed., 1977, section 5A.12), which errs to the safe side.
    """

    def __init__(self, values: np.ndarray, groups: np.ndarray) -> None:
        """`values`: bool or float [units] in [0, 1]; `groups`: int64 [units]."""
        self.values = unit_scores(values)
        self.units = len(self.values)
        self.groups = same_length(groups, self.units, "groups")
        self.labels, self.index, self.counts = np.unique(self.groups, return_inverse=True, return_counts=True)
        self.means = np.bincount(self.index, self.values) / self.counts

    @cached_property
    def value(self) -> float:
        return float(self.means.mean())

    @property
    def trials(self) -> float:
        return float(len(self.counts) ** 2 / np.sum(1 / self.counts))

    @property
    def variance(self) -> float:
        several = self.counts > 1
        inner = np.bincount(self.index, (self.values - self.means[self.index]) ** 2)[several]
        total = np.sum(inner / (self.counts[several] * (self.counts[several] - 1)))
        lone = self.means[~several]
        if len(lone) > 1:
            total += len(lone) * np.var(lone, ddof=1)
        elif len(lone) == 1:
            total += self.value * (1 - self.value)
        # Groups wholly right beside groups wholly wrong show no spread either: allow at least one group's worth.
        smoothed = (self.means * self.counts + 0.5) / (self.counts + 1)
        floor = np.max(smoothed * (1 - smoothed) / self.counts)
        return float(max(total, floor)) / len(self.counts) ** 2

    def influence(self) -> np.ndarray:
        return (self.values - self.means[self.index]) / (len(self.counts) * self.counts[self.index])

    def per_unit_scores(self) -> np.ndarray:
        return self.values * self.units / (len(self.counts) * self.counts[self.index])

    def resample(self, weights: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
        means, occurs = group_means(weights, pick(self.values, units), pick(self.index, units), len(self.counts))
        return np.asarray(np.where(occurs, means, 0).sum(axis=1) / occurs.sum(axis=1))

    def rows(self) -> np.ndarray:
        return np.column_stack([self.values, self.index])


class WorstGroup(Statistic):
    """The least group accuracy, over the groups that occur. The interval is `intervals.least`'s, no bootstrap's."""

    def __init__(self, hits: np.ndarray, groups: np.ndarray) -> None:
        """`hits`: bool [units]; `groups`: int64 [units]."""
        self.hits = unit_scores(np.asarray(hits, dtype=bool))
        self.units = len(self.hits)
        self.groups = same_length(groups, self.units, "groups")
        self.labels, self.index, self.counts = np.unique(self.groups, return_inverse=True, return_counts=True)
        self.right = np.bincount(self.index, self.hits).astype(np.int64)

    @cached_property
    def value(self) -> float:
        return float(np.min(self.right / self.counts))

    def interval(self, level: float = 0.95, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
        return least(self.right, self.counts, level)

    def resample(self, weights: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
        means, occurs = group_means(weights, pick(self.hits, units), pick(self.index, units), len(self.counts))
        return np.asarray(np.where(occurs, means, np.inf).min(axis=1))

    def rows(self) -> np.ndarray:
        return np.column_stack([self.hits, self.index])


class ClusterMean(AsymptoticallyLinear):
    """The mean over queries that come in clusters: recall@k of captions, several to an image. The units are the clusters.

    sum of y_i / sum of m_i, with the linearised variance of a ratio (Cochran, 1977, section 6.3).
    """

    def __init__(self, hits: np.ndarray, clusters: np.ndarray, units: int) -> None:
        """`hits`: bool or float [queries] in [0, 1]; `clusters`: int64 [queries], in 0..units - 1; every one has a query."""
        values = unit_scores(hits)
        clusters = same_length(clusters, len(values), "clusters")
        self.units = units
        self.sizes = np.bincount(clusters, minlength=units).astype(np.float64)
        self.sums = np.bincount(clusters, values, minlength=units)
        if len(self.sizes) != units or not self.sizes.all():
            raise ValueError(f"clusters must number {units}, each with a query; got {np.count_nonzero(self.sizes)}")

    @cached_property
    def value(self) -> float:
        return float(self.sums.sum() / self.sizes.sum())

    def influence(self) -> np.ndarray:
        return np.asarray((self.sums - self.value * self.sizes) / self.sizes.sum())

    def per_unit_scores(self) -> np.ndarray:
        return np.asarray(self.sums / self.sizes.mean())

    def resample(self, weights: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
        weights = np.asarray(weights, dtype=np.float64)
        return np.asarray(weights @ pick(self.sums, units) / (weights @ pick(self.sizes, units)))

    def rows(self) -> np.ndarray:
        return np.column_stack([self.sums, self.sizes])


class MeanOf(AsymptoticallyLinear):
    """The mean of several linear statistics of the same units: both directions of retrieval share their images."""

    def __init__(self, parts: Sequence[AsymptoticallyLinear]) -> None:
        self.parts = tuple(parts)
        self.units = self.parts[0].units
        if any(part.units != self.units for part in self.parts):
            raise ValueError(f"parts must share their units; got {[part.units for part in self.parts]}")

    @property
    def value(self) -> float:
        return sum(part.value for part in self.parts) / len(self.parts)

    def influence(self) -> np.ndarray:
        return np.asarray(np.mean([part.influence() for part in self.parts], axis=0))

    def per_unit_scores(self) -> np.ndarray | None:
        units = [part.per_unit_scores() for part in self.parts]
        return (
            None if any(f is None for f in units) else np.asarray(np.mean([f for f in units if f is not None], axis=0))
        )

    def resample(self, weights: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
        return np.asarray(np.mean([part.resample(weights, units) for part in self.parts], axis=0))

    def rows(self) -> np.ndarray | None:
        rows = [part.rows() for part in self.parts]
        return None if any(r is None for r in rows) else np.hstack([r for r in rows if r is not None])


def paired_differences(a: Statistic, b: Statistic, draws: int = 1000, seed: int = 0) -> np.ndarray:
    """b - a in bootstrap worlds in which the same units were drawn for both.

    Units with equal rows in both are drawn together, as counts, so that 85,000 right-or-wrong samples cost as much as four.

    Returns:
        float64 [draws].

    Raises:
        ValueError: the two have different numbers of units.
    """
    if a.units != b.units:
        raise ValueError(f"a paired comparison needs the same samples in both runs; got {a.units} and {b.units}")
    rows_a, rows_b = a.rows(), b.rows()
    if rows_a is None or rows_b is None:
        first, counts = np.arange(a.units), np.ones(a.units, dtype=np.int64)
    else:
        first, counts = distinct(np.hstack([rows_a, rows_b]))
    rng = np.random.default_rng(seed)
    step = max(1, CELLS // len(first))
    totals = []
    for start in range(0, draws, step):
        size = min(step, draws - start)
        weights = rng.multinomial(a.units, counts / a.units, size=size)
        totals.append(b.resample(weights, first) - a.resample(weights, first))
    return np.concatenate(totals)


def distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first index and the count of each distinct row of [N, d]; faster than np.unique(axis=0)."""
    code = np.zeros(len(rows), dtype=np.int64)
    for column in rows.T:
        values, index = np.unique(column, return_inverse=True)
        # Renumbered at every column, so the product stays under N^2.
        code = np.unique(code * len(values) + index, return_inverse=True)[1]
    _, first, counts = np.unique(code, return_index=True, return_counts=True)
    return first, counts


def group_means(
    weights: np.ndarray, values: np.ndarray, index: np.ndarray, groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Each group's weighted mean, float64 [B, G] (undefined where it has no weight), and where it has any, bool [B, G]."""
    from scipy import sparse

    where = (np.arange(len(index)), index)
    shape = (len(index), groups)
    weights = np.asarray(weights, dtype=np.float64)
    totals = weights @ sparse.csr_array((np.ones(len(index)), where), shape=shape)
    sums = weights @ sparse.csr_array((values, where), shape=shape)
    return np.divide(sums, totals, out=np.zeros_like(sums), where=totals > 0), totals > 0


def unit_scores(values: np.ndarray) -> np.ndarray:
    """Checked: float64 [n], n at least 1, each in [0, 1]."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(
            f"a statistic needs a score for each of at least one unit; got an array of shape {array.shape}"
        )
    if not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(f"scores must lie in [0, 1]; they span {array.min()} to {array.max()}")
    return array


def same_length(index: np.ndarray, n: int, what: str) -> np.ndarray:
    """Checked: int64 [n]."""
    array = np.asarray(index, dtype=np.int64)
    if array.shape != (n,):
        raise ValueError(f"{what} must have shape ({n},), one for each score; got {array.shape}")
    return array


def pick(values: np.ndarray, units: np.ndarray | None) -> np.ndarray:
    return values if units is None else values[units]
