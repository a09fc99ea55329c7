"""Retrieval as MTEB keeps it: three tables of parquet, `corpus`, `queries` and `qrels`, that name each other's rows.

    corpus, queries    id (or _id), image, text    a document or a query: a picture, a text, or both
    qrels              query-id, corpus-id, score  how relevant a document is to a query; 0: it is not

    data.image: image            the column of the pictures, in corpus and queries
    data.captions: ["{text}"]    the query's text, a pattern; without it texts are left out

Queries without a row in `qrels` are not asked, as MTEB does it. Equal pictures are embedded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from clipeval.configs.errors import ClipevalError, nearest
from clipeval.data.account import Account
from clipeval.data.config import DataConfig
from clipeval.data.huggingface import ParquetImages
from clipeval.data.lock import check_lock
from clipeval.data.made_images import MadeImages
from clipeval.data.patterns import Pattern
from clipeval.data.row_pictures import RowPictures
from clipeval.data.rows import Row, read_rows
from clipeval.data.splits import choose_files
from clipeval.data.values import Unusable, cell
from clipeval.tasks.base import Samples

PARTS: Mapping[str, tuple[str, ...]] = {
    "corpus": ("corpus",),
    "queries": ("queries", "query"),
    "qrels": ("qrels", "default", "data"),
}
"""{a table: the folders that hold it, by the name of its config}; MTEB's qrels are the config `default`, or `qrels`."""
RELEVANCE = ("query-id", "corpus-id", "score")


def read(
    config: DataConfig, location: Path, split: str, cache: Path | None, account: Account
) -> tuple[MadeImages, Samples]:
    """Reads the three tables and finds their pictures.

    Raises:
        ClipevalError: a table or a column is missing, a cell is not what it must be, or `qrels` name what is not there;
            `data.on_error=skip` leaves out rows.
    """
    if not location.is_dir():
        raise ClipevalError(f"{location} is not a folder. {config.cure}")
    files = {part: _files(location, part, folders, split) for part, folders in PARTS.items()}
    check_lock(location, [path for several in files.values() for path in several])
    texts = [Pattern.parse(text, "data.captions") for text in config.caption_patterns]
    if len(texts) > 1:
        raise ClipevalError(f"data.captions={list(config.caption_patterns)}: one text for each query was expected.")
    needed = {"corpus": [config.image], "queries": [config.image, *(name for text in texts for name in text.columns)]}
    tables: dict[str, list[Row]] = {}
    cells: dict[str, ParquetImages] = {}
    for part, columns in needed.items():
        found = read_rows(files[part], [config.image], partial(_check, columns), config, account)
        tables[part], cells[part] = list(_once(found[0], account)), found[1][config.image]
    relevant = _relevant(files["qrels"], config, account)
    pictures = RowPictures(location, cells)
    documents: dict[str, list[str]] = {}
    for row in tables["corpus"]:
        if (key := _picture(pictures, "corpus", row, config, account)) is not None:
            documents.setdefault(key, []).append(_id(row))
    known = {name for several in documents.values() for name in several}
    instances = []
    for row in (row for row in tables["queries"] if _id(row) in relevant):
        key = _picture(pictures, "queries", row, config, account)
        if key is None:
            continue
        try:
            text = [pattern.text(row.content, "the query's text") for pattern in texts]
        except Unusable as problem:
            account.unusable(row.where, str(problem))
            continue
        sought = relevant.pop(_id(row))
        lost = [name for name in sought if name not in known]
        if lost and not account.left_out:
            raise ClipevalError(
                f"{location}: the qrels of query {_id(row)!r} name the document {lost[0]!r}, which the corpus lacks."
            )
        query = {"id": _id(row), "images": [key], "relevant": {name: v for name, v in sought.items() if v > 0}}
        instances.append({**query, **({"text": text[0]} if text else {})})
    if relevant and not account.left_out:
        raise ClipevalError(f"{location}: the qrels name the query {next(iter(relevant))!r}, which the queries lack.")
    if not instances:
        raise ClipevalError(f"{location}: no query is left; every row was left out.")
    own = [tuple(documents.get(key, ())) for key in pictures.keys]
    metadata = pd.DataFrame({"documents": own}, index=range(len(own)))
    return pictures.images(account), Samples(keys=pictures.keys, instances=instances, metadata=metadata)


def _files(location: Path, part: str, folders: Sequence[str], split: str) -> list[Path]:
    for folder in folders:
        paths = {path.relative_to(location).as_posix(): path for path in sorted((location / folder).rglob("*.parquet"))}
        if paths:
            names = list(paths) if len(paths) == 1 else choose_files(list(paths), split, str(location / folder))
            return [paths[name] for name in names]
    raise ClipevalError(f"{location} holds no {part}: parquet was expected in {' or '.join(f'{f}/' for f in folders)}.")


def _check(needed: Sequence[str], columns: Sequence[str], where: str) -> None:
    if "id" not in columns and "_id" not in columns:
        raise ClipevalError(f"{where}: {nearest('column', 'id', columns)}")
    for column in needed:
        if column.partition(".")[0] not in columns:
            raise ClipevalError(f"{where}: {nearest('column', column, columns)}")


def _id(row: Row) -> str:
    return str(row.content["id"] if "id" in row.content else row.content["_id"])


def _once(rows: Sequence[Row], account: Account) -> Iterator[Row]:
    """The rows, of which no two may have one id."""
    seen: dict[str, str] = {}
    for row in rows:
        if (other := seen.setdefault(_id(row), row.where)) == row.where:
            yield row
        else:
            column = "id" if "id" in row.content else "_id"
            account.unusable(f"{row.where}, column {column!r}", f"{_id(row)!r} is also the id of {other}")


def _picture(pictures: RowPictures, part: str, row: Row, config: DataConfig, account: Account) -> str | None:
    try:
        return pictures.find(Pattern.parse(part, "data.image"), row, None)[0]
    except Unusable as problem:
        account.unusable(f"{row.where}, column {config.image!r}", str(problem))
        return None


def _relevant(files: Sequence[Path], config: DataConfig, account: Account) -> dict[str, dict[str, float]]:
    """{query: {document: its score}}."""

    def check(columns: Sequence[str], where: str) -> None:
        for column in RELEVANCE:
            if column not in columns:
                raise ClipevalError(f"{where}: {nearest('column', column, columns)}")

    rows, _ = read_rows(files, [], check, config, account)
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        query, document, score = (cell(row.content, column) for column in RELEVANCE)
        if query is None or document is None or not _is_score(score):
            column, value = next(
                (c, v) for c, v in zip(RELEVANCE, (query, document, score), strict=True) if v is None or c == "score"
            )
            account.unusable(f"{row.where}, column {column!r}", f"{value!r} cannot be used")
            continue
        found.setdefault(str(query), {})[str(document)] = float(score)
    return found


def _is_score(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
