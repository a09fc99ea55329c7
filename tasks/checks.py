"""Checks of what a task is given, so that a wrong table fails with its name and its cure and never with a wrong number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch

Part = TypeVar("Part")


def parts(kind: type[Part], values: Iterable[Part | Mapping[str, Any]] | None, where: str) -> tuple[Part, ...]:
    """Parts of a task as a config gives them, mappings of a dataclass's fields, or as Python does, its instances.

    Raises:
        ValueError: a mapping has a field that `kind` has not, or lacks one that it needs.
    """
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    made = []
    for value in values or ():
        if isinstance(value, kind):
            made.append(value)
            continue
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: expected a mapping with fields {known}, got {value!r}")
        given = {str(name): v for name, v in value.items() if name != "_target_"}
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise ValueError(f"{where}: unknown field {unknown[0]!r}; {kind.__name__} has {known}")
        try:
            made.append(kind(**given))
        except TypeError as error:
            raise ValueError(f"{where}: {kind.__name__}({given}) is incomplete: {error}") from error
    return tuple(made)


def check_embeddings(images: torch.Tensor, keys: Sequence[str], task: str) -> int:
    """The number N of images; `images` is [N, D], and every one has a key."""
    if images.ndim != 2 or len(images) != len(keys):
        raise ValueError(
            f"{task}: {len(keys)} keys, but image embeddings of shape {tuple(images.shape)}; expected a row a key"
        )
    if not len(keys):
        raise ValueError(f"{task}: the split has no images; check the shards in its folder")
    return len(keys)


def labels(values: np.ndarray | None, n: int, classes: int, keys: Sequence[str], task: str) -> np.ndarray:
    """int64 [N], each in 0..classes - 1."""
    if values is None:
        raise ValueError(f"{task}: the split has no labels; each sample needs a `cls` member")
    array = np.asarray(values)
    if array.shape != (n,):
        raise ValueError(
            f"{task}: {n} images need labels of shape ({n},), got {array.shape}; give each image one class index"
        )
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{task}: labels must be integers, got {array.dtype}")
    wrong = np.flatnonzero((array < 0) | (array >= classes))
    if len(wrong):
        raise ValueError(
            f"{task}: label {array[wrong[0]]} of sample {keys[wrong[0]]!r} is outside 0..{classes - 1} "
            f"({len(wrong)} such samples); classnames.txt names {classes} classes, one a line, blank lines included"
        )
    return array.astype(np.int64)


def column(table: pd.DataFrame, field: str, n: int, task: str) -> np.ndarray:
    """Metadata column `field` as int64 [N] of indices from 0."""
    if field not in table.columns:
        raise ValueError(
            f"{task}: metadata has no field {field!r}, only {list(table.columns)}; "
            "name the fields of the npy members, in their order, in the task's data.fields"
        )
    values = table[field].to_numpy()
    if len(values) != n:
        raise ValueError(
            f"{task}: metadata field {field!r} has {len(values)} values for {n} images; it needs one for each"
        )
    numbers = pd.to_numeric(pd.Series(values), errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.flatnonzero(~((numbers >= 0) & (numbers == np.floor(numbers)) & np.isfinite(numbers)))
    if len(wrong):
        raise ValueError(
            f"{task}: metadata field {field!r} is {values[wrong[0]]} in row {wrong[0]}; "
            "groups are whole numbers from 0, so map missing values to a group of their own"
        )
    return numbers.astype(np.int64)


def with_metadata(predictions: dict[str, Any], table: pd.DataFrame, n: int, task: str) -> pd.DataFrame:
    """A predictions table: the protocol's own columns, then the metadata under its own names."""
    columns = dict(predictions)
    for name in table.columns:
        if name in columns:
            raise ValueError(
                f"{task}: metadata field {str(name)!r} has the name of a column of the predictions; "
                "rename it in the task's data.fields"
            )
        if len(table) != n:
            raise ValueError(f"{task}: the metadata has {len(table)} rows for {n} images; it needs one for each")
        columns[str(name)] = table[name].to_numpy()
    return pd.DataFrame(columns)


def captions(given: Sequence[Sequence[str]] | None, keys: Sequence[str], task: str) -> Sequence[Sequence[str]]:
    """Captions of N images, at least one each."""
    if given is None or len(given) != len(keys):
        raise ValueError(
            f"{task}: {len(keys)} images need a list of captions each, got {0 if given is None else len(given)}; "
            "captions are the `txt` members, one a line"
        )
    empty = [key for key, several in zip(keys, given, strict=True) if not several or isinstance(several, str)]
    if empty:
        raise ValueError(
            f"{task}: image {empty[0]!r} has no list of captions ({len(empty)} such images); each needs at least one"
        )
    return given


def require_columns(predictions: pd.DataFrame, columns: Iterable[str], task: str) -> None:
    """Predictions read back hold what the statistics are made of."""
    missing = [name for name in columns if name not in predictions.columns]
    if missing or not len(predictions):
        what = f"lack the columns {missing}" if missing else "are empty"
        raise ValueError(f"{task}: the predictions {what}; they must come from `predict` of the same task")
