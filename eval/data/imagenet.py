"""ImageNet's 1,000 classes as sets made of them name them, and its validation images as files about them do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from clipeval.configs.errors import ClipevalError
from clipeval.data.account import Account
from clipeval.data.labels import installed
from clipeval.data.text_table import decode, lines_of, read_table
from clipeval.results import safe_json
from clipeval.tasks.relabelled import ACCEPTED

CLASSES = 1000
_VALIDATION = re.compile(r"ILSVRC2012_val_([0-9]{8})", re.ASCII)
_WNID = re.compile(r"n[0-9]{8}", re.ASCII)
_MASK = re.compile(r"(n[0-9]{8})_(ILSVRC2012_val_[0-9]{8})", re.ASCII)


@lru_cache(maxsize=1)
def synsets() -> list[str]:
    """The WordNet ids of the classes, in their order: timm's list."""
    return (installed("timm") / "data" / "_info" / "imagenet_synsets.txt").read_text("utf-8").split()


def class_numbers(names: Sequence[str], location: Path) -> list[int]:
    """0 to 999 for each name, which is a WordNet id, such as n01440764, or that number.

    Raises:
        ClipevalError: a name is neither.
    """
    place = {wnid: i for i, wnid in enumerate(synsets())}
    known = {
        name: place.get(name, int(name) if name.isdecimal() and int(name) < CLASSES else -1) for name in set(names)
    }
    for name in sorted(name for name, number in known.items() if number < 0):
        raise ClipevalError(
            f"{location}: the class {name!r} is none of ImageNet's: a WordNet id, as in n01440764, or a number from 0 to "
            "999 was expected."
        )
    return [known[name] for name in names]


def groups_of(path: Path) -> dict[int, list[int]]:
    """{group: its classes} of a JSON file {class: group}, ImageNet-9's in_to_in9.json.

    Raises:
        ClipevalError: it is missing, or not of that form.
    """
    content = _json(path)
    form = isinstance(content, dict) and all(str(k).isdecimal() and type(v) is int for k, v in content.items())
    if not form or not content:
        raise ClipevalError(f"{path}: an object {{class: group}} of whole numbers was expected.")
    found: dict[int, list[int]] = {}
    for name, group in content.items():
        # The makers' file has -1 for classes of no group.
        found.setdefault(group, []).append(int(name))
    return {group: sorted(found[group]) for group in sorted(found) if group >= 0}


def accepted_text(values: Any, location: str, classes: int = CLASSES) -> str:
    """A list of classes as the column `accepted` holds it."""
    if not isinstance(values, (list, tuple)) or not all(type(v) is int and 0 <= v < classes for v in values):
        raise ClipevalError(
            f"{location}: a list of classes, numbers from 0 to {classes - 1}, was expected; got {values!r:.80}."
        )
    return " ".join(map(str, values))


def validation_names(keys: Sequence[str], labels: Sequence[int], order: Path | None) -> list[str]:
    """The makers' names of validation images, `ILSVRC2012_val_00000293.JPEG`.

    Args:
        keys: which hold those names, or (s0000000 and so on) do not.
        labels: of each.
        order: where keys do not: a table of the columns file_name and label that lists the same images in the same order, as
            imagenet_x's filename_label.csv lists them by class and number.

    Raises:
        ClipevalError: neither says it; names the first row where the table and the images part.
    """
    found = [_VALIDATION.search(str(key)) for key in keys]
    if all(found):
        return [f"{match[0]}.JPEG" for match in found if match]
    if order is None or not order.is_file():
        raise ClipevalError(
            f"the images' keys ({keys[0]!r}) do not say which validation images they are, and {order or 'data.order'} is missing, "
            "the table that does: imagenet_x/annotations/filename_label.csv of facebookresearch/imagenetx. Name it in "
            "task.data.order=FILE."
        )
    table = read_table(order, ["file_name", "label"], Account())
    if len(table.rows) != len(keys):
        raise ClipevalError(f"{order} lists {len(table.rows):,} images, and the set has {len(keys):,}.")
    for number, (row, label) in enumerate(zip(table.rows, labels, strict=True)):
        if str(row["label"]) != str(label):
            raise ClipevalError(
                f"{table.location(number)}: the label is {row['label']}, and {label} in the set (key {keys[number]!r}): the images "
                "stand in another order than the table's."
            )
    return [str(row["file_name"]) for row in table.rows]


def read_annotations(path: Path, exclude: Path | None) -> dict[str, dict[str, Any]]:
    """{name of a validation image: what a file says of it}.

    Args:
        path: real.json, a list of class lists in the images' order, which becomes the column `accepted`; or a table with a column
            file_name, whose columns of whole numbers are taken (imagenet_x_val_top_factor.jsonl); or a folder of files that are
            named after the class and the image (Hard ImageNet's masks), of which the class becomes the one that is accepted.
        exclude: a table of images, by file_name, that are taken to have no annotation.

    Raises:
        ClipevalError: a file is missing, or not of that form.
    """
    found: dict[str, dict[str, Any]]
    if path.is_dir():
        named = [match for file in sorted(path.iterdir()) if (match := _MASK.match(file.name))]
        numbers = class_numbers([match[1] for match in named], path)
        found = {f"{match[2]}.JPEG": {ACCEPTED: str(number)} for match, number in zip(named, numbers, strict=True)}
        if not found:
            raise ClipevalError(
                f"{path} holds no file named after a class and a validation image, <WordNet id>_ILSVRC2012_val_<number>."
            )
    elif path.suffix == ".json":
        content = _json(path)
        if not isinstance(content, list):
            raise ClipevalError(f"{path}: a list of lists of classes was expected, an item for each validation image.")
        numbered = enumerate(content, 1)
        found = {f"ILSVRC2012_val_{n:08d}.JPEG": {ACCEPTED: accepted_text(v, f"{path}, item {n}")} for n, v in numbered}
    else:
        table = read_table(path, ["file_name"], Account())
        found = {}
        for number, row in enumerate(table.rows):
            name = str(row["file_name"])
            if name in found:
                raise ClipevalError(f"{table.location(number)}: {name!r} is annotated twice.")
            found[name] = {k: int(v) for k, v in row.items() if k not in ("class", "label") and _is_whole(v)}
    if exclude is not None:
        for row in read_table(exclude, ["file_name"], Account()).rows:
            found.pop(str(row["file_name"]), None)
    return found


def hierarchy_edges(path: Path) -> dict[str, str]:
    """{child: parent} of a file of lines `parent child`.

    Raises:
        ClipevalError: it is missing, a line is not of that form, or a node has two parents.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(lines_of(decode(path)), 1):
        parts = line.split()
        if parts and len(parts) != 2:
            raise ClipevalError(f"{path}, line {number}: a parent and its child were expected; got {line!r}.")
        if parts and found.setdefault(parts[1], parts[0]) != parts[0]:
            raise ClipevalError(
                f"{path}, line {number}: {parts[1]} has a second parent; each class has one place in the hierarchy."
            )
    if not found:
        raise ClipevalError(f"{path} is empty; lines of a parent and its child were expected.")
    return found


def wnids_of(classnames: Sequence[str], given: Sequence[str] | Mapping[str, str] | None) -> list[str]:
    """The node of each class: ImageNet's WordNet ids where there are 1,000 classes, else their names."""
    names = list(given.keys()) if isinstance(given, Mapping) else list(classnames)
    return synsets() if len(classnames) == CLASSES and not all(map(_WNID.fullmatch, names)) else names


def _is_whole(value: Any) -> bool:
    return type(value) is int or (isinstance(value, str) and re.fullmatch(r"-?[0-9]+", value, re.ASCII) is not None)


def _json(path: Path) -> Any:
    try:
        return safe_json.read(path)
    except FileNotFoundError:
        raise ClipevalError(f"{path} is missing.") from None
    except ValueError as problem:
        raise ClipevalError(f"{path}: not JSON ({problem}).") from None
