"""Videos: worked by hand, and in the words of the Perception Encoder's own code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clipeval.tasks import Classification, Retrieval, Samples, VideoClassification, VideoRetrieval
from tests.tasks.fakes import unit


def frames(videos: int, each: int, **more: Any) -> Samples:
    keys = [f"v{v}" if not i else f"v{v}#{i + 1}" for v in range(videos) for i in range(each)]
    instances = [{"id": f"v{v}", "images": keys[v * each : (v + 1) * each]} for v in range(videos)]
    return Samples(keys=keys, instances=instances, **more)


def test_by_hand() -> None:
    """A frame of length 3 towards one class outweighs one of length 1 towards the other; of equal length they would tie."""
    images = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 2.0], [1.0, 0.0]])
    task = VideoClassification(key="own/video", name="Own", metric="acc1")
    table = frames(2, 2, labels=np.array([0, 0, 1, 1]), classnames=["x", "y"], head=torch.eye(2))
    found = task.score({"test": images}, torch.empty(0, 2), {"test": table})
    assert found.metrics["acc1"] == 1
    assert found.predictions["key"].tolist() == ["v0", "v1"]
    assert found.predictions["score_1"].tolist() == pytest.approx([100 * 3 / 10**0.5, 100 * 2 / 5**0.5])
    assert task.output == "raw"


def test_classification_as_perception_models_has_it() -> None:
    """zeroshot_classification.py: run_classification with encode_video(normalize=False), then accuracy."""
    raw = unit(30, 8, 1) * (1 + torch.rand(30, 1, generator=torch.Generator().manual_seed(2)))
    head, label = unit(5, 8, 3), np.arange(6) % 5
    features = F.normalize(raw.reshape(6, 5, -1).mean(dim=1), dim=-1)
    logits = 100.0 * features @ head.T
    task = VideoClassification(key="own/video", name="Own", metric="acc1")
    table = frames(6, 5, labels=label.repeat(5), classnames=list("abcde"), head=head)
    found = task.score({"test": raw}, torch.empty(0, 8), {"test": table})
    expected = (logits.argmax(dim=1).numpy() == label).mean()
    assert found.metrics["acc1"] == pytest.approx(expected, abs=1e-6)
    assert found.predictions["score_1"].to_numpy() == pytest.approx(logits.max(dim=1).values.numpy(), abs=1e-4)
    plain = Classification(key="own", name="Own", metric="acc1")
    images = Samples(keys=[f"v{i}" for i in range(6)], labels=label, classnames=list("abcde"), head=head)
    assert plain.score({"test": features}, torch.empty(0, 8), {"test": images}).metrics == found.metrics
    assert task.dry_run({"test": table}) == list(found.metrics)


def test_retrieval_as_perception_models_has_it() -> None:
    """zeroshot_retrieval.py: encode_video(normalize=True), whose means are not normalised, without reweighting."""
    images, texts = unit(40, 6, 4), unit(8, 6, 5)
    media = images.reshape(8, 5, -1).mean(dim=1)
    scores = texts @ media.T
    task = VideoRetrieval(key="own/video", name="Own", metric="video_retrieval_recall@1")
    table = frames(8, 5, captions=[[f"text {v}"] for v in range(8) for _ in range(5)])
    assert task.prompts({"test": table}) == [f"text {v}" for v in range(8)]
    found = task.score({"test": images}, texts, {"test": table}).metrics
    for k in (1, 5):
        for name, rows in (("video_retrieval", scores), ("text_retrieval", scores.T)):
            hits = (rows.topk(k, dim=1).indices == torch.arange(8)[:, None]).any(dim=1)
            assert found[f"{name}_recall@{k}"] == pytest.approx(hits.float().mean().item(), abs=1e-6)
    assert not any(name.startswith("image_") for name in found)
    normalised = Retrieval(key="own", name="Own", metric=None)
    plain = Samples(keys=[f"v{i}" for i in range(8)], captions=[[f"text {v}"] for v in range(8)])
    same = normalised.score({"test": media}, texts, {"test": plain}).metrics
    assert same["mean_recall@1"] == found["mean_recall@1"]


def test_without_videos() -> None:
    task = VideoRetrieval(key="own/video", name="Own", metric=None)
    table = Samples(keys=["a"], captions=[["x"]])
    with pytest.raises(ValueError, match="there are no videos"):
        task.score({"test": unit(1, 3)}, unit(1, 3), {"test": table})
