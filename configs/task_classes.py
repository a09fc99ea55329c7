"""What configs ask of a task's class, without importing torch where that is known already.

The classes bring torch with them, three seconds that a composition need not wait for: what was read of the product's own is kept
in the cache, beside the state of the files that it was read from. A class of the user's own is imported each time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from clipeval.configs.catalog import CONFIG_DIR
from clipeval.configs.errors import ClipevalError, nearest
from clipeval.configs.files import stamps, write_atomically
from clipeval.configs.old_names import advice
from clipeval.configs.resolvers import user_cache
from clipeval.configs.values import TEXT

OWN = "clipeval.tasks"


@dataclass(frozen=True)
class TaskClass:
    """Of a class that a config names as `_target_`."""

    fields: tuple[str, ...]
    """Besides those that every task has."""
    protocol: str
    one_head: bool

    @property
    def asks_with_prompts(self) -> bool:
        """Whether it puts class names into prompts: it has one list of classes, or weighs templates."""
        return self.one_head or self.protocol == "weighted_prompts"


def task_class(target: object, location: str = "tasks") -> TaskClass:
    """The class that `target` names, as `clipeval.tasks.Classification`.

    Args:
        location: the key of the config that has the target as `_target_`, for errors.

    Raises:
        ClipevalError: no such module or class, with the nearest; no class of a task.
    """
    TEXT.check(f"{location}._target_", target)
    target = str(target)
    if target.rpartition(".")[0] == OWN and not _is_there():
        known = _remembered().get(target)
        if known is not None:
            return known
    return _imported(target, location)


def _is_there() -> bool:
    return OWN in sys.modules


def _imported(target: str, location: str) -> TaskClass:
    module, _, name = target.rpartition(".")
    try:
        there = vars(import_module(module))
    except (ImportError, ValueError) as problem:
        raise ClipevalError(
            f"{location}._target_={target}: {module!r} cannot be imported ({problem}){advice(problem)}."
        ) from None
    if module == OWN:
        _remember()
    if name not in there:
        classes = [n for n, v in there.items() if _is_task(v)]
        raise ClipevalError(f"{location}._target_: {nearest(f'class of {module}', name, classes)}")
    found = there[name]
    if not _is_task(found):
        raise ClipevalError(
            f"{location}._target_={target}: a task's class was expected, a subclass of clipeval.tasks.Task."
        )
    return _read(found)


def _is_task(found: object) -> bool:
    base: type = vars(import_module(OWN))["Task"]
    return isinstance(found, type) and issubclass(found, base) and found is not base


def _read(found: Any) -> TaskClass:
    fields = tuple(field.name for field in dataclasses.fields(found))
    return TaskClass(fields, getattr(found, "protocol", ""), found.one_head)


def _file() -> Path:
    return Path(user_cache()) / "task_classes.json"


def _state() -> str:
    """Of the files that the product's classes are read from: a name, a size and a time of each."""
    return hashlib.sha256(json.dumps(list(stamps(CONFIG_DIR.parent / "tasks", ".py"))).encode()).hexdigest()


@cache
def _remembered() -> dict[str, TaskClass]:
    # A cache that cannot be read is one that is not there.
    with suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
        content = json.loads(_file().read_text(encoding="utf-8"))
        if content["state"] == _state():
            return {
                target: TaskClass(tuple(fields), protocol, one_head)
                for target, (fields, protocol, one_head) in content["classes"].items()
            }
    return {}


@cache
def _remember() -> None:
    classes = {
        f"{OWN}.{name}": dataclasses.astuple(_read(found))
        for name, found in vars(sys.modules[OWN]).items()
        if _is_task(found)
    }
    with suppress(OSError):
        content = json.dumps({"state": _state(), "classes": classes}).encode()
        if not _file().is_file() or _file().read_bytes() != content:
            write_atomically(_file(), content)
