"""A quick subset of a split (`data.limit`): some of its samples, the same ones on every machine, each class by its share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from clipeval.data.images import Images, digest_of
from clipeval.tasks.base import Samples


@dataclass
class SubsetImages:
    """Some images of a split.

    Args:
        images: the split's.
        rows: int64 [M], their positions in it.
    """

    images: Images
    rows: np.ndarray
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        self.digest = digest_of(self.images.digest, self.rows.tobytes())

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, position: int) -> bytes:
        """See `Images.read`."""
        return self.images.read(int(self.rows[position]))

    def location(self, position: int) -> str:
        """See `Images.location`."""
        return self.images.location(int(self.rows[position]))


def chosen_rows(keys: Sequence[str], labels: np.ndarray | None, limit: int) -> np.ndarray:
    """Which samples a subset holds: `limit` of N, each class by its share of them.

    Within a class the order is that of the sha256 of the samples' keys, so that neither the order of files nor the machine
    matters. The sample of rank r in a class of n stands at (r + 0.5) / n, and those that stand first are taken: a smaller
    subset is part of a larger one.

    Args:
        keys: N names.
        labels: int64 [N], the classes; None: all are of one.
        limit: how many.

    Returns:
        int64 [limit], ascending.
    """
    hashes = np.array([hashlib.sha256(key.encode()).hexdigest()[:16] for key in keys])
    classes = np.zeros(len(keys), dtype=np.int64) if labels is None else np.asarray(labels)
    order = np.lexsort((hashes, classes))
    _, first, counts = np.unique(classes[order], return_index=True, return_counts=True)
    rank = np.arange(len(keys)) - np.repeat(first, counts)
    place = np.empty(len(keys))
    place[order] = (rank + 0.5) / np.repeat(counts, counts)
    return np.sort(np.lexsort((hashes, place))[:limit]).astype(np.int64)


def take(samples: Samples, rows: np.ndarray) -> Samples:
    """The same table with some of its rows only. Instances that name an image left out go with it."""
    keys = [samples.keys[int(i)] for i in rows]
    kept = set(keys)
    instances = samples.instances
    if instances is not None:
        instances = [i for i in instances if kept.issuperset(i.get("candidates", i.get("images", ())))]
    return replace(
        samples,
        keys=keys,
        labels=None if samples.labels is None else samples.labels[rows],
        captions=None if samples.captions is None else [samples.captions[int(i)] for i in rows],
        instances=instances,
        metadata=samples.metadata.iloc[rows].reset_index(drop=True) if len(samples.metadata) else samples.metadata,
        positions=np.asarray(rows) if samples.positions is None else samples.positions[rows],
    )


def limited(images: Images, samples: Samples, limit: int) -> tuple[Images, Samples, str] | None:
    """A split's subset and the flag that names it; None where the split has no more than `limit` samples.

    What is counted is what is scored: images, or the questions of association and of caption selection, which bring the images
    that they name. Sets of one label an image are stratified by class, questions by their group; questions that count
    together (`sets`) stay together, so that there may be a few more of them.
    """
    questions = samples.instances
    count = len(samples.keys) if questions is None else len(questions)
    if count <= limit:
        return None
    if questions is None:
        strata = samples.labels if samples.labels is not None and samples.labels.ndim == 1 else None
        subset, how = take(samples, chosen_rows(samples.keys, strata, limit)), "class"
    else:
        groups = [str(question.get("group")) for question in questions]
        strata, how = np.unique(groups, return_inverse=True)[1] if len(set(groups)) > 1 else None, "group"
        rows = chosen_rows([json.dumps(question, sort_keys=True, default=str) for question in questions], strata, limit)
        chosen = _whole_sets(questions, rows)
        named = {key for question in chosen for key in question.get("candidates", question.get("images", ()))}
        subset = take(samples, np.flatnonzero([key in named for key in samples.keys]))
        subset = replace(subset, instances=chosen)
        if len(chosen) == count:
            return None
        limit = len(chosen)
    assert subset.positions is not None
    drawn = "drawn evenly" if strata is None else f"stratified by {how}"
    flag = f"a quick subset, {limit:,} of {count:,} samples, {drawn} (data.limit)"
    return SubsetImages(images, subset.positions), replace(subset, positions=None), flag


def _whole_sets(questions: Sequence[Mapping[str, Any]], rows: np.ndarray) -> list[Mapping[str, Any]]:
    """The questions of these rows and those that share a set with one of them."""
    sets = [set((question.get("sets") or {}).items()) for question in questions]
    begun = {one for row in rows for one in sets[int(row)]}
    taken = set(rows.tolist())
    return [question for i, question in enumerate(questions) if i in taken or sets[i] & begun]
