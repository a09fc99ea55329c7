"""Captions of pictures in tables of any form, for retrieval: long captions as their makers keep them.

    data.tables: ["caption/*.txt"]       as `clipeval.data.rows` has them
    data.images: ["image/{file}.jpg"]    a column or pattern that names the picture, or a column of parquet that holds it
    data.captions: ["{text}"]            columns or patterns, each a caption
    data.where, data.first               which rows
    data.clean                           what is done to a caption: see `CLEANERS`

Several rows may speak of one picture: their captions are gathered.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from clipeval.configs.errors import ClipevalError
from clipeval.data.account import Account
from clipeval.data.config import DataConfig
from clipeval.data.lock import check_lock
from clipeval.data.made_images import MadeImages
from clipeval.data.patterns import Pattern
from clipeval.data.row_pictures import RowPictures
from clipeval.data.rows import read_rows, tables, wanted_rows
from clipeval.data.values import Unusable, text_of
from clipeval.tasks.base import Samples


def _sentences(text: str) -> str:
    parts = (part.strip() for part in re.split(r"\n|</s>|[.]", text))
    return ". ".join(part for part in parts if part)


CLEANERS: dict[str, Callable[[str], str]] = {
    "first_line": lambda text: text.split("\n")[0],
    "one_line": lambda text: text.replace("\n", " "),
    "sentences": _sentences,
}
"""first_line: as Long-CLIP reads Urban1k. one_line: line ends become spaces, as Long-CLIP has ShareGPT4V. sentences: as LoTLIP and
FLAIR have it, split at line ends, </s> and full stops, joined by ". "; no full stop at the end, and decimals fall apart."""


def read(
    config: DataConfig, location: Path, split: str, cache: Path | None, account: Account
) -> tuple[MadeImages, Samples]:
    """Reads the captions and finds their pictures.

    Raises:
        ClipevalError: a table, a column or a picture is missing, or a caption is empty; `data.on_error=skip` leaves out rows.
    """
    if not location.exists():
        raise ClipevalError(f"{location} does not exist. {config.cure}")
    given = config.captions if isinstance(config.captions, tuple) else (config.caption or "caption",)
    captions = [Pattern.parse(text, "data.captions") for text in given]
    images = [Pattern.parse(text, "data.images") for text in config.images or (config.image,)]
    if len(images) != 1:
        raise ClipevalError(f"data.images={list(config.images)}: one picture for each row was expected.")
    clean = CLEANERS[config.clean] if config.clean else str

    def check(columns: object, where: str) -> None:
        for key, patterns in (("data.images", images), ("data.captions", captions)):
            for pattern in patterns:
                pattern.check(columns, key, where)  # type: ignore[arg-type]

    files = tables(config, location, split, account)
    check_lock(location, files)
    rows, cells = read_rows(files, [images[0].source] if images[0].is_column else [], check, config, account)
    pictures = RowPictures(location if location.is_dir() else location.parent, cells)
    gathered: dict[str, list[str]] = {}
    for row in wanted_rows(rows, config, location):
        try:
            texts = [clean(text) for pattern in captions for text in pattern.texts(row.content, "the caption")]
            texts = [text_of(text, "the caption") for text in texts]
            keys = pictures.find(images[0], row, None)
        except Unusable as problem:
            account.unusable(row.where, str(problem))
            continue
        if len(keys) != 1:
            raise ClipevalError(f"{row.where}: data.images names {len(keys)} pictures; one was expected.")
        gathered.setdefault(keys[0], []).extend(texts)
    if not gathered:
        raise ClipevalError(f"{location}: no caption is left; every row was left out.")
    samples = Samples(
        keys=pictures.keys,
        captions=[gathered[key] for key in pictures.keys],
        metadata=pd.DataFrame(index=range(len(pictures.keys))),
    )
    return pictures.images(account), samples
