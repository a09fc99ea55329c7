"""Calibration of zero-shot classification: are probabilities as often right as they say?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd
import torch

from clipeval.tasks import checks
from clipeval.tasks.base import Answers, Samples
from clipeval.tasks.bootstrap import TurnedBootstrap
from clipeval.tasks.classification import ROWS, Classification, class_logits, in_float64
from clipeval.tasks.means import RealMean
from clipeval.tasks.seeds import Constant
from clipeval.tasks.statistics import CELLS, Statistic, pick
from clipeval.tasks.zero_shot import classifier_weights

STEPS = 30
"""Of the search for the best scale; it takes about eight."""
LEAST, MOST = 1e-2, 1e6
"""Scales that are tried. Where every answer is right the likelihood grows with the scale for ever."""


@dataclass(frozen=True)
class Calibration(Classification):
    """How far the probabilities softmax(scale · cosine) can be trusted, with the model's own scale and with the best one.

    ece: the expected calibration error of the top class, over `bins` bins of equal width (torchmetrics' CalibrationError, norm
    l1: a bin holds its lower end; a confidence of 1 is a bin of its own). nll: the negative log-likelihood, in nats. brier: the
    sum over classes of (probability - truth)^2. mean_confidence. The same with `_best`: with the scale that minimises nll on
    these very samples, 1 / temperature, which is the best that temperature scaling can do. logit_scale, logit_scale_best.
    Beside them the metrics of `Classification`.

    Predictions: those of `Classification`, and for both scales `scale`, `confidence` (of the top class), `log_likelihood` (of the
    label) and `squares` (the sum over classes of squared probabilities); those of the best scale end in `_best`.
    """

    protocol: ClassVar[str] = "calibration"
    scaled: ClassVar[bool] = True
    logit_scale: float | None = None
    """The factor of the cosines; None: the model's own, and 100, CLIP's, where it has none."""
    bins: int = 15

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bins < 1 or (self.logit_scale is not None and not self.logit_scale > 0):
            raise ValueError(
                f"{self.key}: bins is at least 1 and logit_scale above 0; got {self.bins}, {self.logit_scale}"
            )

    def with_scale(self, logit_scale: float) -> Calibration:
        return replace(self, logit_scale=logit_scale)

    def predict(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> pd.DataFrame:
        return Calibration.answers(self, images, texts, samples).predictions  # its own, whatever a subclass answers

    def answers(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> Answers:
        found = super().answers(images, texts, samples)
        test = samples["test"]
        head, label = classifier_weights(texts, test), found.predictions["label"].to_numpy(copy=True)
        own = 100.0 if self.logit_scale is None else self.logit_scale
        columns = {}
        for ending, scale in (("", own), ("_best", best_scale(images["test"], head, label, own))):
            for name, values in probabilities(images["test"], head, label, scale).items():
                columns[f"{name}{ending}"] = values
            columns[f"scale{ending}"] = np.full(len(label), scale)
        tables = [found.predictions, *found.otherwise]
        for name in (name for name in columns if name in found.predictions.columns):
            raise ValueError(f"{self.key}: a metadata field is called {name!r}, as a column of the predictions")
        tables = [table.assign(**columns) for table in tables]
        return replace(found, predictions=tables[0], otherwise=tables[1:])

    def statistics(self, predictions: pd.DataFrame) -> dict[str, Statistic | None]:
        needed = ("scale", "confidence", "log_likelihood", "squares")
        checks.require_columns(predictions, [f"{name}{end}" for name in needed for end in ("", "_best")], self.key)
        right = (predictions["prediction"] == predictions["label"]).to_numpy()
        found: dict[str, Statistic | None] = {}
        for end in ("", "_best"):
            scale, confidence, likelihood, squares = (predictions[f"{name}{end}"].to_numpy() for name in needed)
            found[f"ece{end}"] = CalibrationError(confidence, right, self.bins)
            found[f"nll{end}"] = RealMean(-likelihood)
            found[f"brier{end}"] = RealMean(squares - 2 * np.exp(likelihood) + 1)
            found[f"mean_confidence{end}"] = RealMean(confidence)
            found[f"logit_scale{end}"] = Constant(float(scale[0]))
        return {**found, **super().statistics(predictions)}


class CalibrationError(TurnedBootstrap):
    """The mean over bins of |accuracy - confidence|, each weighed by its samples.

    Noise makes it larger: in a bin of n samples the two differ by about 1 / sqrt(n) even where nothing is wrong.
    """

    def __init__(self, confidence: np.ndarray, right: np.ndarray, bins: int) -> None:
        """`confidence`: float [units] in [0, 1]; `right`: bool [units]; at least one."""
        self.confidence, self.right = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
        self.units, self.bins = len(self.confidence), bins
        if not self.units or self.confidence.min() < 0 or self.confidence.max() > 1 or len(self.right) != self.units:
            raise ValueError("a calibration error needs confidences in [0, 1] and as many answers, at least one")
        ends = np.linspace(0, 1, bins + 1)
        self.index = np.searchsorted(ends, self.confidence, side="right") - 1

    @property
    def value(self) -> float:
        gaps = np.bincount(self.index, self.right - self.confidence, self.bins + 1)
        return float(np.abs(gaps).sum() / self.units)

    def resample(self, weights: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
        weights = np.asarray(weights, dtype=np.float64)
        gaps, index = pick(self.right - self.confidence, units), pick(self.index, units)
        totals = np.stack([weights[:, index == b] @ gaps[index == b] for b in range(self.bins + 1)])
        return np.asarray(np.abs(totals).sum(axis=0) / weights.sum(axis=1))


def probabilities(images: torch.Tensor, head: torch.Tensor, label: np.ndarray, scale: float) -> dict[str, np.ndarray]:
    """What the softmax over scale · cosine says.

    Args:
        images: float32 [N, D], L2-normalised.
        head: float32 [C, D], L2-normalised.
        label: int64 [N].

    Returns:
        float64 [N] each: `confidence`, `log_likelihood`, `squares`.
    """
    found: dict[str, list[torch.Tensor]] = {"confidence": [], "log_likelihood": [], "squares": []}
    for logits, wanted in _scored(images, head, label):
        logs = (logits * scale).log_softmax(dim=1)
        found["confidence"].append(logs.amax(dim=1).exp().cpu())
        found["log_likelihood"].append(logs.gather(1, wanted[:, None])[:, 0].cpu())
        found["squares"].append(logs.exp().square().sum(dim=1).cpu())
    return {name: torch.cat(parts).numpy() for name, parts in found.items()}


def best_scale(images: torch.Tensor, head: torch.Tensor, label: np.ndarray, start: float) -> float:
    """The scale that minimises the negative log-likelihood, which is convex in it: Newton's steps inside a bracket.

    Args: as of `probabilities`; `start`: where to begin.
    """
    low, high, scale = LEAST, MOST, min(max(start, LEAST), MOST)
    for _ in range(STEPS):
        slope = curve = 0.0
        for logits, wanted in _scored(images, head, label):
            share = (logits * scale).softmax(dim=1)
            mean = (share * logits).sum(dim=1)
            slope += float((mean - logits.gather(1, wanted[:, None])[:, 0]).sum())
            curve += float(((share * logits.square()).sum(dim=1) - mean.square()).sum())
        low, high = (low, scale) if slope > 0 else (scale, high)
        step = scale - slope / curve if curve > 0 else high
        following = step if low < step < high else float(np.sqrt(low * high))
        if abs(following - scale) <= 1e-9 * scale:
            break
        scale = following
    return scale


def _scored(images: torch.Tensor, head: torch.Tensor, label: np.ndarray) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Cosines float64 [n, C] and labels int64 [n], some images at a time."""
    start = 0
    for logits in class_logits(images, head, max(1, min(ROWS, CELLS // len(head)))):
        cosines = in_float64(logits) / 100
        wanted = torch.from_numpy(label[start : start + len(logits)]).to(cosines.device)
        start += len(logits)
        yield cosines, wanted
