"""What 95% means: intervals around data drawn again and again hold the truth that often.

Two thousand draws give 95% to within 0.5 points (one standard error).
"""

import numpy as np
import pytest

from clipeval.tasks.average_precision import AveragePrecision
from clipeval.tasks.f1 import MacroF1
from clipeval.tasks.statistics import ClusterMean, GroupMean, Mean, MeanOf, Proportion, WorstGroup

DRAWS = 2000


def missed(draw, truth, draws=DRAWS, seed=1, worlds=60):
    """The shares of intervals that lie above the truth, and below it."""
    rng = np.random.default_rng(seed)
    ends = np.array([draw(rng).interval(draws=worlds) for _ in range(draws)])
    return np.mean(truth < ends[:, 0]), np.mean(truth > ends[:, 1])


def grouped(kind, rates, sizes):
    rates, sizes = np.asarray(rates), np.asarray(sizes)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    return lambda rng: kind(rng.random(len(groups)) < rates[groups], groups)


SKEWED = np.random.default_rng(0)
SIZES = SKEWED.geometric(0.15, 100)
RATES = SKEWED.beta(2, 1, 100)


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        pytest.param(lambda rng: Proportion(rng.random(500) < 0.7), 0.7, id="proportion"),
        pytest.param(lambda rng: Proportion(rng.random(200) < 0.97), 0.97, id="proportion near 1"),
        pytest.param(lambda rng: Mean(rng.choice([0, 1 / 3, 0.5, 1], 40, p=[0.2, 0.3, 0.3, 0.2])), 0.45, id="mean"),
        pytest.param(grouped(GroupMean, RATES, np.full(100, 10)), RATES.mean(), id="100 classes of 10"),
        pytest.param(grouped(GroupMean, RATES, SIZES), RATES.mean(), id="classes of one to many"),
        pytest.param(grouped(GroupMean, [0.95, 0.7], [100, 100]), 0.825, id="2 classes"),
        pytest.param(grouped(WorstGroup, [0.5, 0.8, 0.9, 0.8], [200] * 4), 0.5, id="one worst group"),
        pytest.param(grouped(WorstGroup, [0.6] * 5, [200] * 5), 0.6, id="five equal groups"),
        pytest.param(grouped(WorstGroup, [0.6] * 15, [200] * 15), 0.6, id="fifteen equal groups"),
    ],
)
def test_covers_as_it_says(draw, truth):
    above, below = missed(draw, truth)
    assert 0.93 <= 1 - above - below <= 0.97


@pytest.mark.parametrize(
    ("rates", "sizes"),
    [
        ([0.6, 0.62, 0.64, 0.66, 0.68], [300] * 5),
        ([0.6, 0.62, 0.64, 0.66, 0.5], [3000] * 4 + [12]),
        ([0.6, 0.62, 0.64, 0.66, 0.7], [3000] * 4 + [12]),
    ],
)
def test_worst_of_near_groups_is_never_claimed_too_narrowly(rates, sizes):
    """Where it is not clear which group is worst the interval errs to the safe side, on neither end beyond its share."""
    above, below = missed(grouped(WorstGroup, rates, sizes), min(rates), draws=1000)
    assert above < 0.035
    assert below < 0.035


def test_a_naive_bootstrap_of_the_worst_group_would_not_do():
    """Why `least` exists: percentiles of the resampled minimum miss the truth most of the time."""
    rng = np.random.default_rng(2)
    misses = 0
    for _ in range(300):
        hits = rng.binomial(200, 0.6, 15) / 200
        worlds = (rng.binomial(200, hits, (200, 15)) / 200).min(axis=1)
        misses += np.quantile(worlds, 0.975) < 0.6
    assert misses / 300 > 0.5


def captions(rng, n=300):
    """Five captions an image, images of differing ease."""
    ease = rng.beta(1.5, 1, n)
    hits = rng.random((n, 5)) < ease[:, None]
    return ClusterMean(hits.ravel(), np.repeat(np.arange(n), 5), n), rng.random(n) < ease


def test_clustered_recall():
    above, below = missed(lambda rng: captions(rng)[0], 0.6)
    assert 0.93 <= 1 - above - below <= 0.97


def test_both_directions_share_their_images():
    def draw(rng):
        image, text = captions(rng)
        return MeanOf([image, Proportion(text)])

    above, below = missed(draw, 0.6)
    assert 0.93 <= 1 - above - below <= 0.97


@pytest.mark.parametrize("sizes", [np.full(10, 50), np.tile([1, 2, 4, 10, 30, 100], 5)], ids=["even", "skewed"])
def test_macro_f1(sizes):
    rng = np.random.default_rng(0)
    n = len(sizes)
    chances = 0.4 * rng.dirichlet(np.full(n, 0.15), n) + 0.6 * np.eye(n)
    expected = sizes[:, None] * chances
    truth = np.mean(2 * np.diag(expected) / (expected.sum(0) + expected.sum(1)))
    labels, cumulative = np.repeat(np.arange(n), sizes), chances.cumsum(1)

    def draw(rng):
        answers = (rng.random(len(labels))[:, None] > cumulative[labels]).sum(1)
        return MacroF1(labels, np.minimum(answers, n - 1))

    above, below = missed(draw, truth, worlds=200)
    assert 0.93 <= 1 - above - below <= 0.97


def test_average_precision():
    prevalence, distance = np.full(8, 0.15), np.linspace(0.5, 2.5, 8)

    def draw(rng):
        truth = rng.random((400, 8)) < prevalence
        return AveragePrecision(rng.normal(size=(400, 8)) + truth * distance, truth)

    rng = np.random.default_rng(9)
    truth = np.mean([draw(rng).value for _ in range(4000)])
    above, below = missed(draw, truth)
    assert 0.93 <= 1 - above - below <= 0.97
