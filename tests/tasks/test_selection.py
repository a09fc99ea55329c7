"""Caption selection against clip_benchmark's evaluate, and by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from clip_benchmark.metrics import image_caption_selection as ics

from clipeval.tasks import Samples, Selection
from tests.tasks.fakes import Loader, model, unit


def task():
    return Selection(key="own/selection", name="Own", metric="acc")


def build(n, images, captions):
    instances = [
        {
            "id": f"i{i}",
            "images": [f"image{i}-{j}" for j in range(images)],
            "captions": [f"caption {i} {j}" for j in range(captions)],
        }
        for i in range(n)
    ]
    return Samples(keys=[key for instance in instances for key in instance["images"]], instances=instances)


@pytest.mark.parametrize(("images", "captions"), [(1, 2), (2, 2), (3, 2), (1, 1), (2, 5)])
def test_agrees_with_clip_benchmark(images, captions):
    samples = build(100, images, captions)
    vectors = unit(100 * images, 6)
    texts = [caption for instance in samples.instances for caption in instance["captions"]]
    if (images, captions) != (1, 1):  # which is refused before anything is embedded
        assert task().prompts({"test": samples}) == texts
    fake = model(texts, 6)
    found = task().score({"test": vectors}, fake.texts(texts), {"test": samples})
    batch = vectors.view(100, images, 1, 1, 6)
    loader = Loader([(batch, [instance["captions"] for instance in samples.instances])])
    theirs = ics.evaluate(fake, loader, fake.tokenizer, "cpu", amp=False)
    assert found.metrics == pytest.approx(theirs, abs=1e-6)


def test_by_hand():
    """Shapes may differ: one of two and two (all right), one of one and two (the negative wins)."""
    samples = Samples(
        keys=["a", "b"],
        instances=[
            {"id": "both", "images": ["b", "a"], "captions": ["of b", "of a"]},
            {"id": "fooled", "images": ["a"], "captions": ["of a", "of a, nearly"]},
        ],
    )
    images = torch.tensor([[1.0, 0], [0, 1.0]])
    texts = torch.tensor([[0, 1.0], [1.0, 0], [0.6, 0.8], [0.8, 0.6]])
    scores = task().score({"test": images}, texts, {"test": samples})
    assert scores.metrics == {"image_acc": 1.0, "text_acc": 0.5, "acc": 0.5}
    assert scores.predictions["text_choice"].tolist() == ["0,1", "1"]
    assert scores.predictions["image_choice"].tolist() == ["0,1", "0"]
    assert scores.predictions[["image", "own", "answer"]].to_numpy().tolist() == [
        ["b", "of b", "of b"],
        ["a", "of a", "of a, nearly"],
    ]
    assert task().prompts({"test": samples}) == ["of b", "of a", "of a", "of a, nearly"]


def test_statistics_need_only_the_predictions(tmp_path):
    scores = task().score({"test": unit(40, 6)}, unit(40, 6, 2), {"test": build(20, 2, 2)})
    scores.predictions.to_parquet(tmp_path / "p.parquet")
    again = task().statistics(pd.read_parquet(tmp_path / "p.parquet"))
    assert {name: s.value for name, s in again.items()} == scores.metrics
    assert np.isfinite(list(scores.metrics.values())).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": ["lost"]}, "instance 'x': image 'lost' is not among the 1"),
        ({"captions": []}, "instance 'x' has no 'captions'"),
        ({"captions": "one string"}, "a list of captions"),
    ],
)
def test_bad_instances(change, message):
    instance = {"id": "x", "images": ["a"], "captions": ["of a", "of b"], **change}
    with pytest.raises(ValueError, match=message):
        task().prompts({"test": Samples(keys=["a"], instances=[instance])})


def test_missing_parts():
    with pytest.raises(ValueError, match="no instances"):
        task().prompts({"test": Samples(keys=["a"])})
    with pytest.raises(ValueError, match="4 captions, but 3"):
        task().predict({"test": unit(2, 4)}, unit(3, 4), {"test": build(2, 1, 2)})


def test_one_picture_and_one_caption_leave_nothing_to_choose():
    samples = build(3, 1, 1)
    with pytest.raises(ValueError, match="nothing is to be chosen; give wrong captions"):
        task().prompts({"test": samples})
