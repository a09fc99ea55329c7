"""What a config says of a row's texts: a column, or a text with columns in braces.

    caption                      the column's text; of a list, each of its texts
    a photo of {Statement}       a text around it
    {Question} {Options}         a list inside gives a text for each of its items
    val2017/{0:012}.jpg          column 0, filled up with zeros to 12 places
    {path~_(left|right)_}        the part that a regular expression finds: its first group, else all of it; nothing: an error
    {path~(left|right)|$}        nothing is allowed: the empty text
    {image|image/key}            the first of these columns that says something; {extra|} may be empty
    hard_negs[]                  a list that is written as a text, in JSON or as Python prints it

A column may be a path into structures and lists (`attributes.0`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipeval.configs.errors import ClipevalError, nearest
from clipeval.data.values import Unusable, cell, has_column, is_null, text_of, texts_of

LIST = "[]"
_FIELD = re.compile(r"\{([^{}~:]+)(?::(0\d+))?(?:~([^{}]*))?\}")


@dataclass(frozen=True)
class Field:
    """A column in a pattern, how wide it is filled with zeros, and which part of it is taken."""

    column: str
    width: int = 0
    part: re.Pattern[str] | None = None

    @property
    def columns(self) -> list[str]:
        """The columns of which the first that says something is taken."""
        return [name.removesuffix(LIST) for name in self.column.split("|") if name]


@dataclass(frozen=True)
class Pattern:
    """A column or a text with columns in it.

    Attributes:
        source: as the config says it.
        parts: texts and fields in turn; a column alone is one field.
    """

    source: str
    parts: tuple[str | Field, ...]

    @classmethod
    def parse(cls, source: str, key: str) -> Pattern:
        """Reads a pattern.

        Args:
            key: the config's key, for errors: `data.captions`.

        Raises:
            ClipevalError: it is empty, a brace is left over, or a regular expression is none.
        """
        if not source.strip():
            raise ClipevalError(f"{key}: a column, or a text with columns in braces, was expected; got {source!r}.")
        if "{" not in source and "}" not in source:
            return cls(source, (Field(source),))
        parts: list[str | Field] = []
        end = 0
        for found in _FIELD.finditer(source):
            parts += [source[end : found.start()], _field(found, key)]
            end = found.end()
        parts.append(source[end:])
        if any(isinstance(part, str) and ("{" in part or "}" in part) for part in parts):
            raise ClipevalError(f"{key}={source!r}: a brace is left over; columns are written {{column}}.")
        return cls(source, tuple(part for part in parts if part != ""))

    @property
    def columns(self) -> list[str]:
        """The columns that it names."""
        return [column for part in self.parts if isinstance(part, Field) for column in part.columns]

    @property
    def is_column(self) -> bool:
        """Whether it is a column alone."""
        return self.parts == (Field(self.source),)

    def check(self, columns: Sequence[str], key: str, location: str) -> None:
        """ClipevalError unless all of its columns are there."""
        for part in self.parts:
            if isinstance(part, Field) and not any(has_column(columns, name) for name in part.columns):
                name = part.columns[0]
                raise ClipevalError(f"{location}: {key}: {nearest('column', name, columns)}")

    def texts(self, row: Mapping[str, Any], what: str) -> list[str]:
        """The texts that a row gives, one, or as many as its lists are long.

        Args:
            what: what they are, for errors: `the caption`.

        Raises:
            Unusable: a cell is empty, of another kind, or not as the pattern needs it; or two lists differ in their length.
        """
        if self.is_column:
            return texts_of(_value(row, self.source), f"column {self.source!r}: {what}")
        values = [part if isinstance(part, str) else _values(row, part, what) for part in self.parts]
        counts = {len(value) for value in values if isinstance(value, list) and len(value) != 1}
        if len(counts) > 1:
            raise Unusable(f"{self.source!r}: {what} joins lists of {' and '.join(map(str, sorted(counts)))} items")
        count = counts.pop() if counts else 1
        return ["".join(v if isinstance(v, str) else v[i if len(v) > 1 else 0] for v in values) for i in range(count)]

    def text(self, row: Mapping[str, Any], what: str) -> str:
        """The one text that a row gives; errors as of `texts`."""
        found = self.texts(row, what)
        if len(found) != 1:
            raise Unusable(f"{self.source!r}: {what} is one text, and {len(found)} were found")
        return found[0]


def _field(found: re.Match[str], key: str) -> Field:
    column, width, part = found.groups()
    try:
        return Field(column.strip(), int(width or 0), None if part is None else re.compile(part))
    except re.error as problem:
        raise ClipevalError(f"{key}: {part!r} is no regular expression ({problem}).") from None


def _values(row: Mapping[str, Any], field: Field, what: str) -> list[str]:
    name = f"column {field.column!r} of {what}"
    value = next(
        (v for one in field.columns if not is_null(v := _value(row, one if "|" in field.column else field.column))),
        None,
    )
    if value is None and field.column.endswith("|"):
        return [""]
    found = value if isinstance(value, list) else [value]
    if not found:
        raise Unusable(f"{name} is an empty list")
    return [_part(text_of(item, name).zfill(field.width), field, name) for item in found]


def _part(text: str, field: Field, name: str) -> str:
    if field.part is None:
        return text
    match = field.part.search(text)
    if match is None:
        raise Unusable(f"{name}: nothing in {text!r} fits {field.part.pattern!r}")
    return next((group for group in match.groups() if group is not None), "" if match.re.groups else match[0])


def _value(row: Mapping[str, Any], column: str) -> Any:
    """A cell; of a column that ends in [] the list that its text spells."""
    value = cell(row, column.removesuffix(LIST))
    if column.endswith(LIST) and isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
        if not isinstance(value, list):
            raise Unusable(f"column {column!r}: a list, written as a text, was expected")
    return _plain(value)


def _plain(value: Any) -> Any:
    """Whole numbers as texts; lists as Python's."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, (int, np.integer)) and not isinstance(value, bool) else value
