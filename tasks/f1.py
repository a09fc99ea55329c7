"""Macro F1, and its uncertainty."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy import sparse

from clipeval.tasks.intervals import effective_sample_size, wilson
from clipeval.tasks.statistics import CELLS, Statistic, distinct, same_length


class MacroF1(Statistic):
    """The mean of the F1 scores of the labels that occur: 2 TP / (labelled + predicted), each against the rest.

    As wilds' F1: sklearn's f1_score(average="macro", labels=unique(y_true)). Predictions of labels that never occur count
    against recall alone, having no row of their own.
    """

    def __init__(self, labels: np.ndarray, predictions: np.ndarray) -> None:
        """`labels`, `predictions`: int64 [units]."""
        self.labels = np.asarray(labels, dtype=np.int64)
        self.units = len(self.labels)
        self.predictions = same_length(predictions, self.units, "predictions")
        if not self.units:
            raise ValueError("macro F1 needs at least one sample")

    def rows(self) -> np.ndarray:
        return np.column_stack([self.labels, self.predictions])

    @cached_property
    def cells(self) -> tuple[np.ndarray, np.ndarray]:
        """A unit for each (label, prediction) that occurs, sorted by label, and how often it occurs."""
        first, counts = distinct(self.rows())
        return first, counts

    @cached_property
    def value(self) -> float:
        first, counts = self.cells
        return float(self.resample(counts[None], first)[0])

    def resample(self, weights: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
        labels = self.labels if units is None else self.labels[units]
        predictions = self.predictions if units is None else self.predictions[units]
        weights = np.asarray(weights, dtype=np.float64)
        names = np.unique(self.labels)
        right = weights @ one_hot(np.where(labels == predictions, labels, -1), names)
        support = weights @ one_hot(labels, names)
        total = support + weights @ one_hot(predictions, names)
        scores = np.divide(2 * right, total, out=np.zeros_like(right), where=support > 0)
        return np.asarray(scores.sum(axis=1) / np.count_nonzero(support, axis=1))

    def draw(self, draws: int, seed: int) -> np.ndarray:
        """float64 [draws]: macro F1 of samples with each label as often as here, its answers drawn from those it had."""
        first, counts = self.cells
        rng = np.random.default_rng(seed)
        rows = np.split(counts, np.flatnonzero(np.diff(self.labels[first])) + 1)
        step = max(1, CELLS // len(first))
        parts = []
        for start in range(0, draws, step):
            size = min(step, draws - start)
            weights = np.hstack([rng.multinomial(row.sum(), row / row.sum(), size=size) for row in rows])
            parts.append(self.resample(weights, first))
        return np.concatenate(parts)

    @property
    def variance(self) -> float:
        """Of the value to first order, each label's samples being a stratum, as `GroupMean` counts them.

        A sample labelled l and answered p moves F1 of l, if right, by 2 / D_l and F1 of p by -2 TP_p / D_p^2, D being
        labelled + predicted.
        """
        first, counts = self.cells
        labels, predictions = self.labels[first], self.predictions[first]
        names, index = np.unique(labels, return_inverse=True)
        right = np.bincount(index, np.where(labels == predictions, counts, 0))
        answered = one_hot(predictions, names)
        total = np.bincount(index, counts) + counts @ answered
        moves = np.where(labels == predictions, 2 / total[index], 0) - answered @ (2 * right / total**2)
        sizes = np.bincount(index, counts)
        means = np.bincount(index, counts * moves) / sizes
        inner = np.bincount(index, counts * (moves - means[index]) ** 2)
        several = sizes > 1
        spread = np.sum(inner[several] * sizes[several] / (sizes[several] - 1))
        lone = means[~several]
        return float(spread + (len(lone) * np.var(lone, ddof=1) if len(lone) > 1 else 0.0)) / len(names) ** 2

    def interval(self, level: float = 0.95, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
        """Wilson's at the effective sample size, about the value less the bias that a bootstrap shows (Efron and
        Tibshirani, An Introduction to the Bootstrap, 1993, section 10.6): F1 is a ratio, and small classes bend it. Plain
        percentiles would count that bias twice; simulated with classes of one to a few samples they covered 78%."""
        value = self.value
        centre = min(1.0, max(0.0, 2 * value - float(self.draw(draws, seed).mean())))
        low, high = wilson(centre, effective_sample_size(centre, self.variance, self.units), level)
        return min(low, value), max(high, value)


def one_hot(index: np.ndarray, names: np.ndarray) -> sparse.csr_array:
    """[N, len(names)]: where index is each name; a row of zeros where it is none of them."""
    place = np.minimum(np.searchsorted(names, index), len(names) - 1)
    known = np.flatnonzero(names[place] == index)
    return sparse.csr_array((np.ones(len(known)), (known, place[known])), shape=(len(index), len(names)))
