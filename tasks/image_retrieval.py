"""Retrieval of images by an image, by a text, or by both together (composed retrieval): the nearest are the best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from clipeval.tasks import checks
from clipeval.tasks.base import Answers, Samples, Task
from clipeval.tasks.rankings import PRECISIONS, measures, places
from clipeval.tasks.statistics import GroupMean, Mean, Statistic

CELLS = 16_000_000
"""Cosines held at once: 64 MB."""
GROUPS = 64
"""Groups of which each gets metrics of its own."""
DOCUMENTS = "documents"
"""The metadata column that says as which documents an image is sought; without it each image is one, under its key."""


@dataclass(frozen=True)
class ImageRetrieval(Task):
    """Metrics of `clipeval.tasks.rankings`, means over queries; macro_… over groups and …_GROUP, where instances have a `group`.

    An instance is a query: `images` (none or one), `text` (or none), `relevant`, {document: grade}, and perhaps `junk`, documents
    that do not count, and `among`, those that are ranked; else all are. An image and a text are added, each of length 1. Without
    instances each image seeks the others of its label. A query with nothing relevant is left out.

    Predictions, a row a query: key, image, own (its text), group, relevant (how many), rank (of the best one, from 0), top_key and
    top_score (the best document), and every metric; null where nothing is relevant.
    """

    protocol: ClassVar[str] = "image_retrieval"
    ks: Sequence[int] = (1, 5, 10)
    precision: str = "trec"
    """What average precision is: trec, capped or revisited."""
    skip_first: bool = False
    """Whether the best document of each query is taken to be the query itself and left out, as MTEB does for some sets."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "ks", tuple(int(k) for k in self.ks))
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"{self.key}: ks must be whole numbers from 1, got {self.ks}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"{self.key}: precision must be one of {', '.join(PRECISIONS)}; got {self.precision!r}")

    def prompts(self, samples: Mapping[str, Samples]) -> list[str]:
        return [one["text"] for one in self.queries(samples["test"]) if one.get("text")]

    def queries(self, test: Samples) -> list[Mapping[str, Any]]:
        """The queries, each with an image or a text, and of images that exist."""
        if test.instances is None:
            checks.labels(test.labels, len(test.keys), len(test.classnames), test.keys, self.key)
            return [{"id": key, "images": [key], "label": i} for i, key in enumerate(test.keys)]
        known = set(test.keys)
        for one in test.instances:
            images = one.get("images") or ()
            if len(images) > 1 or not (images or one.get("text")):
                raise ValueError(f"{self.key}: query {one.get('id')!r} needs an image, a text, or one of each")
            if images and images[0] not in known:
                raise ValueError(f"{self.key}: query {one.get('id')!r}: image {images[0]!r} is not among the images")
        return list(test.instances)

    def dry_run(self, samples: Mapping[str, Samples]) -> list[str]:
        self.prompts(samples)
        groups = [{"group": str(one["group"])} for one in samples["test"].instances or () if "group" in one] or [{}]
        found = pd.DataFrame([{"relevant": 1, **dict.fromkeys(self._names, 1.0), **group} for group in groups])
        return list(self.statistics(found))

    def predict(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> pd.DataFrame:
        return ImageRetrieval.answers(self, images, texts, samples).predictions  # its own, whatever a subclass answers

    def answers(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> Answers:
        test, rows = samples["test"], images["test"].float()
        checks.check_embeddings(rows, test.keys, self.key)
        if not (torch.isfinite(rows).all() and torch.isfinite(texts).all()):
            raise ValueError("an embedding is not finite; check the model's precision (fp16 overflows for some models)")
        queries = self.queries(test)
        names, place = self._documents(test)
        number = {name: i for i, name in enumerate(names)}
        sought = self._directions(rows)[torch.from_numpy(place)]
        tables: tuple[list[dict[str, Any]], ...] = ([], [], [])
        for one, scores in zip(queries, self._scores(queries, rows, sought, texts, test), strict=True):
            grades = self._relevant(one, test, names, place, number)
            scores[[number[name] for name in one.get("junk") or () if name in number]] = -np.inf
            if "label" in one:
                scores[number[one["id"]]] = -np.inf
            if "among" in one:
                kept = [number[name] for name in one["among"] if name in number]
                scores = np.where(np.isin(np.arange(len(scores)), kept), scores, -np.inf)
            top = int(np.argmax(scores))
            about = {
                "key": str(one["id"]),
                "image": str(next(iter(one.get("images") or ()), "")),
                "own": str(one.get("text") or ""),
                **({"group": str(one["group"])} if "group" in one else {}),
                "relevant": len(grades),
                "top_key": names[top],
                "top_score": float(scores[top]),
            }
            for table, found in zip(tables, self._measured(scores, grades), strict=True):
                table.append({**about, **found})
        frames = [pd.DataFrame(table) for table in tables]
        if frames[0]["rank"].isna().all():
            raise ValueError(f"{self.key}: no query has anything relevant")
        plain, *otherwise = (frame[["rank", *self._names]].to_numpy(dtype=np.float64) for frame in frames)
        tied = np.any([~np.isclose(plain, other, equal_nan=True).all(axis=1) for other in otherwise], axis=0)
        return Answers(frames[0], frames[1:] if tied.any() else (), int(tied.sum()))

    def _documents(self, test: Samples) -> tuple[list[str], np.ndarray]:
        """Their names in the order in which equal ones rank, and int64 [M], the image of each."""
        if DOCUMENTS in test.metadata.columns:
            found = [(name, i) for i, several in enumerate(test.metadata[DOCUMENTS]) for name in several]
        else:
            found = [(key, i) for i, key in enumerate(test.keys)]
        if not found:
            raise ValueError(f"{self.key}: there is no document to be found")
        if self.ties == "reference":  # as trec_eval orders them
            found.sort(reverse=True)
        return [name for name, _ in found], np.array([i for _, i in found], dtype=np.int64)

    def _relevant(
        self, one: Mapping[str, Any], test: Samples, names: Sequence[str], place: np.ndarray, number: Mapping[str, int]
    ) -> dict[int, float]:
        """{document: its grade}, of those that are relevant to a query."""
        if "label" not in one:
            return {number[name]: float(g) for name, g in one["relevant"].items() if g > 0 and name in number}
        assert test.labels is not None
        same = np.flatnonzero(test.labels[place] == test.labels[one["label"]])
        return {i: 1.0 for i in same.tolist() if names[i] != one["id"]}

    def _scores(
        self,
        queries: Sequence[Mapping[str, Any]],
        rows: torch.Tensor,
        sought: torch.Tensor,
        texts: torch.Tensor,
        test: Samples,
    ) -> Iterator[np.ndarray]:
        """The cosines float32 [M] of each query with every document; a block of queries at a time is held."""
        place, asked, vectors = {key: i for i, key in enumerate(test.keys)}, 0, []
        for one in queries:
            parts = [rows[place[key]] for key in one.get("images") or ()]
            if one.get("text"):
                parts.append(texts[asked].to(rows))
                asked += 1
            vectors.append(self._directions(parts[0]) if len(parts) == 1 else F.normalize(parts[0] + parts[1], dim=0))
        for block in torch.split(torch.stack(vectors), max(1, CELLS // len(sought))):
            yield from (block @ sought.T).cpu().numpy()

    def _directions(self, rows: torch.Tensor) -> torch.Tensor:
        """Embeddings [..., D] of length 1."""
        return rows

    def _measured(self, scores: np.ndarray, grades: Mapping[int, float]) -> list[dict[str, float]]:
        """rank and metrics: as equal scores are ordered, with all ties against the query, with all its way."""
        if not grades:
            return [dict.fromkeys(("rank", *self._names), np.nan)] * 3
        relevant = np.array(list(grades), dtype=np.int64)
        order = relevant[np.lexsort((relevant, -scores[relevant]))]
        graded, every = np.array([grades[int(i)] for i in order]), np.array(list(grades.values()))
        found = []
        for ranks in places(scores, relevant):
            kept = np.isfinite(scores[order]) & (ranks >= int(self.skip_first))
            inside = ranks[kept] - int(self.skip_first)
            best = float(inside[0]) if len(inside) else np.nan
            found.append({"rank": best, **measures(inside, graded[kept], every, self.ks, self.precision)})
        return found

    @property
    def _names(self) -> list[str]:
        return list(measures(np.zeros(1, dtype=np.int64), np.ones(1), np.ones(1), self.ks, self.precision))

    def statistics(self, predictions: pd.DataFrame) -> dict[str, Statistic | None]:
        checks.require_columns(predictions, self._names, self.key)
        known = predictions[predictions["relevant"] > 0]
        found: dict[str, Statistic | None] = {name: Mean(known[name].to_numpy()) for name in self._names}
        if "group" in known.columns:
            groups, index = np.unique(known["group"].to_numpy(dtype=str), return_inverse=True)
            for name in self._names:
                values = known[name].to_numpy()
                found[f"macro_{name}"] = GroupMean(values, index)
                if len(groups) <= GROUPS:
                    found |= {f"{name}_{group}": Mean(values[index == i]) for i, group in enumerate(groups)}
        return found
