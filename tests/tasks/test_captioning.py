"""Captioning: texts as rows, corpus scores worked out by hand, and what a task needs."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from clipeval.tasks import Captioning, Samples
from clipeval.tasks.caption_metrics import CorpusMean, CorpusScore, bleu, meteor
from clipeval.tasks.text_rows import WIDTH, to_rows, to_texts


def test_texts_come_back_from_their_rows():
    texts = ["a cat", "", "naïve café, 東京", "a\0b", "é" * WIDTH]
    rows = to_rows(texts)
    assert rows.dtype == torch.float32
    assert rows.shape == (5, WIDTH)
    assert to_texts(rows.bfloat16().float()) == ["a cat", "", "naïve café, 東京", "ab", "é" * (WIDTH // 2)]


def test_bleu_worked_out_by_hand():
    # "the cat sat" against "the cat sat down": all of its 3, 2 and 1 n-grams are there, and it is a word short;
    # "a dog" against "a big dog": both words, no pair, also a word short.
    counts = np.array([[3, 4, 3, 2, 1, 0], [2, 3, 2, 0, 0, 0]], dtype=np.float64)
    brevity = math.exp(1 - 7 / 5)
    assert CorpusScore(*bleu(counts, 1)).value == pytest.approx(brevity, abs=1e-8)
    assert CorpusScore(*bleu(counts, 2)).value == pytest.approx(brevity * math.sqrt(2 / 3), abs=1e-8)
    one = CorpusScore(*bleu(counts[:1], 3))
    assert one.value == pytest.approx(math.exp(1 - 4 / 3), abs=1e-8)
    # Drawn once each, the images are the corpus.
    both = CorpusScore(*bleu(counts, 2))
    assert both.resample(np.ones((1, 2)))[0] == both.value
    assert both.resample(np.array([[2.0]]), np.array([0]))[0] == pytest.approx(math.exp(1 - 4 / 3), abs=1e-8)


def test_meteor_worked_out_by_hand():
    # METEOR's lines for "a man riding horses on the beach" against "the man is riding a brown horse" (its score 0.21333),
    # and for a caption that is its reference (1).
    parted = [7, 7, 3, 3, 2, 2, 2, 2, *[0] * 12, 4, 4, 4]
    whole = [6, 6, 3, 3, 3, 3, 3, 3, *[0] * 12, 1, 6, 6]
    nothing = [0, 2, 0, 1, *[0] * 16, 0, 0, 0]

    def score(*segments):
        return CorpusScore(*meteor(np.array(segments, dtype=np.float64))).value

    assert score(parted) == pytest.approx(2 / 3.75 * (1 - 0.6), abs=1e-12)
    assert score(whole) == 1
    assert score(nothing) == 0
    # As its program printed it for the three together.
    assert score(parted, whole, nothing) == pytest.approx(0.3292553128676817, abs=1e-12)


def test_intervals_hold_the_value_and_narrow_with_images():
    rng = np.random.default_rng(0)
    values = rng.gamma(2, 0.5, 4000)
    few, many = CorpusMean(values[:100]), CorpusMean(values)
    for statistic in (few, many):
        low, high = statistic.interval()
        assert low < statistic.value < high
        assert (low, high) == statistic.interval()
        spread = 1.96 * statistic.values.std() / math.sqrt(statistic.units)
        assert high - low == pytest.approx(2 * spread, rel=0.1)
    assert many.per_unit_scores().mean() == pytest.approx(many.value)


class Fake:
    """A scorer that needs no Java, and says what it was given."""

    def check(self):
        raise ValueError("there is no Java")

    def __call__(self, captions, references):
        rows = [(len(c.split()), len(r[0].split()), 1, 0, 0, 0) for c, r in zip(captions, references, strict=True)]
        names = ["length", "reference_length", "correct_1", "correct_2", "correct_3", "correct_4"]
        frame = pd.DataFrame(rows, columns=names)
        frame["meteor"] = [[1.0, 1.0, 0.0, 0.0, 1.0, 1.0, *[0.0] * 14, 1.0, 1.0, 1.0]] * len(rows)
        return frame.assign(tokens=list(captions), references=list(references), rouge_l=0.5, cider=1.5)


def task(**fields):
    return Captioning(**{"key": "k", "name": "K", "metric": "CIDEr", "scorer": Fake(), **fields})


def test_a_task_scores_what_was_written():
    samples = {"test": Samples(keys=["x", "y"], captions=[["a cat"], ["two dogs", "dogs"]])}
    assert task().prompts(samples) == []
    scores = task().score({"test": to_rows(["a", "dogs there"])}, torch.zeros(0, 1), samples)
    assert list(scores.predictions["caption"]) == ["a", "dogs there"]
    assert list(scores.predictions["key"]) == ["x", "y"]
    assert list(scores.metrics) == ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr"]
    assert scores.metrics["CIDEr"] == 1.5
    assert scores.metrics["ROUGE_L"] == 0.5
    assert scores.metrics["Bleu_1"] == pytest.approx(2 / 3 * math.exp(1 - 4 / 3), abs=1e-8)


def test_planning_asks_for_what_is_missing_and_starts_nothing():
    samples = {"test": Samples(keys=["x"], captions=[["a cat"]])}
    with pytest.raises(ValueError, match="there is no Java"):
        task().dry_run(samples)
    with pytest.raises(ValueError, match="needs a scorer"):
        task(scorer=None).dry_run(samples)
    with pytest.raises(ValueError, match="captions are the `txt` members"):
        task().prompts({"test": Samples(keys=["x"])})
