"""One's own pictures with a table: CSV, TSV or JSON lines, a row for each picture and caption (or label)."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from os.path import normpath
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipeval.configs.errors import ClipevalError
from clipeval.data.account import Account
from clipeval.data.config import DataConfig
from clipeval.data.depth import deep_files, flag_deep
from clipeval.data.huggingface import ParquetImages, from_parquet
from clipeval.data.images import FileImages
from clipeval.data.known_columns import SPLIT, beside_predictions, needed_columns, rows_of_split, with_columns
from clipeval.data.labels import classes_of
from clipeval.data.pictures import whole_files
from clipeval.data.text_table import CSV_ENDINGS, JSON_ENDINGS, TextTable, read_table
from clipeval.data.values import Unusable, cell, is_null, text_of, texts_of
from clipeval.tasks.base import Samples


def read(
    config: DataConfig, location: Path, split: str, cache: Path | None, account: Account
) -> tuple[FileImages | ParquetImages, Samples]:
    """Reads a table; picture names in its image column are relative to the table's folder.

    Without `data.caption` it is a table of labels, and may be a parquet file; columns that the config does not name are known by
    their usual names (`clipeval.data.known_columns`). Where a column `split` names splits, the rows of this one are read.

    Several rows may name one picture: their captions are gathered, and the picture is embedded once. Captions in JSON may be a
    list. Other columns become metadata, unless they differ between the rows of one picture: then they speak of captions.

    Raises:
        ClipevalError: a row cannot be used (unless `data.on_error=skip`), rows contradict each other, or it cannot be told which
            column is meant.
    """
    if location.is_dir() or not location.exists():
        raise ClipevalError(
            f"{location} is {'a folder' if location.is_dir() else 'not there'}; task.data.path names a table, a file that ends in "
            f".csv, .tsv, .jsonl{'' if config.caption else ' or .parquet'}.{_tables_in(location)}"
        )
    if config.caption is None and location.suffix.lower() == ".parquet":
        return from_parquet(config, location, split, account, by_names=True)
    table = read_table(location, needed_columns(config), account, config.sep, config.encoding)
    config = with_columns(config, table.columns, str(location), account)
    needed = [column for column in (config.image, config.caption, config.label) if column is not None]
    asked = list(range(len(table.rows)))
    if SPLIT in table.columns and SPLIT not in needed:
        places = [table.location(row) for row in asked]
        asked = rows_of_split([row.get(SPLIT) for row in table.rows], places, split, str(location), account)
    rows = [row for row in asked if _usable(table, row, config, account)]
    if not rows:
        raise ClipevalError(f"{location}: no row is left that names a picture.")
    names = _one_name_each(location, [str(cell(table.rows[row], config.image)) for row in rows])
    first: dict[str, int] = {}
    captions: dict[str, list[str]] = {}
    for name, row in zip(names, rows, strict=True):
        if config.caption is not None:
            captions.setdefault(name, []).extend(texts_of(cell(table.rows[row], config.caption), "the caption"))
        if name in first and config.label is not None:
            _check_twice(table, first[name], row, config, account)
        first.setdefault(name, row)
    keys = list(first)
    labels, classnames = None, list[str]()
    if config.label is not None:
        values = [_label(table.rows[row], config.label) for row in first.values()]
        places = [table.location(row) for row in first.values()]
        labels, classnames = classes_of(values, config, (), location, places, account)
    samples = Samples(
        keys=keys,
        labels=labels,
        captions=None if config.caption is None else [captions[key] for key in keys],
        metadata=beside_predictions(_metadata(table, rows, names, list(first.values()), needed)),
        classnames=classnames,
    )
    paths = [find(location, key) for key in keys]
    flag_deep(deep_files(paths, keys), account)
    return whole_files(paths, keys), samples


def find(table: Path, name: str) -> Path:
    """The file that a table's row names.

    Where there is none of this very name: a Windows path's backslashes count as slashes, spaces around the name do not count, and
    letters with accents may be written in either of Unicode's forms (a Mac's archives have the other one).
    """
    written = [name, name.replace("\\", "/"), name.replace("\\", "/").strip()]
    tried = [*written, *(unicodedata.normalize(form, written[-1]) for form in ("NFC", "NFD"))]
    return table.parent / next((each for each in tried if (table.parent / each).exists()), name)


def _one_name_each(table: Path, names: Sequence[str]) -> list[str]:
    """The names, a picture that is written in several ways (a.png, ./a.png) by its first."""
    first: dict[str, str] = {}
    return [first.setdefault(normpath(find(table, name)), name) for name in names]


def _label(row: Mapping[str, Any], column: str) -> Any:
    value = cell(row, column)
    return value.strip() if isinstance(value, str) else value


def _tables_in(folder: Path) -> str:
    """Those of a folder, as a sentence; empty where there are none."""
    endings = (*CSV_ENDINGS, *JSON_ENDINGS, ".parquet")
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in endings)
    return f" In it lie {', '.join(path.name for path in found[:3])}." if found else ""


def _usable(table: TextTable, row: int, config: DataConfig, account: Account) -> bool:
    """Whether a row names a picture that is there, and a caption or label; else `account` says no."""
    content = table.rows[row]
    try:
        name = text_of(cell(content, config.image), f"column {config.image!r}: the picture's name")
        if name.startswith(("http://", "https://")):
            raise Unusable(
                f"column {config.image!r}: the picture is an address on the network; pictures are read from disk"
            )
        if not find(table.path, name).is_file():
            raise Unusable(f"column {config.image!r}: the picture {name!r} does not exist in {table.path.parent}")
        if config.caption is not None:
            texts_of(cell(content, config.caption), f"column {config.caption!r}: the caption")
        if config.label is not None and is_null(value := cell(content, config.label)):
            raise Unusable(f"column {config.label!r}: the label is {'empty' if isinstance(value, str) else 'null'}")
    except Unusable as problem:
        account.unusable(table.location(row), str(problem))
        return False
    return True


def _check_twice(table: TextTable, first: int, row: int, config: DataConfig, account: Account) -> None:
    assert config.label is not None
    before, now = (_label(table.rows[r], config.label) for r in (first, row))
    if before != now:
        raise ClipevalError(
            f"{table.location(row)}: the picture has the label {now!r}, and {before!r} on line {table.lines[first]}; a picture has "
            "one label."
        )
    account.leave_out(table.location(row), "names a picture that an earlier row names")


def _metadata(table: TextTable, rows: list[int], names: list[str], first: list[int], used: list[str]) -> pd.DataFrame:
    columns = [c for c in table.columns if c not in used and c not in {u.partition(".")[0] for u in used}]
    frame = pd.DataFrame([{c: table.rows[row].get(c) for c in columns} for row in first], columns=columns)
    if len(first) == len(rows):
        return frame
    by_name = pd.DataFrame([{c: str(table.rows[row].get(c)) for c in columns} for row in rows], columns=columns)
    counts = by_name.groupby(np.asarray(names, dtype=object)).nunique() if columns else pd.DataFrame()
    return frame[[c for c in columns if (counts[c] <= 1).all()]]
