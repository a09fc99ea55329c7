"""Sets of several right classes, versions, factors, a hierarchy, a watermark: by hand, and in the words of their programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from clipeval.tasks import Factors, Hierarchy, Relabelled, Samples, Tree, Variants, Watermark
from clipeval.tasks.factors import ErrorRatio
from clipeval.tasks.means import UnpairedDifference

HEAD = torch.eye(6)
ABOUT: dict[str, Any] = {"key": "own/set", "name": "Own", "metric": "acc1"}


def asked(task: Any, labels: list[int], answers: list[int], tree: Tree | None = None, **columns: list[Any]) -> Any:
    """A model that answers just so, on six classes."""
    names = [str(i) for i in range(6)]
    samples = Samples(
        keys=[f"k{i}" for i in range(len(labels))], labels=np.array(labels), classnames=names, head=HEAD,
        metadata=pd.DataFrame(columns) if columns else pd.DataFrame(index=range(len(labels))), tree=tree,
    )  # fmt: skip
    return task.score({"test": HEAD[answers]}, torch.empty(0, 6), {"test": samples})


def test_any_of_several_labels_is_right_and_images_without_one_do_not_count() -> None:
    found = asked(Relabelled(**ABOUT), [0, 1, 2, 3], [0, 4, 5, 1], accepted=["0", "4 5", "", "2 3"]).metrics
    assert found["acc1"] == pytest.approx(2 / 3)  # 0 is right, 4 is right, the third does not count, 1 is wrong
    assert found["acc1_original"] == pytest.approx(1 / 4)


def test_only_some_labels_count() -> None:
    assert asked(Relabelled(**ABOUT, only=[2, 3]), [0, 2, 3, 3], [1, 2, 3, 0]).metrics["acc1"] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="no image has one of the 1 labels"):
        asked(Relabelled(**ABOUT, only=[5]), [0, 2], [0, 2])


def test_the_mean_corruption_error() -> None:
    """Two corruptions at two severities, two pictures: errors 1/2, 1 and 0, 1/2; AlexNet's 0.5 and 0.25."""
    task = Variants(
        **ABOUT, versions=["corruption", "severity"], picture="picture", baseline={"fog": 0.5, "snow": 0.25}
    )
    scores = asked(
        task, [0, 1] * 4, [0, 5, 5, 5, 0, 1, 5, 1],
        corruption=["fog"] * 4 + ["snow"] * 4, severity=["1", "1", "2", "2"] * 2, picture=["a", "b"] * 4,
    )  # fmt: skip
    found = scores.metrics
    assert found["ce_fog"] == pytest.approx(0.75 / 0.5)
    assert found["ce_snow"] == pytest.approx(0.25 / 0.25)
    assert found["mce"] == pytest.approx((1.5 + 1.0) / 2)
    assert found["macro_acc1"] == found["acc1"] == pytest.approx(0.5)
    low, high = scores.statistics["mce"].interval()
    assert low < found["mce"] < high and scores.statistics["mce"].units == 2  # pictures, not images
    alone = asked(task, [0, 1], [0, 5], corruption=["fog"] * 2, severity=["1"] * 2, picture=["a", "b"]).metrics
    assert alone["mce"] is None and alone["ce_fog"] == pytest.approx(1.0)


def test_a_mean_over_versions_of_different_sizes_and_gaps_paired_or_not() -> None:
    drops = [{"name": "gap", "before": "same", "after": "rand", "by": "picture"}]
    task = Variants(**ABOUT, versions=["variant"], drops=drops)
    paired = asked(task, [0, 1, 0, 1], [0, 1, 0, 5], variant=["same"] * 2 + ["rand"] * 2, picture=["a", "b"] * 2)
    assert paired.metrics["gap"] == pytest.approx(0.5)
    apart = asked(task, [0, 1, 2, 0, 1], [0, 1, 5, 0, 5], variant=["same"] * 3 + ["rand"] * 2, picture=list("abcde"))
    assert apart.metrics["gap"] == pytest.approx(2 / 3 - 1 / 2)
    assert isinstance(apart.statistics["gap"], UnpairedDifference)
    assert apart.metrics["macro_acc1"] == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_newcombes_interval() -> None:
    """Newcombe 1998, table II, method 10: 56/70 less 48/80 is 0.2, from 0.0524 to 0.3339."""
    found = UnpairedDifference(np.arange(70) < 56, np.arange(80) < 48)
    assert found.value == pytest.approx(0.2)
    assert found.interval() == pytest.approx((0.0524, 0.3339), abs=5e-5)
    ones = np.ones((1, 150))
    assert found.resample(ones)[0] == pytest.approx(0.2)


def test_error_ratios() -> None:
    """Four annotated images, half wrong; the two of `pose` are one wrong, the one of `color` wrong."""
    nan = float("nan")
    found = asked(
        Factors(**ABOUT, factors=["pose", "color", "style"]), [0, 1, 2, 3, 4], [0, 5, 5, 3, 0],
        pose=[1, 1, 0, 0, nan], color=[0, 0, 1, 0, nan], style=[0, 0, 0, 0, nan],
    ).metrics  # fmt: skip
    assert found["acc1"] == pytest.approx(0.5)
    assert found["error_ratio_pose"] == pytest.approx(1.0)
    assert found["error_ratio_color"] == pytest.approx(2.0)
    assert found["error_ratio_style"] is None and found["acc1_style"] is None
    assert found["worst_factor"] == 0.0
    with pytest.raises(ValueError, match="none of the 1 images is annotated"):
        asked(Factors(**ABOUT, factors=["pose"]), [0], [0], pose=[nan])


def test_the_interval_of_an_error_ratio_covers() -> None:
    rng, inside_count, hits = np.random.default_rng(0), 0, 0
    for _ in range(300):
        inside = rng.random(800) < 0.3
        wrong = rng.random(800) < np.where(inside, 0.4, 0.2)
        low, high = ErrorRatio(wrong, inside).interval()
        hits += low <= 0.4 / 0.26 <= high
        inside_count += inside.sum()
    assert 0.92 <= hits / 300 <= 0.98
    one = ErrorRatio(wrong, inside)
    weights = rng.multinomial(800, np.full(800, 1 / 800), size=2)
    again = [ErrorRatio(np.repeat(wrong, w), np.repeat(inside, w)).value for w in weights]
    assert one.resample(weights) == pytest.approx(again)


TREE = Tree(
    [
        ["thing", "animal", "cat", "0"],
        ["thing", "animal", "cat", "1"],
        ["thing", "animal", "2"],
        ["thing", "tool", "3"],
        ["thing", "tool", "4"],
        ["thing", "5"],
    ],
    {"thing": 9, "animal": 4, "cat": 1, "tool": 2},
)


def test_depths_and_severities() -> None:
    task = Hierarchy(**ABOUT)
    # right; its sister; another animal; a tool for an animal; a class that is not deep
    found = asked(task, [0, 0, 0, 0, 5], [0, 1, 2, 3, 4], tree=TREE).metrics
    assert found["severity"] == pytest.approx((1 + 4 + 9 + 9) / 4)
    assert found["distance"] == pytest.approx((0 + 1 + 4 + 9 + 9) / 5)
    assert [found[f"acc1_depth_{d}"] for d in (1, 2, 3)] == pytest.approx([3 / 5, 2 / 5, 1 / 5])
    assert found["acc1"] == pytest.approx(1 / 5)
    assert asked(task, [0], [0], tree=TREE).metrics["severity"] is None
    with pytest.raises(ValueError, match=r"data\.hierarchy"):
        asked(task, [0], [0])


def test_a_watermark_image_by_image() -> None:
    keys, labels = ["a", "b", "c"], np.array([0, 1, 1])
    clean = Samples(keys=keys, labels=labels, classnames=[str(i) for i in range(6)], head=HEAD)
    marked = Samples(keys=keys[::-1], labels=labels[::-1], classnames=clean.classnames, head=HEAD)
    task = Watermark(**ABOUT, of_class=1)
    images = {"test": HEAD[[0, 1, 5]], "outside": HEAD[[1, 1, 1]]}
    found = task.score(images, torch.empty(0, 6), {"test": clean, "outside": marked}).metrics
    assert (found["acc1"], found["acc1_clean"]) == pytest.approx((2 / 3, 2 / 3))
    assert found["gap"] == pytest.approx(0.0)
    assert found["class_gap"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no watermarked images"):
        task.score({"test": images["test"]}, torch.empty(0, 6), {"test": clean})


def test_predictions_of_a_classification_are_joined_by_their_keys() -> None:
    table = pd.DataFrame({"key": ["b", "a"], "label": [1, 0], "prediction": [1, 3], "pred_1": [1, 3]})
    samples = {"test": Samples(keys=["a", "b", "c"], metadata=pd.DataFrame({"accepted": ["3", "0", ""]}))}
    joined = Relabelled(**ABOUT).from_classification(table, samples)
    assert joined["accepted"].tolist() == ["0", "3"]
    assert Relabelled(**ABOUT).statistics(joined)["acc1"].value == 0.5
    with pytest.raises(ValueError, match="'d'"):
        Relabelled(**ABOUT).from_classification(table.assign(key=["b", "d"]), samples)


def drawn(n: int, seed: int = 0) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    """A generator, labels and answers of six classes, of which two in three are right."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 6, n)
    return rng, label, np.where(rng.random(n) < 2 / 3, label, rng.integers(0, 6, n))


def test_reassessed_labels_as_their_makers_count() -> None:
    """README of google-research/reassessed-imagenet."""
    rng, label, answer = drawn(300)
    real = [sorted(rng.choice(6, rng.integers(0, 3), replace=False).tolist()) for _ in label]
    is_correct = [pred in real[i] for i, pred in enumerate(answer) if real[i]]
    accepted = [" ".join(map(str, several)) for several in real]
    found = asked(Relabelled(**ABOUT), label.tolist(), answer.tolist(), accepted=accepted).metrics
    assert found["acc1"] == pytest.approx(np.mean(is_correct), abs=1e-6)


def test_factors_as_imagenet_x_counts() -> None:
    """facebookresearch/imagenetx, imagenet_x/aggregate.py: _compute_factor_accuracies; the ratio is of errors, factor to all."""
    rng, label, answer = drawn(400, 1)
    names = ["pose", "color", "style"]
    table = pd.DataFrame({name: (rng.random(400) < 0.3).astype(int) for name in names})
    table["model"], table["is_correct"] = "m", label == answer
    accs = table[table["is_correct"]].groupby("model")[names].sum() / table.groupby("model")[names].sum()
    average = table.groupby("model")["is_correct"].mean()["m"]
    factors = {name: table[name].astype(float).tolist() for name in names}
    found = asked(Factors(**ABOUT, factors=names), label.tolist(), answer.tolist(), **factors).metrics
    for name in names:
        assert found[f"acc1_{name}"] == pytest.approx(accs.loc["m", name], abs=1e-6)
        assert found[f"error_ratio_{name}"] == pytest.approx((1 - accs.loc["m", name]) / (1 - average), abs=1e-6)
    assert found["worst_factor"] == pytest.approx(accs.min(axis=1)["m"], abs=1e-6)
    assert found["acc1"] == pytest.approx(average, abs=1e-6)


def test_corruptions_as_imagenet_c_counts() -> None:
    """hendrycks/robustness, ImageNet-C/test.py: show_performance, the mean error over severities; CE is over AlexNet's."""
    _, label, answer = drawn(2 * 5 * 40, 2)
    kinds, pictures = np.repeat(["fog", "snow"], 200), [str(i % 40) for i in range(400)]
    severity = np.tile(np.repeat(np.arange(1, 6), 40), 2)
    alexnet, rates = {"fog": 0.819324, "snow": 0.866816}, {}
    for kind in alexnet:
        errs = []
        for one in range(1, 6):
            inside = (kinds == kind) & (severity == one)
            correct = (label[inside] == answer[inside]).sum()
            errs.append(1 - 1.0 * correct / inside.sum())
        rates[kind] = np.mean(errs)
    task = Variants(**ABOUT, versions=["corruption", "severity"], picture="picture", baseline=alexnet)
    columns = {"corruption": kinds.tolist(), "severity": severity.astype(str).tolist(), "picture": pictures}
    found = asked(task, label.tolist(), answer.tolist(), **columns).metrics
    for kind, rate in rates.items():
        assert found[f"ce_{kind}"] == pytest.approx(rate / alexnet[kind], abs=1e-6)
    assert found["mce"] == pytest.approx(np.mean([rates[kind] / alexnet[kind] for kind in alexnet]), abs=1e-6)
    assert found["macro_acc1"] == pytest.approx(1 - np.mean(list(rates.values())), abs=1e-6)


def test_mistakes_as_better_mistakes_counts() -> None:
    """fiveai/making-better-mistakes, run_xent.py: topK_hdist, hdist_avg@1 and its mean over mistakes."""
    _, label, answer = drawn(300, 3)

    def lowest(a: int, b: int) -> str:
        return [x for x, y in zip(TREE.paths[a], TREE.paths[b], strict=False) if x == y][-1]

    heights = {**TREE.heights, **{str(i): 0 for i in range(6)}}
    hdist = np.array([heights[lowest(int(b), int(a))] if a != b else 0 for a, b in zip(label, answer, strict=True)])
    mistakes = np.where(hdist != 0)[0]
    found = asked(Hierarchy(**ABOUT), label.tolist(), answer.tolist(), tree=TREE).metrics
    assert found["distance"] == pytest.approx(hdist.mean(), abs=1e-6)
    assert found["severity"] == pytest.approx(hdist[mistakes].sum() / len(mistakes), abs=1e-6)
