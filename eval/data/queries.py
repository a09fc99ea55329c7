"""Queries that seek pictures, row by row of a table: composed retrieval and landmarks, as their makers keep them.

    data.tables, data.where, data.first       as `clipeval.data.rows` has them
    data.images: ["dev/{reference}.png"]      the query's picture, a column or pattern (`clipeval.data.patterns`); or none
    data.box: [x, y, width, height]           columns of the part of it that is shown
    data.captions: ["{caption}"]              its text, a pattern; or none
    data.relevant: ["dev/{target}.png"]       the pictures sought, patterns; a list in a column gives several
    data.junk: ["dev/{reference}.png"]        pictures that do not count
    data.among: ["{gallery.name}.jpg"]        the pictures that are ranked, where each query has its own
    data.gallery: {"*.json": "dev/{1}"}       {files: a pattern in their rows, of what is ranked for every query}; a JSON list of
                                              texts has the column 0, an object of texts 0 and 1; null: the files are the pictures
    data.group                                what macro averages are over

Pictures lie below the set's folder, and each is embedded once. Without a gallery all pictures that `among` or `relevant` name are
ranked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from clipeval.configs.errors import ClipevalError
from clipeval.data.account import Account
from clipeval.data.config import DataConfig
from clipeval.data.lock import check_lock
from clipeval.data.made_images import MadeImages
from clipeval.data.pairs import box_of
from clipeval.data.patterns import Pattern
from clipeval.data.row_pictures import RowPictures
from clipeval.data.rows import Row, read_rows, tables, wanted_rows
from clipeval.data.text_table import decode
from clipeval.data.values import Unusable, cell
from clipeval.results import safe_json
from clipeval.tasks.base import Samples

SOUGHT = ("relevant", "junk", "among")


def read(
    config: DataConfig, location: Path, split: str, cache: Path | None, account: Account
) -> tuple[MadeImages, Samples]:
    """Reads the queries and finds their pictures.

    Raises:
        ClipevalError: a table, a column or a picture is missing, or a cell is not what it must be; `data.on_error=skip` leaves
            out queries.
    """
    if not location.is_dir():
        raise ClipevalError(f"{location} is not a folder. {config.cure}")
    captions = config.caption_patterns
    patterns = {
        "images": [Pattern.parse(text, "data.images") for text in config.images],
        "captions": [Pattern.parse(text, "data.captions") for text in captions],
        "group": [Pattern.parse(config.group, "data.group")] if config.group else [],
        **{key: [Pattern.parse(text, f"data.{key}") for text in getattr(config, key)] for key in SOUGHT},
    }
    if len(patterns["images"]) > 1 or len(captions) > 1 or not (config.images or captions) or not config.relevant:
        raise ClipevalError("a query needs data.images or data.captions, one of each at most, and data.relevant.")

    def check(columns: Sequence[str], where: str) -> None:
        for key, several in patterns.items():
            for pattern in several:
                pattern.check(columns, f"data.{key}", where)

    pictures = RowPictures(location, {})
    documents = [
        key for row, pattern in _gallery(config, location, account) for key in pictures.find(pattern, row, None)
    ]
    files = tables(config, location, split, account)
    check_lock(location, files)
    rows, _ = read_rows(files, [], check, config, account)
    instances = []
    for row in wanted_rows(rows, config, location):
        try:
            instances.append(_query(row, patterns, config, pictures))
        except Unusable as problem:
            account.unusable(row.where, str(problem))
    if not instances:
        raise ClipevalError(f"{location}: no query is left; every row was left out.")
    if not documents:
        documents = [name for one in instances for name in (*one["relevant"], *one.get("among", ()))]
    ranked = set(documents)
    for one in instances:
        lost = [name for name in one["relevant"] if name not in ranked]
        if lost:
            raise ClipevalError(f"{location}: query {one['id']!r} seeks {lost[0]!r}, which is not in data.gallery.")
    own = [(key,) if key in ranked else () for key in pictures.keys]
    metadata = pd.DataFrame({"documents": own}, index=range(len(own)))
    return pictures.images(account), Samples(keys=pictures.keys, instances=instances, metadata=metadata)


def _query(row: Row, patterns: dict[str, list[Pattern]], config: DataConfig, pictures: RowPictures) -> dict[str, Any]:
    """One query, as `clipeval.tasks.image_retrieval` wants it."""
    found: dict[str, Any] = {"id": row.name}
    for pattern in patterns["images"]:
        found["images"] = pictures.find(pattern, row, box_of(row, config))
    for pattern in patterns["captions"]:
        found["text"] = pattern.text(row.content, "the query's text")
    for pattern in patterns["group"]:
        found["group"] = pattern.text(row.content, "the group")
    for key in SOUGHT:
        if patterns[key]:
            named = [pattern for pattern in patterns[key] if not _is_empty(pattern, row)]
            found[key] = [name for pattern in named for name in pictures.find(pattern, row, None)]
    found["relevant"] = dict.fromkeys(found["relevant"], 1)
    return found


def _is_empty(pattern: Pattern, row: Row) -> bool:
    """Whether a column that it names is a list of nothing: a query may have no junk, or no easy picture."""
    return any(value == [] for value in (cell(row.content, name) for name in pattern.columns))


def _gallery(config: DataConfig, location: Path, account: Account) -> Iterator[tuple[Row, Pattern]]:
    """Rows that each name a picture, and the pattern by which they do."""
    for files, source in (config.gallery or {}).items():
        found = sorted(path for path in location.glob(files) if path.is_file())
        if not found:
            raise ClipevalError(f"{location} holds no {files} (data.gallery).")
        if source is None:
            rows = [Row({"0": path.relative_to(location).as_posix()}, str(path), "") for path in found]
            pattern = Pattern.parse("{0}", "data.gallery")
        else:
            pattern = Pattern.parse(source, "data.gallery")
            rows = [row for path in found for row in _rows(path, pattern, config, account)]
        yield from ((row, pattern) for row in rows)


def _rows(path: Path, pattern: Pattern, config: DataConfig, account: Account) -> list[Row]:
    if path.suffix.lower() == ".json":
        try:
            content = safe_json.parse(decode(path, config.encoding))
        except ValueError as problem:
            raise ClipevalError(f"{path}: not JSON ({problem}).") from None
        if isinstance(content, dict) and all(isinstance(text, str) for text in content.values()):
            return [Row({"0": name, "1": text}, f"{path}, entry {name!r}", name) for name, text in content.items()]
        if isinstance(content, list) and all(isinstance(text, str) for text in content):
            return [Row({"0": text}, f"{path}, entry {i}", str(i)) for i, text in enumerate(content)]
    rows, _ = read_rows([path], [], lambda names, where: pattern.check(names, "data.gallery", where), config, account)
    return rows
