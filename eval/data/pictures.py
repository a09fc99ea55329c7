"""The pictures below a folder: whatever Pillow opens, links followed; everything else is accounted for."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from clipeval.configs.errors import ClipevalError
from clipeval.configs.files import write_atomically
from clipeval.data.account import Account, is_litter
from clipeval.data.images import FileImages, digest_of
from clipeval.data.same_pictures import contents_from
from clipeval.results.stamp import settled, stamp

NOT_PICTURES = frozenset(
    {
        ".pdf",
        ".eps",
        ".ps",
        ".mpg",
        ".mpeg",
        ".mp4",
        ".txt",
        ".json",
        ".csv",
        ".md",
        ".xml",
        ".npy",
        ".h5",
        ".hdf",
        ".hdf5",
    }
)
"""Endings that Pillow lists, or might sniff, and that hold no picture of a data set."""


@lru_cache(maxsize=1)
def endings() -> frozenset[str]:
    """The endings of formats that Pillow reads here, in lower case: `.jpg`."""
    known = Image.registered_extensions()
    return frozenset(ending for ending, kind in known.items() if kind in Image.OPEN) - NOT_PICTURES


def find_pictures(folder: Path, account: Account, base: Path | None = None) -> list[Path]:
    """Every picture at any depth, sorted by path.

    Args:
        folder: where to look.
        account: told of all other files.
        base: what the names told are relative to; None: `folder`.

    Raises:
        ClipevalError: a folder cannot be read, or links lead in a circle.
    """
    base = base or folder
    return sorted(path for path in walk(folder, account, base) if _is_picture(path, account, base))


def walk(folder: Path, account: Account, base: Path) -> Iterator[Path]:
    """Every file below a folder, links followed, litter left to `account`."""
    open_: list[tuple[Path, frozenset[str]]] = [(folder, frozenset({os.path.realpath(folder)}))]
    while open_:
        here, above = open_.pop()
        try:
            entries = sorted(here.iterdir())
        except OSError as problem:
            raise ClipevalError(f"{here} cannot be read ({problem.strerror}).") from None
        for path in entries:
            name = path.relative_to(base).as_posix()
            if is_litter(name):
                account.ignore(name)
            elif path.is_dir():
                real = os.path.realpath(path)
                if real in above:
                    account.leave_out(name, "a link back to a folder that it lies in")
                else:
                    open_.append((path, above | {real}))
            else:
                yield path


def _is_picture(path: Path, account: Account, base: Path) -> bool:
    name = path.relative_to(base).as_posix()
    if not path.is_file():
        account.leave_out(name, "a broken link" if path.is_symlink() else "not a file")
        return False
    ending = path.suffix.lower()
    if ending in endings():
        return True
    if ending not in NOT_PICTURES:
        try:
            with Image.open(path):  # reads the header alone
                return True
        except Exception:  # noqa: BLE001  (Pillow's plugins raise nearly every type on what they do not know)
            account.leave_out(name, "not a picture that Pillow opens")
            return False
    account.leave_out(name, "not a picture that Pillow opens")
    return False


def whole_files(paths: list[Path], keys: list[str], cache: Path | None = None) -> FileImages:
    """Images that are files of their own.

    Args:
        cache: where the digest of their content is remembered, by their paths, sizes and times; None: it is read anew.
    """
    stats = [path.stat() for path in paths]
    sizes = np.array([stat.st_size for stat in stats], dtype=np.int64)
    digest, contents = _remembered(paths, stats, cache)
    return FileImages(
        files=[str(path) for path in paths],
        file=np.arange(len(paths), dtype=np.int32),
        offset=np.zeros(len(paths), dtype=np.int64),
        size=sizes,
        keys=keys,
        digest=digest,
        contents=contents,
    )


def _remembered(paths: list[Path], stats: list[os.stat_result], cache: Path | None) -> tuple[str, np.ndarray | None]:
    """The digest of the files' content, and what tells them apart where it is read now.

    ImageNet-C's are four million of 110 GB, which are not to be read for each plan.
    """
    if cache is None or not all(map(settled, stats)):
        return _read_contents(paths)
    known = (json.dumps([str(path.resolve()), *stamp(stat)]) for path, stat in zip(paths, stats, strict=True))
    memo = cache / "folders" / digest_of(*known)
    try:
        return memo.read_text("ascii"), None
    except (OSError, UnicodeDecodeError):
        digest, contents = _read_contents(paths)
    with contextlib.suppress(OSError):  # a full or read-only cache costs time, nothing else
        write_atomically(memo, digest.encode())
    return digest, contents


def _read_contents(paths: list[Path]) -> tuple[str, np.ndarray]:
    """The digest of all files in their order; and uint64 [N], equal for files of equal bytes."""

    def one(path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except OSError as problem:
            raise ClipevalError(f"{path} cannot be read ({problem.strerror}).") from None

    with ThreadPoolExecutor(max_workers=8) as pool:
        digests = list(pool.map(one, paths))
    return digest_of(*digests), contents_from(digests)
