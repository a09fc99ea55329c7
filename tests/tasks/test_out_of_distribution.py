"""Out-of-distribution detection: worked by hand, against scikit-learn, and against MCM's own rule for FPR95."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from clipeval.tasks import OutOfDistribution, Samples
from clipeval.tasks.out_of_distribution import FalsePositives, RankAgreement
from clipeval.tasks.statistics import paired_differences
from tests.tasks.fakes import unit


def task(**options: Any) -> OutOfDistribution:
    return OutOfDistribution(key="own/ood", name="Own", metric="auroc", **options)


def score(inside: torch.Tensor, outside: torch.Tensor, head: torch.Tensor, **options: Any) -> Any:
    names = [str(i) for i in range(len(head))]
    samples = {
        "test": Samples(keys=[f"in{i}" for i in range(len(inside))], classnames=names, head=head),
        "outside": Samples(keys=[f"out{i}" for i in range(len(outside))]),
    }
    return task(**options).score({"test": inside, "outside": outside}, torch.empty(0, head.shape[1]), samples)


def fpr_at_recall(positive: np.ndarray, score: np.ndarray, level: float) -> float:
    """MCM's and Hendrycks' fpr_and_fdr_at_recall in other words: thresholds at every score, from all recalled down."""
    found = []
    for threshold in np.unique(score)[::-1]:
        passed = score >= threshold
        found.append(((passed & positive).sum() / positive.sum(), (passed & ~positive).sum() / (~positive).sum()))
        if found[-1][0] == 1:
            break
    return min(found[::-1], key=lambda pair: abs(pair[0] - level))[1]


def test_by_hand() -> None:
    """Two classes. Inside: cosines (1, 0) and (0.6, 0.8); outside: (0.8, 0.6), as sure as the second, and (0.7, 0.7)."""
    inside = torch.tensor([[1.0, 0], [0.6, 0.8]])
    outside = torch.tensor([[0.8, 0.6], [0.5**0.5, 0.5**0.5]])
    found = score(inside, outside, torch.eye(2))
    assert found.metrics["auroc"] == pytest.approx((1 + 1 + 0.5 + 1) / 4, abs=0.13)  # the tie is one by rounding only
    sure = 1 / (1 + np.exp(-1.0))
    assert found.predictions["score"].tolist()[2] == pytest.approx(sure)
    assert found.predictions["split"].tolist() == ["outside", "outside", "test", "test"]
    assert found.predictions["prediction"].tolist()[:1] == [0]


@pytest.mark.parametrize(("n", "m"), [(40, 60), (200, 150), (1, 5), (7, 1)])
def test_agrees_with_scikit_learn_and_with_mcm(n: int, m: int) -> None:
    inside, outside, head = unit(n, 6), unit(m, 6, 5), unit(4, 6, 9)
    found = score(inside, outside, head)
    positive, scores = found.predictions["inside"].to_numpy(), found.predictions["score"].to_numpy()
    shares = torch.cat([outside, inside]).double() @ head.double().T
    assert scores == pytest.approx(shares.softmax(dim=1).amax(dim=1).numpy(), abs=1e-6)
    assert found.metrics == {
        "auroc": pytest.approx(roc_auc_score(positive, scores), abs=1e-6),
        "aupr_in": pytest.approx(average_precision_score(positive, scores), abs=1e-6),
        "aupr_out": pytest.approx(average_precision_score(~positive, -scores), abs=1e-6),
        "fpr95": pytest.approx(fpr_at_recall(positive, scores, 0.95), abs=1e-6),
    }


def test_equal_scores() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, positive = rng.integers(0, 6, 40).astype(float), rng.random(40) < 0.5
        assert RankAgreement(scores, positive).value == pytest.approx(roc_auc_score(positive, scores))
        assert FalsePositives(scores, positive, 0.95).value == pytest.approx(fpr_at_recall(positive, scores, 0.95))
    same = pd.DataFrame({"inside": [False, True, False, True], "score": [0.5] * 4})
    assert task().statistics(same)["aupr_in"].value == pytest.approx((1 / 3 + 2 / 4) / 2)  # those outside come first
    assert task().statistics(same)["aupr_out"].value == pytest.approx((1 / 3 + 2 / 4) / 2)


def test_resampling_is_weighing() -> None:
    rng = np.random.default_rng(1)
    scores, positive = rng.integers(0, 9, 30).astype(float), np.arange(30) % 2 == 0
    weights = rng.multinomial(30, np.full(30, 1 / 30), size=5)
    for statistic in (RankAgreement(scores, positive), FalsePositives(scores, positive, 0.95)):
        for row, value in zip(weights, statistic.resample(weights), strict=True):
            drawn = np.repeat(np.arange(30), row)
            kind = type(statistic)
            more = (0.95,) if kind is FalsePositives else ()
            assert value == pytest.approx(kind(scores[drawn], positive[drawn], *more).value)
    assert paired_differences(statistic, statistic, draws=10) == pytest.approx(np.zeros(10))


@pytest.mark.parametrize("kind", [RankAgreement, FalsePositives])
def test_intervals_cover(kind: Any) -> None:
    rng, inside, truth = np.random.default_rng(2), 0, {RankAgreement: 0.7602, FalsePositives: 0.7405}[kind]
    more = (0.95,) if kind is FalsePositives else ()
    for _ in range(300):
        scores = np.concatenate([rng.normal(1, 1, 300), rng.normal(0, 1, 200)])
        low, high = kind(scores, np.arange(500) < 300, *more).interval()
        inside += low <= truth <= high
    assert 0.92 <= inside / 300 <= 0.985


def test_statistics_need_only_the_predictions(tmp_path: Path) -> None:
    found = score(unit(30, 6), unit(20, 6, 3), unit(4, 6, 9), temperature=0.01)
    found.predictions.to_parquet(tmp_path / "p.parquet")
    again = task().statistics(pd.read_parquet(tmp_path / "p.parquet"))
    assert {name: s.value for name, s in again.items() if s is not None} == found.metrics


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="temperature is above 0"):
        task(temperature=0)
    with pytest.raises(ValueError, match="there is no set outside"):
        task().prompts({"test": Samples(keys=["a"], classnames=["a"])})
    with pytest.raises(ValueError, match="inside and outside are needed"):
        task().statistics(pd.DataFrame({"inside": [True], "score": [0.5]}))
