"""Mean average precision against clip_benchmark's evaluate."""

import numpy as np
import pandas as pd
import pytest
import torch
from clip_benchmark.metrics import zeroshot_classification as zsc
from hypothesis import given, settings
from hypothesis import strategies as st

from clipeval.tasks import MultiLabel, Samples
from clipeval.tasks.average_precision import AveragePrecision
from tests.tasks.fakes import Loader, allow_numpy_2_4, model, unit


def task():
    return MultiLabel(key="own/voc", name="Own", metric="mean_average_precision")


def build(labels):
    classes = labels.shape[1]
    keys = [str(i) for i in range(len(labels))]
    return Samples(
        keys=keys, labels=labels, classnames=[f"c{i}" for i in range(classes)], templates=["a {c}.", "the {c}"]
    )


@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_agrees_with_clip_benchmark(n, classes, seed):
    labels = (np.random.default_rng(seed).random((n, classes)) < 0.2).astype(np.int64)
    samples = {"test": build(labels)}
    images = unit(n, 8, seed)
    texts = task().prompts(samples)
    fake = model(texts, 8, seed)
    scores = task().score({"test": images}, fake.texts(texts), samples)
    with pytest.MonkeyPatch.context() as patch:
        allow_numpy_2_4(patch)
        loader = Loader([(images, torch.from_numpy(labels))], samples["test"].classnames)
        theirs = zsc.evaluate(
            fake, loader, fake.tokenizer, samples["test"].classnames, samples["test"].templates, "cpu", amp=False
        )
    assert scores.metrics == pytest.approx(theirs, abs=1e-6)


@given(st.integers(1, 60), st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_ties_are_resolved_as_by_the_reference(n, seed):
    """Scores of few values, so that most samples tie."""
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 3, (n, 4)).astype(np.float32), rng.integers(0, 2, (n, 4))
    with pytest.MonkeyPatch.context() as patch:
        allow_numpy_2_4(patch)
        expected = zsc.average_precision_per_class(torch.tensor(scores), torch.tensor(labels))
    assert AveragePrecision(scores, labels).per_class == pytest.approx(expected.numpy(), abs=1e-6)


def test_statistics_need_only_the_predictions(tmp_path):
    labels = (np.random.default_rng(0).random((30, 4)) < 0.3).astype(np.int64)
    scores = task().score({"test": unit(30, 8)}, unit(8, 8, 2), {"test": build(labels)})
    scores.predictions.to_parquet(tmp_path / "p.parquet")
    again = task().statistics(pd.read_parquet(tmp_path / "p.parquet"))
    assert {name: s.value for name, s in again.items()} == scores.metrics
    assert list(scores.predictions.columns[:2]) == ["key", "label_0"]


@pytest.mark.parametrize("labels", [np.array([0, 1]), np.array([[0, 2], [1, 0]]), np.array([[0], [1]])])
def test_bad_labels(labels):
    samples = Samples(keys=["a", "b"], labels=labels, classnames=["x", "y"], templates=["{c}"])
    with pytest.raises(ValueError, match=r"own/voc: labels must be 0 or 1 in shape \(2, 2\)"):
        task().predict({"test": unit(2, 4)}, unit(2, 4), {"test": samples})
