"""Nearest neighbours: worked by hand, and against scikit-learn's classifier with the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from clipeval.tasks import LinearProbe, NearestNeighbours, Samples
from tests.tasks.fakes import unit


def table(labels: np.ndarray, classes: int, name: str) -> Samples:
    names = [str(i) for i in range(classes)]
    return Samples(keys=[f"{name}{i}" for i in range(len(labels))], labels=labels, classnames=names)


def task(**options: int) -> NearestNeighbours:
    return NearestNeighbours(key="own/knn", name="Own", metric="knn_acc1", **options)


def test_by_hand() -> None:
    """Of three neighbours two of class 1 outvote a nearer one of class 0 only if they are near enough."""
    train = torch.tensor([[1.0, 0.0], [0.995, 0.0999], [0.995, -0.0999], [0.0, 1.0]])
    labels = {"train": table(np.array([0, 1, 1, 0]), 2, "a"), "test": table(np.array([1, 0]), 2, "b")}
    images = {"train": train, "test": torch.tensor([[1.0, 0.0], [0.0, 1.0]])}
    assert 2 * np.exp(0.995 / 0.07) > np.exp(1 / 0.07)
    found = task(neighbours=3).score(images, torch.empty(0, 2), labels)
    assert found.predictions["prediction"].tolist() == [1, 0]
    assert found.metrics == {"knn_acc1": 1, "knn_mean_per_class_recall": 1}
    assert task(neighbours=1).score(images, torch.empty(0, 2), labels).metrics["knn_acc1"] == 0.5


def test_agrees_with_scikit_learn_and_with_the_probe() -> None:
    rng = np.random.default_rng(0)
    y = {"train": rng.integers(0, 5, 300), "test": rng.integers(0, 5, 120)}
    centres = unit(5, 8, 1)
    x = {k: torch.nn.functional.normalize(centres[v] + unit(len(v), 8, 2 + len(v)), dim=1) for k, v in y.items()}
    theirs = KNeighborsClassifier(20, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07))
    expected = theirs.fit(x["train"].numpy(), y["train"]).predict(x["test"].numpy())
    tables = {split: table(labels, 5, split) for split, labels in y.items()}
    found = task().score(x, torch.empty(0, 8), tables)
    assert found.predictions["prediction"].tolist() == expected.tolist()
    assert found.metrics["knn_acc1"] == pytest.approx((expected == y["test"]).mean(), abs=1e-6)
    probe = LinearProbe(key="own", name="Own", metric="knn_acc1", solver="lbfgs", strength=1.0)
    assert probe.score(x, torch.empty(0, 8), tables).metrics["knn_acc1"] == found.metrics["knn_acc1"]
    assert task().dry_run(tables) == list(found.metrics)


def test_two_splits_are_needed() -> None:
    with pytest.raises(ValueError, match="one to vote and one to score"):
        NearestNeighbours(key="own", name="Own", metric=None, splits=("test",))
