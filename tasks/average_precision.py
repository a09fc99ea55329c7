"""Mean average precision, and its uncertainty."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from clipeval.tasks.statistics import AsymptoticallyLinear


class AveragePrecision(AsymptoticallyLinear):
    """For each class, samples by falling score, the mean of the precision at each positive; the mean over classes.

    As clip_benchmark's `average_precision_per_class` (after torchnet's meter); a class without a positive counts 0 there.
    Equal scores stay in the order in which torch.sort leaves them, as there; with `stable` in that of the samples.

    Average precision is higher in small sets than in large ones, since each positive counts towards the precision at itself;
    the interval is for the value expected of other sets of this size.
    """

    def __init__(self, scores: np.ndarray, labels: np.ndarray, stable: bool = False) -> None:
        """`scores`: float32 [units, C]; `labels`: [units, C] of 0 and 1."""
        self.stable = stable
        self.scores = np.asarray(scores, dtype=np.float32)
        self.labels = np.asarray(labels).astype(bool)
        if self.scores.ndim != 2 or self.scores.shape != self.labels.shape or not self.scores.size:
            raise ValueError(
                f"average precision needs scores and labels of one shape [N, C]; got {self.scores.shape} and "
                f"{self.labels.shape}"
            )
        self.units = len(self.scores)

    @cached_property
    def order(self) -> np.ndarray:
        """int64 [C, units]: each class's samples by falling score."""
        columns = torch.tensor(self.scores)
        return torch.stack(
            [torch.sort(column, dim=0, descending=True, stable=self.stable)[1] for column in columns.unbind(dim=1)]
        ).numpy()

    @cached_property
    def per_class(self) -> np.ndarray:
        """float64 [C]: the average precision of each."""
        return np.asarray(self.classwise(np.ones((1, self.units), dtype=np.int32))[0])

    @cached_property
    def value(self) -> float:
        return float(self.per_class.mean())

    def classwise(self, weights: np.ndarray) -> np.ndarray:
        """float64 [B, C] for int32 weights [B, units].

        A sample that occurs w times, behind r of which t are positive, contributes sum over j = 1..w of (t + j) / (r + j)
        if positive: w - (r - t) (H(r + w) - H(r)), H being the harmonic numbers.
        """
        harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, weights.sum(axis=1).max() + 1))])
        precisions = np.zeros((len(weights), self.scores.shape[1]))
        for c, order in enumerate(self.order):
            ranked = weights[:, order]
            end = np.cumsum(ranked, axis=1, dtype=np.int32)
            places = np.flatnonzero(self.labels[order, c])
            w, r = ranked[:, places], end[:, places] - ranked[:, places]
            t = np.cumsum(w, axis=1, dtype=np.int32) - w
            total = (w - (r - t) * (harmonic[r + w] - harmonic[r])).sum(axis=1)
            precisions[:, c] = total / np.maximum(w.sum(axis=1), 1)
        return precisions

    def resample(self, weights: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
        whole = np.asarray(weights).astype(np.int32)
        if units is not None:
            full = np.zeros((len(whole), self.units), dtype=np.int32)
            np.add.at(full.T, units, whole.T)
            whole = full
        # Few at a time: small enough for a processor's cache, this is several times faster.
        return np.concatenate([self.classwise(whole[i : i + 16]).mean(axis=1) for i in range(0, len(whole), 16)])

    def influence(self) -> np.ndarray:
        """The derivative of the value to each sample's weight, the samples of a class sorted by falling score:

        with T positives among the first R, weight j moves its class's value by 1 / P times y_j (T_j / R_j - value) + sum over
        the positives i at or after j of (y_j / R_i - T_i / R_i^2). The infinitesimal jackknife (Efron, The Jackknife, the
        Bootstrap and Other Resampling Plans, 1982, chapter 6); a bootstrap's variance, without its cost.
        """
        ranks = np.arange(1, self.units + 1, dtype=np.float64)
        values = np.zeros(self.units)
        for c, order in enumerate(self.order):
            truth = self.labels[order, c].astype(np.float64)
            positives = truth.sum()
            if positives == 0:
                continue
            before = np.cumsum(truth)
            gain = np.cumsum((truth / ranks)[::-1])[::-1]
            loss = np.cumsum((truth * before / ranks**2)[::-1])[::-1]
            values[order] += (truth * (before / ranks - self.per_class[c] + gain) - loss) / positives
        return values / len(self.order)
