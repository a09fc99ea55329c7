"""Effective robustness: how far a model's accuracy under distribution shift lies above the trend of others."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def logit(value: ArrayLike) -> np.ndarray:
    """log(p / (1 - p)), of accuracies kept off 0 and 1."""
    clipped = np.clip(np.asarray(value, dtype=float), 1e-4, 1 - 1e-4)
    return np.asarray(np.log(clipped / (1 - clipped)))


def expit(value: ArrayLike) -> np.ndarray:
    """The inverse of `logit`."""
    return np.asarray(1 / (1 + np.exp(-np.asarray(value, dtype=float))))


def trend(x: ArrayLike, y: ArrayLike) -> tuple[float, float]:
    """Slope and offset of the line through the logits of two accuracies (Taori et al., NeurIPS 2020)."""
    slope, offset = np.polyfit(logit(x), logit(y), 1)
    return float(slope), float(offset)


def above_trend(x: ArrayLike, y: ArrayLike, line: tuple[float, float]) -> np.ndarray:
    """How far accuracies under shift lie above a trend, in accuracy."""
    return np.asarray(np.asarray(y, dtype=float) - expit(line[0] * logit(x) + line[1]))
