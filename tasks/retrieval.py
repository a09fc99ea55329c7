"""Image-text retrieval: each caption seeks its image, each image one of its captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch

from clipeval.tasks import checks
from clipeval.tasks.base import Answers, Samples, Task
from clipeval.tasks.statistics import AsymptoticallyLinear, ClusterMean, MeanOf, Proportion, Statistic
from clipeval.tasks.ties import CLOSE

CELLS = 4_000_000
"""Similarities held at once: 16 MB."""


@dataclass(frozen=True)
class Retrieval(Task):
    """Recall@k both ways: 1 if any of a query's own matches is among the k best.

    Predictions, a row a query: direction (`image`: a caption seeks its image; `text`: an image seeks its captions), key (of
    the query's image), caption (the query's number among its image's captions; -1 in direction `text`), rank (from 0, of the
    best own match), score (its cosine), top_key and top_caption (the best candidate; -1 where that is an image), top_score;
    and for people to read own (the query's caption, an image's first) and answer (the best caption; empty where it is an image).

    rank is the number of candidates with a higher score, and of equal ones with a lower index. clip_benchmark asks torch.topk,
    which leaves the order of equal scores open; the two differ only there (captions that occur twice, word for word), and how
    far recall may move by it is in the record (`clipeval.tasks.ties`).
    """

    protocol: ClassVar[str] = "retrieval"
    mixed: ClassVar[bool] = True
    ks: Sequence[int] = (1, 5, 10)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "ks", tuple(int(k) for k in self.ks))
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"{self.key}: ks must be whole numbers from 1, got {self.ks}")

    def prompts(self, samples: Mapping[str, Samples]) -> list[str]:
        return [caption for captions in self.captions(samples["test"]) for caption in captions]

    def captions(self, test: Samples) -> Sequence[Sequence[str]]:
        """The captions, of which each image has at least one."""
        return checks.captions(test.captions, test.keys, self.key)

    def predict(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> pd.DataFrame:
        return Retrieval.answers(self, images, texts, samples).predictions  # its own, whatever a subclass answers

    def answers(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> Answers:
        test = samples["test"]
        n = checks.check_embeddings(images["test"], test.keys, self.key)
        captions = self.captions(test)
        counts = [len(several) for several in captions]
        if len(texts) != sum(counts):
            raise ValueError(f"{self.key}: {sum(counts)} captions, but {len(texts)} text embeddings")
        keys = np.asarray(test.keys, dtype=object)
        owner = np.repeat(np.arange(n), counts)
        number = np.concatenate([np.arange(count) for count in counts])
        words = np.array([caption for several in captions for caption in several], dtype=object)
        by_caption, by_image = retrieval_ranks(images["test"], texts, counts)
        predictions = pd.DataFrame(
            {
                "direction": np.repeat(np.array(["image", "text"], dtype=object), [len(owner), n]),
                "key": np.concatenate([keys[owner], keys]),
                "caption": np.concatenate([number, np.full(n, -1)]),
                "rank": np.concatenate([by_caption["rank"], by_image["rank"]]),
                "score": np.concatenate([by_caption["score"], by_image["score"]]),
                "top_key": np.concatenate([keys[by_caption["top"]], keys[owner[by_image["top"]]]]),
                "top_caption": np.concatenate([np.full(len(owner), -1), number[by_image["top"]]]),
                "top_score": np.concatenate([by_caption["top_score"], by_image["top_score"]]),
                "own": np.concatenate([words, np.array([several[0] for several in captions], dtype=object)]),
                "answer": np.concatenate([np.full(len(owner), "", dtype=object), words[by_image["top"]]]),
            }
        )
        ahead, behind = (np.concatenate([by_caption[part], by_image[part]]) for part in ("ahead", "behind"))
        tied = np.any([(ahead < k) != (behind < k) for k in {1, *self.ks}], axis=0)
        otherwise = [predictions.assign(rank=np.where(tied, r, predictions["rank"])) for r in (behind, ahead)]
        return Answers(predictions, otherwise if tied.any() else (), int(tied.sum()))

    def statistics(self, predictions: pd.DataFrame) -> dict[str, Statistic | None]:
        checks.require_columns(predictions, ["direction", "key", "rank"], self.key)
        captions = predictions[predictions["direction"] == "image"]
        images = predictions[predictions["direction"] == "text"]
        clusters = pd.Index(images["key"]).get_indexer(pd.Index(captions["key"]))
        metrics: dict[str, Statistic | None] = {}

        def recall(k: int) -> tuple[AsymptoticallyLinear, AsymptoticallyLinear]:
            hits = (captions["rank"] < k).to_numpy()
            return ClusterMean(hits, clusters, len(images)), Proportion((images["rank"] < k).to_numpy())

        for k in self.ks:
            image, text = recall(k)
            # As acc5 under five classes: the k best of fewer than k say nothing.
            metrics[f"image_retrieval_recall@{k}"] = image if len(images) >= k else None
            metrics[f"text_retrieval_recall@{k}"] = text if len(captions) >= k else None
        metrics["mean_recall@1"] = MeanOf(recall(1))
        return metrics


def retrieval_ranks(
    images: torch.Tensor, texts: torch.Tensor, counts: Sequence[int]
) -> tuple[dict[str, np.ndarray], ...]:
    """Where each caption finds its image, and each image the first of its captions. On the CPU, and in one pass.

    Args:
        images: float32 [N, D].
        texts: float32 [T, D], the captions of image 0, then those of image 1, and so on.
        counts: how many captions each image has, at least 1; their sum is T.

    Returns:
        For captions [T], then for images [N]: `rank` int64 from 0 and `score` float32 of the best own match, `top` int64, the
        best candidate, and `top_score` float32; `ahead` and `behind` int64, the rank with all ties its way, and against it.
    """
    images, texts = images.float().cpu(), texts.float().cpu()
    if not (torch.isfinite(images).all() and torch.isfinite(texts).all()):
        raise ValueError("an embedding is not finite; check the model's precision (fp16 overflows for some models)")
    n, t = len(images), len(texts)
    rows = min(255, max(1, CELLS // t))
    starts = np.concatenate([[0], np.cumsum(counts)])
    owner = np.repeat(np.arange(n), counts)
    column = np.arange(t)
    blocks = [(low, min(low + rows, n)) for low in range(0, n, rows)]

    # What every caption scores with its own image is needed before any is ranked.
    own = np.empty(t, dtype=np.float32)
    for low, high in blocks:
        mine = slice(starts[low], starts[high])
        own[mine] = (images[low:high] @ texts[mine].T).numpy()[owner[mine] - low, column[mine] - starts[low]]
    best = np.maximum.reduceat(own, starts[:-1])
    first = np.minimum.reduceat(np.where(own == best[owner], column, t), starts[:-1])

    caption: dict[str, np.ndarray] = {"rank": np.zeros(t, dtype=np.int64), "score": own}
    caption |= {"top": np.zeros(t, dtype=np.int64), "top_score": np.full(t, -np.inf, dtype=np.float32)}
    caption |= {"ahead": np.zeros(t, dtype=np.int64), "behind": np.zeros(t, dtype=np.int64)}
    image: dict[str, np.ndarray] = {"rank": np.zeros(n, dtype=np.int64), "score": best}
    image |= {"top": np.zeros(n, dtype=np.int64), "top_score": np.empty(n, dtype=np.float32)}
    # Captions of the same image are no rivals of one another.
    akin = np.add.reduceat((own >= (best - np.float32(CLOSE))[owner]).astype(np.int64), starts[:-1])
    image |= {"ahead": np.zeros(n, dtype=np.int64), "behind": np.zeros(n, dtype=np.int64)}
    above, below = own + np.float32(CLOSE), own - np.float32(CLOSE)
    for low, high in blocks:
        scores = images[low:high] @ texts.T
        table = scores.numpy()
        mine = slice(starts[low], starts[high])
        # One source for a pair's score, or rounding could rank a match behind itself.
        table[owner[mine] - low, column[mine]] = own[mine]

        target = best[low:high, None]
        image["rank"][low:high] = (table > target).sum(axis=1, dtype=np.int32)
        if np.count_nonzero(table == target) > high - low:
            image["rank"][low:high] += ((table == target) & (column < first[low:high, None])).sum(axis=1)
        image["ahead"][low:high] = (table > target + np.float32(CLOSE)).sum(axis=1, dtype=np.int32)
        image["behind"][low:high] = (table >= target - np.float32(CLOSE)).sum(axis=1, dtype=np.int32) - akin[low:high]
        top_score, top = scores.max(dim=1)
        image["top"][low:high], image["top_score"][low:high] = top.numpy(), top_score.numpy()

        # At most 255 rows, so that bytes can count them.
        caption["rank"] += (table > own).view(np.uint8).sum(axis=0, dtype=np.uint8)
        caption["ahead"] += (table > above).view(np.uint8).sum(axis=0, dtype=np.uint8)
        caption["behind"] += (table >= below).view(np.uint8).sum(axis=0, dtype=np.uint8)
        if np.count_nonzero(table == own) > starts[high] - starts[low]:
            row, tied = np.nonzero(table == own)
            np.add.at(caption["rank"], tied[low + row < owner[tied]], 1)
        better = np.flatnonzero(scores.amax(dim=0).numpy() > caption["top_score"])
        if len(better):
            top_score, top = scores[:, torch.from_numpy(better)].max(dim=0)
            caption["top"][better], caption["top_score"][better] = low + top.numpy(), top_score.numpy()
    caption["behind"] -= 1  # its own image
    return caption, image
