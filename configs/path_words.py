"""Words that give a key a path: what Hydra makes of them is known without it, so that one memory serves every folder.

out=runs/a   cache.root=/tmp/x   model.name='local-dir:/models/b'
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_PLAIN = re.compile(r"([a-z]\w*(?:\.\w+)*)=([\w.:-]*/[\w./:-]*)", re.ASCII)
"""Without quotes: a slash keeps it from being read as a number, a truth value or null."""
_QUOTED = re.compile(r"([a-z]\w*(?:\.\w+)*)='([^'\\$]*)'", re.ASCII)
_CHOICE = re.compile(r"(\w+)=\w+", re.ASCII)


def split(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The other words, and {key: path} of those that no other word has a say in."""
    others, paths = [], {}
    keys = [word.lstrip("+~").partition("=")[0] for word in words]
    for place, word in enumerate(words):
        found = _PLAIN.fullmatch(word) or _QUOTED.fullmatch(word)
        meeting = [w for w, key in zip(words, keys, strict=True) if w is not word and found and _meet(found[1], key)]
        if found is None or keys.count(keys[place]) > 1 or not all(_CHOICE.fullmatch(w) for w in meeting):
            others.append(word)
        else:
            paths[found[1]] = found[2]
    return others, paths


def put(content: dict[str, Any], paths: dict[str, str]) -> bool:
    """Gives the keys their paths; False, and nothing done, where the config does not have one of them as a plain value."""
    places = []
    for key in paths:
        *parents, leaf = key.split(".")
        node: Any = content
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or leaf not in node or isinstance(node[leaf], (dict, list)):
            return False
        places.append((node, leaf, paths[key]))
    for node, leaf, path in places:
        node[leaf] = path
    return True


def _meet(key: str, other: str) -> bool:
    """Whether one of two keys is the other or holds it."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")
