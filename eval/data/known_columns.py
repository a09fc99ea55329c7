"""Which columns of a table name the picture, the label and the split, where the config does not: by the names in common use."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from clipeval.configs.errors import ClipevalError
from clipeval.data.account import Account
from clipeval.data.config import DataConfig
from clipeval.data.splits import KEYWORDS, same_split

PICTURE = "image"
"""The default of `data.image`; a table without this column may have one of `PICTURES`."""
SPLIT = "split"
"""The column that says to which split a row belongs."""


@dataclass(frozen=True)
class KnownColumn:
    """A column that goes by several names; case, spaces, `_` and `-` do not matter.

    Attributes:
        key: what names it in the config: `task.data.label`.
        names: in lower case, without what does not matter.
    """

    key: str
    names: tuple[str, ...]

    def among(self, columns: Sequence[str]) -> list[str]:
        """Those of some columns that go by such a name, in their order."""
        return [column for column in columns if _plain(column) in self.names]

    def __str__(self) -> str:
        return f"{self.names[0]!r} ({self.key}=COLUMN names another)"


PICTURES = KnownColumn(
    "task.data.image",
    (
        *("image", "imagepath", "imagefile", "imagename", "img", "imgpath", "picture"),
        *("path", "file", "filename", "filepath"),
    ),
)
LABELS = KnownColumn(
    "task.data.label",
    ("label", "labels", "labelname", "class", "classname", "classlabel", "category", "categoryname", "target"),
)


def _plain(column: str) -> str:
    return "".join(letter for letter in column.casefold() if letter not in " _-")


def needed_columns(config: DataConfig) -> list[str | KnownColumn]:
    """What a table must have: the columns that the config names, and for those that it does not, one of a known name."""
    answers: list[str | KnownColumn] = [c for c in (config.caption, config.label) if c is not None]
    return [PICTURES if config.image == PICTURE else config.image, *(answers or [LABELS])]


def with_columns(config: DataConfig, columns: Sequence[str], location: str, account: Account) -> DataConfig:
    """The config with the table's own columns in the place of those that it does not name; `account` is told.

    Raises:
        ClipevalError: no column goes by a known name, or several do.
    """
    if config.image == PICTURE and PICTURE not in columns:
        config = replace(config, image=_only(PICTURES, columns, location, account))
    if config.label is None and config.caption is None:
        left = [column for column in columns if column != config.image]
        config = replace(config, label=_only(LABELS, left, location, account))
    return config


_OF_PREDICTIONS = re.compile(r"key|label|prediction|(pred|score)_[0-9]+", re.ASCII)


def beside_predictions(metadata: pd.DataFrame) -> pd.DataFrame:
    """The metadata, columns that are called like those of a run's predictions (label, prediction) renamed: data.label."""
    taken = [str(name) for name in metadata.columns if _OF_PREDICTIONS.fullmatch(str(name))]
    return metadata.rename(columns={name: f"data.{name}" for name in taken})


def _only(known: KnownColumn, columns: Sequence[str], location: str, account: Account) -> str:
    found = known.among(columns)
    what = known.key.rpartition(".")[2]
    if len(found) != 1:
        why = (
            f"the columns {' and '.join(map(repr, found))} may each be the {what}; choose one"
            if found
            else f"no column is known to be the {what}, among {', '.join(map(repr, columns))}; name it"
        )
        raise ClipevalError(f"{location}: {why}, as in {known.key}={(found or ['COLUMN'])[0]}.")
    if _plain(found[0]) != what:
        account.remark(f"{location}: the column {found[0]!r} is the {what}")
    return found[0]


def rows_of_split(
    values: Sequence[object], places: Sequence[str], split: str, location: str, account: Account
) -> list[int]:
    """The rows of a split, by the cells of the column `SPLIT`.

    All of them where no cell is a split's usual name: then the column says something else.

    Args:
        values: N cells.
        places: N, where each stands, for errors.

    Raises:
        ClipevalError: there are other splits only; or a cell is empty, unless `data.on_error=skip`.
    """
    texts = ["" if value is None or value != value else str(value).strip() for value in values]
    names = list(dict.fromkeys(text for text in texts if text))
    if not any(name.lower() in words for name in names for words in KEYWORDS.values()):
        if names:
            account.assume(
                f"all rows are scored: the column {SPLIT!r} of {location} names no split that is known "
                f"({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
            )
        return list(range(len(texts)))
    if not any(same_split(split, name.lower()) for name in names):
        raise ClipevalError(
            f"{location} holds the splits {', '.join(names)} (column {SPLIT!r}), and none called {split!r}. Choose one with "
            f"task.splits=[{names[-1]}]."
        )
    chosen = []
    for row, text in enumerate(texts):
        if not text:
            account.unusable(places[row], f"column {SPLIT!r}: it is empty, and other rows name their split")
        elif same_split(split, text.lower()):
            chosen.append(row)
    return chosen
