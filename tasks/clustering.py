"""Clustering: do images of one class lie together, whatever the class is called?"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import pandas as pd
import torch

from clipeval.tasks import checks
from clipeval.tasks.base import Samples, Task
from clipeval.tasks.bootstrap import TurnedBootstrap
from clipeval.tasks.seeds import Constant
from clipeval.tasks.statistics import Mean, Statistic, distinct, pick

BATCH = 500


@dataclass(frozen=True)
class Clustering(Task):
    """k-means with as many clusters as labels occur, against the labels: scikit-learn's MiniBatchKMeans as MIEB runs it.

    nmi and v_measure, which are equal (the mutual information over the mean of both entropies); ari, the adjusted Rand index;
    cluster_accuracy, the share that is right if each cluster is given one class (the Hungarian method). Of several seeds the means.
    Intervals are for these clusters, held fixed. The embeddings are of length 1; `RawClustering` is MIEB's.

    Predictions, a row for each seed and image: key, seed, label, cluster, then the metadata.
    """

    protocol: ClassVar[str] = "clustering"
    seeds: Sequence[int] = (42,)
    """A start of k-means each; 42 is MIEB's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "seeds", tuple(int(seed) for seed in self.seeds))
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"{self.key}: seeds must be one or several distinct numbers; got {list(self.seeds)}")

    def prompts(self, samples: Mapping[str, Samples]) -> list[str]:
        self._labels(samples["test"])
        return []

    def dry_run(self, samples: Mapping[str, Samples]) -> list[str]:
        label = self._labels(samples["test"])
        return list(self.statistics(self._table(samples["test"], label, [label] * len(self.seeds))))

    def predict(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> pd.DataFrame:
        test = samples["test"]
        checks.check_embeddings(images["test"], test.keys, self.key)
        label = self._labels(test)
        rows = images["test"].float().cpu().numpy()
        if not np.isfinite(rows).all():
            raise ValueError("an embedding is not finite; check the model's precision (fp16 overflows for some models)")
        return self._table(test, label, [k_means(rows, len(np.unique(label)), seed) for seed in self.seeds])

    def _labels(self, test: Samples) -> np.ndarray:
        return checks.labels(test.labels, len(test.keys), len(test.classnames), test.keys, self.key)

    def _table(self, test: Samples, label: np.ndarray, clusters: Sequence[np.ndarray]) -> pd.DataFrame:
        columns = {"key": np.asarray(test.keys, dtype=object)}
        tables = [
            {**columns, "seed": np.full(len(label), seed), "label": label, "cluster": found}
            for seed, found in zip(self.seeds, clusters, strict=True)
        ]
        return pd.concat(
            [checks.with_metadata(table, test.metadata, len(label), self.key) for table in tables], ignore_index=True
        )

    def statistics(self, predictions: pd.DataFrame) -> dict[str, Statistic | None]:
        checks.require_columns(predictions, ["seed", "label", "cluster"], self.key)
        parts = [part for _, part in predictions.groupby("seed", sort=False)]
        label = parts[0]["label"].to_numpy()
        clusters = [part["cluster"].to_numpy() for part in parts]
        information = Information(label, clusters)
        return {
            "nmi": information,
            "v_measure": information,
            "ari": Rand(label, clusters),
            "cluster_accuracy": Mean(np.mean([assigned(label, one) for one in clusters], axis=0)),
            "seeds": Constant(len(parts)),
        }


@dataclass(frozen=True)
class RawClustering(Clustering):
    """The same of embeddings as long as the model makes them, which is what MIEB clusters: MTEB's wrappers of CLIP models
    (mteb/models/model_implementations/clip_models.py, openclip_models.py, siglip_models.py) do not normalise what they return.
    """

    protocol: ClassVar[str] = "raw_clustering"
    output: ClassVar[str] = "raw"


def k_means(rows: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """The cluster of each embedding, int64 [N]; `rows`: float32 [N, D]."""
    from sklearn.cluster import MiniBatchKMeans

    found = MiniBatchKMeans(n_clusters=clusters, batch_size=BATCH, n_init="auto", random_state=seed).fit(rows)
    return np.asarray(found.labels_, dtype=np.int64)


class Agreement(TurnedBootstrap):
    """How well clusters fit labels: a function of how many samples each has of each class; of several clusterings the mean."""

    def __init__(self, label: np.ndarray, clusters: Sequence[np.ndarray]) -> None:
        """`label`: int64 [units], at least one; `clusters`: int64 [units] for each clustering."""
        self.label = np.unique(label, return_inverse=True)[1]
        self.clusters = [np.unique(one, return_inverse=True)[1] for one in clusters]
        self.units = len(self.label)
        if not self.units or any(len(one) != self.units for one in self.clusters):
            raise ValueError("clusters and labels of the same samples are needed, at least one")

    @staticmethod
    @abstractmethod
    def of(cells: np.ndarray, clusters: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """The metric, float64 [B], of sample counts, float64 [B, …]: of each class in each cluster, each cluster, each class."""

    @cached_property
    def value(self) -> float:
        counts, units = self.draw_from()
        return float(self.resample(counts[None], units)[0])

    def draw_from(self) -> tuple[np.ndarray, np.ndarray | None]:
        first, counts = distinct(self.rows())
        return counts, first

    def resample(self, weights: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
        weights, label = np.asarray(weights, dtype=np.float64), pick(self.label, units)
        found = []
        for every in self.clusters:
            cluster = pick(every, units)
            cells = np.unique(cluster * (int(label.max()) + 1) + label, return_inverse=True)[1]
            found.append(self.of(*(_totals(weights, index) for index in (cells, cluster, label))))
        return np.asarray(np.mean(found, axis=0))

    def rows(self) -> np.ndarray:
        return np.column_stack([self.label, *self.clusters])


class Information(Agreement):
    """The mutual information of clusters and classes over the mean of their entropies; 1 where there is one of each."""

    @staticmethod
    def of(cells: np.ndarray, clusters: np.ndarray, classes: np.ndarray) -> np.ndarray:
        both, rows, columns = (_entropy(part) for part in (cells, clusters, classes))
        mean = (rows + columns) / 2
        information = np.maximum(0.0, rows + columns - both)
        return np.asarray(np.where(mean == 0, 1.0, information / np.where(mean == 0, 1.0, mean)))


class Rand(Agreement):
    """The adjusted Rand index (Hubert and Arabie, Journal of Classification 2, 1985, 193-218)."""

    bounds = (-1.0, 1.0)

    @staticmethod
    def of(cells: np.ndarray, clusters: np.ndarray, classes: np.ndarray) -> np.ndarray:
        n = cells.sum(axis=1)
        both, same, known = ((part**2).sum(axis=1) - n for part in (cells, clusters, classes))
        expected = same * known / np.maximum(n * (n - 1), 1.0)
        span = (same + known) / 2 - expected
        return np.asarray(np.where(span == 0, 1.0, (both - expected) / np.where(span == 0, 1.0, span)))


def assigned(label: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """bool [N]: whether a sample's cluster was given its class, each class going to one cluster, as well as that can be done.

    Args:
        label, cluster: int64 [N].
    """
    from scipy.optimize import linear_sum_assignment  # here, for a plan needs none of scipy

    classes, label = np.unique(label, return_inverse=True)
    clusters, cluster = np.unique(cluster, return_inverse=True)
    table = np.bincount(cluster * len(classes) + label, minlength=len(clusters) * len(classes))
    given = np.full(len(clusters), -1)
    rows, columns = linear_sum_assignment(table.reshape(len(clusters), len(classes)), maximize=True)
    given[rows] = columns
    return np.asarray(given[cluster] == label)


def _totals(weights: np.ndarray, index: np.ndarray) -> np.ndarray:
    """float64 [B, largest index + 1]: the sums of weights [B, M] by an index int64 [M]."""
    from scipy import sparse

    return np.asarray(weights @ sparse.csr_array((np.ones(len(index)), (np.arange(len(index)), index))))


def _entropy(counts: np.ndarray) -> np.ndarray:
    shares = counts / counts.sum(axis=1, keepdims=True)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return np.asarray(-(shares * logs).sum(axis=1))
