"""Pictures whose paths say their class and their version of the set: `data.paths: "{corruption}/{severity}/{class}/*"`."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pandas as pd

from clipeval.configs.errors import ClipevalError, nearest
from clipeval.data.account import Account
from clipeval.data.config import DataConfig
from clipeval.data.depth import deep_files, flag_deep
from clipeval.data.imagenet import CLASSES, class_numbers, groups_of
from clipeval.data.images import FileImages
from clipeval.data.labels import IMAGENET, classes_of, given_names
from clipeval.data.pictures import find_pictures, whole_files
from clipeval.tasks.base import Samples
from clipeval.tasks.relabelled import ACCEPTED

CLASS, PICTURE = "class", "picture"


def read(
    config: DataConfig, location: Path, split: str, cache: Path | None, account: Account
) -> tuple[FileImages, Samples]:
    """Reads the pictures below a folder whose paths end as `data.paths` says, one part of it for each part of the path.

    A part `{name}` becomes a column; `{class}` is the class: a WordNet id or number of ImageNet's (`data.classnames: imagenet1k`),
    a name in `data.classnames`, or with `data.accepted` the group that a JSON file {class: group} speaks of, by the order of the
    folders' names. The column `picture` is the file's name. What lies above does not matter; `data.where` says which values
    are read.

    Raises:
        ClipevalError: no picture is left, or a class is none.
    """
    if not location.is_dir():
        raise ClipevalError(f"{location} is not a folder. {config.cure}")
    parts = _parts(config, location)
    rows, paths = [], []
    # Tables and masks lie there too: what is no picture is none of ours.
    for path in find_pictures(location, Account()):
        row = _row(path.relative_to(location).parts, parts)
        if row is None:
            account.leave_out(path.relative_to(location).as_posix(), f"its path does not end in {config.paths}")
        elif all(row.get(name) in [str(value) for value in values] for name, values in (config.where or {}).items()):
            rows.append({**row, PICTURE: path.stem})
            paths.append(path)
    if not paths:
        where = "".join(f", {name} one of {', '.join(map(str, v))}" for name, v in (config.where or {}).items())
        raise ClipevalError(f"{location} holds no picture whose path ends in {config.paths}{where}.")
    metadata = pd.DataFrame(rows)
    keys = [path.relative_to(location).as_posix() for path in paths]
    labels, classnames = _classes(config, location, metadata, keys, account)
    flag_deep(deep_files(paths, keys), account)
    samples = Samples(keys=keys, labels=labels, classnames=classnames, metadata=metadata.drop(columns=CLASS))
    return whole_files(paths, keys, cache), samples


def _parts(config: DataConfig, location: Path) -> list[str]:
    parts = (config.paths or "").split("/")
    names = [part[1:-1] for part in parts if part.startswith("{") and part.endswith("}")]
    if CLASS not in names or len(set(names)) < len(names) or not all(names) or PICTURE in names:
        raise ClipevalError(
            f"{location}: data.paths={config.paths!r}: parts with {{class}} among them were expected, as in "
            "'{version}/{class}/*'."
        )
    for name in config.where or {}:
        if name not in names:
            raise ClipevalError(f"data.where: {nearest('part of data.paths', name, names)}")
    return parts


def _row(path: tuple[str, ...], parts: list[str]) -> dict[str, str] | None:
    if len(path) < len(parts):
        return None
    row = {}
    for part, value in zip(reversed(parts), reversed(path), strict=False):
        if part.startswith("{") and part.endswith("}"):
            row[part[1:-1]] = value
        elif not fnmatchcase(value, part):
            return None
    return dict(reversed(row.items()))


def _classes(
    config: DataConfig, location: Path, metadata: pd.DataFrame, keys: list[str], account: Account
) -> tuple[np.ndarray, list[str]]:
    """int64 [N] and the classes' names; with `data.accepted` the column of those that are right is added."""
    values = metadata[CLASS].tolist()
    if config.accepted is not None:
        groups = groups_of(location / config.accepted)
        folders = sorted(set(values))
        if len(folders) != len(groups):
            raise ClipevalError(
                f"{location}: {len(folders)} class folders ({', '.join(folders[:3])}, …), and {config.accepted} speaks of "
                f"{len(groups)} groups."
            )
        group = dict(zip(folders, groups.values(), strict=True))
        metadata[ACCEPTED] = [" ".join(map(str, group[value])) for value in values]
        values = [str(group[value][0]) for value in values]
    if config.classnames == IMAGENET:
        names = given_names(config, location)
        assert isinstance(names, list) and len(names) == CLASSES
        return np.array(class_numbers(values, location), dtype=np.int64), names
    return classes_of(values, config, (), location, keys, account)
