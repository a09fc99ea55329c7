"""ImageNet-W: what a watermark on every image does to a classifier that has learnt to read it as a class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd
import torch

from clipeval.tasks import checks
from clipeval.tasks.base import Answers, Samples
from clipeval.tasks.classification import Classification
from clipeval.tasks.means import PairedDifference
from clipeval.tasks.out_of_distribution import OUTSIDE
from clipeval.tasks.statistics import Proportion, Statistic


@dataclass(frozen=True)
class Watermark(Classification):
    """acc1 and acc5 of the images of the split `outside`, the same as those of `test` with a watermark; acc1_clean of the latter.

    gap is acc1 less acc1_clean, image by image; class_gap the same over the images of the class `of_class`, which the watermark is
    read as (Li et al. 2023: IN-W gap and carton gap).

    Predictions: those of `Classification` on the watermarked images, and clean, the best class without it.
    """

    protocol: ClassVar[str] = "watermark"
    of_class: int = 478

    def predict(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> pd.DataFrame:
        return Watermark.answers(self, images, texts, samples).predictions  # its own, whatever a subclass answers

    def answers(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> Answers:
        if OUTSIDE not in samples:
            raise ValueError(f"{self.key}: there are no watermarked images; the config's `outside` names them")
        marked, clean = samples[OUTSIDE], samples["test"]
        there = set(clean.keys)
        both = [key for key in marked.keys if key in there]
        rows = {split: pd.Index(samples[split].keys).get_indexer(pd.Index(both)) for split in ("test", OUTSIDE)}
        if not both:
            raise ValueError(f"{self.key}: the images with a watermark and those without it have no key in common")
        views = {}
        for split, table in (("test", clean), (OUTSIDE, marked)):
            chosen = replace(
                clean,
                keys=both,
                labels=None if table.labels is None else table.labels[rows[split]],
                metadata=pd.DataFrame(),
            )
            found = super().answers({"test": images[split][torch.from_numpy(rows[split])]}, texts, {"test": chosen})
            views[split] = found
        answer = views["test"].predictions["pred_1"].to_numpy()
        tables = [t.assign(clean=answer) for t in (views[OUTSIDE].predictions, *views[OUTSIDE].otherwise)]
        tables += [tables[0].assign(clean=t["pred_1"].to_numpy()) for t in views["test"].otherwise]
        return Answers(tables[0], tables[1:], views["test"].ties + views[OUTSIDE].ties)

    def statistics(self, predictions: pd.DataFrame) -> dict[str, Statistic | None]:
        checks.require_columns(predictions, ["clean"], self.key)
        found = super().statistics(predictions)
        label = predictions["label"].to_numpy()
        marked, clean = predictions["pred_1"].to_numpy() == label, predictions["clean"].to_numpy() == label
        mine = np.flatnonzero(label == self.of_class)
        found["acc1_clean"] = Proportion(clean)
        found["gap"] = PairedDifference(marked, clean)
        found["class_gap"] = PairedDifference(marked[mine], clean[mine]) if len(mine) else None
        return found
