"""Rows of tables of any form, for the readers that take columns and patterns (`clipeval.data.patterns`).

A set is one table, several in a folder (`data.tables`, names or globs), or a folder that holds one: CSV, TSV, JSON lines, JSON (a
list of rows, an object of them, or one row), parquet, or text files, each of which is a row with the column `text`. A row in a
list has the columns 0, 1, …; so has one of a CSV, beside its names. Every row also has `file` and `folder`, where its table lies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from clipeval.configs.errors import ClipevalError, first_line
from clipeval.data.account import Account, is_litter
from clipeval.data.config import DataConfig
from clipeval.data.huggingface import ParquetImages, parquet_files
from clipeval.data.text_table import CSV_ENDINGS, JSON_ENDINGS, decode, parse_lines, read_table
from clipeval.data.values import cell
from clipeval.results import safe_json

LINES = (".jsonl", ".jsonlines", ".ndjson")
PLACE = ("file", "folder")
"""Columns that every row has: its table's name without the ending, and its folder's name."""

Check = Callable[[Sequence[str], str], None]
"""Raises ClipevalError unless the columns that are asked for are among those of a table."""


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        content: its cells; of parquet without the pictures.
        where: its place, for errors.
        name: unique in the set.
        number: its place among the rows of parquet; -1 elsewhere.
    """

    content: Mapping[str, Any]
    where: str
    name: str
    number: int = -1


def tables(config: DataConfig, location: Path, split: str, account: Account) -> list[Path]:
    """The set's tables: those that `data.tables` names, else all parquet of the split, else the one that there is."""
    if location.is_file():
        return [location]
    if config.tables:
        found = []
        for pattern in config.tables:
            some = sorted(path for path in location.glob(pattern) if path.is_file())
            if not some:
                raise ClipevalError(f"{location} holds no {pattern} (data.tables). Fetch the set's tables there.")
            found += [path for path in some if path not in found]
        return found
    if any(location.rglob("*.parquet")):
        return parquet_files(location, split, account)
    known = (*CSV_ENDINGS, *JSON_ENDINGS, *LINES)
    there = [p for p in sorted(location.iterdir()) if p.suffix.lower() in known and not is_litter(p.name)]
    if len(there) != 1:
        names = ", ".join(path.name for path in there[:5]) or "none"
        raise ClipevalError(
            f"{location}: one table (.csv, .tsv, .json, .jsonl or parquet) was expected, and there is: {names}. "
            "Name those that are meant in task.data.tables."
        )
    return there


def read_rows(
    files: Sequence[Path], pictures: Sequence[str], check: Check, config: DataConfig, account: Account
) -> tuple[list[Row], dict[str, ParquetImages]]:
    """The rows of all tables, and the pictures in cells of parquet, by column.

    Args:
        files: as `tables` gives them.
        pictures: the columns that may hold pictures; of parquet they are not read with the others.
        check: called for each table.

    Raises:
        ClipevalError: a table cannot be read, or its columns are not those that are asked for.
    """
    parquet = [path for path in files if path.suffix.lower() == ".parquet"]
    if parquet and len(parquet) < len(files):
        raise ClipevalError(
            f"{files[0].parent}: tables of parquet and of text stand in one set; name those of one kind."
        )
    if parquet:
        return _parquet_rows(parquet, pictures, check)
    rows = []
    for path in files:
        found, names = _text_rows(path, config, account)
        check([*names, *PLACE], str(path))
        prefix = f"{path.stem}/" if len(files) > 1 else ""
        rows += [Row({**_place(path), **content}, where, f"{prefix}{name}") for content, where, name in found]
    return rows, {}


def _place(path: Path) -> dict[str, str]:
    return {"file": path.stem, "folder": path.parent.name}


def _parquet_rows(
    files: Sequence[Path], pictures: Sequence[str], check: Check
) -> tuple[list[Row], dict[str, ParquetImages]]:
    rows: list[Row] = []
    places = []
    for number, path in enumerate(files):
        try:
            with pq.ParquetFile(path) as opened:
                names = list(opened.schema_arrow.names)
                check([*names, *PLACE], str(path))
                heads = {p if p in names else p.partition(".")[0] for p in pictures}
                table = opened.read(columns=[name for name in names if name not in heads])
                for group in range(opened.num_row_groups):
                    count = opened.metadata.row_group(group).num_rows
                    places.append(np.column_stack([np.full(count, number), np.full(count, group), np.arange(count)]))
                total = opened.metadata.num_rows
        except (OSError, ValueError) as problem:
            if isinstance(problem, ClipevalError):
                raise
            raise ClipevalError(
                f"{path} is no parquet file that can be read: {first_line(problem).rstrip('.')}."
            ) from None
        for content in table.to_pylist() if table.num_columns else [{}] * total:
            where = f"{path}, row {len(rows)}"
            rows.append(Row({**_place(path), **content}, where, f"{len(rows):08d}", len(rows)))
    at = np.concatenate(places).astype(np.int64) if places else np.zeros((0, 3), dtype=np.int64)
    source, names = str(files[0].parent), [str(path) for path in files]
    return rows, {column: ParquetImages(names, column, at, np.arange(len(at)), source) for column in pictures}


Found = tuple[list[tuple[Mapping[str, Any], str, str]], list[str]]
"""(cells, place, name) of each row of a table, and its columns."""


def _text_rows(path: Path, config: DataConfig, account: Account) -> Found:
    ending = path.suffix.lower()
    if ending == ".txt":
        return [({"text": decode(path, config.encoding)}, str(path), path.stem)], ["text"]
    if ending == ".json":
        return _json_rows(path, config)
    if ending in LINES:
        lines = list(parse_lines(path, decode(path, config.encoding)))
        columns = list(dict.fromkeys(name for _, row in lines for name in row))
        return [(row, f"{path}, line {line}", str(i)) for i, (line, row) in enumerate(lines)], columns
    table = read_table(path, [], account, config.sep, config.encoding)
    numbered = {str(i): name for i, name in enumerate(table.columns)}
    rows = [{**{i: row.get(name) for i, name in numbered.items()}, **row} for row in table.rows]
    return [(row, table.location(i), str(i)) for i, row in enumerate(rows)], [*table.columns, *numbered]


def _json_rows(path: Path, config: DataConfig) -> Found:
    try:
        content = safe_json.parse(decode(path, config.encoding))
    except ValueError as problem:
        if isinstance(problem, ClipevalError):
            raise
        raise ClipevalError(f"{path}: not JSON ({problem}).") from None
    if isinstance(content, dict):
        inside = list(content.values())
        if len(inside) == 1 and isinstance(inside[0], list) and all(isinstance(item, dict) for item in inside[0]):
            content = inside[0]  # {"annotations": [rows]}
        elif not all(isinstance(item, dict) for item in inside):
            content = [content]  # one row
    items = (
        list(content.items())
        if isinstance(content, dict)
        else list(enumerate(content if isinstance(content, list) else []))
    )
    if isinstance(content, (dict, list)) and not items:
        raise ClipevalError(f"{path}: there is no row in it.")
    if not items or not all(isinstance(item, (dict, list)) for _, item in items):
        raise ClipevalError(
            f"{path}: a JSON list of rows, or an object of them, was expected; each is an object or a list."
        )
    rows: list[Mapping[str, Any]] = [
        item if isinstance(item, dict) else {str(i): v for i, v in enumerate(item)} for _, item in items
    ]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return [(r, f"{path}, entry {n!r}", str(n)) for r, (n, _) in zip(rows, items, strict=True)], columns


def wanted_rows(rows: Sequence[Row], config: DataConfig, location: Path) -> list[Row]:
    """Those that `data.where` asks for, and the first `data.first` of them.

    Raises:
        ClipevalError: none is left.
    """
    asked = {name: {str(value) for value in values} for name, values in (config.where or {}).items()}
    found = [row for row in rows if all(str(cell(row.content, name)) in values for name, values in asked.items())]
    if not found:
        said = ", ".join(f"{name} in {list(values)}" for name, values in (config.where or {}).items())
        raise ClipevalError(f"{location}: no row is left of {len(rows)} (data.where asks for {said}).")
    return found[: config.first]
