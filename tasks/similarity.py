"""Image similarity: are two images alike as people find them alike? Visual STS, whose images are rendered sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from clipeval.tasks import checks
from clipeval.tasks.base import Samples, Task
from clipeval.tasks.statistics import Statistic, pick

ROWS = 65_536


@dataclass(frozen=True)
class ImageSimilarity(Task):
    """cosine_spearman and cosine_pearson: the correlation of cosines with the scores that people gave, as MTEB's STS has them.

    An instance has two `images` and a `score`, a number. Equal cosines or scores share the mean of their ranks.

    Predictions, a row an instance: key, image and other (the images' keys), score, cosine.
    """

    protocol: ClassVar[str] = "image_similarity"

    def prompts(self, samples: Mapping[str, Samples]) -> list[str]:
        self.instances(samples["test"])
        return []

    def instances(self, test: Samples) -> Sequence[Mapping[str, Any]]:
        """The instances, each with two images and a score."""
        known = set(test.keys)
        instances = list(test.instances or ())
        if len(instances) < 2:
            raise ValueError(f"{self.key}: {len(instances)} pairs of images; a correlation needs two at least")
        for one in instances:
            if len(one.get("images") or ()) != 2 or not np.isfinite(one.get("score", np.nan)):
                raise ValueError(f"{self.key}: instance {one.get('id')!r}: two images and a score are needed")
            lost = [key for key in one["images"] if key not in known]
            if lost:
                raise ValueError(f"{self.key}: instance {one.get('id')!r}: image {lost[0]!r} is not among the images")
        return instances

    def predict(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> pd.DataFrame:
        test = samples["test"]
        checks.check_embeddings(images["test"], test.keys, self.key)
        instances = self.instances(test)
        place = {key: i for i, key in enumerate(test.keys)}
        rows = images["test"].float()
        pairs = torch.tensor([[place[key] for key in one["images"]] for one in instances], device=rows.device)
        cosines = [(rows[a] * rows[b]).sum(dim=1).cpu() for a, b in (part.T for part in torch.split(pairs, ROWS))]
        return pd.DataFrame(
            {
                "key": [str(one["id"]) for one in instances],
                "image": [str(one["images"][0]) for one in instances],
                "other": [str(one["images"][1]) for one in instances],
                "score": np.array([float(one["score"]) for one in instances]),
                "cosine": torch.cat(cosines).numpy().astype(np.float64),
            }
        )

    def statistics(self, predictions: pd.DataFrame) -> dict[str, Statistic | None]:
        checks.require_columns(predictions, ["score", "cosine"], self.key)
        columns = predictions["cosine"].to_numpy(), predictions["score"].to_numpy()
        if any(np.ptp(column) == 0 for column in columns):
            return {"cosine_spearman": None, "cosine_pearson": None}  # what does not vary has no correlation
        return {"cosine_spearman": Spearman(*columns), "cosine_pearson": Pearson(*columns)}


class Pearson(Statistic):
    """The correlation of two numbers of each unit; the interval is Fisher's (Biometrika 10, 1915, 507-521)."""

    def __init__(self, first: np.ndarray, second: np.ndarray) -> None:
        """`first`, `second`: float [units], at least two, neither constant."""
        self.first, self.second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
        self.units = len(self.first)
        if len(self.second) != self.units or self.units < 2:
            raise ValueError("a correlation needs two numbers of each of at least two units")

    @cached_property
    def value(self) -> float:
        return float(_correlation(np.ones((1, self.units)), self.first, self.second)[0])

    @property
    def _spread(self) -> float:
        """What the variance of atanh(value) is above 1 / (n - 3), as a factor."""
        return 1.0

    def interval(self, level: float = 0.95, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
        from scipy.special import ndtri  # here, for a plan needs none of scipy

        half = float(ndtri(0.5 + level / 2)) * np.sqrt(self._spread / (self.units - 3)) if self.units > 3 else np.inf
        centre = np.arctanh(min(max(self.value, -1 + 1e-15), 1 - 1e-15))
        low, high = float(np.tanh(centre - half)), float(np.tanh(centre + half))
        return min(low, self.value), max(high, self.value)

    def resample(self, weights: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
        weights = np.asarray(weights, dtype=np.float64)
        return _correlation(weights, pick(self.first, units), pick(self.second, units))

    def rows(self) -> np.ndarray:
        return np.column_stack([self.first, self.second])


class Spearman(Pearson):
    """The correlation of ranks; the interval is Fisher's with the variance of Bonett and Wright (Psychometrika 65, 2000, 23-28)."""

    @cached_property
    def value(self) -> float:
        from scipy.stats import rankdata  # here, for a plan needs none of scipy

        ranks = rankdata(self.first), rankdata(self.second)
        return float(_correlation(np.ones((1, self.units)), *ranks)[0])

    @property
    def _spread(self) -> float:
        return 1 + self.value**2 / 2

    def resample(self, weights: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
        weights = np.asarray(weights, dtype=np.float64)
        first, second = (_ranks(weights, pick(column, units)) for column in (self.first, self.second))
        return _correlation(weights, first, second)


def _ranks(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean ranks, float64 [B, M], of values float64 [M] that occur as often as weights [B, M] say."""
    place = np.unique(values, return_inverse=True)[1]
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    totals = np.add.reduceat(weights[:, order], starts, axis=1)
    return np.asarray((np.cumsum(totals, axis=1) - (totals - 1) / 2)[:, place])


def _correlation(weights: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float64 [B], of numbers float64 [M] or [B, M] that occur as often as weights [B, M] say; NaN where one is constant."""
    total = weights.sum(axis=1, keepdims=True)
    x, y = (v - (weights * v).sum(axis=1, keepdims=True) / total for v in (first, second))
    products = [(weights * a * b).sum(axis=1) for a, b in ((x, y), (x, x), (y, y))]
    scale = np.sqrt(products[1] * products[2])
    return np.asarray(np.divide(products[0], scale, out=np.full(len(scale), np.nan), where=scale > 0))
