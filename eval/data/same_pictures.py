"""The same picture, byte for byte, more than once: under two labels, under two names, or among those that are trained on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from clipeval.configs.addresses import is_address
from clipeval.data.account import NAMED
from clipeval.data.images import FileImages, Images
from clipeval.tasks.base import Samples

LOOKED_AT = 20_000
"""Members of tars that are looked into, at most, because another one has their size; of more nothing is said."""
_MIDDLE = 64
"""Bytes that are compared before all of them are."""


def contents_from(digests: Sequence[bytes]) -> np.ndarray:
    """uint64 [N] of N digests: equal numbers are equal pictures."""
    return np.frombuffer(b"".join(digest[:8] for digest in digests), dtype=np.uint64)


def contents_of(images: Images) -> np.ndarray | None:
    """uint64 [N], equal for equal pictures, in this split alone; None where that is not known at little cost.

    Files of their own and cells of parquet have digests already. Of members of tars, those of one size are compared by a few
    bytes in their middle, and what is left by all of them; where they lie at an address, nothing is read.
    """
    known: np.ndarray | None = getattr(images, "contents", None)
    if known is not None or not isinstance(images, FileImages) or any(map(is_address, images.files)):
        return known
    _, group, count = np.unique(images.size, return_inverse=True, return_counts=True)
    rows = np.flatnonzero((count[group] > 1) & (images.size > 0))
    if len(rows) > LOOKED_AT:
        return None
    contents = np.arange(len(images), dtype=np.uint64)  # each by itself
    alike: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    for row in rows.tolist():
        size = int(images.size[row])
        alike[size, images.read_part(row, max(0, size // 2 - _MIDDLE // 2), min(_MIDDLE, size))].append(row)
    first: dict[bytes, int] = {}
    for same in alike.values():
        for row in same if len(same) > 1 else ():
            contents[row] = first.setdefault(hashlib.sha256(images.read(row)).digest(), row)
    return contents


def twice_flag(contents: np.ndarray, samples: Samples) -> str | None:
    """A flag where pictures stand more than once in a split and their labels differ, or they have captions of their own.

    Args:
        contents: uint64 [N], of the samples' pictures.
    """
    labels = samples.labels
    if len(contents) < 2 or (labels is None and (samples.captions is None or samples.instances is not None)):
        return None
    order = np.argsort(contents, kind="stable")
    ordered = contents[order]
    again = np.flatnonzero(ordered[1:] == ordered[:-1])
    if labels is not None:
        given = labels[order]
        differs = (given[1:] != given[:-1]).reshape(len(order) - 1, -1).any(axis=1)
        again = again[differs[again]]
    if not len(again):
        return None
    pairs = [(samples.keys[int(order[i])], samples.keys[int(order[i + 1])]) for i in again[:NAMED]]
    some = ", ".join(f"{one} = {other}" for one, other in pairs) + (", …" if len(again) > NAMED else "")
    count = len(np.unique(ordered[again]))
    what = f"{count:,} {'picture stands' if count == 1 else 'pictures stand'} in the set more than once, byte for byte"
    if labels is not None:
        return f"{what}, under different labels, which cannot all be right: {some}"
    return f"{what}, and a caption counts for one of them alone: {some}"
