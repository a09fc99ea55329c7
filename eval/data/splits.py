"""Which files of a Hugging Face folder belong to which split: by the names that `datasets` recognises."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from clipeval.configs.errors import ClipevalError

KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""`datasets.data_files.SPLIT_KEYWORDS`: a keyword counts between the start or end of a name and anything but a letter."""

_SHARD = re.compile(r"^(?P<split>[\w.-]*?)-(?P<number>\d{5})-of-(?P<count>\d{5})")


def split_of(path: str) -> str | None:
    """The split that a file's path speaks of: `train`, `validation`, `test`, or the name before -00000-of-00001.

    The file's own name comes first, then its folders, the nearest first. None where nothing speaks of a split.
    """
    parts = PurePosixPath(path).parts
    stem = parts[-1].rsplit(".", 1)[0]
    for number, part in enumerate([stem, *reversed(parts[:-1])]):
        for split, words in KEYWORDS.items():
            if re.search(rf"(?<![^\W\d_])(?:{'|'.join(words)})(?![^\W\d_])", part, re.IGNORECASE):
                return split
        shard = _SHARD.match(part) if number == 0 else None
        if shard and shard["split"]:
            return shard["split"]
    return None


def same_split(one: str, other: str | None) -> bool:
    """Whether two names mean one split: `val` and `validation` do."""
    return other is not None and _canonical(one) == _canonical(other)


def _canonical(split: str) -> str:
    return next((name for name, words in KEYWORDS.items() if split.lower() in words), split)


def choose_files(files: Sequence[str], split: str, location: str) -> list[str]:
    """The files of a split, by their paths below the set's folder.

    All of them where none of their names speaks of a split.

    Raises:
        ClipevalError: there are other splits only, or a numbered shard of this one is missing.
    """
    splits = {file: split_of(file) for file in files}
    chosen = [file for file in files if same_split(split, splits[file])]
    if not chosen and set(splits.values()) == {None}:
        chosen = list(files)
    if not chosen:
        names = sorted({name or "(no split in its name)" for name in splits.values()})
        offered = next((name for name in reversed(names) if not name.startswith("(")), split)
        raise ClipevalError(
            f"{location} has the splits {', '.join(names)}, and none called {split!r}. Choose one with task.splits=[{offered}], or "
            "name a file in task.data.path."
        )
    for file in chosen:
        shard = _SHARD.match(PurePosixPath(file).name)
        if shard and sum(f"-of-{shard['count']}" in other for other in chosen) < int(shard["count"]):
            raise ClipevalError(
                f"{location}: of the {int(shard['count'])} shards that {PurePosixPath(file).name} names, some are missing. Fetch "
                "the set again."
            )
    return chosen
