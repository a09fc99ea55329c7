"""Ties: how many answers hang on them, and how far they may move each metric; against every order, tried out."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipeval.tasks import (
    Association,
    Attribute,
    Attributes,
    Classification,
    LinearProbe,
    MultiLabel,
    Retrieval,
    Samples,
    Selection,
)
from clipeval.tasks.classification import top_k
from clipeval.tasks.ties import Ties, first_of_equal, flags, same_vectors

OWN = {"key": "own/task", "name": "Own", "metric": None}


def labelled(labels, names, **more):
    keys = [f"{i:03}" for i in range(len(labels))]
    return Samples(keys=keys, labels=np.asarray(labels), classnames=names, templates=["{c}"], **more)


def whole_numbers(rng, rows, dim=4):
    """Unit vectors of few values, so that products are exact and many are equal."""
    return torch.nn.functional.one_hot(torch.from_numpy(rng.integers(0, dim, rows)), dim).float()


@given(seed=st.integers(0, 10**6), classes=st.integers(2, 5), n=st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_classification_lies_between_the_bounds_of_every_order(seed, classes, n):
    """Renaming the classes is another order of equal ones: the metrics of all of them span the range that is given."""
    rng = np.random.default_rng(seed)
    images, head = whole_numbers(rng, n), whole_numbers(rng, classes)
    labels = rng.integers(0, classes, n)
    names = [f"c{i}" for i in range(classes)]
    task = Classification(**OWN, ties="first")
    scores = task.score({"test": images}, head, {"test": labelled(labels, names)})
    low, high = scores.ties.ranges.get("acc1", (scores.metrics["acc1"],) * 2)
    values = []
    for order in permutations(range(classes)):
        place = np.argsort(order)
        other = task.score({"test": images}, head[list(order)], {"test": labelled(place[labels], names)})
        assert other.ties.count == scores.ties.count
        assert other.ties.ranges.get("acc1", (low, high)) == (low, high)
        values.append(other.metrics["acc1"])
    assert low - 1e-12 <= min(values)
    assert max(values) <= high + 1e-12
    right = (images @ head.T).numpy()
    own = right[np.arange(n), labels]
    assert high == pytest.approx(np.mean(own == right.max(axis=1)))
    assert low == pytest.approx(np.mean((own == right.max(axis=1)) & ((right == own[:, None]).sum(axis=1) == 1)))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_top1_and_recall_agree_on_balanced_samples(seed):
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 12))
    head = whole_numbers(rng, classes)
    labels = np.tile(np.arange(classes), 3)
    names = [f"c{i}" for i in range(classes)]
    found = Classification(**OWN, ties="first").score(
        {"test": whole_numbers(rng, len(labels))}, head, {"test": labelled(labels, names)}
    )
    assert found.metrics["acc1"] == pytest.approx(found.metrics["mean_per_class_recall"], abs=1e-12)
    assert (found.predictions["prediction"] == found.predictions["pred_1"]).all()


def test_first_orders_all_five_and_vectors_that_are_equal_score_alike():
    rng = np.random.default_rng(0)
    head = torch.nn.functional.normalize(torch.randn(701, 96, generator=torch.Generator().manual_seed(0)), dim=1)
    head[700], head[350] = head[3], head[3]
    images = torch.nn.functional.normalize(head[rng.integers(0, 5, 64)] + 0.1 * head[8:72], dim=1)
    found = top_k(images, head, rule="first")
    own = found["prediction"] == 3
    assert own.any()
    assert (found["pred_2"][own] == 350).all()
    assert (found["pred_3"][own] == 700).all()
    assert same_vectors(head[:300]) is None
    table = torch.tensor([[1.0, 2, 2, 0, 2], [0, 0, 0, 0, 0]])
    assert first_of_equal(table, torch.tensor([[4, 2], [3, 1]])).tolist() == [[1, 2], [0, 1]]


def test_the_reference_keeps_its_order_and_the_bounds_hold():
    """torch.topk for acc1, argmax for recall: they may differ, and both lie within what ties allow."""
    labels, names = np.tile([0, 1], 20), ["crane", "crane"]
    images, head = torch.eye(2)[np.zeros(40, dtype=int)], torch.eye(2)[[0, 0]]
    scores = Classification(**OWN).score({"test": images}, head, {"test": labelled(labels, names)})
    expected = torch.topk(100.0 * images @ head.T, 1, dim=1).indices[:, 0].numpy()
    assert scores.metrics["acc1"] == np.mean(expected == labels)
    assert scores.metrics["mean_per_class_recall"] == 0.5
    assert scores.ties == Ties(40, {"acc1": (0.0, 1.0), "mean_per_class_recall": (0.0, 1.0)})


def test_top5_moves_where_the_fifth_place_is_shared():
    head = torch.eye(7)[[0, 1, 2, 3, 4, 4, 5]]
    image = torch.tensor([[0.7, 0.5, 0.4, 0.25, 0.2, 0.0, 0.0]])
    scores = Classification(**OWN, ties="first").score(
        {"test": image}, head, {"test": labelled([5], [f"c{i}" for i in range(7)])}
    )
    assert scores.metrics["acc5"] == 0.0  # class 4 is named first
    assert scores.ties == Ties(1, {"acc5": (0.0, 1.0)})


def test_macro_f1_and_groups_move_with_their_answers():
    head, images = torch.eye(3)[[0, 0, 1]], torch.eye(3)[[0, 0, 0, 1]]
    task = Classification(**OWN, macro=True, ties="first", by=[{"field": "side"}])
    table = labelled([0, 1, 0, 2], ["a", "b", "c"], metadata=pd.DataFrame({"side": [0, 0, 1, 1]}))
    found = task.score({"test": images}, head, {"test": table})
    assert found.ties.count == 3
    assert found.ties.ranges["acc_wg"] == (0.0, 1.0)
    low, high = found.ties.ranges["F1-macro_all"]
    assert high == 1.0
    assert low == pytest.approx(1 / 3)


@given(seed=st.integers(0, 10**6), n=st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_retrieval_lies_between_the_bounds_of_every_order(seed, n):
    """Images that are given in another order are another order of ties; each order's recall lies within the bounds."""
    rng = np.random.default_rng(seed)
    images = whole_numbers(rng, n, 3)
    counts = rng.integers(1, 3, n)
    texts = [whole_numbers(rng, int(c), 3) for c in counts]
    task = Retrieval(**OWN, ks=(1, 2))

    def score(order):
        table = Samples(keys=[str(i) for i in order], captions=[[f"{i} {j}" for j in range(counts[i])] for i in order])
        return task.score({"test": images[list(order)]}, torch.cat([texts[i] for i in order]), {"test": table})

    found = score(range(n))
    for order in [range(n)[::-1], *(rng.permutation(n) for _ in range(6))]:
        other = score([int(i) for i in order])
        assert other.ties.count == found.ties.count
        for name, value in other.metrics.items():
            low, high = found.ties.ranges.get(name, (found.metrics[name],) * 2)
            if value is not None and low is not None:
                assert low - 1e-12 <= value <= high + 1e-12, name
    sims = torch.cat(texts) @ images.T
    owner = np.repeat(np.arange(n), counts)
    own = sims[torch.arange(len(owner)), torch.from_numpy(owner)]
    least = ((sims >= own[:, None]).sum(dim=1) == 1).double().mean()
    assert found.ties.ranges.get("image_retrieval_recall@1", (found.metrics["image_retrieval_recall@1"],))[
        0
    ] == pytest.approx(float(least))


def test_average_precision_of_equal_scores():
    """Two positives and two others that all score alike: 1 if they stand first, (1/3 + 2/4) / 2 if last."""
    table = labelled([[1], [0], [1], [0]], ["a"])
    task = MultiLabel(**OWN, ties="first")
    found = task.score({"test": torch.eye(2)[[0, 0, 0, 0]]}, torch.eye(2)[:1], {"test": table})
    assert found.metrics["mean_average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert found.ties.count == 4
    assert found.ties.ranges["mean_average_precision"] == pytest.approx(((1 / 3 + 1 / 2) / 2, 1.0))


def test_association_takes_the_first_or_as_the_reference_the_last():
    table = Samples(
        keys=["a", "b", "c", "d"],
        instances=[{"id": "q", "cue": "x", "candidates": list("abcd"), "associations": ["a", "d"]}],
    )
    images = torch.eye(2)[[0, 0, 0, 1]]
    for rule, value in (("first", 1 / 3), ("reference", 0.0)):
        found = Association(**OWN, ties=rule).score({"test": images}, torch.eye(2)[:1], {"test": table})
        assert found.metrics["avg_jaccard_score"] == pytest.approx(value), rule
        assert found.ties.count == 1
        assert found.ties.ranges["avg_jaccard_score"] == pytest.approx((0.0, 1 / 3))


def test_selection_with_ties_is_right_by_order_alone():
    rows = [{"id": i, "images": ["a"], "captions": ["x", "y"]} for i in range(3)]
    texts = torch.eye(2)[[0, 0, 0, 1, 1, 0]]
    found = Selection(**OWN).score({"test": torch.eye(2)[:1]}, texts, {"test": Samples(keys=["a"], instances=rows)})
    assert found.metrics["text_acc"] == pytest.approx(2 / 3)
    assert found.ties == Ties(1, {"text_acc": (pytest.approx(1 / 3), pytest.approx(2 / 3)), "acc": (1 / 3, 2 / 3)})


def test_attributes_move_only_where_the_answer_does():
    """Two classes that stand for one label: their tie moves nothing; a tie with the third does."""
    table = Samples(
        keys=["a", "b"],
        classnames=["race:x", "race:y", "race:z"],
        templates=["race:{c}"],
        metadata=pd.DataFrame({"race_binary": [1, 1]}),
    )
    part = Attribute("race", "race_binary", ["race_binary"], relabel={2: 0}, otherwise=1)
    task = Attributes(**OWN, attributes=[part])
    images = torch.eye(2)[[0, 1]]
    same = task.score({"test": images}, torch.tensor([[1.0, 0], [1, 0], [0, -1]]), {"test": table})
    assert same.ties.count == 0 or same.ties.ranges
    moved = task.score({"test": images[:1].repeat(2, 1)}, torch.tensor([[1.0, 0], [0, 1], [1, 0]]), {"test": table})
    assert moved.ties.count == 2
    assert moved.ties.ranges["acc_race_avg"] == (0.0, 1.0)
    plain = task.score({"test": images[:1].repeat(2, 1)}, torch.tensor([[1.0, 0], [1, 0], [0, 1]]), {"test": table})
    assert plain.ties == Ties(0, {})


def test_a_probe_of_pictures_that_are_all_alike():
    x = torch.eye(3)[:1]
    train, test = labelled([0, 1] * 4, ["a", "b"]), labelled([0, 1], ["a", "b"])
    task = LinearProbe(**OWN, strength=1.0, solver="lbfgs", neighbours=3, ties="first")
    found = task.score(
        {"train": x.repeat(8, 1), "test": x.repeat(2, 1)}, torch.zeros(0, 3), {"train": train, "test": test}
    )
    assert found.ties.count == 2
    assert found.ties.ranges["nearest_mean_acc1"] == (0.0, 1.0)
    assert found.ties.ranges["knn_acc1"] == (0.0, 1.0)


def test_a_flag_is_for_what_moves_more_than_half_the_interval():
    ties = Ties(7, {"acc1": (0.50, 0.54), "acc5": (0.6, 0.7)})
    metrics = {"acc1": 0.5, "acc5": 0.65}
    assert flags(ties, metrics, {"acc1": (0.45, 0.55), "acc5": (0.5, 0.8)}, "acc1") == []
    found = flags(ties, metrics, {"acc1": (0.47, 0.54), "acc5": (0.5, 0.8)}, "acc1")
    assert len(found) == 1
    assert "7 answers" in found[0]
    assert "acc1 lies between 0.5000 and 0.5400 (0.5000 is reported)" in found[0]
    assert "acc5" not in found[0]


def test_a_task_of_ones_own_that_predicts_otherwise_is_scored_by_its_own_predictions():
    class Mine(Classification):
        def predict(self, images, texts, samples):
            found = super().predict(images, texts, samples)
            return found.assign(pred_1=0, prediction=0)

    scores = Mine(**OWN).score({"test": torch.eye(2)[[1, 1]]}, torch.eye(2), {"test": labelled([0, 0], ["a", "b"])})
    assert scores.metrics["acc1"] == 1.0


def test_another_rule_is_refused():
    with pytest.raises(ValueError, match="first or reference; got 'last'"):
        Classification(**OWN, ties="last")
