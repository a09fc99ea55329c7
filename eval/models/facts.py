"""What installed packages say of a model, remembered: planning then imports neither open_clip nor transformers.

To import open_clip takes two to three times as long as to import torch, and all that a plan asks of it is an architecture, a
checkpoint's preprocessing and the name of a vocabulary. The answers stand in a small JSON file under `cache.root`, named by all
that could change them, the stamps of the package's own files among it. So a package that is installed anew, in the same version
or in place, is asked again; and so it is where the file is missing, damaged or of another question.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from clipeval.configs.files import write_atomically
from clipeval.models.handle import digest_of
from clipeval.results import safe_json
from clipeval.results.stamp import settled, stamp

FORM = 1
"""Of the file and of the questions; another number asks again."""


class Facts:
    """Answers about one model.

    Args:
        cache_root: they lie in its folder `facts`.
        about: what they depend on, as JSON can say it; None where that cannot be told, and nothing is remembered.
    """

    def __init__(self, cache_root: Path, about: Mapping[str, Any] | None) -> None:
        self._about = None if about is None else json.loads(json.dumps({"form": FORM, **about}))
        self._path = cache_root / "facts" / f"{digest_of(self._about)}.json"
        self._answers: dict[str, Any] = self._read()

    def ask(self, question: str, answer: Callable[[], Any], keep: Callable[[Any], bool] = lambda value: True) -> Any:
        """The remembered answer, or else a new one, which is remembered if JSON says all of it; lists in place of tuples.

        Args:
            question: what is asked.
            answer: asks the package.
            keep: whether an answer may be remembered.
        """
        if question not in self._answers:
            found = _with_lists(answer())
            if self._about is None or not keep(found) or not _is_json(found):
                return found
            self._answers[question] = found
            self._write()
        return copy.deepcopy(self._answers[question])

    def _read(self) -> dict[str, Any]:
        if self._about is None:
            return {}
        try:
            content = safe_json.read(self._path)
        except (OSError, ValueError):  # not there, or damaged: it is asked again
            return {}
        if not isinstance(content, dict) or content.get("about") != self._about:
            return {}
        answers = content.get("answers")
        # A digest over the answers: a file that was edited, or lost a part, is as good as none.
        if not isinstance(answers, dict) or content.get("digest") != digest_of(answers):
            return {}
        return answers

    def _write(self) -> None:
        content = {"about": self._about, "answers": self._answers, "digest": digest_of(self._answers)}
        with suppress(OSError):  # a full or read-only cache costs time, nothing else
            write_atomically(self._path, json.dumps(content, indent=1).encode())


@lru_cache(maxsize=8)
def package_stamp(package: str) -> str | None:
    """Changes with every file of an installed package, which is not imported for it; None where that cannot be told: there is
    no such package, or one of its files has only just changed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    found = []
    for path in sorted(path for folder in spec.submodule_search_locations for path in _below(folder)):
        stat = path.stat()
        if not settled(stat):
            return None
        found.append([str(path), *stamp(stat)])
    return digest_of(found)


def _below(folder: str) -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        if "__pycache__" in folders:
            folders.remove("__pycache__")
        yield from (Path(here, name) for name in names)


def _with_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_lists(item) for key, item in value.items()}
    return [_with_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _is_json(value: Any) -> bool:
    """Whether a value comes back from JSON as it was."""
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False
