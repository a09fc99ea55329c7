"""From what a data set says of its samples to class indices and class names, in one way for every reader.

Names come from `task.data.classnames`, from the set's own list, or from the labels themselves (folder names, texts). A number
is no name: the model would be asked about "a photo of a 0". `task.data.numeric_classnames=true` says that numbers are meant.
"""

from __future__ import annotations

import importlib.util
import re
import runpy
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipeval.configs.errors import ClipevalError, nearest
from clipeval.data.account import Account
from clipeval.data.text_table import decode, lines_of
from clipeval.results import safe_json

if TYPE_CHECKING:
    from clipeval.data.config import DataConfig

IMAGENET = "imagenet1k"
"""`data.classnames` of ImageNet's 1,000 classes, in its order."""
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)", re.ASCII)
_WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]*)([.]0*)?", re.ASCII)
"""A class's number in a table of text: 1, and 1.0 as pandas writes a column in which a value was missing."""
_NUMBER = re.compile(r"[+-]?[0-9]+([.][0-9]*)?([eE][+-]?[0-9]+)?", re.ASCII)
_MISSING = frozenset({"nan", "none", "null", "na", "n/a", "<na>"})
_BETWEEN = re.compile(r"\s*[|;]\s*")
_WNID = re.compile(r"n[0-9]{8}", re.ASCII)
_FIX = (
    "Give their names in task.data.classnames: a list, a file with a name a line, or {label: name}; or say "
    "task.data.numeric_classnames=true if the numbers are meant."
)


def classes_of(
    values: Sequence[Any],
    config: DataConfig,
    declared: Sequence[str],
    location: Path,
    places: Sequence[str],
    account: Account,
    by_order: bool = False,
) -> tuple[np.ndarray, list[str]]:
    """Class indices and class names.

    Args:
        values: N labels, none of them null: integers, whole floats, booleans, or texts.
        config: its `classnames` and `numeric_classnames`.
        declared: the set's own list of class names; empty: it has none.
        location: the set's folder or file.
        places: N, where each label stands, for errors.
        account: told of guesses.
        by_order: whether as many given names as distinct labels, none of which is a label, name the sorted labels in turn.

    Returns:
        int64 [N], and C names.

    Raises:
        ClipevalError: labels have no names, or names and labels do not fit.
    """
    given = given_names(config, location)
    if isinstance(given, Mapping):
        return _by_mapping(values, given, places, location)
    names = [_composed(name) for name in (given if given is not None else declared)]
    numbers = _as_integers(values, places)
    if numbers is not None:
        return _by_index(numbers, names, config, location, places, account, given is None and bool(declared))
    texts = [_composed(str(value)) for value in values]
    if not names:
        return _by_text(texts, config, location, account)
    return _by_name(texts, names, config, location, places, account, by_order)


def _composed(text: str) -> str:
    """Letters with accents in one of the two ways in which Unicode writes them, for file systems and editors differ in theirs."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def given_names(config: DataConfig, location: Path) -> list[str] | Mapping[str, str] | None:
    """`data.classnames` as a list or {label: name}: written out, in a file below the set's folder or this one, or `IMAGENET`.

    Raises:
        ClipevalError: there is no such file, or it is not of that form.
    """
    value = config.classnames
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {str(label): str(name) for label, name in value.items()}
    if not isinstance(value, str):
        return list(value)
    if value == IMAGENET:
        return list(_imagenet_names())
    tried = [(location if location.is_dir() else location.parent) / value, Path(value).expanduser()]
    path = next((path for path in tried if path.is_file()), None)
    if path is None:
        raise ClipevalError(f"data.classnames={value}: neither {tried[0]} nor {tried[1].absolute()} is a file.")
    text = decode(path, config.encoding)
    if path.suffix != ".json":
        return [line.strip() for line in lines_of(text)]
    try:
        content = safe_json.parse(text)
    except ValueError as problem:
        raise ClipevalError(f"{path}: not JSON ({problem}).") from None
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return content
    if isinstance(content, dict) and all(isinstance(name, str) for name in content.values()):
        return {str(label): name for label, name in content.items()}
    raise ClipevalError(f"{path}: a JSON list of class names was expected, or an object {{label: name}}.")


def named_wnids(names: Sequence[str], location: str, account: Account) -> list[str]:
    """Class names in which WordNet ids (n01440764) are replaced by what they mean; flagged. Other names stay.

    ImageNet-1k's are open_clip's names, others the first lemma of timm's list.

    Raises:
        ClipevalError: some names are ids and others not, or an id is unknown.
    """
    ids = [name for name in names if _WNID.fullmatch(name)]
    if not ids:
        return list(names)
    if len(ids) < len(names):
        other = next(name for name in names if not _WNID.fullmatch(name))
        raise ClipevalError(
            f"{location}: {ids[0]!r} is a WordNet id and {other!r} is none; name all classes in one way."
        )
    known = _wnid_names()
    unknown = next((name for name in ids if name not in known), None)
    if unknown:
        raise ClipevalError(f"{location}: the WordNet id {unknown!r} is not known. {_FIX}")
    class_names = [known[name] for name in names]
    account.assume(
        f"classes named by WordNet id, read as {', '.join(f'{i} = {n}' for i, n in zip(ids[:3], class_names, strict=False))}"
    )
    return class_names


@lru_cache(maxsize=1)
def _wnid_names() -> dict[str, str]:
    folder = installed("timm") / "data" / "_info"
    lemmas = dict(
        line.split("\t", 1)
        for line in (folder / "imagenet_synset_to_lemma.txt").read_text("utf-8").split("\n")
        if "\t" in line
    )
    ids = (folder / "imagenet_synsets.txt").read_text("utf-8").split()
    first = {wnid: lemma.split(",")[0].strip() for wnid, lemma in lemmas.items()}
    return {**first, **dict(zip(ids, _imagenet_names(), strict=True))}


def _imagenet_names() -> Sequence[str]:
    """open_clip's, from the file that holds nothing else: to import the package takes seconds."""
    names: Sequence[str] = runpy.run_path(str(installed("open_clip") / "zero_shot_metadata.py"))["IMAGENET_CLASSNAMES"]
    return names


def installed(package: str) -> Path:
    """The folder of a package, which is not imported."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def _as_integers(values: Sequence[Any], places: Sequence[str]) -> np.ndarray | None:
    """int64 [N] where the labels are numbers; None where they are texts."""
    kinds = {type(value) for value in values}
    if all(issubclass(kind, str) for kind in kinds):
        return None
    if any(issubclass(kind, str) for kind in kinds):
        odd = next(i for i, value in enumerate(values) if not isinstance(value, str))
        raise ClipevalError(
            f"{places[odd]}: the label {values[odd]!r} is no text, and other labels are; make them of one kind."
        )
    if any(isinstance(value, (list, tuple, Mapping)) for value in values):
        odd = next(i for i, value in enumerate(values) if isinstance(value, (list, tuple, Mapping)))
        raise ClipevalError(f"{places[odd]}: a label was expected, a number or a text, and {values[odd]!r} found.")
    array = np.asarray(values, dtype=np.int64 if kinds == {bool} else None)
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise ClipevalError(f"{places[0]}: a label was expected, a number or a text, and {values[0]!r} found.")
    wrong = np.flatnonzero(array != np.floor(array))
    if len(wrong):
        raise ClipevalError(f"{places[int(wrong[0])]}: the label {array[wrong[0]]} is no whole number.")
    return array.astype(np.int64)


def _by_index(
    labels: np.ndarray,
    names: list[str],
    config: DataConfig,
    location: Path,
    places: Sequence[str],
    account: Account,
    own: bool,
) -> tuple[np.ndarray, list[str]]:
    if own and not config.numeric_classnames and all(_NUMBER.fullmatch(name) for name in names):
        raise ClipevalError(
            f"{location}: the classes are called {_some(names)}: numbers, which say nothing to a model. {_FIX}"
        )
    negative = np.flatnonzero(labels < 0)
    if len(negative):
        raise ClipevalError(
            f"{places[int(negative[0])]}: the label is {labels[negative[0]]} ({len(negative)} such samples): this split is not "
            "labelled, or not from 0."
        )
    if not names:
        if not config.numeric_classnames:
            raise ClipevalError(
                f"{location}: labels are numbers ({_some(sorted({str(v) for v in labels.tolist()}))}) without class names. {_FIX}"
            )
        distinct, indices = np.unique(labels, return_inverse=True)
        return indices.astype(np.int64), [str(value) for value in distinct]
    if labels.min() == 1 and labels.max() == len(names):
        raise ClipevalError(
            f"{location}: labels run from 1 to {len(names)} for {len(names)} class names: they count from 1, and 0 is the first. "
            "Give the names as task.data.classnames={1: …, 2: …}."
        )
    if labels.min() > 0 and config.classnames is not None and config.samples is None:
        account.assume(nothing_at_zero(labels, names))
    return labels, names


def nothing_at_zero(labels: np.ndarray, names: Sequence[str]) -> str:
    """A flag for given names of which the first is no sample's: the labels may count from 1."""
    low = int(labels.min())
    name = names[low] if low < len(names) else "no class"
    return (
        f"no label is 0, and labels count from 0 here ({low} = {name}): where they count from 1, give "
        "the names as task.data.classnames={1: …, 2: …}"
    )


def _by_mapping(
    values: Sequence[Any], given: Mapping[str, str], places: Sequence[str], location: Path
) -> tuple[np.ndarray, list[str]]:
    names = list(dict.fromkeys(given.values()))
    place = {name: i for i, name in enumerate(names)}
    numbers = _as_integers(values, places)
    given = {_composed(label): name for label, name in given.items()}
    labels = [_composed(str(value)) for value in values]
    if not set(labels) <= set(given):  # true for 1, 1.0 for 1
        labels = [_number(label) for label in labels] if numbers is None else list(map(str, numbers.tolist()))
    for where, label in zip(places, labels, strict=True):
        if label not in given:
            raise ClipevalError(f"{where}: task.data.classnames: {nearest('label', label, list(given))}.")
    return np.array([place[given[label]] for label in labels], dtype=np.int64), names


def _looks(name: str) -> str:
    """A class name without what an eye may not see: case, white space, marks of no width, letters of another form (full width)."""
    plain = "".join(letter for letter in unicodedata.normalize("NFKC", name) if unicodedata.category(letter) != "Cf")
    return " ".join(plain.split()).casefold()


def _doubt_names(names: Sequence[str], account: Account) -> None:
    """Flags class names that come of a missing label, or of several."""
    missing = [name for name in names if name.strip().casefold() in _MISSING]
    if missing:
        account.assume(
            f"{_some(missing)} is a class of its own: if it stands for a missing label, leave its samples out"
        )
    known = set(names)
    several = [name for name in names if known & set(_BETWEEN.split(name)) - {name}]
    if several:
        account.assume(f"{_some(several)} is a class of its own beside those it names: a sample has one label here")


def _number(text: str) -> str:
    """The class's number that a text says, as an integer is written; another text as it is."""
    return str(int(text.partition(".")[0])) if _WHOLE.fullmatch(text) else text


def _by_text(texts: list[str], config: DataConfig, location: Path, account: Account) -> tuple[np.ndarray, list[str]]:
    names = sorted(set(texts))
    numeric = [name for name in names if _NUMBER.fullmatch(name) or name.lower() in ("true", "false")]
    if numeric and not config.numeric_classnames:
        raise ClipevalError(
            f"{location}: classes are called {_some(numeric)}: numbers, which say nothing to a model. {_FIX}"
        )
    alike: dict[str, str] = {}
    for name in names:
        other = alike.setdefault(_looks(name), name)
        if other != name:
            one, two = (repr(other), repr(name)) if _looks(name).isascii() else (ascii(other), ascii(name))
            raise ClipevalError(
                f"{location}: the classes {one} and {two} differ by case or white space alone, or by letters that look alike. Give "
                "them one name, or list both in task.data.classnames if they are two."
            )
    if config.samples is None:
        _doubt_names(names, account)
    place = {name: i for i, name in enumerate(names)}
    return np.array([place[t] for t in texts], dtype=np.int64), named_wnids(names, str(location), account)


def _by_name(
    texts: list[str],
    names: list[str],
    config: DataConfig,
    location: Path,
    places: Sequence[str],
    account: Account,
    by_order: bool,
) -> tuple[np.ndarray, list[str]]:
    place = {name: i for i, name in reversed(list(enumerate(names)))}
    unknown = [i for i, text in enumerate(texts) if text not in place]
    whole = all(_INTEGER.fullmatch(text) for text in texts)
    if not unknown:
        indices = [int(text) for text in texts] if whole else []
        if (
            whole
            and all(0 <= i < len(names) for i in indices)
            and any(names[i] != t for i, t in zip(indices, texts, strict=True))
        ):
            raise ClipevalError(
                f"{location}: labels such as {texts[0]!r} may be names or places in the list of names, which differ. Give "
                "task.data.classnames as {label: name}."
            )
        repeated = next((text for text in texts if names.count(text) > 1), None) if len(place) < len(names) else None
        if repeated is not None:
            raise ClipevalError(
                f"{location}: the class name {repeated!r} is given twice; which one does the label mean?"
            )
        return np.array([place[text] for text in texts], dtype=np.int64), named_wnids(names, str(location), account)
    distinct = sorted(set(texts))
    if len({texts[i] for i in unknown}) == len(distinct):  # no label is a name
        if by_order and len(distinct) == len(names):
            pairs = ", ".join(f"{label} = {name}" for label, name in zip(distinct[:5], names, strict=False))
            account.assume(f"class names given in the order of the sorted labels: {pairs}")
            order = {label: i for i, label in enumerate(distinct)}
            return np.array([order[text] for text in texts], dtype=np.int64), names
        if all(map(_WHOLE.fullmatch, texts)):
            numbers = np.array([int(_number(text)) for text in texts], dtype=np.int64)
            return _by_index(numbers, names, config, location, places, account, False)
        wnids = _wnid_names() if all(map(_WNID.fullmatch, distinct)) else {}
        if wnids and all(wnids.get(wnid) in place for wnid in distinct):
            account.assume("classes named by WordNet id, matched with the given names")
            return np.array([place[wnids[text]] for text in texts], dtype=np.int64), names
    raise ClipevalError(f"{places[unknown[0]]}: {nearest('class', texts[unknown[0]], names)}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")
