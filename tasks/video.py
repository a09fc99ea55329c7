"""Videos as the Perception Encoder has them: a video's embedding is the mean of its frames', and each frame is a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pandas as pd
import torch
import torch.nn.functional as F

from clipeval.tasks import checks
from clipeval.tasks.base import Answers, Samples
from clipeval.tasks.classification import Classification, in_float64
from clipeval.tasks.retrieval import Retrieval
from clipeval.tasks.statistics import Statistic


@dataclass(frozen=True)
class VideoClassification(Classification):
    """Metrics and predictions of `Classification`, a row a video.

    Frames' embeddings are as long as the model makes them; their mean is brought to length 1 (perception_models,
    apps/pe/clip_benchmark/metrics/zeroshot_classification.py and `CLIP.encode_video`).
    """

    protocol: ClassVar[str] = "video_classification"
    output: ClassVar[str] = "raw"

    def predict(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> pd.DataFrame:
        return VideoClassification.answers(
            self, images, texts, samples
        ).predictions  # its own, whatever a subclass answers

    def answers(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> Answers:
        means = F.normalize(mean_frames(images["test"], samples["test"], self.key), dim=-1)
        return super().answers({"test": means}, texts, {"test": by_video(samples["test"])})


@dataclass(frozen=True)
class VideoRetrieval(Retrieval):
    """Recall@k both ways: `video_retrieval_recall@k`, a text seeks its video, and `text_retrieval_recall@k`.

    Frames' embeddings are brought to length 1, and their mean is not (`CLIP.encode_video` with normalize=True). The scores are not
    reweighted by their softmax, which perception_models does unless told otherwise (--reweight-retrieval).
    """

    protocol: ClassVar[str] = "video_retrieval"
    mixed: ClassVar[bool] = False

    def captions(self, test: Samples) -> Sequence[Sequence[str]]:
        return super().captions(by_video(test))

    def predict(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> pd.DataFrame:
        return VideoRetrieval.answers(self, images, texts, samples).predictions  # its own, whatever a subclass answers

    def answers(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> Answers:
        means = mean_frames(images["test"], samples["test"], self.key)
        return super().answers({"test": means}, texts, {"test": by_video(samples["test"])})

    def statistics(self, predictions: pd.DataFrame) -> dict[str, Statistic | None]:
        found = super().statistics(predictions)
        return {name.replace("image_retrieval", "video_retrieval"): statistic for name, statistic in found.items()}


def mean_frames(frames: torch.Tensor, test: Samples, task: str) -> torch.Tensor:
    """float32 [V, D], the mean over each video's frames, of embeddings float32 [N, D] of all frames."""
    checks.check_embeddings(frames, test.keys, task)
    if not test.instances:
        raise ValueError(f"{task}: there are no videos; data.kind must be videos or video_captions")
    place = {key: i for i, key in enumerate(test.keys)}
    index = [[place[key] for key in one["images"]] for one in test.instances]
    rows = torch.tensor([i for several in index for i in several], device=frames.device)
    values = in_float64(frames[rows])
    counts = torch.tensor([len(several) for several in index], device=values.device)
    video = torch.repeat_interleave(torch.arange(len(index), device=values.device), counts)
    sums = values.new_zeros(len(index), frames.shape[1])
    return (sums.index_add_(0, video, values) / counts[:, None]).float().to(frames.device)


def by_video(test: Samples) -> Samples:
    """The table of frames as one of videos: what is said of a video's first frame is said of it."""
    if test.instances is None:
        return test  # of videos already
    place = {key: i for i, key in enumerate(test.keys)}
    first = [place[one["images"][0]] for one in test.instances]
    return replace(
        test,
        keys=[str(one["id"]) for one in test.instances],
        labels=None if test.labels is None else test.labels[first],
        captions=None if test.captions is None else [test.captions[i] for i in first],
        metadata=test.metadata.iloc[first].reset_index(drop=True) if len(test.metadata) else test.metadata,
        instances=None,
        positions=None,
    )
