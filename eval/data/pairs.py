"""Image-text pairs of any form: which caption is the picture's, which picture the caption's, row by row of a table.

    data.images: [image_0, image_1]        columns that hold or name the pictures; or patterns, "val2017/{filename}"
    data.captions: [caption_0, caption_1]  columns or patterns (`clipeval.data.patterns`); a list gives several captions
    data.correct: null                     the i-th caption is the i-th picture's; a column, or numbers from 0, of the correct ones
    data.group, data.sets                  what macro averages are over; rows that count together (`clipeval.tasks.pairs`)
    data.where: {type: [SCAM]}             the rows to read
    data.box: [x, y, width, height]        columns of the part of the picture that is shown

The set is a table (CSV, TSV, JSON, JSON lines, parquet), several in a folder (`data.tables`), or a folder that holds one.
Pictures lie in cells of parquet, or below the set's folder. Each distinct picture is embedded once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from clipeval.configs.errors import ClipevalError
from clipeval.data.account import Account, is_litter
from clipeval.data.depth import HEAD, flag_deep, is_deep
from clipeval.data.huggingface import ParquetImages, parquet_files
from clipeval.data.images import Images, digest_of
from clipeval.data.lock import check_lock
from clipeval.data.made_images import Box, MadeImages
from clipeval.data.patterns import Pattern
from clipeval.data.pictures import whole_files
from clipeval.data.split import DataConfig
from clipeval.data.text_table import CSV_ENDINGS, JSON_ENDINGS, decode, read_table
from clipeval.data.values import Unusable, cell, text_of
from clipeval.results import safe_json
from clipeval.tasks.base import Samples

FILE = "file"
"""A column that every row has: its table's name, without the ending."""


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


@dataclass(frozen=True)
class _Columns:
    """What the config says of a row, parsed."""

    images: tuple[Pattern, ...]
    captions: tuple[Pattern, ...]
    group: Pattern | None
    sets: Mapping[str, Pattern]

    @classmethod
    def of(cls, config: DataConfig) -> _Columns:
        captions = config.captions if isinstance(config.captions, tuple) else (config.caption or "caption",)
        return cls(
            tuple(Pattern.parse(text, "data.images") for text in config.images or (config.image,)),
            tuple(Pattern.parse(text, "data.captions") for text in captions),
            None if config.group is None else Pattern.parse(config.group, "data.group"),
            {name: Pattern.parse(text, f"data.sets.{name}") for name, text in (config.sets or {}).items()},
        )

    def check(self, config: DataConfig, columns: Sequence[str], where: str) -> None:
        """ClipevalError unless every column that the config names is there."""
        for key, patterns in (("data.images", self.images), ("data.captions", self.captions)):
            for pattern in patterns:
                pattern.check(columns, key, where)
        others = {"data.group": self.group, **{f"data.sets.{name}": p for name, p in self.sets.items()}}
        others["data.correct"] = (
            Pattern.parse(config.correct, "data.correct") if isinstance(config.correct, str) else None
        )
        others |= {f"data.where.{name}": Pattern.parse(name, "data.where") for name in config.where or ()}
        others |= {f"data.box ({name})": Pattern.parse(name, "data.box") for name in config.box}
        for key, one in others.items():
            if one is not None:
                one.check(columns, key, where)


def read(
    config: DataConfig, location: Path, split: str, cache: Path | None, account: Account
) -> tuple[MadeImages, Samples]:
    """Reads the questions of a set of pairs and finds their pictures.

    Raises:
        ClipevalError: a table, a column or a picture is missing, or a cell is not what it must be; `data.on_error=skip` leaves
            out questions.
    """
    if not location.exists():
        raise ClipevalError(
            f"{location} does not exist. Fetch it with `clipeval download`, or set data.root or data.path."
        )
    columns = _Columns.of(config)
    files = _tables(config, location, split, account)
    check_lock(location, files)
    rows, cells = _rows(files, columns, config, account)
    pictures = _Pictures(location if location.is_dir() else location.parent, cells)
    wanted = [row for row in rows if _is_wanted(row, config)]
    if not wanted:
        raise ClipevalError(f"{location}: no row is left of {len(rows)} ({_said(config.where)}).")
    if len(wanted) % config.rows:
        raise ClipevalError(
            f"{location}: {len(wanted)} rows cannot be parted into questions of {config.rows} (data.rows); some are missing."
        )
    instances = []
    for start in range(0, len(wanted), config.rows):
        several = wanted[start : start + config.rows]
        try:
            instances.append(_instance(several, columns, config, pictures))
        except Unusable as problem:
            account.unusable(several[0].where, str(problem))
    if not instances:
        raise ClipevalError(f"{location}: no question is left; every row was left out.")
    images = pictures.images(account)
    return images, Samples(keys=pictures.keys, instances=instances)


def _instance(rows: Sequence[Row], columns: _Columns, config: DataConfig, pictures: _Pictures) -> dict[str, Any]:
    """One question, as `clipeval.tasks.pairs` wants it."""
    images, captions = [], []
    for row in rows:
        box = _box(row, config)
        images += [key for pattern in columns.images for key in pictures.find(pattern, row, box)]
        captions += [text for pattern in columns.captions for text in pattern.texts(row.content, "the caption")]
    found: dict[str, Any] = {"id": rows[0].name, "images": images, "captions": captions}
    if config.correct is not None:
        found["correct"] = _correct(rows, config, len(images), len(captions))
    if columns.group is not None:
        groups = dict.fromkeys(columns.group.text(row.content, "the group") for row in rows)
        if len(groups) > 1:
            raise Unusable(f"the rows of one question are of different groups: {', '.join(groups)}")
        found["group"] = next(iter(groups))
    if columns.sets:
        found["sets"] = {name: pattern.text(rows[0].content, name) for name, pattern in columns.sets.items()}
    return found


def _correct(rows: Sequence[Row], config: DataConfig, images: int, captions: int) -> list[list[int]]:
    """The captions of each picture, by their numbers."""
    rule = config.correct
    if isinstance(rule, str):
        values = [_numbers(cell(row.content, rule), rule) for row in rows]
    else:
        given = list(rule) if isinstance(rule, tuple) else [int(rule or 0)]
        values = [given] if images == 1 else [[one] for one in given]
    if len(values) != images:
        raise Unusable(f"data.correct speaks of {len(values)} pictures, and the question has {images}")
    for several in values:
        for one in several:
            if not 0 <= one < captions:
                hint = "; is the answer hidden in this copy?" if one < 0 else ""
                raise Unusable(f"the correct caption is number {one}, and there are 0 to {captions - 1}{hint}")
    return values


def _numbers(value: Any, column: str) -> list[int]:
    found = list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value]
    try:
        numbers = [int(str(one)) for one in found]
    except ValueError:
        raise Unusable(
            f"column {column!r}: the number of the correct caption was expected, not {value!r:.80}"
        ) from None
    if not numbers:
        raise Unusable(f"column {column!r}: no caption is correct")
    return numbers


def _box(row: Row, config: DataConfig) -> Box | None:
    if not config.box:
        return None
    try:
        x, y, width, height = (int(str(cell(row.content, name))) for name in config.box)
    except ValueError:
        raise Unusable(f"data.box={list(config.box)}: four columns of whole numbers were expected") from None
    if width <= 0 or height <= 0:
        raise Unusable(f"the box of {width} x {height} pixels is empty")
    return x, y, width, height


def _is_wanted(row: Row, config: DataConfig) -> bool:
    return all(
        str(cell(row.content, name)) in {str(v) for v in values} for name, values in (config.where or {}).items()
    )


def _said(where: Mapping[str, Any] | None) -> str:
    return "data.where asks for " + ", ".join(f"{k} in {list(v)}" for k, v in (where or {}).items())


@dataclass
class _Pictures:
    """The distinct pictures of a set, in the order in which questions name them.

    Attributes:
        folder: what names of files are relative to.
        cells: {column of parquet: its pictures}.
        keys: their names.
    """

    folder: Path
    cells: Mapping[str, ParquetImages]
    keys: list[str] = field(default_factory=list)
    _key_of: dict[tuple[str, Box | None], str] = field(default_factory=dict)
    _found: list[tuple[str, int, Box | None]] = field(default_factory=list)
    _paths: dict[Path, int] = field(default_factory=dict)
    _digests: list[bytes] = field(default_factory=list)
    _deep: list[str] = field(default_factory=list)

    def find(self, pattern: Pattern, row: Row, box: Box | None) -> list[str]:
        """The keys of the pictures that a row names.

        Raises:
            Unusable: there is none.
        """
        if pattern.is_column and pattern.source in self.cells:
            data = self.cells[pattern.source].read(row.number)
            digest = hashlib.sha256(data).digest()
            if (digest.hex(), box) not in self._key_of:
                name = f"{row.number:08d}" + (f"-{pattern.source}" if len(self.cells) > 1 else "")
                self._digests.append(digest)
                self._note(digest.hex(), box, name, (pattern.source, row.number), data[:HEAD], data)
            return [self._key_of[digest.hex(), box]]
        return [self._file(name, box) for name in pattern.texts(row.content, "the picture's name")]

    def _file(self, name: str, box: Box | None) -> str:
        if (name, box) not in self._key_of:
            text_of(name, "the picture's name")
            if name.startswith(("http://", "https://")):
                raise Unusable("the picture is an address on the network; pictures are read from disk")
            path = self.folder / name
            if not path.is_file():
                raise Unusable(f"the picture {name!r} does not exist in {self.folder}")
            number = self._paths.setdefault(path, len(self._paths))
            with path.open("rb") as file:
                head = file.read(HEAD)
            self._note(name, box, name, ("", number), head, None)
        return self._key_of[name, box]

    def _note(
        self, same: str, box: Box | None, name: str, place: tuple[str, int], head: bytes, data: bytes | None
    ) -> None:
        key = name if box is None else f"{name}@{','.join(map(str, box))}"
        self._key_of[same, box] = key
        self.keys.append(key)
        self._found.append((*place, box))
        if is_deep(head, lambda: data if data is not None else (self.folder / name).read_bytes()):
            self._deep.append(key)

    def images(self, account: Account) -> MadeImages:
        """All of them."""
        flag_deep(self._deep, account)
        sources: dict[str, Images] = dict(self.cells)
        digests = list(self._digests)
        if self._paths:
            files = whole_files(list(self._paths), [str(path.relative_to(self.folder)) for path in self._paths])
            sources[""] = files
            digests.append(files.digest.encode())
        names = list(sources)
        boxes = [box for _, _, box in self._found]
        return MadeImages(
            sources=list(sources.values()),
            source=np.array([names.index(name) for name, _, _ in self._found], dtype=np.int32),
            position=np.array([position for _, position, _ in self._found], dtype=np.int64),
            boxes=boxes if any(box is not None for box in boxes) else (),
            digest=digest_of(*digests, *(repr(entry) for entry in self._found)),
        )


def _tables(config: DataConfig, location: Path, split: str, account: Account) -> list[Path]:
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
    known = (*CSV_ENDINGS, *JSON_ENDINGS)
    tables = [p for p in sorted(location.iterdir()) if p.suffix.lower() in known and not is_litter(p.name)]
    if len(tables) != 1:
        there = ", ".join(path.name for path in tables[:5]) or "none"
        raise ClipevalError(
            f"{location}: one table (.csv, .tsv, .json, .jsonl or parquet) was expected, and there is: {there}. "
            "Name those that are meant in task.data.tables."
        )
    return tables


def _rows(
    files: Sequence[Path], columns: _Columns, config: DataConfig, account: Account
) -> tuple[list[Row], dict[str, ParquetImages]]:
    """The rows of all tables, and the pictures in cells of parquet, by column."""
    parquet = [path for path in files if path.suffix.lower() == ".parquet"]
    if parquet and len(parquet) < len(files):
        raise ClipevalError(
            f"{files[0].parent}: tables of parquet and of text stand in one set; name those of one kind."
        )
    if parquet:
        return _parquet_rows(parquet, columns, config)
    rows = []
    for path in files:
        found, names = _text_rows(path, config, account)
        columns.check(config, [*names, FILE], str(path))
        prefix = f"{path.stem}/" if len(files) > 1 else ""
        rows += [Row({FILE: path.stem, **content}, where, f"{prefix}{name}") for content, where, name in found]
    return rows, {}


def _parquet_rows(
    files: Sequence[Path], columns: _Columns, config: DataConfig
) -> tuple[list[Row], dict[str, ParquetImages]]:
    rows: list[Row] = []
    places = []
    names: list[str] = []
    pictures = [pattern.source for pattern in columns.images if pattern.is_column]
    for number, path in enumerate(files):
        try:
            with pq.ParquetFile(path) as opened:
                names = list(opened.schema_arrow.names)
                columns.check(config, [*names, FILE], str(path))
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
                f"{path} is no parquet file that can be read: {str(problem).splitlines()[0]}."
            ) from None
        contents = table.to_pylist() if table.num_columns else [{}] * total
        for content in contents:
            where = f"{path}, row {len(rows)}"
            rows.append(Row({FILE: path.stem, **content}, where, f"{len(rows):08d}", len(rows)))
    at = np.concatenate(places).astype(np.int64) if places else np.zeros((0, 3), dtype=np.int64)
    source = str(files[0].parent)
    return rows, {
        column: ParquetImages([str(path) for path in files], column, at, np.arange(len(at)), source)
        for column in pictures
    }


def _text_rows(
    path: Path, config: DataConfig, account: Account
) -> tuple[list[tuple[Mapping[str, Any], str, str]], list[str]]:
    """(cells, place, name) of each row of a text table, and its columns; the i-th column is also called i."""
    if path.suffix.lower() == ".json":
        content = _json(path)
        items = list(content.items()) if isinstance(content, dict) else list(enumerate(content))
        if not items or not all(isinstance(item, (dict, list)) for _, item in items):
            raise ClipevalError(
                f"{path}: a JSON list of rows, or an object of them, was expected; each is an object or a list."
            )
        rows: list[Mapping[str, Any]] = [
            item if isinstance(item, dict) else {str(i): v for i, v in enumerate(item)} for _, item in items
        ]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        return [(r, f"{path}, entry {n!r}", str(n)) for r, (n, _) in zip(rows, items, strict=True)], columns
    table = read_table(path, [], account, config.sep, config.encoding)
    numbered = {str(i): name for i, name in enumerate(table.columns)}
    rows = [{**{i: row.get(name) for i, name in numbered.items()}, **row} for row in table.rows]
    found = [(row, table.where(i), str(i)) for i, row in enumerate(rows)]
    return found, [*table.columns, *numbered]


def _json(path: Path) -> Any:
    try:
        return safe_json.parse(decode(path))
    except ValueError as problem:
        if isinstance(problem, ClipevalError):
            raise
        raise ClipevalError(f"{path}: not JSON ({problem}).") from None
