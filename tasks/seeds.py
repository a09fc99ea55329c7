"""Metrics of something that was trained several times: the mean over seeds, and how sure it is of both images and seeds."""

from __future__ import annotations

import numpy as np
from scipy.special import stdtrit

from clipeval.tasks.statistics import MeanOf, Statistic


class SeedMean(MeanOf):
    """The mean of one statistic over seeds, all on the same units.

    Its variance is that over units, plus that over seeds (two random effects, crossed): s^2 / S, widened as Student's t is for
    S - 1 degrees of freedom. With one seed it says nothing of seeds.
    """

    @property
    def variance(self) -> float:
        values = np.array([part.value for part in self.parts])
        if len(values) == 1:
            return super().variance
        widening = stdtrit(len(values) - 1, 0.975) / stdtrit(np.inf, 0.975)
        return super().variance + float(values.var(ddof=1)) / len(values) * float(widening) ** 2


class Constant(Statistic):
    """A number that is known, not estimated, such as a weight decay."""

    units = 1

    def __init__(self, value: float) -> None:
        self._value = float(value)

    @property
    def value(self) -> float:
        return self._value

    def interval(self, level: float = 0.95, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
        return self.value, self.value

    def resample(self, weights: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
        return np.full(len(weights), self.value)
