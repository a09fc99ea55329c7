"""Intervals of metrics that noise moves one way: a bootstrap, turned about the value."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from clipeval.tasks.statistics import CELLS, Statistic


class TurnedBootstrap(Statistic):
    """A metric with a bias that resampling repeats: its interval is 2 · value - percentiles (Davison and Hinkley, Bootstrap
    Methods, 1997, section 5.2), which takes that bias off once, so that the value may lie near an end of it."""

    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    """What the metric can be."""

    def interval(self, level: float = 0.95, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
        rng, found = np.random.default_rng(seed), []
        counts, units = self.draw_from()
        step = max(1, CELLS // len(counts))
        for start in range(0, draws, step):
            size = min(step, draws - start)
            found.append(self.resample(rng.multinomial(self.units, counts / self.units, size=size), units))
        low, high = np.quantile(np.concatenate(found), [0.5 - level / 2, 0.5 + level / 2])
        least, most = self.bounds
        return max(least, min(self.value, 2 * self.value - float(high))), min(
            most, max(self.value, 2 * self.value - float(low))
        )

    def draw_from(self) -> tuple[np.ndarray, np.ndarray | None]:
        """How many units there are of each kind, int64 [M], and one of each kind, int64 [M]; None: every unit is its own."""
        return np.ones(self.units, dtype=np.int64), None
