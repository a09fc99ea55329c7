"""Clustering: worked by hand, and against scikit-learn's own functions and the steps of MTEB's evaluator."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import cluster, metrics

from clipeval.tasks import Clustering, Samples
from clipeval.tasks.clustering import Information, Rand, assigned
from tests.tasks.fakes import unit


def task(**options: Any) -> Clustering:
    return Clustering(key="own/clustering", name="Own", metric="nmi", **options)


def table(label: list[int], found: list[int]) -> pd.DataFrame:
    return pd.DataFrame({"key": list(map(str, label)), "seed": 42, "label": label, "cluster": found})


def samples(label: np.ndarray) -> Samples:
    return Samples(keys=[str(i) for i in range(len(label))], labels=label, classnames=[str(i) for i in set(label)])


def test_by_hand() -> None:
    """Classes a a b b, clusters 0 0 0 1: H(class) = ln 2, H(cluster) = ln 4 - 3/4 ln 3, H(both) = 3/2 ln 2."""
    found = {name: s.value for name, s in task().statistics(table([0, 0, 1, 1], [0, 0, 0, 1])).items() if s}
    classes, clusters, both = np.log(2), np.log(4) - 0.75 * np.log(3), 1.5 * np.log(2)
    assert found["nmi"] == pytest.approx((classes + clusters - both) / ((classes + clusters) / 2), abs=1e-12)
    assert found["v_measure"] == found["nmi"]
    # Of six pairs three share a cluster and two a class; one shares both, as chance alone has it: 3 * 2 / 6.
    assert found["ari"] == pytest.approx(0, abs=1e-12)
    assert found["cluster_accuracy"] == 0.75
    assert found["seeds"] == 1


@pytest.mark.parametrize("seed", range(5))
def test_metrics_agree_with_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 7, 300)
    found = np.where(rng.random(300) < 0.4, label, rng.integers(0, 5 + seed, 300)) * 3 + 2
    ours = {name: s.value for name, s in task().statistics(table(label, found)).items() if s}
    assert ours["nmi"] == pytest.approx(metrics.normalized_mutual_info_score(label, found), abs=1e-6)
    assert ours["v_measure"] == pytest.approx(metrics.v_measure_score(label, found), abs=1e-6)
    assert ours["ari"] == pytest.approx(metrics.adjusted_rand_score(label, found), abs=1e-6)


def test_one_of_each_is_perfect() -> None:
    for kind in (Information, Rand):
        assert kind(np.zeros(3, dtype=np.int64), [np.zeros(3, dtype=np.int64)]).value == 1
    assert assigned(np.array([4, 4, 9]), np.array([1, 1, 1])).tolist() == [True, True, False]


def test_as_mteb_clusters() -> None:
    """Its ClusteringEvaluator and _compute_metrics (mteb 2.26.24), step by step, on the same embeddings."""
    label = np.repeat(np.arange(6), 40)
    rows = torch.nn.functional.normalize(unit(6, 16, 3)[label] + 1.5 * unit(240, 16, 4), dim=-1)
    fitted = cluster.MiniBatchKMeans(
        n_clusters=len(set(label.tolist())), batch_size=500, n_init="auto", compute_labels=True, random_state=42
    )
    theirs = fitted.fit(rows.numpy()).labels_.tolist()
    found = task().score({"test": rows}, torch.empty(0, 16), {"test": samples(label)})
    assert found.predictions["cluster"].tolist() == theirs
    ours = found.metrics
    assert 0.1 < ours["nmi"] < 0.99
    assert ours["nmi"] == pytest.approx(metrics.normalized_mutual_info_score(label, theirs), abs=1e-6)
    assert ours["ari"] == pytest.approx(metrics.adjusted_rand_score(label, theirs), abs=1e-6)
    matrix = metrics.confusion_matrix(label, theirs)
    best = max(sum(matrix[i, j] for i, j in enumerate(order)) for order in itertools.permutations(range(6)))
    assert ours["cluster_accuracy"] == pytest.approx(best / 240, abs=1e-12)
    several = task(seeds=[42, 7]).score({"test": rows}, torch.empty(0, 16), {"test": samples(label)})
    parts = [part for _, part in several.predictions.groupby("seed", sort=False)]
    alone = [metrics.normalized_mutual_info_score(part["label"], part["cluster"]) for part in parts]
    assert several.metrics["nmi"] == pytest.approx(np.mean(alone), abs=1e-6)
    assert several.metrics["seeds"] == 2


def test_intervals_hold_the_value_and_shrink() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for n in (200, 3200):
        label = rng.integers(0, 5, n)
        found = np.where(rng.random(n) < 0.6, label, rng.integers(0, 5, n))
        for statistic in task().statistics(table(label, found)).values():
            low, high = statistic.interval()
            assert low <= statistic.value <= high
        low, high = Information(label, [found]).interval()
        widths.append(high - low)
        first = np.arange(n)
        drawn = rng.multinomial(n, np.full(n, 1 / n), size=2)
        again = Information(label, [found]).resample(drawn, first)
        exact = [metrics.normalized_mutual_info_score(label.repeat(row), found.repeat(row)) for row in drawn]
        assert again == pytest.approx(exact, abs=1e-9)
    assert widths[0] > 2 * widths[1]


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="seeds must be one or several distinct"):
        task(seeds=[])
    with pytest.raises(ValueError, match="no labels"):
        task().prompts({"test": Samples(keys=["a"], classnames=["x"])})
    with pytest.raises(ValueError, match="not finite"):
        rows = torch.full((2, 3), torch.nan)
        task().score({"test": rows}, torch.empty(0, 3), {"test": samples(np.array([0, 1]))})
