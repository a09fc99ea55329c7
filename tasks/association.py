"""Association (WinoGAViL): which of some pictures belong with a cue?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from clipeval.tasks import checks
from clipeval.tasks.base import Answers, Samples, Task
from clipeval.tasks.statistics import Mean, Statistic
from clipeval.tasks.ties import CLOSE

SIZES = {
    "avg_jaccard_score": (0, None),
    "jaccard_score_5": (5, 5),
    "jaccard_score_6": (6, 6),
    "jaccard_score_10": (10, 10),
    "jaccard_score_12": (12, 12),
    "jaccard_score_5-6": (5, 6),
    "jaccard_score_10-12": (10, 12),
}
"""Each metric's instances: the least and the largest number of candidates."""

ROWS = 512
"""Instances scored at once."""


@dataclass(frozen=True)
class Association(Task):
    """Jaccard index of the k best candidates with the k associated ones.

    Predictions, a row an instance: key (its id), cue, candidates and associations (how many), associated (which, joined by
    spaces), chosen (the k best, by falling score), correct (how many of them are associated), jaccard.
    """

    protocol: ClassVar[str] = "association"
    mixed: ClassVar[bool] = True

    def prompts(self, samples: Mapping[str, Samples]) -> list[str]:
        return [prompt(instance["cue"]) for instance in self.instances(samples["test"])]

    def instances(self, test: Samples) -> list[Mapping[str, Any]]:
        """The instances, each with a cue, candidates that have an image, and associations among them."""
        known = set(test.keys)
        instances = list(test.instances or ())
        if not instances:
            raise ValueError(f"{self.key}: there are no instances; they are the lines of test/instances.jsonl")
        for number, instance in enumerate(instances):
            name = f"{self.key}: instance {instance.get('id', number)!r}"
            missing = [part for part in ("id", "cue", "candidates", "associations") if part not in instance]
            if missing:
                raise ValueError(f"{name} has no {missing[0]!r}; it needs id, cue, candidates and associations")
            if not str(instance["cue"]).strip():
                raise ValueError(f"{name} has an empty cue")
            lost = [candidate for candidate in instance["candidates"] if candidate not in known]
            if lost:
                raise ValueError(f"{name}: candidate {lost[0]!r} has no image among the {len(known)} in test/*.tar")
            stray = [one for one in instance["associations"] if one not in instance["candidates"]]
            if stray or not instance["associations"]:
                what = f"association {stray[0]!r} is not one of its candidates" if stray else "there is no association"
                raise ValueError(f"{name}: {what}")
        return instances

    def predict(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> pd.DataFrame:
        return Association.answers(self, images, texts, samples).predictions  # its own, whatever a subclass answers

    def answers(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> Answers:
        test = samples["test"]
        checks.check_embeddings(images["test"], test.keys, self.key)
        instances = self.instances(test)
        if len(texts) != len(instances):
            raise ValueError(f"{self.key}: {len(instances)} cues, but {len(texts)} text embeddings")
        place = {key: i for i, key in enumerate(test.keys)}
        candidates = [list(instance["candidates"]) for instance in instances]
        counts = np.array([len(names) for names in candidates])
        width = int(counts.max())
        index = np.zeros((len(instances), width), dtype=np.int64)
        truth = np.zeros((len(instances), width), dtype=bool)
        for i, (names, instance) in enumerate(zip(candidates, instances, strict=True)):
            index[i, : len(names)] = [place[name] for name in names]
            truth[i, : len(names)] = np.isin(names, list(instance["associations"]))
        scores = similarities(images["test"], texts, index)
        scores[np.arange(width) >= counts[:, None]] = -np.inf
        if self.ties == "first":
            order = np.argsort(-scores, axis=1, kind="stable")
        else:  # the reference takes the end of a rising argsort, so of equal candidates the later
            order = np.argsort(scores, axis=1, kind="stable")[:, ::-1]
        wanted = truth.sum(axis=1)
        taken = np.arange(width) < wanted[:, None]
        correct = (np.take_along_axis(truth, order, axis=1) & taken).sum(axis=1)
        chosen = [" ".join(names[j] for j in row[:k]) for names, row, k in zip(candidates, order, wanted, strict=True)]
        predictions = pd.DataFrame(
            {
                "key": [str(instance["id"]) for instance in instances],
                "cue": [str(instance["cue"]) for instance in instances],
                "candidates": counts,
                "associations": wanted,
                "associated": [" ".join(map(str, instance["associations"])) for instance in instances],
                "chosen": chosen,
                "correct": correct,
                "jaccard": correct / (2 * wanted - correct),
            }
        )
        worst, best = correct_between(scores, truth, wanted)
        tied = int((worst != best).sum())
        return Answers(predictions, [predictions.assign(correct=c) for c in (worst, best)] if tied else (), tied)

    def statistics(self, predictions: pd.DataFrame) -> dict[str, Statistic | None]:
        checks.require_columns(predictions, ["candidates", "associations", "correct"], self.key)
        correct = predictions["correct"].to_numpy()
        counts = predictions["candidates"].to_numpy()
        jaccard = correct / (2 * predictions["associations"].to_numpy() - correct)
        metrics: dict[str, Statistic | None] = {}
        for name, (least, most) in SIZES.items():
            inside = (counts >= least) & (counts <= (most if most is not None else counts))
            metrics[name] = Mean(jaccard[inside]) if inside.any() else None
        return metrics


def correct_between(scores: np.ndarray, truth: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many of the best candidates are associated, with all ties against them, and with all their way.

    Args:
        scores: float32 [I, K]; -inf where there is no candidate.
        truth: bool [I, K], which are associated.
        wanted: int64 [I], how many are taken.

    Returns:
        int64 [I] twice.
    """
    last = np.take_along_axis(-np.sort(-scores, axis=1), wanted[:, None] - 1, axis=1)
    sure, maybe = scores > last + CLOSE, np.abs(scores - last) <= CLOSE
    right, places = (sure & truth).sum(axis=1), wanted - sure.sum(axis=1)
    worst = right + np.maximum(0, places - (maybe & ~truth).sum(axis=1))
    return worst, right + np.minimum(places, (maybe & truth).sum(axis=1))


def prompt(cue: str) -> str:
    """DataComp's: `A cue`, or `An cue` before a vowel; lower-cased."""
    cue = str(cue).lower()
    return f"{'An' if cue[:1] in ('a', 'e', 'i', 'o', 'u') else 'A'} {cue}"


def similarities(images: torch.Tensor, texts: torch.Tensor, index: np.ndarray) -> np.ndarray:
    """Cosines of each text with its own images.

    Args:
        images: float32 [N, D].
        texts: float32 [I, D].
        index: int64 [I, K], rows of `images`.

    Returns:
        float32 [I, K].
    """
    scores = []
    for start in range(0, len(index), ROWS):
        rows = torch.from_numpy(index[start : start + ROWS]).to(images.device)
        chunk = texts[start : start + ROWS].float().to(images.device)
        scores.append(torch.einsum("ikd,id->ik", images[rows].float(), chunk).cpu())
    return torch.cat(scores).numpy()
