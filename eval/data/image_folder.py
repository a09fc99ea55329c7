"""One's own pictures in a folder for each class: PATH/<class name>/<picture>, or PATH/<split>/<class name>/<picture>."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipeval.configs.errors import ClipevalError
from clipeval.data.account import Account, is_litter
from clipeval.data.config import DataConfig
from clipeval.data.depth import deep_files, flag_deep
from clipeval.data.images import FileImages
from clipeval.data.labels import classes_of, given_names
from clipeval.data.pictures import find_pictures, whole_files
from clipeval.data.splits import KEYWORDS, same_split
from clipeval.data.text_table import CSV_ENDINGS, JSON_ENDINGS
from clipeval.tasks.base import Samples

_SPLIT_NAMES = frozenset(name for names in KEYWORDS.values() for name in names)

_TABLES = (*CSV_ENDINGS, *JSON_ENDINGS, ".parquet")
"""How the name of a table of pictures ends."""


@dataclass(frozen=True)
class Labelled:
    """Files in class folders.

    Attributes:
        paths: sorted.
        keys: their names below the folder of classes.
        labels: int64 [N].
        classnames: C names.
    """

    paths: list[Path]
    keys: list[str]
    labels: np.ndarray
    classnames: list[str]


def read(
    config: DataConfig, location: Path, split: str, cache: Path | None, account: Account
) -> tuple[FileImages, Samples]:
    """Every picture below the class folders, sorted by path; a class's name is its folder's, underscores read as spaces.

    Raises:
        ClipevalError: there are no pictures, a class has none, classes cannot be named, or it is unclear which split is meant.
    """
    found = class_folders(config, location, split, account, find_pictures, "picture", _spoken)
    flag_deep(deep_files(found.paths, found.keys), account)
    samples = Samples(keys=found.keys, labels=found.labels, classnames=found.classnames)
    return whole_files(found.paths, found.keys), samples


def _spoken(names: Sequence[str]) -> dict[str, str]:
    return {name: unicodedata.normalize("NFC", name.replace("_", " ").strip()) for name in names}


def class_folders(
    config: DataConfig,
    location: Path,
    split: str,
    account: Account,
    find: Callable[[Path, Account], list[Path]],
    what: str,
    speak: Callable[[Sequence[str]], dict[str, str]],
) -> Labelled:
    """Files below class folders.

    Args:
        find: the files below a folder, sorted.
        what: what they are, for errors: `picture`.
        speak: {folder: class name} of the folders' names.

    Raises:
        ClipevalError: as `read`.
    """
    if not location.is_dir():
        table = location.is_file() and location.suffix.lower() in _TABLES
        hint = f" A table of pictures and labels is read by task=labels task.data.path={location}." if table else ""
        raise ClipevalError(
            f"{location} is not a folder; task.data.path names a folder that holds a folder for each class.{hint}"
        )
    base = _base(location, split, account)
    paths = []
    for path in find(base, account):
        inside = path.relative_to(base)
        if path.parent == base:
            account.leave_out(path.name, f"a {what} that lies in no class folder")
        elif inside.parts[0].startswith("."):
            account.leave_out(inside.as_posix(), f"a {what} in a hidden folder")
        else:
            paths.append(path)
    if not paths:
        kinds = "in a format that Pillow reads" if what == "picture" else "such as .mp4 or .avi"
        tables = sorted(path for path in base.iterdir() if path.suffix.lower() in _TABLES) if what == "picture" else []
        hint = f" If {tables[0].name} says their labels: task=labels task.data.path={tables[0]}." if tables else ""
        raise ClipevalError(
            f"{base} holds no {what} in a class folder; expected {base}/<class name>/<{what}>, {kinds}.{hint}"
        )
    below = [path.relative_to(base) for path in paths]
    classes = [path.parts[0] for path in below]
    if all(len(path.parts) > 2 for path in below):
        account.assume(
            f"the folders in {base.name} are the classes, and no {what} lies in one itself (such as {below[0].as_posix()}): where "
            "deeper folders are the classes, give the folder that holds them as task.data.path"
        )
    _check_empty(config, location, base, set(classes), what)
    spoken = speak(sorted(set(classes)))
    for name, text in spoken.items():
        other = next(n for n, t in spoken.items() if t == text)
        if other != name:
            one, two = (repr(other), repr(name)) if other.isascii() else (ascii(other), ascii(name))
            raise ClipevalError(
                f"{base}: the folders {one} and {two} are one class name, {text!r} (underscores are read as spaces). Join "
                "them, or name them apart."
            )
    given = given_names(config, location)
    # A folder is looked up under its own name first, for given names may have underscores of their own.
    own = given is not None and set(spoken) & set(given)
    labels, classnames = classes_of(
        [name if own else spoken[name] for name in classes],
        config,
        (),
        location,
        [str(path) for path in paths],
        account,
        by_order=True,
    )
    return Labelled(paths, [path.as_posix() for path in below], labels, classnames)


def _base(location: Path, split: str, account: Account) -> Path:
    """The folder that holds the class folders."""
    folders = sorted(p for p in location.iterdir() if p.is_dir() and not is_litter(p.name))
    splits = [p.name for p in folders if p.name.lower() in _SPLIT_NAMES and any(c.is_dir() for c in p.iterdir())]
    named = [name for name in splits if same_split(split, name.lower())]
    if split not in splits and len(named) == 1:
        split = named[0]  # Test for test, validation for val
    if split in splits or ((location / split).is_dir() and len(folders) == 1):
        for other in folders:
            if other.name not in splits and other.name != split:
                account.leave_out(other.name, f"a folder beside the split {split!r}")
        return location / split
    if splits and len(splits) == len(folders):
        raise ClipevalError(
            f"{location} holds the splits {', '.join(splits)}, and none called {split!r}. Choose one with "
            f"task.splits=[{splits[-1]}], or give its folder: task.data.path={location / splits[-1]}."
        )
    return location


def _check_empty(config: DataConfig, location: Path, base: Path, filled: set[str], what: str) -> None:
    """An empty class folder is an error, unless its name is among `data.classnames`: then it is a class nobody belongs to."""
    given = given_names(config, location)
    for folder in sorted(p for p in base.iterdir() if p.is_dir() and not is_litter(p.name)):
        names = {folder.name, folder.name.replace("_", " ")}
        chosen = folder.name.startswith(".") or (given is not None and names & set(given))
        if folder.name not in filled and not chosen:
            raise ClipevalError(
                f"{folder} is a class folder without a {what}. Remove it; or, if it is to be a class to choose from, list all "
                "class names in task.data.classnames."
            )
