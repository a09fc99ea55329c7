"""Words that give one key a plain value: what Hydra makes of the others is known without them, so that one memory serves them all.

out=runs/a   data.limit=2000   tasks.dtd.metric=acc5   model.name='local-dir:/models/b'   data.pools=[a,b]   ~tasks.sun397

Hydra puts values in after it has composed what the choices name, in the order of the words; so does `put`. Whatever is not
written as plainly as here is left to Hydra.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clipeval.configs.schema import TOP

_KEY = rf"(?:{'|'.join(TOP)}|[a-z]\w*(?:\.[\w-]+)+)"
"""Of groups none: theirs have no dots."""
_ITEM = r"[\w./:-]+"
_GIVEN = re.compile(rf"({_KEY})=({_ITEM}|'[^'\\$]*'|\[{_ITEM}(?:,{_ITEM})*\])", re.ASCII)
_TAKEN = re.compile(rf"~({_KEY})", re.ASCII)
_CHOICE = re.compile(r"(\w+)=\w+", re.ASCII)
_CONSTANTS: dict[str, Any] = {"true": True, "false": False, "null": None}


@dataclass(frozen=True)
class ValueWord:
    """A key, and the value that it is given; `taken`: the key goes."""

    key: str
    value: Any = None
    taken: bool = False


class _NotPlainError(Exception):
    """Of a value that is left to Hydra."""


def split(words: Sequence[str]) -> tuple[list[str], list[ValueWord]]:
    """The words that are Hydra's, and those that only give or take a value, both in their order.

    A word stays Hydra's where another of Hydra's, save a group's choice, speaks of the same key, or of what holds it.
    """
    keys = [word.lstrip("+~").partition("=")[0] for word in words]
    ours = [_read(word) for word in words]
    found = True
    while found:
        found = False
        for place, key in enumerate(keys):
            if ours[place] and any(
                mine is None and not _CHOICE.fullmatch(word) and _meet(key, other)
                for word, other, mine in zip(words, keys, ours, strict=True)
            ):
                ours[place], found = None, True
    return [word for word, mine in zip(words, ours, strict=True) if mine is None], [mine for mine in ours if mine]


def unknown(content: dict[str, Any], words: Sequence[ValueWord]) -> str | None:
    """The first key that a word gives a value, and that the config does not have; None where each is there."""
    return next((word.key for word in words if not word.taken and _holder(content, word.key) is None), None)


def put(content: dict[str, Any], words: Sequence[ValueWord]) -> bool:
    """Does what the words say; False where Hydra has to be asked: a key is not there, or holds more than one value."""
    for word in words:
        node, leaf = _holder(content, word.key), word.key.rpartition(".")[2]
        if node is None:
            return False
        if not word.taken and not isinstance(node[leaf], dict):
            node[leaf] = word.value
        elif word.taken and node[leaf] is not None:
            del node[leaf]
        else:
            return False
    return True


def _holder(content: dict[str, Any], key: str) -> dict[str, Any] | None:
    """The mapping that has a key's last part; None where the key is not there."""
    *parents, leaf = key.split(".")
    node: Any = content
    for parent in parents:
        node = node.get(parent) if isinstance(node, dict) else None
    return node if isinstance(node, dict) and leaf in node else None


def _read(word: str) -> ValueWord | None:
    """None: it is left to Hydra."""
    if word.startswith("hydra."):
        return None
    if taken := _TAKEN.fullmatch(word):
        return ValueWord(taken[1], taken=True)
    given = _GIVEN.fullmatch(word)
    try:
        return ValueWord(given[1], _value(given[2])) if given else None
    except _NotPlainError:
        return None


def _value(text: str) -> Any:
    if text[0] == "'":
        return text[1:-1]
    if text[0] == "[":
        return [_item(item) for item in text[1:-1].split(",")]
    return _item(text)


def _item(text: str) -> Any:
    """A value without quotes, as Hydra's grammar reads it."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if re.fullmatch(r"-?(0|[1-9]\d*)", text):
        return int(text)
    if re.fullmatch(r"-?(0|[1-9]\d*)\.\d+", text):
        return float(text)
    name = re.fullmatch(r"[A-Za-z_][\w-]*", text) and text.lower() not in (*_CONSTANTS, "nan", "inf")
    if name or "/" in text:  # a slash keeps a text from being read as a number, a truth value or null
        return text
    raise _NotPlainError


def _meet(key: str, other: str) -> bool:
    """Whether one of two keys is the other or holds it."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")
