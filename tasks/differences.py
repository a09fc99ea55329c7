"""The difference of two scores of the same things: what an attack, a watermark or another background costs."""

from __future__ import annotations

import numpy as np
from scipy.special import stdtrit

from clipeval.tasks.statistics import Statistic, pick


class PairedDifference(Statistic):
    """The mean over units of one score less another, each in [0, 1].

    The interval is Student's for paired samples, value ± t · s / sqrt(n), cut at -1 and 1. Where all differences are equal, which
    shows no spread, one further unit is assumed that lies a whole score off, so that it does not vanish.
    """

    def __init__(self, first: np.ndarray, second: np.ndarray) -> None:
        """`first`, `second`: bool or float [units], at least one; the value is the mean of first - second."""
        self.differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
        self.units = len(self.differences)
        if not self.units or self.differences.ndim != 1 or np.abs(self.differences).max() > 1:
            raise ValueError(f"a difference needs two scores in [0, 1] for each of at least one unit; got {self.units}")

    @property
    def value(self) -> float:
        return float(self.differences.mean())

    def interval(self, level: float = 0.95, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
        n = self.units
        spread = float(self.differences.std(ddof=1)) if n > 1 else 0.0
        if spread == 0:
            spread, n = 1 / np.sqrt(n + 1), n + 1
        half = float(stdtrit(max(1, n - 1), 0.5 + level / 2)) * spread / np.sqrt(n)
        return max(-1.0, self.value - half), min(1.0, self.value + half)

    def resample(self, weights: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
        weights = np.asarray(weights, dtype=np.float64)
        return np.asarray(weights @ pick(self.differences, units) / weights.sum(axis=1))

    def per_unit_scores(self) -> np.ndarray:
        return self.differences.copy()

    def rows(self) -> np.ndarray:
        return self.differences[:, None]
