"""What the staged files of a run at an address were when they last agreed with it: `clipeval.results.mirror`.

    .ledger/<file>.json     beside the staged folder: {"mark": [...], "sha256": ..., "version": ...}

A file for each, written whole: any number of processes may write them. Where one is missing or damaged, nothing is
known of its file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from clipeval.configs.files import sha256_of, write_atomically
from clipeval.results import safe_json

NAME = ".ledger"
Mark = tuple[int, int, int]


class Entry(NamedTuple):
    """A file that both have.

    Attributes:
        mark: of the staged file, as `mark` gives it.
        sha256: of its content.
        version: what the address's file system calls it.
    """

    mark: Mark
    sha256: str
    version: str


def mark(path: Path) -> Mark:
    """Size, time of modification and inode: another one for each content, as files are written whole. A rename leaves it."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def entry(folder: Path, name: str) -> Entry | None:
    """What is known of a file of a staged folder."""
    try:
        content = safe_json.read(_path(folder, name))
        size, modified, inode = content["mark"]
        return Entry((size, modified, inode), str(content["sha256"]), str(content["version"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def note(folder: Path, name: str, known: Entry) -> None:
    """Notes that a file is there as it is here."""
    write_atomically(_path(folder, name), json.dumps(known._asdict()).encode())


def forget(folder: Path, name: str) -> None:
    """Notes that nothing is known of a file."""
    _path(folder, name).unlink(missing_ok=True)


def is_unsent(folder: Path, name: str) -> bool:
    """Whether a file of a staged folder is not the one that was last sent or fetched."""
    known, path = entry(folder, name), folder / name
    if known is None or not path.exists():
        return path.exists()
    return mark(path) != known.mark and sha256_of(path) != known.sha256


def _path(folder: Path, name: str) -> Path:
    return folder.parent / NAME / f"{name}.json"
