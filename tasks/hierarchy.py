"""How far off mistakes are: accuracy at each depth of a hierarchy of classes, and how high mistakes reach in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import pandas as pd
import torch

from clipeval.tasks import checks
from clipeval.tasks.base import Answers, Samples
from clipeval.tasks.means import RealMean
from clipeval.tasks.relabelled import Relabelled
from clipeval.tasks.statistics import Proportion, Statistic
from clipeval.tasks.tree import Tree


@dataclass(frozen=True)
class Hierarchy(Relabelled):
    """acc1_depth_D: the share of images whose best class lies below the label's ancestor at depth D, the root being at 0; a label
    less deep than D has to be met itself. severity: the mean height of the lowest common ancestor of label and best class over the
    mistakes (Bertinetto et al. 2020, `ilsvrc_dist_mistakes`); distance: the same over all images, a right answer's being 0.

    Predictions: those of `Classification`, and shared_depth (of that ancestor), label_depth, shared_height.
    """

    protocol: ClassVar[str] = "hierarchy"

    def from_classification(self, predictions: pd.DataFrame, samples: Mapping[str, Samples]) -> pd.DataFrame:
        return self._placed(super().from_classification(predictions, samples), samples["test"].tree)

    def answers(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> Answers:
        found = super().answers(images, texts, samples)
        tables = [self._placed(table, samples["test"].tree) for table in (found.predictions, *found.otherwise)]
        return Answers(tables[0], tables[1:], found.ties)

    def predict(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> pd.DataFrame:
        return Hierarchy.answers(self, images, texts, samples).predictions  # its own, whatever a subclass answers

    def statistics(self, predictions: pd.DataFrame) -> dict[str, Statistic | None]:
        found = super().statistics(predictions)
        names = ["shared_depth", "label_depth", "shared_height"]
        checks.require_columns(predictions, names, self.key)
        shared, depth, height = (predictions[name].to_numpy() for name in names)
        for d in range(1, int(depth.max()) + 1):
            found[f"acc1_depth_{d}"] = Proportion(shared >= np.minimum(d, depth))
        wrong = shared < depth
        found["severity"] = RealMean(height[wrong]) if wrong.any() else None
        found["distance"] = RealMean(np.where(wrong, height, 0))
        return found

    def _placed(self, predictions: pd.DataFrame, tree: Tree | None) -> pd.DataFrame:
        if tree is None:
            raise ValueError(f"{self.key}: there is no hierarchy; name its file in data.hierarchy")

        @cache
        def meet(label: int, prediction: int) -> tuple[int, int, float]:
            mine, theirs = tree.paths[label], tree.paths[prediction]
            shared = next(
                (d for d, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs))
            )
            return shared - 1, len(mine) - 1, 0.0 if shared == len(mine) else float(tree.heights[mine[shared - 1]])

        pairs = zip(predictions["label"].tolist(), predictions["pred_1"].tolist(), strict=True)
        columns = np.array([meet(*pair) for pair in pairs], dtype=np.float64)
        return predictions.assign(
            shared_depth=columns[:, 0].astype(np.int64),
            label_depth=columns[:, 1].astype(np.int64),
            shared_height=columns[:, 2],
        )
