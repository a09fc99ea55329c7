"""One form of JSON for each value, so that a digest of it means something."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np


def to_jsonable(value: Any) -> Any:
    """`value` in JSON's own types: NumPy scalars and arrays, tuples, sets and paths turned; NaN and infinity are null.

    Raises:
        TypeError: a value that has no such form; it is named.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return to_jsonable(value.tolist())
    if isinstance(value, list | tuple):
        return [to_jsonable(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(to_jsonable(item) for item in value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(
        f"{value!r} of type {type(value).__name__} cannot be written as JSON: give numbers, text, lists or mappings"
    )


def canonical(value: Any) -> bytes:
    """The one spelling of a value: keys sorted, no spaces, UTF-8."""
    return _spell(to_jsonable(value))


def digest(value: Any) -> str:
    """SHA-256 of the canonical spelling, 64 hexadecimal digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


def digest_parsed(value: Any) -> str:
    """The same of what `json.loads` gave, which is plain already. ValueError where that holds NaN, which is not JSON."""
    return hashlib.sha256(_spell(value)).hexdigest()


def _spell(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def dumps(value: Any) -> bytes:
    """The spelling that people read in a file: indented, in the order given, ended by a newline."""
    return (json.dumps(to_jsonable(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
