"""Image-text pairs of any form: which caption is the picture's, which picture the caption's, row by row of a table.

    data.images: [image_0, image_1]        columns that hold or name the pictures; or patterns, "val2017/{filename}"
    data.captions: [caption_0, caption_1]  columns or patterns (`clipeval.data.patterns`); a list gives several captions
    data.correct: null                     the i-th caption is the i-th picture's; a column, or numbers from 0, of the correct ones
    data.group, data.sets                  what macro averages are over; rows that count together (`clipeval.tasks.pairs`)
    data.where: {type: [SCAM]}             the rows to read
    data.box: [x, y, width, height]        columns of the part of the picture that is shown
    data.score: score                      a column of numbers, how alike two pictures are (`clipeval.tasks.similarity`)

The set is a table (CSV, TSV, JSON, JSON lines, parquet), several in a folder (`data.tables`), or a folder that holds one.
Pictures lie in cells of parquet, or below the set's folder. Each distinct picture is embedded once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from clipeval.configs.errors import ClipevalError
from clipeval.data.account import Account
from clipeval.data.config import DataConfig
from clipeval.data.lock import check_lock
from clipeval.data.made_images import Box, MadeImages
from clipeval.data.patterns import Pattern
from clipeval.data.row_pictures import RowPictures
from clipeval.data.rows import Row, read_rows, tables, wanted_rows
from clipeval.data.values import Unusable, cell
from clipeval.tasks.base import Samples


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
        others["data.score"] = Pattern.parse(config.score, "data.score") if config.score else None
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
        raise ClipevalError(f"{location} does not exist. {config.cure}")
    columns = _Columns.of(config)
    files = tables(config, location, split, account)
    check_lock(location, files)
    held = [pattern.source for pattern in columns.images if pattern.is_column]
    rows, cells = read_rows(files, held, partial(columns.check, config), config, account)
    pictures = RowPictures(location if location.is_dir() else location.parent, cells)
    wanted = wanted_rows(rows, config, location)
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


def _instance(rows: Sequence[Row], columns: _Columns, config: DataConfig, pictures: RowPictures) -> dict[str, Any]:
    """One question, as `clipeval.tasks.pairs` wants it."""
    images, captions = [], []
    for row in rows:
        box = box_of(row, config)
        images += [key for pattern in columns.images for key in pictures.find(pattern, row, box)]
        captions += [text for pattern in columns.captions for text in pattern.texts(row.content, "the caption")]
    found: dict[str, Any] = {"id": rows[0].name, "images": images, "captions": captions}
    if config.correct is not None:
        found["correct"] = _correct(rows, config, len(images), len(captions))
    if config.score is not None:
        found["score"] = _score(cell(rows[0].content, config.score), config.score)
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


def _score(value: Any, column: str) -> float:
    try:
        score = float(str(value))
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise Unusable(f"column {column!r}: a number was expected, not {value!r:.80}")
    return score


def box_of(row: Row, config: DataConfig) -> Box | None:
    """The part of a row's picture that `data.box` names; None: all of it.

    Raises:
        Unusable: it is no box.
    """
    if not config.box:
        return None
    try:
        x, y, width, height = (int(str(cell(row.content, name))) for name in config.box)
    except ValueError:
        raise Unusable(f"data.box={list(config.box)}: four columns of whole numbers were expected") from None
    if width <= 0 or height <= 0:
        raise Unusable(f"the box of {width} x {height} pixels is empty")
    return x, y, width, height
