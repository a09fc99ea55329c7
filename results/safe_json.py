"""JSON of files that may come from anybody: what can be read as such, and of a depth that a program can walk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DEPTH = 60
"""Levels of objects and lists. A record has 4, a run's config 8; Python's own walks end in an error at some hundreds."""

LARGEST = 2**29
"""Bytes of a JSON file. The record of ImageNet with the names of its classes has 60 kB."""


def parse(content: bytes | str) -> Any:
    """What a JSON text says.

    Args:
        content: the text, or its UTF-8.

    Raises:
        ValueError: it is not JSON, is nested deeper than `DEPTH`, says two things under one key, or holds a number of
            thousands of digits.
    """
    if len(content) > LARGEST:
        raise ValueError(f"it has {len(content):,} bytes, and {LARGEST:,} are the most that are read")
    try:
        value = json.loads(content, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEPTH} levels") from None
    level, depth = [value], 0
    while level := [item for part in level if isinstance(part, dict | list) for item in _items(part)]:
        depth += 1
        if depth > DEPTH:
            raise ValueError(f"it is nested deeper than {DEPTH} levels")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} stands in one object twice")
    return unique


def _items(part: dict[str, Any] | list[Any]) -> Any:
    return part.values() if isinstance(part, dict) else part


def read(path: Path) -> Any:
    """What a JSON file says.

    Raises:
        ValueError: as `parse`; or it is no plain file, or is larger than `LARGEST`.
        FileNotFoundError: there is none.
    """
    return parse(read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """A file's content.

    Raises:
        ValueError: it is no plain file (a pipe would never end), or is larger than `LARGEST`.
        FileNotFoundError: there is none.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no plain file")
    with open(path, "rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST:,} bytes, the most that are read")
    return content
