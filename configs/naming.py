"""Names of folders that say what is special to a run: `ViT-B-32__openai__precision-bf16`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

LONGEST_VALUE, LONGEST_NAME = 40, 180
"""Characters."""
VAGUE = frozenset({"path", "name", "folder", "root", "save", "load", "key", "prompts", "metric", "data"})
"""Last parts of keys that do not say by themselves what is meant."""
CHECKPOINT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".ckpt")
PATH_START = re.compile(r"^(\.{0,2}/|~|[A-Za-z]:\\)")


def spelled(value: Any) -> str:
    """null, true and false as YAML has them; empty for any other value."""
    return {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else ""


def value_name(value: Any) -> str:
    """A value in letters, digits, dots, dashes and underscores; with 8 digits of its digest where that is not all of it.

    >>> value_name("bf16"), value_name("[en, de]"), value_name("/a/prompts.txt")
    ('bf16', 'en-de-b5460218', 'prompts-98a9462a')
    """
    text = spelled(value) or str(value)
    text = text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
    shown = Path(text).stem if PATH_START.search(text) else text
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", shown).strip("-.")[:LONGEST_VALUE]
    return name if name == text else "-".join(part for part in (name, _mark(text)) if part)


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """{key: the end of it that is shown}: `runtime.precision` is precision, `prompts.path` stays whole."""
    keys = list(dict.fromkeys(keys))
    found = {}
    for key in keys:
        parts = re.split(r"[./@]", key)
        last = parts[-1] if parts[-1] not in VAGUE or len(parts) == 1 else ".".join(parts[-2:])
        found[key] = last
    shown = list(found.values())
    return {
        key: re.sub(r"[^A-Za-z0-9._-]+", "-", last if shown.count(last) == 1 else key) for key, last in found.items()
    }


def suffix(values: Mapping[str, Any], shown: Mapping[str, str] | None = None) -> str:
    """What is added to a folder's name: `__precision-bf16__flip-true`; empty for no values.

    Args:
        values: {key: value}, without what tells no two runs apart.
        shown: as `short_keys` of all keys gives it.
    """
    shown = short_keys(values) if shown is None else shown
    return "".join(f"__{shown[key]}-{value_name(value)}" for key, value in values.items())


def folder_name(name: str) -> str:
    """A name cut to what file systems take, and still another one for another name."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 9]}-{_mark(name)}"


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def slug_of(*parts: str | None) -> str:
    """Parts joined by two underscores, with only letters, digits, dots, dashes and underscores."""
    cleaned = (re.sub(r"[^A-Za-z0-9._-]+", "-", part).strip("-.") for part in parts if part)
    return "__".join(part for part in cleaned if part)[:LONGEST_NAME] or "model"
