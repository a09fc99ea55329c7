"""What tells a model of one's own from another: its arguments, its code, what it holds, and the files that these name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

from clipeval.configs.errors import ClipevalError
from clipeval.models.handle import digest_of, file_digest
from clipeval.models.own_code import OwnCode, named_file, own_code
from clipeval.models.state import Walk, modules_of

MOST_FILES = 10_000
"""Files of a folder that an argument names."""


@dataclass(frozen=True)
class Identity:
    """What two runs must agree on, for the second to reuse what the first has computed.

    Attributes:
        parts: {what it is: its digest}, in words for people.
        problem: why it cannot be told from another; None where it can.
    """

    parts: Mapping[str, str]
    problem: str | None = None


def identify(
    instance: Any, target: Any, arguments: Mapping[str, Any], digest: str | None, cache_root: Path | None
) -> Identity:
    """The identity of an instance.

    Args:
        instance: as it was made, before it is used.
        target: the class or function that made it.
        arguments: those it was made with: all of the config.
        digest: what the instance itself says of its content, in place of what it is seen to hold and of the files.
        cache_root: where digests of files are remembered; None: nowhere.
    """
    walk = Walk()
    if digest is None:
        try:
            walk.add(instance)
        except RecursionError:
            return Identity({}, f"{type(instance).__name__} holds objects nested too deeply to be compared")
    modules = [*_module_of(target), *modules_of(type(instance)), *walk.modules]
    code = own_code(modules)
    parts = {"model's arguments": digest_of(arguments), "model's code": code.digest}
    if digest is not None:
        return Identity({**parts, "model's digest": digest_of(digest)})
    try:
        files = files_digest({**code.files, **walk.files, **dict(_named(arguments))}, cache_root)
    except _TooMany as problem:
        return Identity(parts, str(problem))
    return Identity({**parts, "model's files": files, "model's weights and attributes": walk.digest}, code.problem)


def own_digest(instance: Any, location: str) -> str | None:
    """The attribute `digest` of an instance; None where it has none.

    Raises:
        ClipevalError: it is no text.
    """
    given = getattr(instance, "digest", None)
    if given is None or (isinstance(given, str) and given):
        return given
    raise ClipevalError(
        f"{location}: `digest` of {type(instance).__name__} is {type(given).__name__}; a text was expected that changes with its "
        "weights, or no such attribute"
    )


def code_digest(code: OwnCode, cache_root: Path | None) -> str:
    """16 hex digits of sources and of the files that they name."""
    return digest_of([code.digest, files_digest(code.files, cache_root)])


def files_digest(files: Mapping[str, Path], cache_root: Path | None) -> str:
    """16 hex digits of some files' content, under the names that they are called by, wherever they lie."""
    return digest_of({name: file_digest(path, cache_root) for name, path in files.items() if path.is_file()})


def _module_of(target: Any) -> list[str]:
    """The module of a class or function; an object has none of its own."""
    name = getattr(target, "__module__", None)
    return [name] if isinstance(name, str) and isinstance(target, type | FunctionType) else []


class _TooMany(Exception):  # noqa: N818
    """A folder with more files than are read."""


def _named(value: Any) -> Iterator[tuple[str, Path]]:
    """The files that arguments name, those of folders among them."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _named(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _named(item)
    elif isinstance(value, str):
        path = named_file(value, by_ending=False)
        if path is not None:
            yield value, path
        elif os.path.isdir(os.path.expanduser(value)):
            yield from ((f"{value}/{name}", path) for name, path in _below(Path(value).expanduser()))


def _below(folder: Path) -> Iterator[tuple[str, Path]]:
    count = 0
    for here, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            count += 1
            if count > MOST_FILES:
                raise _TooMany(f"the folder {folder} that its arguments name holds more than {MOST_FILES:,} files")
            path = Path(here, name)
            yield path.relative_to(folder).as_posix(), path
