"""What one key of a config may hold, and how a value that it may not hold is quoted."""

from __future__ import annotations

import dataclasses
import re

from clipeval.configs.errors import ClipevalError, nearest


@dataclasses.dataclass(frozen=True)
class Value:
    """What a key may hold.

    Attributes:
        kind: its type; list: a list of text.
        null: whether it may be null.
        choices: all there is to choose from; none: no limit.
        least, most: of a number, both inclusive.
        pattern: what a text has to match, with `hint` to say it in words.
    """

    kind: type
    null: bool = False
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    pattern: str = ""
    hint: str = ""

    def check(self, key: str, value: object) -> None:
        """ClipevalError unless the value is one of these."""
        if value is None and self.null:
            return
        if not self._is_kind(value):
            number = self.kind is str and isinstance(value, (bool, int, float))
            quote = f" Quote it: {key}=\"'{value}'\"" if number and not self.choices and not self.pattern else ""
            raise ClipevalError(f"{key}={shown(value)}: {self.expected} was expected.{quote}")
        if self.choices and value not in self.choices:
            raise ClipevalError(nearest(key, value, self.choices))
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            low, high = self.least is not None and value < self.least, self.most is not None and value > self.most
            if low or high:
                raise ClipevalError(f"{key}={value}: {self.expected} was expected.")
        if self.pattern and isinstance(value, str) and not re.fullmatch(self.pattern, value):
            raise ClipevalError(f"{key}={shown(value)}: {self.expected} was expected.")

    @property
    def expected(self) -> str:
        """In words."""
        names = {str: "text", bool: "true or false", int: "a whole number", float: "a number", list: "a list of text"}
        text = self.hint or (" or ".join(self.choices) if self.choices else names[self.kind])
        if self.least is not None:
            text += f" of at least {self.least:g}" if self.most is None else f" from {self.least:g} to {self.most:g}"
        return text + (" (or null)" if self.null else "")

    def _is_kind(self, value: object) -> bool:
        if self.kind is float:
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        if self.kind is int:
            return isinstance(value, int) and not isinstance(value, bool)
        if self.kind is list:
            return isinstance(value, list) and all(isinstance(item, str) for item in value)
        return isinstance(value, self.kind)


def shown(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


TEXT, TEXT_OR_NULL, BOOL = Value(str), Value(str, null=True), Value(bool)
COUNT_OR_NULL = Value(int, null=True, least=0)
