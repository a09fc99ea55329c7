"""Means of any numbers: losses, and the differences of two scores of the same things."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clipeval.tasks.statistics import OneValueAUnit, Proportion, Statistic, pick


@dataclass(frozen=True)
class Drop:
    """How much lower the accuracy is in one group than in another, over the instances that the two share."""

    name: str
    before: str
    after: str
    by: str
    """The kind of set (`sets` of an instance) whose members are one thing, seen in both groups."""


class RealMean(OneValueAUnit):
    """The mean of numbers that are not bounded to [0, 1]; the interval is Student's, value ± t · s / sqrt(n)."""

    def __init__(self, values: np.ndarray) -> None:
        """`values`: float [units], at least one, finite."""
        self.values = np.asarray(values, dtype=np.float64)
        self.units = len(self.values)
        if self.values.ndim != 1 or not self.units or not np.isfinite(self.values).all():
            raise ValueError(f"a mean needs a finite number for each of at least one unit; got {self.values.shape}")

    @property
    def value(self) -> float:
        return float(self.values.mean())

    def interval(self, level: float = 0.95, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
        spread = float(self.values.std(ddof=1)) if self.units > 1 else 0.0
        return self._around(spread, self.units, level)

    def _around(self, spread: float, n: int, level: float) -> tuple[float, float]:
        from scipy.special import stdtrit  # here, for a plan needs none of scipy

        half = float(stdtrit(max(1, n - 1), 0.5 + level / 2)) * spread / np.sqrt(n)
        return self.value - half, self.value + half


class PairedDifference(RealMean):
    """The mean over units of one score less another, each in [0, 1]: what an attack or a watermark costs.

    The interval is cut at -1 and 1. Where all differences are equal, which shows no spread, one further unit is assumed that lies a
    whole score off, so that it does not vanish.
    """

    def __init__(self, first: np.ndarray, second: np.ndarray) -> None:
        """`first`, `second`: bool or float [units], at least one; the value is the mean of first - second."""
        super().__init__(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64))
        if np.abs(self.values).max() > 1:
            raise ValueError("a difference is of scores in [0, 1]")

    def interval(self, level: float = 0.95, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
        n = self.units
        spread = float(self.values.std(ddof=1)) if n > 1 else 0.0
        if spread == 0:
            spread, n = 1 / np.sqrt(n + 1), n + 1
        low, high = self._around(spread, n, level)
        return max(-1.0, low), min(1.0, high)


class UnpairedDifference(Statistic):
    """The share of hits in one group less that in another, of different things: ImageNet-9's pictures on two kinds of background.

    The interval joins Wilson's of both (Newcombe, Statistics in Medicine 17, 1998, method 10).
    """

    def __init__(self, first: np.ndarray, second: np.ndarray) -> None:
        """`first`, `second`: bool [n] and [m], at least one each."""
        self.parts = Proportion(first), Proportion(second)
        self.units = self.parts[0].units + self.parts[1].units

    @property
    def value(self) -> float:
        return self.parts[0].value - self.parts[1].value

    def interval(self, level: float = 0.95, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
        (low, high), (other_low, other_high) = (part.interval(level) for part in self.parts)
        first, second = (part.value for part in self.parts)
        down, up = np.hypot(first - low, other_high - second), np.hypot(high - first, second - other_low)
        return float(max(-1.0, self.value - down)), float(min(1.0, self.value + up))

    def resample(self, weights: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
        values = pick(np.concatenate([part.values for part in self.parts]), units)
        inside = pick(np.arange(self.units) < self.parts[0].units, units)
        weights = np.asarray(weights, dtype=np.float64)
        with np.errstate(invalid="ignore"):
            means = [weights[:, rows] @ values[rows] / weights[:, rows].sum(axis=1) for rows in (inside, ~inside)]
        return np.asarray(means[0] - means[1])

    def rows(self) -> np.ndarray:
        return np.column_stack(
            [np.concatenate([part.values for part in self.parts]), np.arange(self.units) < self.parts[0].units]
        )
