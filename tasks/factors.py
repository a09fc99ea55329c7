"""ImageNet-X: how much likelier a mistake is where an image differs from its class's prototypes in one way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from clipeval.tasks import checks
from clipeval.tasks.relabelled import Relabelled
from clipeval.tasks.statistics import CELLS, Proportion, Statistic, pick


@dataclass(frozen=True)
class Factors(Relabelled):
    """For each factor acc1_FACTOR and error_ratio_FACTOR, (1 - acc1_FACTOR) / (1 - acc1) (Idrissi et al. 2022, imagenet_x).

    acc1 is over the images that are annotated; worst_factor is the least acc1_FACTOR. A factor of no image, or a model without
    mistakes, has no ratio.

    Predictions: those of `Classification`, and each factor as a column of 0, 1, or null where an image is not annotated.
    """

    protocol: ClassVar[str] = "factors"
    factors: Sequence[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "factors", tuple(self.factors))
        if not self.factors:
            raise ValueError(f"{self.key}: factors names the columns of the annotations that are looked at")

    def statistics(self, predictions: pd.DataFrame) -> dict[str, Statistic | None]:
        checks.require_columns(predictions, ["label", "pred_1", *self.factors], self.key)
        seen = predictions[list(self.factors)].notna().all(axis=1).to_numpy()
        if not seen.any():
            raise ValueError(f"{self.key}: none of the {len(predictions)} images is annotated")
        hits = (predictions["pred_1"] == predictions["label"]).to_numpy()[seen]
        found: dict[str, Statistic | None] = {"acc1": Proportion(hits)}
        least: Proportion | None = None
        for factor in self.factors:
            inside = predictions[factor].to_numpy(dtype=np.float64)[seen] == 1
            share = Proportion(hits[inside]) if inside.any() else None
            found[f"acc1_{factor}"] = share
            found[f"error_ratio_{factor}"] = ErrorRatio(~hits, inside) if inside.any() and not hits.all() else None
            if share is not None and (least is None or share.value < least.value):
                least = share
        return {**found, "worst_factor": least}


class ErrorRatio(Statistic):
    """The error rate of some units over that of all.

    The interval is of the ratio's logarithm, with the linearised variance of a ratio of two correlated means, and half an error is
    added to the units where none is made, so that it does not vanish.
    """

    def __init__(self, wrong: np.ndarray, inside: np.ndarray) -> None:
        """`wrong`, `inside`: bool [units]; some are wrong, and some are inside."""
        self.wrong, self.inside = np.asarray(wrong, dtype=np.float64), np.asarray(inside, dtype=np.float64)
        self.units = len(self.wrong)
        if not self.wrong.sum() or not self.inside.sum():
            raise ValueError("an error ratio needs an error, and a unit that it is looked at")

    @property
    def value(self) -> float:
        return float((self.wrong @ self.inside / self.inside.sum()) / self.wrong.mean())

    def interval(self, level: float = 0.95, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
        from scipy.special import ndtri

        count, overall = self.inside.sum(), self.wrong.mean()
        rate = max(self.wrong @ self.inside, 0.5) / count
        influence = self.inside * (self.wrong - rate) / (rate * count) - (self.wrong - overall) / (overall * self.units)
        half = float(ndtri(0.5 + level / 2)) * float(np.sqrt(np.square(influence).sum()))
        centre = rate / overall
        return min(self.value, centre * float(np.exp(-half))), max(self.value, centre * float(np.exp(half)))

    def resample(self, weights: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
        wrong, inside = pick(self.wrong, units), pick(self.inside, units)
        found = []
        for part in np.array_split(np.asarray(weights, dtype=np.float64), max(1, weights.size // CELLS)):
            with np.errstate(divide="ignore", invalid="ignore"):
                found.append((part @ (wrong * inside) / (part @ inside)) / (part @ wrong / part.sum(axis=1)))
        return np.concatenate(found)

    def rows(self) -> np.ndarray:
        return np.column_stack([self.wrong, self.inside])
