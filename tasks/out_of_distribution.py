"""Out-of-distribution detection: can images of other sets be told by how sure the zero-shot classifier is?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import pandas as pd
import torch

from clipeval.tasks import checks
from clipeval.tasks.average_precision import AveragePrecision
from clipeval.tasks.base import Samples, Task
from clipeval.tasks.classification import ROWS, class_logits, in_float64
from clipeval.tasks.statistics import CELLS, AsymptoticallyLinear, Statistic, pick
from clipeval.tasks.zero_shot import classifier_weights, head_texts

OUTSIDE = "outside"
"""The split of the images that are of no class."""


@dataclass(frozen=True)
class OutOfDistribution(Task):
    """Maximum concept matching (Ming et al., NeurIPS 2022): an image's score is its largest class probability.

    Inside are the images of the split `test`, whose classes are asked about; outside those of the split `outside`.
    auroc; aupr_in and aupr_out, the average precision of finding what is inside, and what is outside (by falling and by rising
    score; where scores are equal the wrong ones come first); fpr95, the share outside that passes where as near to 95% of the
    inside as can be passes (the rule of Hendrycks' and MCM's code).

    Predictions, a row an image, those outside first: key, split, inside, prediction (the top class), score.
    """

    protocol: ClassVar[str] = "out_of_distribution"
    one_head: ClassVar[bool] = True
    temperature: float = 1.0
    """Of the softmax over cosines."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise ValueError(f"{self.key}: temperature is above 0; got {self.temperature}")

    def prompts(self, samples: Mapping[str, Samples]) -> list[str]:
        if OUTSIDE not in samples:
            raise ValueError(
                f"{self.key}: there is no set outside; name it as in task=ood ood.inside=… ood.outside=[…]"
            )
        return head_texts(samples["test"])

    def predict(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> pd.DataFrame:
        head = classifier_weights(texts, samples["test"])
        tables = []
        for split, inside in ((OUTSIDE, False), ("test", True)):
            keys = samples[split].keys
            checks.check_embeddings(images[split], keys, self.key)
            best, score = [], []
            for logits in class_logits(images[split], head, max(1, min(ROWS, CELLS // len(head)))):
                shares = (in_float64(logits) / (100 * self.temperature)).softmax(dim=1)
                top = shares.max(dim=1)
                best.append(top.indices.cpu())
                score.append(top.values.cpu())
            table = {"key": np.asarray(keys, dtype=object), "split": split, "inside": inside}
            tables.append(
                pd.DataFrame({**table, "prediction": torch.cat(best).numpy(), "score": torch.cat(score).numpy()})
            )
        return pd.concat(tables, ignore_index=True)

    def statistics(self, predictions: pd.DataFrame) -> dict[str, Statistic | None]:
        from scipy.stats import rankdata  # here, for a plan needs none of scipy

        checks.require_columns(predictions, ["inside", "score"], self.key)
        inside, score = predictions["inside"].to_numpy(dtype=bool), predictions["score"].to_numpy(dtype=np.float64)
        if inside.all() or not inside.any():
            raise ValueError(f"{self.key}: images inside and outside are needed")
        order = np.argsort(inside, kind="stable")  # what is outside first
        inside, score = inside[order], score[order]
        # Ranks, for single precision would make scores equal that are not.
        rank = rankdata(score, method="dense").astype(np.float32)[:, None]
        return {
            "auroc": RankAgreement(score, inside),
            "aupr_in": AveragePrecision(rank, inside[:, None], stable=True),
            "aupr_out": AveragePrecision(-rank[::-1], ~inside[::-1, None], stable=True),
            "fpr95": FalsePositives(score, inside, 0.95),
        }


class RankAgreement(AsymptoticallyLinear):
    """AUROC: how often a positive scores higher than a negative; equal scores count one half.

    The variance is DeLong's (Biometrics 44, 1988, 837-845).
    """

    def __init__(self, score: np.ndarray, positive: np.ndarray) -> None:
        """`score`: float [units]; `positive`: bool [units], some true and some false."""
        self.score, self.positive = score, positive
        self.units = len(score)

    @cached_property
    def shares(self) -> np.ndarray:
        """float64 [units]: of a positive the share of negatives below it, of a negative the share of positives above it."""
        from scipy.stats import rankdata

        everyone, found = rankdata(self.score), np.empty(self.units)
        for kind in (True, False):
            mine = self.positive == kind
            below = (everyone[mine] - rankdata(self.score[mine])) / np.count_nonzero(~mine)
            found[mine] = below if kind else 1 - below
        return found

    @cached_property
    def value(self) -> float:
        return float(self.shares[self.positive].mean())

    @property
    def trials(self) -> float:
        return float(min(np.count_nonzero(self.positive), np.count_nonzero(~self.positive)))

    def influence(self) -> np.ndarray:
        count = np.where(self.positive, np.count_nonzero(self.positive), np.count_nonzero(~self.positive))
        return np.asarray((self.shares - self.value) / count)

    def resample(self, weights: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
        score, positive = pick(self.score, units), pick(self.positive, units)
        place = np.unique(score, return_inverse=True)[1]
        order = np.argsort(place, kind="stable")
        starts = np.flatnonzero(np.diff(place[order], prepend=-1))
        weights = np.asarray(weights, dtype=np.float64)[:, order]
        hit = np.add.reduceat(weights * positive[order], starts, axis=1)
        miss = np.add.reduceat(weights * ~positive[order], starts, axis=1)
        below = np.cumsum(miss, axis=1) - miss / 2
        totals = hit.sum(axis=1) * miss.sum(axis=1)
        share = np.divide((hit * below).sum(axis=1), totals, out=np.full(len(totals), np.nan), where=totals > 0)
        return np.asarray(share)


class FalsePositives(AsymptoticallyLinear):
    """The share of negatives that pass a threshold which lets a share of the positives pass.

    The variance is that of two independent proportions, the second through the density of negatives at the threshold (Linnet,
    Statistics in Medicine 6, 1987, 147-158), which is read off where the positives' share moves by its own standard error.
    """

    def __init__(self, score: np.ndarray, positive: np.ndarray, level: float) -> None:
        """`score`: float [units]; `positive`: bool [units], some true and some false; `level`: the share let through."""
        self.score, self.positive, self.level = score, positive, level
        self.units = len(score)
        self._inside = np.sort(score[positive])
        self._outside = np.sort(score[~positive])

    def at(self, level: float) -> float:
        """The share of negatives let through with a share of the positives."""
        thresholds, n, m = np.unique(self._inside), len(self._inside), len(self._outside)
        place = int(np.argmin(np.abs((n - np.searchsorted(self._inside, thresholds)) / n - level)))
        # Of all thresholds that let these positives through the least, just above the next positive, as the reference's code.
        least = (
            np.searchsorted(self._outside, thresholds[place - 1], side="right")
            if place
            else np.searchsorted(self._outside, thresholds[0])
        )
        return float(m - least) / m

    @cached_property
    def value(self) -> float:
        return self.at(self.level)

    @property
    def trials(self) -> float:
        return float(len(self._outside))

    @property
    def variance(self) -> float:
        error = np.sqrt(self.level * (1 - self.level) / len(self._inside))
        moved = (self.at(min(1.0, self.level + error)) - self.at(self.level - error)) / 2
        return self.value * (1 - self.value) / len(self._outside) + float(moved) ** 2

    def influence(self) -> np.ndarray:
        return np.full(self.units, np.sqrt(self.variance / self.units))

    def resample(self, weights: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
        score, positive = pick(self.score, units), pick(self.positive, units)
        found = []
        for row in np.asarray(weights, dtype=np.int64):
            drawn = np.repeat(np.arange(len(score)), row)
            several = positive[drawn]
            is_whole = several.any() and not several.all()
            found.append(FalsePositives(score[drawn], several, self.level).value if is_whole else np.nan)
        return np.array(found)
