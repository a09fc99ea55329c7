"""Values by hand and against sklearn; resampling against the value of the resampled data; determinism; bad input."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, recall_score

from clipeval.tasks.average_precision import AveragePrecision
from clipeval.tasks.f1 import MacroF1
from clipeval.tasks.intervals import least, wilson
from clipeval.tasks.statistics import (
    ClusterMean,
    Count,
    GroupMean,
    Mean,
    MeanOf,
    Proportion,
    WorstGroup,
    distinct,
    paired_differences,
)

RNG = np.random.default_rng(0)


def examples():
    """A statistic of each kind over the units `index` (with repeats) of one small data set."""
    rng = np.random.default_rng(3)
    n = 40
    hits, values = rng.random(n) < 0.6, rng.random(n)
    groups, labels, answers = rng.integers(0, 4, n), rng.integers(0, 5, n), rng.integers(0, 6, n)
    scores, truth = rng.normal(size=(n, 3)), rng.random((n, 3)) < 0.3
    sizes = rng.integers(1, 4, n)
    queries = [rng.random(size) < 0.5 for size in sizes]

    def cluster(index):
        rows = [queries[i] for i in index]
        return ClusterMean(np.concatenate(rows), np.repeat(np.arange(len(index)), sizes[index]), len(index))

    return {
        "proportion": lambda i: Proportion(hits[i]),
        "mean": lambda i: Mean(values[i]),
        "group mean": lambda i: GroupMean(hits[i], groups[i]),
        "worst group": lambda i: WorstGroup(hits[i], groups[i]),
        "macro F1": lambda i: MacroF1(labels[i], answers[i]),
        "cluster mean": cluster,
        "mean of": lambda i: MeanOf([cluster(i), Proportion(hits[i])]),
        "average precision": lambda i: AveragePrecision(scores[i], truth[i]),
    }


KINDS = examples()


@pytest.mark.parametrize("kind", KINDS)
def test_resample_is_the_value_of_the_repeated_data(kind):
    make = KINDS[kind]
    whole = make(np.arange(40))
    weights = np.random.default_rng(1).multinomial(40, np.full(40, 1 / 40), size=20)
    expected = [make(np.repeat(np.arange(40), w)).value for w in weights]
    np.testing.assert_allclose(whole.resample(weights), expected, atol=1e-12)
    some = np.array([1, 5, 7, 11, 30])
    weights = np.random.default_rng(2).integers(1, 4, (6, 5))
    expected = [make(np.repeat(some, w)).value for w in weights]
    np.testing.assert_allclose(whole.resample(weights, some), expected, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_interval_holds_the_value_and_repeats(kind):
    s = KINDS[kind](np.arange(40))
    low, high = s.interval(seed=0)
    assert 0 <= low <= s.value <= high <= 1
    assert low < high
    s.interval(draws=50, seed=9)
    assert s.interval(seed=0) == (low, high) == KINDS[kind](np.arange(40)).interval(seed=0)
    wider = s.interval(level=0.99)
    assert wider[0] < low
    assert wider[1] > high
    assert isinstance(s.value, float)


@pytest.mark.parametrize("kind", KINDS)
def test_contributions_average_to_the_value(kind):
    s = KINDS[kind](np.arange(40))
    found = s.per_unit_scores()
    if kind in ("worst group", "macro F1", "average precision"):
        assert found is None
    else:
        assert found.shape == (40,)
        assert found.dtype == np.float64
        assert found.mean() == pytest.approx(s.value, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_influence_is_the_derivative(kind):
    s = KINDS[kind](np.arange(40))
    if not hasattr(s, "influence"):
        assert kind in ("worst group", "macro F1")
        return
    step = 1e-6
    if kind == "average precision":
        # Whose resample takes whole weights only; sklearn's takes any.
        truth, scores = s.labels, s.scores

        def value(weights):
            return np.mean(
                [average_precision_score(truth[:, c], scores[:, c], sample_weight=weights) for c in range(3)]
            )

        assert value(np.ones(40)) == pytest.approx(s.value, abs=1e-12)
        moved = [(value(1 + step * row) - s.value) / step for row in np.eye(40)]
        np.testing.assert_allclose(s.influence(), moved, atol=1e-5)
        return
    moved = (s.resample(np.ones((40, 40)) + step * np.eye(40)) - s.value) / step
    np.testing.assert_allclose(s.influence(), moved, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_one_unit(kind):
    s = KINDS[kind](np.array([3]))
    low, high = s.interval(draws=10)
    assert 0 <= low <= s.value <= high <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_paired_differences(kind):
    """Identical runs never differ; two runs differ by what brute force finds."""
    make = KINDS[kind]
    a, b = make(np.arange(40)), make(np.arange(40)[::-1])
    assert not paired_differences(a, make(np.arange(40))).any()
    found = paired_differences(a, b, draws=3000, seed=1)
    np.testing.assert_array_equal(found, paired_differences(a, b, draws=3000, seed=1))
    weights = np.random.default_rng(5).multinomial(40, np.full(40, 1 / 40), size=3000)
    brute = b.resample(weights) - a.resample(weights)
    assert found.mean() == pytest.approx(brute.mean(), abs=4 * brute.std() / 3000**0.5)
    assert found.std() == pytest.approx(brute.std(), rel=0.08)
    with pytest.raises(ValueError, match="got 40 and 39"):
        paired_differences(a, make(np.arange(39)))


def test_wilson_by_hand():
    # Newcombe, Stat. Med. 17 (1998) 857-872, table I: 81/263, 15/148, 0/20, 1/29.
    for right, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson(right / n, n) == pytest.approx((low, high), abs=5e-5)


def test_proportion_is_exact():
    assert Proportion(np.array([True, False, True])).value == 2 / 3
    assert Proportion(np.array([True])).interval() == pytest.approx((0.2065, 1), abs=1e-4)
    assert Count(5).value == 5.0
    assert Count(5).interval() == (5.0, 5.0)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), min_size=1, max_size=40))
@settings(max_examples=200, deadline=None)
def test_macro_metrics_agree_with_sklearn(pairs):
    labels, answers = np.array(pairs).T
    occur = np.unique(labels)
    recall = GroupMean(labels == answers, labels)
    assert recall.value == pytest.approx(
        recall_score(labels, answers, labels=occur, average="macro", zero_division=0), abs=1e-12
    )
    assert MacroF1(labels, answers).value == pytest.approx(
        f1_score(labels, answers, labels=occur, average="macro", zero_division=0), abs=1e-12
    )


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_recall_agrees_with_balanced_accuracy():
    labels, answers = RNG.integers(0, 50, 300), RNG.integers(0, 60, 300)
    assert GroupMean(labels == answers, labels).value == pytest.approx(
        balanced_accuracy_score(labels, answers), abs=1e-12
    )


def test_macro_f1_by_hand():
    # Label 0: 2 of 3 right, answered 3 times: 2*2/(3+3). Label 1: 1 of 2, answered once: 2/(2+1). Label 9 never occurs.
    labels, answers = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 9, 1, 0])
    assert MacroF1(labels, answers).value == pytest.approx((4 / 6 + 2 / 3) / 2)


def test_worst_group_by_hand():
    s = WorstGroup(np.array([1, 0, 1, 1, 0, 0, 1], dtype=bool), np.array([0, 0, 2, 2, 7, 7, 7]))
    assert s.value == 1 / 3


def test_least_of_one_group_is_the_mid_p_interval():
    # Against the definition: P(X > x | low) + P(X = x | low) / 2 = 0.025, and its mirror image.
    from scipy.stats import binom

    low, high = least(np.array([7]), np.array([20]))
    assert binom.sf(7, 20, low) + binom.pmf(7, 20, low) / 2 == pytest.approx(0.025, abs=1e-9)
    assert binom.cdf(6, 20, high) + binom.pmf(7, 20, high) / 2 == pytest.approx(0.025, abs=1e-9)


def test_least_by_enumeration():
    """The upper end's probability, over every outcome of two small groups."""
    from scipy.stats import binom

    hits, totals = np.array([2, 5]), np.array([6, 9])
    _, high = least(hits, totals)
    p = np.maximum(hits / totals, high)
    below = 0.0
    for x, y in itertools.product(range(7), range(10)):
        chance = binom.pmf(x, 6, p[0]) * binom.pmf(y, 9, p[1])
        # In whole numbers: min(x / 6, y / 9) against 2 / 6.
        worst = min(3 * x, 2 * y)
        below += chance * (1 if worst < 6 else 0.5 if worst == 6 else 0)
    assert below == pytest.approx(0.025, abs=1e-6)


def test_least_at_the_ends():
    assert least(np.array([0, 3]), np.array([4, 4]))[0] == 0
    low, high = least(np.array([4, 9]), np.array([4, 9]))
    assert high == 1
    assert 0.3 < low < 1


def test_average_precision_by_hand():
    # Falling scores: 1, 0, 1, 0 -> (1/1 + 2/3) / 2; a class without positives counts 0.
    scores = np.array([[4.0, 1], [3, 2], [2, 3], [1, 4]])
    labels = np.array([[1, 0], [0, 0], [1, 0], [0, 0]])
    assert AveragePrecision(scores, labels).per_class == pytest.approx([5 / 6, 0])
    assert AveragePrecision(scores, labels).value == pytest.approx(5 / 12)


def test_cluster_mean_is_wider_than_its_queries_would_be():
    """Five captions of an image that are right or wrong together are one observation."""
    together = np.repeat(RNG.random(200) < 0.5, 5)
    s = ClusterMean(together, np.repeat(np.arange(200), 5), 200)
    naive = Proportion(together).interval()
    low, high = s.interval()
    assert high - low == pytest.approx((naive[1] - naive[0]) * 5**0.5, rel=0.02)


def test_groups_wholly_right_beside_groups_wholly_wrong():
    s = GroupMean(np.repeat([True, False], 50), np.repeat([0, 1], 50))
    low, high = s.interval()
    assert s.value == 0.5
    assert 0.001 < high - low < 0.1


def test_distinct():
    rows = np.array([[1.0, 2], [1, 2], [0, 5], [1, 3], [0, 5]])
    first, counts = distinct(rows)
    expected, index, times = np.unique(rows, axis=0, return_index=True, return_counts=True)
    np.testing.assert_array_equal(rows[first], expected)
    np.testing.assert_array_equal(first, index)
    np.testing.assert_array_equal(counts, times)


def test_large_sets_are_fast():
    """SUN397's size takes well under a second; the limit leaves room for a busy machine."""
    n, classes = 108_754, 397
    labels = RNG.integers(0, classes, n)
    answers = np.where(RNG.random(n) < 0.6, labels, RNG.integers(0, classes, n))
    start = time.process_time()
    Proportion(labels == answers).interval()
    GroupMean(labels == answers, labels).interval()
    WorstGroup(labels == answers, labels).interval()
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Proportion(np.array([], dtype=bool)), "at least one unit"),
        (lambda: Mean(np.array([0.5, 1.5])), r"lie in \[0, 1\]"),
        (lambda: Mean(np.array([0.5, np.nan])), r"lie in \[0, 1\]"),
        (lambda: GroupMean(np.array([True, False]), np.array([0])), "groups must have shape"),
        (lambda: MacroF1(np.array([1, 2]), np.array([1])), "predictions must have shape"),
        (lambda: MacroF1(np.array([]), np.array([])), "at least one sample"),
        (lambda: ClusterMean(np.array([True]), np.array([0]), 2), "must number 2"),
        (lambda: MeanOf([Proportion(np.ones(2)), Proportion(np.ones(3))]), "share their units"),
        (lambda: AveragePrecision(np.ones((2, 3)), np.ones((2, 2))), "one shape"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
