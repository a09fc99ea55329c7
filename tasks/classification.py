"""Zero-shot classification: the class whose prompts lie nearest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from clipeval.tasks import checks, ties
from clipeval.tasks.base import Answers, Samples, Task
from clipeval.tasks.f1 import MacroF1
from clipeval.tasks.groups import GroupMetrics
from clipeval.tasks.statistics import GroupMean, Proportion, Statistic
from clipeval.tasks.zero_shot import classifier_weights, head_texts

ROWS = 4096
"""Images scored at once; nothing of N x C is kept."""


@dataclass(frozen=True)
class Classification(Task):
    """Top-1, top-5 and per-class recall; by group where `by` says so.

    Predictions: key, label, prediction (the argmax), pred_1..pred_k and score_1..score_k (the k = min(5, C) best; scores are
    100 times the cosine), then the metadata. With `ties=reference` the best are torch.topk's, as clip_benchmark's accuracy
    ranks them, which may put another of equal scores first than argmax does.
    """

    protocol: ClassVar[str] = "classification"
    one_head: ClassVar[bool] = True
    by: Sequence[GroupMetrics | Mapping[str, Any]] = ()
    """Metrics by group."""
    macro: bool = False
    """Whether to add iWildCam's acc_avg, recall-macro_all and F1-macro_all, over the labels that occur."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "by", checks.parts(GroupMetrics, self.by, f"{self.key}: by"))

    def prompts(self, samples: Mapping[str, Samples]) -> list[str]:
        test = samples["test"]
        return head_texts(test)

    def predict(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> pd.DataFrame:
        return Classification.answers(self, images, texts, samples).predictions  # its own, whatever a subclass answers

    def answers(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> Answers:
        test = samples["test"]
        n = checks.check_embeddings(images["test"], test.keys, self.key)
        label = checks.labels(test.labels, n, len(test.classnames), test.keys, self.key)
        for part in self.groups:
            checks.column(test.metadata, part.field, n, self.key)
        columns, places = top_k_labelled(images["test"], classifier_weights(texts, test), label, self.ties)
        table = {"key": np.asarray(test.keys, dtype=object), "label": label, **columns}
        predictions = checks.with_metadata(table, test.metadata, n, self.key)
        tied = ties.hanging(places, [k for k in (1, 5) if f"pred_{k}" in columns])
        return Answers(predictions, ties.ranked_otherwise(predictions, places), int(tied.sum()))

    def statistics(self, predictions: pd.DataFrame) -> dict[str, Statistic | None]:
        checks.require_columns(predictions, ["label", "prediction", "pred_1"], self.key)
        label = predictions["label"].to_numpy()
        prediction = predictions["prediction"].to_numpy()
        top1 = predictions["pred_1"].to_numpy() == label
        top5 = in_top_k(predictions, label, 5)
        recall = GroupMean(prediction == label, label)
        metrics: dict[str, Statistic | None] = {
            "acc1": Proportion(top1),
            "acc5": None if top5 is None else Proportion(top5),
            "mean_per_class_recall": recall,
        }
        if self.macro:
            metrics["acc_avg"] = Proportion(prediction == label)
            metrics["recall-macro_all"] = recall
            metrics["F1-macro_all"] = MacroF1(label, prediction)
        for part in self.groups:
            groups = checks.column(predictions, part.field, len(predictions), self.key)
            if part.top == 5 and top5 is None:
                raise ValueError(
                    f"{self.key}: {part.prefix} by {part.field!r} is a top-5 metric; it needs five classes"
                )
            hits = prediction == label if part.top == 1 or top5 is None else top5
            metrics.update(part.statistics(hits, groups))
        return metrics

    @property
    def groups(self) -> tuple[GroupMetrics, ...]:
        return tuple(part for part in self.by if isinstance(part, GroupMetrics))


def in_top_k(predictions: pd.DataFrame, label: np.ndarray, k: int) -> np.ndarray | None:
    """bool [N]: whether the label is among the k best; None if there are not that many classes."""
    if f"pred_{k}" not in predictions.columns:
        return None
    return np.asarray(np.any([predictions[f"pred_{i}"].to_numpy() == label for i in range(1, k + 1)], axis=0))


def top_k(images: torch.Tensor, head: torch.Tensor, rows: int = ROWS, rule: str = "reference") -> dict[str, np.ndarray]:
    """The best classes of each image.

    Args:
        images: float32 [N, D], L2-normalised.
        head: float32 [C, D], L2-normalised.
        rows: images scored at once.
        rule: how equal scores are ordered; see `clipeval.tasks.ties`.

    Returns:
        `prediction` int64 [N], `pred_1`.. int64 [N] and `score_1`.. float32 [N].
    """
    return top_k_of_logits(class_logits(images, head, rows, rule), rule)


def top_k_labelled(
    images: torch.Tensor, head: torch.Tensor, label: np.ndarray, rule: str
) -> tuple[dict[str, np.ndarray], ties.Labelled]:
    """As `top_k`, and where the labels int64 [N] stand."""
    places: list[ties.Labelled] = []

    def seen() -> Iterator[torch.Tensor]:
        start = 0
        for logits in class_logits(images, head, ROWS, rule):
            wanted = torch.from_numpy(label[start : start + len(logits)]).to(logits.device)
            places.append(ties.locate(logits, wanted, 100 * ties.CLOSE))
            start += len(logits)
            yield logits

    return top_k_of_logits(seen(), rule), ties.join(places)


def in_float64(values: torch.Tensor) -> torch.Tensor:
    """Values as float64, where they are, or on the CPU if their device has no float64 (Apple's GPUs)."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def class_logits(
    images: torch.Tensor, head: torch.Tensor, rows: int = ROWS, rule: str = "reference"
) -> Iterator[torch.Tensor]:
    """100 times the cosines, float32 [n, C] for `rows` images at a time; by the rule `first`, equal class vectors score alike."""
    if not (torch.isfinite(images).all() and torch.isfinite(head).all()):
        raise ValueError("an embedding is not finite; check the model's precision (fp16 overflows for some models)")
    # As the reference multiplies, so that equal class vectors tie, and equal scores rank, as they do there.
    classifier = head.float().T.contiguous().to(images.device)
    same = ties.same_vectors(head.to(images.device)) if rule == "first" else None
    for chunk in torch.split(images, rows):
        logits = 100.0 * chunk.float() @ classifier
        yield logits if same is None else logits[:, same]


def top_k_of_logits(chunks: Iterable[torch.Tensor], rule: str = "reference") -> dict[str, np.ndarray]:
    """The best classes by logits, float32 [n, C] a chunk; see `rank`."""
    argmax, best, scores = [], [], []
    for logits in chunks:
        k = min(5, logits.shape[1])
        values, order = torch.topk(logits, k, dim=1)
        if rule == "first":
            order = ties.first_of_equal(logits, order)
        elif k < 5:
            order = lead(order, torch.topk(logits, 1, dim=1).indices)
        argmax.append((order[:, 0] if rule == "first" else logits.argmax(dim=1)).cpu())
        best.append(order.cpu())
        scores.append(values.cpu())
    columns = {"prediction": torch.cat(argmax).numpy()}
    columns |= {f"pred_{i + 1}": column for i, column in enumerate(torch.cat(best).T.contiguous().numpy())}
    columns |= {f"score_{i + 1}": column for i, column in enumerate(torch.cat(scores).T.contiguous().numpy())}
    return columns


def lead(order: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """`order` [N, k] with `first` [N, 1] moved to the front: the reference asks for one class when there are under five,
    and torch.topk may resolve a tie otherwise when asked for more."""
    swapped = torch.where(order == first, order[:, :1], order)
    return torch.cat([first, swapped[:, 1:]], dim=1)
