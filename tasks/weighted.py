"""Zero-shot classification whose templates count according to how well they serve: by the images alone, or by a labelled split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from clipeval.tasks import checks
from clipeval.tasks.base import Answers, Samples
from clipeval.tasks.classification import ROWS, Classification
from clipeval.tasks.seeds import Constant
from clipeval.tasks.statistics import Statistic
from clipeval.tasks.zero_shot import Pooling, head_texts

WEIGHTINGS = ("zpe", "validation")


@dataclass(frozen=True)
class WeightedPrompts(Classification):
    """The class vectors are weighted means of the templates' own, normalised again; weights are softmax(scores / temperature).

    zpe: zero-shot prompt ensembling (Allingham et al. 2023). A template's score is the mean over the test images of the largest
    cosine to a class, each cosine less its class's mean over these images. No label is used. The paper takes images of the
    pretraining data into that mean as well, which are not at hand here.
    validation: a template's score is its accuracy alone on the split `train` (`splits: [train, test]`); with `per_class` each class
    has weights of its own, by the recall of its images there, and a class without images the weights of all.

    Metrics: those of `Classification`, and effective_templates, 1 / sum of squared weights (their mean over the classes).
    Predictions: those of `Classification`, and effective_templates, the same in each row.
    """

    protocol: ClassVar[str] = "weighted_prompts"
    one_head: ClassVar[bool] = False  # it is made of the images as well, so that no head of it can be kept or given
    weighting: str = "zpe"
    temperature: float = 0.01
    per_class: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weighting not in WEIGHTINGS or not self.temperature > 0:
            raise ValueError(
                f"{self.key}: weighting is {' or '.join(WEIGHTINGS)}, and temperature above 0; got {self.weighting!r}"
            )
        if (self.weighting == "validation") != (len(self.splits) == 2) or (self.per_class and self.weighting == "zpe"):
            raise ValueError(
                f"{self.key}: weighting=validation needs splits of two, as [train, test], and zpe one; per_class is validation's; "
                f"got {self.weighting}, {list(self.splits)}, per_class={self.per_class}"
            )

    def name_lists(self, samples: Mapping[str, Samples]) -> dict[str, Sequence[str]]:
        return {"": samples["test"].classnames}

    def prompts(self, samples: Mapping[str, Samples]) -> list[str]:
        if isinstance(samples["test"].templates, Mapping):
            raise ValueError(
                f"{self.key}: templates are weighed, the same for all classes; these prompts are of each class"
            )
        return head_texts(samples["test"])

    def predict(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> pd.DataFrame:
        return WeightedPrompts.answers(self, images, texts, samples).predictions  # its own, whatever a subclass answers

    def answers(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> Answers:
        test = samples["test"]
        heads = (
            F.normalize(texts.float(), dim=-1)
            .view(len(test.classnames), len(test.templates), -1)
            .to(images["test"].device)
        )
        weights = self._weights(images, heads, samples)
        head = F.normalize((weights[..., None] * heads).sum(dim=1), dim=-1)
        found = super().answers(images, texts, {"test": replace(test, head=head.cpu(), pooling=Pooling())})
        effective = float((1 / weights.square().sum(dim=1)).mean())
        tables = [table.assign(effective_templates=effective) for table in (found.predictions, *found.otherwise)]
        return Answers(tables[0], tables[1:], found.ties)

    def statistics(self, predictions: pd.DataFrame) -> dict[str, Statistic | None]:
        checks.require_columns(predictions, ["effective_templates"], self.key)
        own = Constant(float(predictions["effective_templates"].iloc[0]))
        return {**super().statistics(predictions), "effective_templates": own}

    def _weights(
        self, images: Mapping[str, torch.Tensor], heads: torch.Tensor, samples: Mapping[str, Samples]
    ) -> torch.Tensor:
        """float32 [C, P], each row of sum 1; `heads` [C, P, D]."""
        if self.weighting == "zpe":
            test = images["test"]
            mean = test.mean(dim=0)
            scores = torch.stack([
                torch.cat([(rows @ head.T - mean @ head.T).amax(dim=1) for rows in torch.split(test, ROWS)]).mean()
                for head in heads.unbind(dim=1)
            ])  # fmt: skip
            return (scores / self.temperature).softmax(dim=0).expand(len(heads), -1)
        train, classes = samples["train"], len(heads)
        label = checks.labels(train.labels, len(images["train"]), classes, train.keys, self.key)
        target = torch.from_numpy(label).to(heads.device)
        hits = torch.stack([
            torch.cat([(rows @ head.T).argmax(dim=1) for rows in torch.split(images["train"], ROWS)]) == target
            for head in heads.unbind(dim=1)
        ]).float()  # fmt: skip
        overall = (hits.mean(dim=1) / self.temperature).softmax(dim=0)
        if not self.per_class:
            return overall.expand(classes, -1)
        counts = torch.from_numpy(np.bincount(label, minlength=classes)).to(heads.device)
        right = torch.zeros(classes, len(hits), device=heads.device).index_add_(0, target, hits.T)
        own = (right / counts.clamp(min=1)[:, None] / self.temperature).softmax(dim=1)
        return torch.where(counts[:, None] > 0, own, overall)
