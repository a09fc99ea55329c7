"""Intervals hold what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clipeval.results.uncertainty import average_interval, chance_corrected, difference_interval, intervals
from clipeval.tasks.intervals import wilson
from clipeval.tasks.statistics import Count, Proportion


def test_the_average_of_symmetric_intervals_is_the_textbooks():
    errors = [0.01, 0.02, 0.03]
    low, high = average_interval(
        [0.5, 0.6, 0.7], [(v - e, v + e) for v, e in zip([0.5, 0.6, 0.7], errors, strict=True)]
    )
    half = math.sqrt(sum(e * e for e in errors)) / 3
    assert (low, high) == pytest.approx((0.6 - half, 0.6 + half))


def test_the_average_keeps_skew():
    low, high = average_interval([0.5, 0.9], [(0.4, 0.52), (0.8, 0.91)])
    assert 0.7 - low > high - 0.7


def test_an_average_of_nothing_or_of_the_unknown_has_no_interval():
    assert average_interval([], []) is None
    assert average_interval([0.5, 0.6], [(0.4, 0.6), None]) is None
    assert average_interval([0.5], [(0.4, 0.6)]) == pytest.approx((0.4, 0.6))


def test_the_averages_interval_covers_the_truth_19_times_of_20():
    """2,000 repeated draws of six tasks of unlike size and difficulty; Wilson's intervals combined."""
    rng = np.random.default_rng(0)
    truth, sizes = np.array([0.02, 0.3, 0.5, 0.71, 0.93, 0.99]), np.array([800, 200, 5000, 60, 300, 1000])
    hits = rng.binomial(sizes, truth, size=(2000, 6))
    covered = 0
    for row in hits:
        values = (row / sizes).tolist()
        low, high = average_interval(values, [wilson(v, int(n)) for v, n in zip(values, sizes, strict=True)])
        covered += low <= truth.mean() <= high
    assert 0.93 <= covered / 2000 <= 0.97


@pytest.mark.parametrize(("weight", "least"), [(0.0, 0.97), (0.8, 0.94), (1.0, 0.93)])
def test_tasks_on_the_same_images_never_claim_too_much(weight, least):
    """Three tasks on the same 400 images: 95% at least, whether what they find is unrelated (0) or the same (1)."""
    rng = np.random.default_rng(1)
    covered = naive = 0
    for _ in range(2000):
        common, own = rng.random(400), rng.random((3, 400))
        hits = np.where(rng.random((3, 400)) < weight, common, own) < 0.6
        values = hits.mean(axis=1).tolist()
        pairs = [wilson(v, 400) for v in values]
        low, high = average_interval(values, pairs, ["set"] * 3)
        covered += low <= 0.6 <= high
        low, high = average_interval(values, pairs)
        naive += low <= 0.6 <= high
    assert covered / 2000 >= least
    if weight == 1.0:
        assert naive / 2000 < 0.8


def test_the_difference_of_two_runs_covers_the_truth():
    rng = np.random.default_rng(1)
    a, b = rng.binomial(300, 0.9, 2000) / 300, rng.binomial(500, 0.8, 2000) / 500
    covered = 0
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        low, high = difference_interval(x, wilson(x, 300), y, wilson(y, 500))
        covered += low <= 0.1 <= high
    assert 0.93 <= covered / 2000 <= 0.97


@pytest.mark.parametrize(
    ("value", "chance", "corrected"),
    [(0.1, 0.1, 0.0), (1.0, 0.25, 1.0), (0.55, 0.1, 0.5), (0.0, 0.5, -1.0), (None, 0.1, None), (0.3, None, None)],
)
def test_chance_is_zero_and_perfect_is_one(value, chance, corrected):
    assert chance_corrected(value, chance) == (None if corrected is None else pytest.approx(corrected))


def test_every_metric_gets_an_interval():
    found = intervals({"acc1": Proportion(np.array([True, False, True])), "acc5": None, "count_x:0": Count(3)})
    assert found["acc5"] is None
    assert found["count_x:0"] == (3.0, 3.0)
    assert found["acc1"] == pytest.approx(wilson(2 / 3, 3))
