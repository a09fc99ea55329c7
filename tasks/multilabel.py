"""Multi-label classification: every class ranks the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch

from clipeval.tasks import checks, ties
from clipeval.tasks.average_precision import AveragePrecision
from clipeval.tasks.base import Answers, Samples, Task
from clipeval.tasks.statistics import Statistic
from clipeval.tasks.zero_shot import classifier_weights, head_texts


@dataclass(frozen=True)
class MultiLabel(Task):
    """Mean average precision.

    Predictions: key, then for each class c from 0 label_<c> (0 or 1) and logit_<c> (100 times the cosine), then the
    metadata.
    """

    protocol: ClassVar[str] = "multilabel"
    one_head: ClassVar[bool] = True

    def prompts(self, samples: Mapping[str, Samples]) -> list[str]:
        test = samples["test"]
        return head_texts(test)

    def predict(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> pd.DataFrame:
        return MultiLabel.answers(self, images, texts, samples).predictions  # its own, whatever a subclass answers

    def answers(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> Answers:
        test = samples["test"]
        n = checks.check_embeddings(images["test"], test.keys, self.key)
        classes = len(test.classnames)
        labels = np.asarray(test.labels if test.labels is not None else [])
        if labels.shape != (n, classes) or not np.isin(labels, (0, 1)).all():
            raise ValueError(
                f"{self.key}: labels must be 0 or 1 in shape ({n}, {classes}), a row an image and a column a class of "
                f"classnames.txt; got shape {labels.shape}"
            )
        classifier = classifier_weights(texts, test).T.contiguous()
        logits = (100.0 * images["test"].float() @ classifier.to(images["test"].device)).cpu().numpy()
        columns: dict[str, np.ndarray] = {"key": np.asarray(test.keys, dtype=object)}
        columns |= {f"label_{c}": labels[:, c].astype(np.int64) for c in range(classes)}
        columns |= {f"logit_{c}": logits[:, c] for c in range(classes)}
        predictions = checks.with_metadata(columns, test.metadata, n, self.key)
        levels, tied = level(logits, labels.astype(bool), 100 * ties.CLOSE)
        otherwise = []
        for sign in (-1, 1) if tied.any() else ():
            table = predictions.copy()
            # Whole numbers that order as the scores do, positives of a level behind or before the others.
            table[[f"logit_{c}" for c in range(classes)]] = (2 * levels + sign * labels).astype(np.float32)
            otherwise.append(table)
        return Answers(predictions, otherwise, int(tied.sum()))

    def statistics(self, predictions: pd.DataFrame) -> dict[str, Statistic | None]:
        checks.require_columns(predictions, ["label_0", "logit_0"], self.key)
        classes = sum(f"label_{c}" in predictions.columns for c in range(predictions.shape[1]))
        scores = predictions[[f"logit_{c}" for c in range(classes)]].to_numpy(dtype=np.float32)
        labels = predictions[[f"label_{c}" for c in range(classes)]].to_numpy()
        return {"mean_average_precision": AveragePrecision(scores, labels, stable=self.ties == "first")}


def level(scores: np.ndarray, labels: np.ndarray, close: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores by levels of equal ones.

    Args:
        scores: float32 [N, C].
        labels: bool [N, C].
        close: neighbours no further apart than this are equal.

    Returns:
        int64 [N, C], from 0, the level of each score among its column; bool [N], whether a sample shares a level with one of
        the other label.
    """
    levels, tied = np.zeros(scores.shape, dtype=np.int64), np.zeros(len(scores), dtype=bool)
    for c in range(scores.shape[1]):
        order = np.argsort(scores[:, c], kind="stable")
        steps = np.diff(scores[order, c]) > close
        levels[order, c] = np.concatenate([[0], np.cumsum(steps)])
        size = np.bincount(levels[:, c])
        positive = np.bincount(levels[:, c], labels[:, c])
        tied |= ((positive > 0) & (positive < size))[levels[:, c]]
    return levels, tied
