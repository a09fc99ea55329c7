"""A data set in Hugging Face's form: parquet files on disk, or a repository of the hub, read with `datasets`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from configs.errors import ClipevalError, nearest
from eval.data.account import Account
from eval.data.images import digest_of
from eval.data.split import DataConfig, is_of_split, named_classes
from eval.hub.lock import check_lock
from tasks.base import Samples


@dataclass
class RowImages:
    """Images that are cells of an Arrow table, which `datasets` maps into memory and every worker shares."""

    rows: Any
    column: str
    keys: list[str]
    source: str
    digest: str

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, position: int) -> bytes:
        cell = self.rows[position][self.column]
        data = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
        assert isinstance(data, bytes)
        return data

    def where(self, position: int) -> str:
        return f"{self.source}, row {position}"


def read(
    config: DataConfig, location: Path, split: str, cache: Path | None, account: Account
) -> tuple[RowImages, Samples]:
    """Reads rows with an image column and a label or caption column.

    `path` is a parquet file, or a folder of them (<split>*.parquet where the name says the split). Without it, `hub` is what
    `clipeval download` fetched below `data.root`, or else is loaded by `datasets` from the hub or its own cache.
    """
    import datasets

    if location.exists():
        files = _parquet_files(location, split)
        check_lock(location, files)
        rows = datasets.load_dataset("parquet", data_files={split: [str(file) for file in files]}, split=split)
        source = str(location)
    else:
        source = config.hub or str(config.path)
        try:
            rows = datasets.load_dataset(source, split=split, revision=config.revision)
        except (FileNotFoundError, ValueError, ConnectionError, OSError) as problem:
            raise ClipevalError(
                f"{source}: neither a path on this machine nor a data set that can be loaded from the hub ({problem})."
            ) from None
    names = rows.column_names
    for column in filter(None, (config.image, config.caption, config.label)):
        if column not in names:
            raise ClipevalError(f"{source}: {nearest('column', column, names)}")
    feature = rows.features[config.image]
    if not isinstance(feature, datasets.Image):
        raise ClipevalError(f"{source}: the column {config.image!r} holds {feature}, and pictures were expected.")
    rows = rows.cast_column(config.image, datasets.Image(decode=False))
    keys = [f"{i:08d}" for i in range(len(rows))]
    labels = captions = None
    classnames: list[str] = []
    if config.label is not None:
        given = config.classnames if isinstance(config.classnames, (list, tuple)) else ()
        declared = getattr(rows.features[config.label], "names", None) or ()
        labels, classnames = named_classes(rows[config.label][:], list(given) or list(declared), source)
    if config.caption is not None:
        captions = [list(c) if isinstance(c, (list, tuple)) else [str(c)] for c in rows[config.caption][:]]
    images = RowImages(rows, config.image, keys, source, "")
    images.digest = digest_of(*(hashlib.sha256(images.read(i)).digest() for i in range(len(keys))))
    metadata = _metadata(rows, {config.image, config.label, config.caption})
    return images, Samples(keys=keys, labels=labels, captions=captions, metadata=metadata, classnames=classnames)


def _parquet_files(location: Path, split: str) -> list[Path]:
    if location.is_file():
        return [location]
    files = sorted(location.rglob("*.parquet"))
    named = [p for p in files if is_of_split(p.relative_to(location).as_posix(), split)]
    if not files:
        raise ClipevalError(
            f"{location} holds no parquet file; task.data.path names one, a folder of them, or a hub id."
        )
    return named or files


def _metadata(rows: Any, used: set[str | None]) -> pd.DataFrame:
    """The columns of plain values that are neither image, label nor caption."""
    plain = {
        n: f
        for n, f in rows.features.items()
        if n not in used and getattr(f, "dtype", "") in ("int64", "int32", "string", "bool")
    }
    return pd.DataFrame({name: rows[name][:] for name in plain}, index=range(len(rows)))
