"""Calibration: worked by hand, against torchmetrics where it is installed, and against an independent computation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar

from clipeval.tasks import Calibration, Classification, Samples
from clipeval.tasks.calibration import CalibrationError, best_scale
from tests.tasks.fakes import unit


def task(**options: Any) -> Calibration:
    return Calibration(key="own/calibration", name="Own", metric=None, **options)


def drawn(n: int = 400, classes: int = 7, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Images, a head, and labels that are drawn from the softmax at scale 5."""
    images, head = unit(n, 8, seed + 1), unit(classes, 8, seed + 2)
    shares = (5 * images.double() @ head.double().T).softmax(dim=1).numpy()
    rng = np.random.default_rng(seed)
    return images, head, np.array([rng.choice(classes, p=row / row.sum()) for row in shares])


def score(images: torch.Tensor, head: torch.Tensor, label: np.ndarray, **options: Any) -> Any:
    names = [str(i) for i in range(len(head))]
    samples = Samples(keys=[str(i) for i in range(len(images))], labels=label, classnames=names, head=head)
    return task(**options).score({"test": images}, torch.empty(0, head.shape[1]), {"test": samples})


def test_by_hand() -> None:
    """Two classes, three images, scale ln 3: cosines (1, 0), (0, 1), (1, 0) are probabilities 3/4 and 1/4; labels 0, 0, 0."""
    head = torch.eye(2)
    found = score(head[[0, 1, 0]], head, np.array([0, 0, 0]), logit_scale=float(np.log(3)), bins=2).metrics
    assert found["ece"] == pytest.approx(abs(2 / 3 - 3 / 4))
    assert found["nll"] == pytest.approx(-(2 * np.log(3 / 4) + np.log(1 / 4)) / 3)
    assert found["brier"] == pytest.approx((2 * (1 / 16 + 1 / 16) + (9 / 16 + 9 / 16)) / 3)
    assert found["mean_confidence"] == pytest.approx(3 / 4)
    # Two of three right: the best share of the right class is 2/3, its odds 2.
    assert found["logit_scale_best"] == pytest.approx(np.log(2), abs=1e-6)
    assert found["mean_confidence_best"] == pytest.approx(2 / 3, abs=1e-6)
    assert found["ece_best"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("scale", [3.0, 100.0])
def test_against_an_independent_computation(scale: float) -> None:
    images, head, label = drawn()
    found = score(images, head, label, logit_scale=scale).metrics
    cosines = images.double() @ head.double().T
    for end, factor in (("", scale), ("_best", found["logit_scale_best"])):
        probabilities = (factor * cosines).softmax(dim=1)
        assert found[f"nll{end}"] == pytest.approx(
            F.nll_loss(probabilities.log(), torch.from_numpy(label)).item(), abs=1e-6
        )
        truth = F.one_hot(torch.from_numpy(label), head.shape[0])
        assert found[f"brier{end}"] == pytest.approx(((probabilities - truth) ** 2).sum(dim=1).mean().item(), abs=1e-6)
        top, answer = probabilities.max(dim=1)
        ends, expected = np.linspace(0, 1, 16), 0.0
        for low, high in zip(ends, [*ends[1:], 2.0], strict=True):  # Guo et al. 2017, bin by bin
            inside = ((top >= low) & (top < high)).numpy()
            if inside.any():
                gap = (answer.numpy() == label)[inside].mean() - top.numpy()[inside].mean()
                expected += abs(gap) * inside.mean()
        assert found[f"ece{end}"] == pytest.approx(expected, abs=1e-6)
    plain = Classification(key="own", name="Own", metric="acc1")
    samples = Samples(keys=list(map(str, range(400))), labels=label, classnames=list("abcdefg"), head=head)
    theirs = plain.score({"test": images}, torch.empty(0, 8), {"test": samples}).metrics
    assert {name: found[name] for name in theirs} == theirs


def test_agrees_with_torchmetrics() -> None:
    torchmetrics = pytest.importorskip("torchmetrics.functional.classification")
    images, head, label = drawn(seed=4)
    found = score(images, head, label, logit_scale=40.0).metrics
    shares = (40 * images.double() @ head.double().T).softmax(dim=1)
    theirs = torchmetrics.multiclass_calibration_error(shares, torch.from_numpy(label), 7, n_bins=15, norm="l1")
    assert found["ece"] == pytest.approx(theirs.item(), abs=1e-6)


@pytest.mark.parametrize("start", [0.5, 5.0, 100.0, 1e5])
def test_the_best_scale_is_scipys(start: float) -> None:
    images, head, label = drawn(seed=7)
    cosines = images.double() @ head.double().T

    def loss(log: float) -> float:
        return F.cross_entropy(np.exp(log) * cosines, torch.from_numpy(label)).item()

    expected = np.exp(minimize_scalar(loss, bounds=(-3, 8), method="bounded", options={"xatol": 1e-9}).x)
    assert best_scale(images, head, label, start) == pytest.approx(expected, rel=1e-4)
    assert 3 < expected < 8  # they were drawn at 5


def test_a_model_that_is_always_right_or_always_wrong_has_no_best_scale_inside() -> None:
    head = torch.eye(3)
    assert best_scale(head, head, np.arange(3), 100.0) > 1e3
    assert best_scale(head, head, np.array([1, 2, 0]), 100.0) < 0.02
    found = score(head, head, np.arange(3)).metrics
    assert found["nll_best"] == pytest.approx(0, abs=1e-9)
    assert found["logit_scale"] == 100


def test_statistics_need_only_the_predictions(tmp_path: Path) -> None:
    found = score(*drawn(), logit_scale=30.0)
    found.predictions.to_parquet(tmp_path / "p.parquet")
    again = task().statistics(pd.read_parquet(tmp_path / "p.parquet"))
    assert {name: s.value for name, s in again.items() if s is not None} == pytest.approx(found.metrics)
    with pytest.raises(ValueError, match=r"lack the columns .*log_likelihood"):
        task().statistics(found.predictions.drop(columns="log_likelihood"))


def test_intervals_of_the_calibration_error_cover() -> None:
    """An overconfident model: it says 0.9 and 0.6, and is right in 0.8 and 0.5."""
    rng, inside = np.random.default_rng(0), 0
    for seed in range(200):
        sure = rng.random(400) < 0.5
        right = rng.random(400) < np.where(sure, 0.8, 0.5)
        low, high = CalibrationError(np.where(sure, 0.9, 0.6), right, 15).interval(draws=200, seed=seed)
        inside += low <= 0.1 <= high
    assert 0.91 <= inside / 200 <= 0.99


def test_bad_settings_and_columns() -> None:
    with pytest.raises(ValueError, match="bins is at least 1"):
        task(bins=0)
    with pytest.raises(ValueError, match="logit_scale above 0"):
        task(logit_scale=-1.0)
