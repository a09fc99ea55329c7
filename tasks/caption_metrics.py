"""Scores of a whole corpus, functions of sums over its images: BLEU, METEOR; and means that are no shares: CIDEr."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from clipeval.tasks.statistics import CELLS, Statistic, pick

Score = Callable[[np.ndarray], np.ndarray]
"""float64 [B, d], sums over units, to float64 [B]."""


class CorpusScore(Statistic):
    """A function of the sums of what each unit contributes. The interval is a percentile bootstrap's over units, as is usual
    for BLEU (Koehn, Statistical significance tests for machine translation evaluation, EMNLP 2004)."""

    def __init__(self, parts: np.ndarray, score: Score) -> None:
        """`parts`: float64 [units, d], at least one unit."""
        self.parts, self.score, self.units = np.asarray(parts, dtype=np.float64), score, len(parts)
        if self.parts.ndim != 2 or not self.units:
            raise ValueError(f"a corpus's score needs parts [units, d]; got an array of shape {self.parts.shape}")

    @cached_property
    def value(self) -> float:
        return float(self.score(self.parts.sum(axis=0, keepdims=True))[0])

    def resample(self, weights: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
        return self.score(np.asarray(weights, dtype=np.float64) @ pick(self.parts, units))

    def interval(self, level: float = 0.95, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
        rng, step = np.random.default_rng(seed), max(1, CELLS // self.units)
        share = np.full(self.units, 1 / self.units)
        totals = np.concatenate(
            [
                self.resample(rng.multinomial(self.units, share, size=min(step, draws - start)))
                for start in range(0, draws, step)
            ]
        )
        low, high = np.quantile(totals, [(1 - level) / 2, (1 + level) / 2])
        return min(float(low), self.value), max(float(high), self.value)


class CorpusMean(CorpusScore):
    """The mean of scores that are no shares of 1."""

    def __init__(self, values: np.ndarray) -> None:
        """`values`: float64 [units]."""
        self.values = np.asarray(values, dtype=np.float64)
        super().__init__(
            np.column_stack([self.values, np.ones(len(self.values))]), lambda sums: sums[:, 0] / sums[:, 1]
        )

    def per_unit_scores(self) -> np.ndarray:
        return self.values.copy()


def bleu(counts: np.ndarray, order: int) -> tuple[np.ndarray, Score]:
    """BLEU of n-grams up to `order` with the brevity penalty, over a corpus.

    As pycocoevalcap's BleuScorer with option "closest", its two small numbers included (Papineni et al., BLEU: a method for
    automatic evaluation of machine translation, ACL 2002).

    Args:
        counts: float64 [units, 6]: words of the caption, words of the nearest reference, n-grams found, n = 1 to 4.
        order: 1 to 4.

    Returns:
        Parts and score of a `CorpusScore`.
    """
    length = counts[:, :1]
    guesses = np.maximum(0, length - np.arange(order))  # how many n-grams a caption has

    def score(sums: np.ndarray) -> np.ndarray:
        words, reference = sums[:, 0], sums[:, 1]
        correct, guessed = sums[:, 2 : 2 + order], sums[:, 2 + order :]
        precision = np.prod((correct + 1e-15) / (guessed + 1e-9), axis=1) ** (1 / order)
        ratio = (words + 1e-15) / (reference + 1e-9)
        return np.asarray(precision * np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1))

    return np.column_stack([counts[:, : 2 + order], guesses]), score


STAGES = np.array([1.0, 0.6, 0.8, 0.6])
"""METEOR 1.5's weights, for English, of words that match exactly, by stem, as synonyms, in paraphrases."""

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75


def meteor(segments: np.ndarray) -> tuple[np.ndarray, Score]:
    """METEOR 1.5 of a corpus, from the statistics that its program prints for each segment.

    Denkowski and Lavie, Meteor Universal: language specific translation evaluation for any target language, WMT 2014. A
    segment that is its reference, word for word in one piece, adds no chunk, as in the program's own sum.

    Args:
        segments: float64 [units, 23]: words of caption and reference, function words of both, four numbers for each of the
            four stages (content words matched in the caption and in the reference, function words in both), chunks, and the
            matched words of both.

    Returns:
        Parts and score of a `CorpusScore`.
    """
    stages = segments[:, 4:20].reshape(-1, 4, 4)
    matched = stages.sum(axis=1)
    whole = (
        (matched[:, 0] + matched[:, 2] == segments[:, 0])
        & (matched[:, 1] + matched[:, 3] == segments[:, 1])
        & (segments[:, 20] == 1)
    )
    weighted = np.einsum("s,usk->uk", STAGES, stages)
    scores = DELTA * weighted[:, :2] + (1 - DELTA) * weighted[:, 2:]
    total = DELTA * (segments[:, :2] - segments[:, 2:4]) + (1 - DELTA) * segments[:, 2:4]
    chunks, words = np.where(whole, 0, segments[:, 20]), segments[:, 21:23].mean(axis=1)

    def score(sums: np.ndarray) -> np.ndarray:
        precision, recall = _share(sums[:, 0], sums[:, 2]), _share(sums[:, 1], sums[:, 3])
        mean = _share(precision * recall, ALPHA * precision + (1 - ALPHA) * recall)
        return np.asarray(mean * (1 - GAMMA * _share(sums[:, 4], sums[:, 5]) ** BETA))

    return np.column_stack([scores, total, chunks, words]), score


def _share(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom, and 0 where nothing is below."""
    return np.asarray(np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0))
