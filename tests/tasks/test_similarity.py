"""Image similarity: worked by hand, and against scipy's functions, which MTEB's STS calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics.pairwise import paired_cosine_distances

from clipeval.tasks import ImageSimilarity, Samples
from clipeval.tasks.similarity import Spearman
from tests.tasks.fakes import unit


def scored(images: torch.Tensor, scores: np.ndarray) -> Any:
    """The first half of the images against the second."""
    keys = [f"i{i}" for i in range(len(images))]
    half = len(images) // 2
    instances = [{"id": i, "images": [keys[i], keys[half + i]], "score": s} for i, s in enumerate(scores)]
    task = ImageSimilarity(key="own/sts", name="Own", metric="cosine_spearman")
    return task.score({"test": images}, torch.empty(0, 2), {"test": Samples(keys=keys, instances=instances)})


def test_by_hand() -> None:
    """Cosines 1, 0.6, 0 and scores 5, 1, 2: ranks 3 2 1 and 3 1 2, so 1 - 6 · 2 / (3 · 8) = 0.5."""
    images = torch.tensor([[1.0, 0.0]] * 3 + [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    found = scored(images, np.array([5.0, 1.0, 2.0]))
    assert found.metrics["cosine_spearman"] == pytest.approx(0.5)
    assert found.predictions["cosine"].tolist() == pytest.approx([1, 0.6, 0])
    assert set(found.metrics) == {"cosine_spearman", "cosine_pearson"}


def test_as_mteb_has_it() -> None:
    """AnySTSEvaluator and _calculate_scores of mteb 2.26.24, with scores of which many are equal."""
    images = unit(400, 5)
    gold = np.random.default_rng(0).integers(0, 11, 200) / 2
    cosines = 1 - paired_cosine_distances(images[:200].numpy(), images[200:].numpy())
    found = scored(images, gold)
    assert found.metrics["cosine_spearman"] == pytest.approx(spearmanr(gold, cosines)[0], abs=1e-6)
    assert found.metrics["cosine_pearson"] == pytest.approx(pearsonr(gold, cosines)[0], abs=1e-6)
    low, high = found.statistics["cosine_pearson"].interval()
    fisher = pearsonr(gold, cosines).confidence_interval()
    assert (low, high) == pytest.approx((fisher.low, fisher.high), abs=1e-6)


def test_resampling_is_that_of_the_units() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.integers(0, 6, 80).astype(float), rng.normal(size=80)
    weights = rng.multinomial(80, np.full(80, 1 / 80), size=3)
    expected = [spearmanr(first.repeat(row), second.repeat(row))[0] for row in weights]
    assert Spearman(first, second).resample(weights) == pytest.approx(expected, abs=1e-9)


def test_intervals_cover() -> None:
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(400):
        pair = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=60)
        low, high = Spearman(*pair.T).interval()
        covered.append(low <= 6 / np.pi * np.arcsin(0.3) <= high)
    assert 0.92 <= np.mean(covered) <= 0.98


def test_what_does_not_vary_has_no_correlation_and_bad_input_is_refused() -> None:
    assert scored(unit(6, 3), np.ones(3)).metrics == {"cosine_spearman": None, "cosine_pearson": None}
    with pytest.raises(ValueError, match="two images and a score are needed"):
        scored(unit(6, 3), np.array([1.0, np.nan, 2.0]))
