"""One's own pictures with a table: CSV or JSON lines, a row for each picture and caption (or label)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from configs.errors import ClipevalError, nearest
from eval.data.account import Account
from eval.data.folder import whole_files
from eval.data.images import FileImages
from eval.data.split import DataConfig, named_classes, read_instances
from tasks.base import Samples


def read(
    config: DataConfig, location: Path, split: str, cache: Path | None, account: Account
) -> tuple[FileImages, Samples]:
    """Reads a .csv or .jsonl file; picture names in its image column are relative to the file's folder.

    Several rows may name one picture: their captions are gathered, and the picture is embedded once. A JSON row's captions may
    be a list. Other columns become metadata.
    """
    table = _rows(location)
    for column in filter(None, (config.image, config.caption, config.label)):
        if column not in table:
            raise ClipevalError(f"{location}: {nearest('column', column, list(table))}")
    names = [str(name) for name in table[config.image]]
    keys = list(dict.fromkeys(names))
    paths = [location.parent / key for key in keys]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise ClipevalError(
            f"{location} names {missing[0]}, which does not exist ({len(missing)} pictures are missing)."
        )
    first = table[~table[config.image].astype(str).duplicated()].reset_index(drop=True)
    captions = labels = None
    classnames: list[str] = []
    if config.caption is not None:
        captions = _captions(names, list(table[config.caption]), keys)
    if config.label is not None:
        given = config.classnames if isinstance(config.classnames, (list, tuple)) else ()
        labels, classnames = named_classes(list(first[config.label]), given, str(location))
    used = {config.image, config.caption, config.label}
    metadata = first[[c for c in first if c not in used]]
    samples = Samples(keys=keys, labels=labels, captions=captions, metadata=metadata, classnames=classnames)
    return whole_files(paths, keys), samples


def _rows(location: Path) -> pd.DataFrame:
    if not location.is_file():
        raise ClipevalError(
            f"{location} is not a file; task.data.path names a .csv or .jsonl file with a row a picture."
        )
    if location.suffix == ".csv":
        return pd.read_csv(location, encoding="utf-8", keep_default_na=False)
    if location.suffix in (".jsonl", ".json"):
        return pd.DataFrame(read_instances(location))
    raise ClipevalError(f"{location}: a name that ends in .csv or .jsonl was expected.")


def _captions(names: list[str], values: list[object], keys: list[str]) -> list[list[str]]:
    gathered: dict[str, list[str]] = {key: [] for key in keys}
    for name, value in zip(names, values, strict=True):
        texts = value if isinstance(value, (list, tuple, np.ndarray)) else [value]
        gathered[name].extend(str(text) for text in texts if str(text).strip())
    empty = [key for key, texts in gathered.items() if not texts]
    if empty:
        raise ClipevalError(f"the picture {empty[0]!r} has no caption ({len(empty)} such pictures).")
    return [gathered[key] for key in keys]
