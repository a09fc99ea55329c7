"""Compositions of Hydra's, remembered: composing 40 tasks takes it two seconds, reading what it made a few milliseconds.

What it makes is a function of the words and of the YAML files; the key of a memory is made of both, and of the packages'
versions. Interpolations are not yet resolved in it, so that the environment has no part in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from clipeval.configs.catalog import CONFIG_DIR
from clipeval.configs.files import stamps, write_atomically
from clipeval.configs.resolvers import user_cache

Composed = tuple[dict[str, Any], dict[str, Any]]
"""A config's content, interpolations as they stand, and `hydra.runtime.choices`."""
MOST = 64
"""Memories that are kept; the longest unused go first."""
_here: dict[str, str] = {}
_SECRET = re.compile(r"://[^/]*@|://.*\?")
"""A user and a password in an address, or its query, which may be a signature: nothing of it is kept."""


class Memory:
    """Of one composition.

    Args:
        words: what the user wrote.
        config_dir: the user's own config folder.
    """

    def __init__(self, words: Sequence[str], config_dir: str | Path | None) -> None:
        self._key = _key(words, config_dir)

    def recall(self) -> Composed | None:
        """What was composed before; None where nothing is known of it, or the file is damaged."""
        if self._key is None:
            return None
        text = _here.get(self._key) or self._read()
        if text is None:
            return None
        _keep_here(self._key, text)
        content, choices = json.loads(text, object_hook=_as_it_was)
        return content, choices

    def _read(self) -> str | None:
        with suppress(OSError, ValueError):  # the first line is the digest of the rest
            digest, text = self._file.read_text(encoding="utf-8").split("\n", 1)
            if digest == _digest(text):
                os.utime(self._file)
                return text
        return None

    def note(self, composed: Composed) -> None:
        """Keeps a composition, if JSON holds all of it and the cache can be written; costs no more than time if not."""
        if self._key is None:
            return
        with suppress(OSError, ValueError, TypeError):
            text = json.dumps(_for_json(composed))
            if json.loads(text, object_hook=_as_it_was) != list(composed):
                return
            _keep_here(self._key, text)
            write_atomically(self._file, f"{_digest(text)}\n{text}".encode())
            for old in sorted(self._file.parent.glob("*.json"), key=lambda file: file.stat().st_mtime)[:-MOST]:
                old.unlink()

    @property
    def _file(self) -> Path:
        return Path(user_cache()) / "configs" / f"{self._key}.json"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _keep_here(key: str, text: str) -> None:
    if len(_here) >= MOST:
        _here.clear()
    _here[key] = text


def _for_json(content: Any) -> Any:
    """Mappings with other keys than texts as pairs, under a key that no config has."""
    if isinstance(content, dict):
        plain = {key: _for_json(value) for key, value in content.items()}
        return plain if all(isinstance(key, str) and key for key in plain) else {"": list(plain.items())}
    return [_for_json(value) for value in content] if isinstance(content, (list, tuple)) else content


def _as_it_was(content: dict[str, Any]) -> dict[Any, Any]:
    return dict(content[""]) if "" in content else content


def _key(words: Sequence[str], config_dir: str | Path | None) -> str | None:
    """None where Hydra may look at more than the words and the files, or an address may hold a secret."""
    if any("hydra" in word or "oc." in word or _SECRET.search(word) for word in words):
        return None
    versions = [metadata.version(name) for name in ("hydra-core", "omegaconf")]
    about: list[Any] = [list(words), versions, list(stamps(CONFIG_DIR, ".yaml"))]
    if config_dir is not None:
        folder = Path(config_dir).expanduser().absolute()
        own = {str(path): path.read_text(encoding="utf-8", errors="replace") for path in sorted(folder.rglob("*.yaml"))}
        if any("oc." in text for text in own.values()):  # a list of defaults may ask the environment
            return None
        about.append([str(folder), own])
    return _digest(json.dumps(about))
