"""What a cell of a table may say: a text, several, or nothing that can be used, and then why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


class Unusable(ValueError):  # noqa: N818 - what it is
    """A cell that cannot be used; the text says why, without a full stop: `the caption is null`."""


def cell(row: Mapping[str, Any], path: str) -> Any:
    """The value at a column, or at a path into one: `captions.raw` of structures, or of a list of them.

    A column whose own name has a dot in it comes first. None where a part of the path is null or not there.
    """
    if path in row:
        return row[path]
    head, _, rest = path.partition(".")
    return _inside(row.get(head), rest) if rest else None


def _inside(value: Any, path: str) -> Any:
    if isinstance(value, Mapping):
        return cell(value, path)
    if isinstance(value, (list, tuple, np.ndarray)):
        head, _, rest = path.partition(".")
        if head.isdigit():
            chosen = value[int(head)] if int(head) < len(value) else None
            return _inside(chosen, rest) if rest else chosen
        return [_inside(item, path) for item in value]
    return None


def has_column(columns: Sequence[str], path: str) -> bool:
    """Whether `cell` can find a path among these columns."""
    return path in columns or ("." in path and path.partition(".")[0] in columns)


def text_of(value: Any, what: str) -> str:
    """A text.

    Args:
        what: what it is, for the error: `the caption`.

    Raises:
        Unusable: it is null, empty, or no text.
    """
    if isinstance(value, str):
        if not value.strip():
            raise Unusable(f"{what} is empty")
        return value
    raise Unusable(f"{what} {_described(value)}")


def texts_of(value: Any, what: str) -> list[str]:
    """One text or a list of them; errors as of `text_of`."""
    if isinstance(value, (list, tuple, np.ndarray)):
        if not len(value):
            raise Unusable(f"{what} is an empty list")
        nested = [inner for item in value for inner in (item if isinstance(item, (list, tuple)) else [item])]
        return [text_of(item, f"item {number} of {what}") for number, item in enumerate(nested, 1)]
    return [text_of(value, what)]


def encoded_image(value: Any, folder: Path) -> bytes:
    """The encoded image in a cell.

    Raises:
        Unusable: there is none, or not one.
    """
    if isinstance(value, (list, tuple)):
        if len(value) != 1:
            raise Unusable(f"the image is a list of {len(value)}; choose one, as in task.data.image=COLUMN.0")
        value = value[0]
    if isinstance(value, dict):
        given = value.get("bytes")
        value = given if given else value.get("path")
    if isinstance(value, (bytes, bytearray)) and value:
        return bytes(value)
    if isinstance(value, str) and value.strip():
        if value.startswith(("http://", "https://")):
            raise Unusable("the image is an address on the network; pictures are read from disk")
        try:
            return (folder / value).read_bytes()
        except (OSError, ValueError):
            raise Unusable(f"the picture {value[:200]!r} does not exist in {folder.absolute()}") from None
    if value is None or value in ("", b""):
        raise Unusable("the image is null")
    raise Unusable(
        f"the image is of the type {type(value).__name__}; bytes, a path, or a structure of both was expected"
    )


def is_null(value: Any) -> bool:
    """Whether a cell says nothing: null, NaN, or a text of white space."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and value != value)


def _described(value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return "is null"
    if isinstance(value, Mapping):
        fields = ", ".join(map(str, value))
        return f"is a structure with the fields {fields}; name one of them, as in task.data.caption=COLUMN.FIELD"
    if isinstance(value, bool):
        return f"is {str(value).lower()}, and text was expected"
    if isinstance(value, (int, float, np.number)):
        return f"is the number {value}, and text was expected"
    if isinstance(value, (bytes, bytearray)):
        return "is bytes, and text was expected"
    return f"is of the type {type(value).__name__}, and text was expected"
