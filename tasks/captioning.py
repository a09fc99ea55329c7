"""Captioning: what the model writes about an image, against what people wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import pandas as pd
import torch

from clipeval.tasks import checks, text_rows
from clipeval.tasks.base import Samples, Task
from clipeval.tasks.caption_metrics import CorpusMean, CorpusScore, bleu, meteor
from clipeval.tasks.statistics import Mean, Statistic

BLEU = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4")
COUNTS = ("length", "reference_length", "correct_1", "correct_2", "correct_3", "correct_4")
"""What BLEU is made of: a caption's words, those of the nearest reference, and its n-grams that a reference has."""


class Scorer(Protocol):
    """Compares captions with references. It may start programs, and so is not of this package: the config names it."""

    def check(self) -> None:
        """Raises a ValueError that says what is missing on this machine."""

    def __call__(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> pd.DataFrame:
        """A row a caption: tokens (text), references (a list of text), the six `COUNTS`, meteor (23 numbers, METEOR's own
        statistics of a segment), rouge_l and cider (its score among all of these)."""


@dataclass(frozen=True)
class Captioning(Task):
    """Bleu_1 to Bleu_4, METEOR, ROUGE_L and CIDEr, by the names, and to the digit, of clip_benchmark's captioning.

    SPICE is left out: it fetches a parser's models, and a run does not ask a network.

    Predictions, a row an image: key, caption, and what `Scorer` gives. BLEU and METEOR are of all captions together and are
    made of the stored counts; CIDEr weighs words by how many of the set's images have them, and a stored score has done so.
    """

    protocol: ClassVar[str] = "captioning"
    output: ClassVar[str] = "captions"
    scorer: Scorer | None = None

    def prompts(self, samples: Mapping[str, Samples]) -> list[str]:
        checks.captions(samples["test"].captions, samples["test"].keys, self.key)
        return []

    def dry_run(self, samples: Mapping[str, Samples]) -> list[str]:
        # Scoring would start METEOR, which takes ten seconds.
        self._scorer().check()
        return [*BLEU, "METEOR", "ROUGE_L", "CIDEr"]

    def predict(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> pd.DataFrame:
        test = samples["test"]
        checks.check_embeddings(images["test"], test.keys, self.key)
        captions = text_rows.to_texts(images["test"])
        counts = self._scorer()(captions, checks.captions(test.captions, test.keys, self.key))
        return pd.concat([pd.DataFrame({"key": list(test.keys), "caption": captions}), counts], axis=1)

    def statistics(self, predictions: pd.DataFrame) -> dict[str, Statistic | None]:
        checks.require_columns(predictions, [*COUNTS, "meteor", "rouge_l", "cider"], self.key)
        counts = predictions[list(COUNTS)].to_numpy(dtype=np.float64)
        metrics: dict[str, Statistic | None] = {
            name: CorpusScore(*bleu(counts, order)) for order, name in enumerate(BLEU, start=1)
        }
        metrics["METEOR"] = CorpusScore(*meteor(np.array(predictions["meteor"].tolist(), dtype=np.float64)))
        metrics["ROUGE_L"] = Mean(predictions["rouge_l"].to_numpy())
        metrics["CIDEr"] = CorpusMean(predictions["cider"].to_numpy())
        return metrics

    def _scorer(self) -> Scorer:
        if self.scorer is None:
            raise ValueError(f"{self.key}: captioning needs a scorer; inherit it: `defaults: [_captioning]`")
        return self.scorer
