"""Which tars are the shards of a split, in which order, and how compressed ones are read."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipeval.configs.errors import ClipevalError
from clipeval.data.account import Account, is_litter
from clipeval.data.text_table import decode

SHARD_COUNT = "nshards.txt"
_NAMES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_MAGIC: tuple[tuple[bytes, Callable[..., Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", lzma.open),
)


def shard_paths(
    location: Path, split: str, account: Account | None = None, cure: str = "Fetch it with `clipeval download`."
) -> list[Path]:
    """The shards of a split in their order.

    0.tar to n-1.tar where nshards.txt says n; else every tar of the split's folder, by the numbers in their names; else, where
    the set has no such folder, every tar that lies in the set's own folder (as img2dataset writes them), flagged.

    `cure` is what to do where the split is missing.

    Raises:
        ClipevalError: there is none, or some are missing.
    """
    account = account or Account()
    folder = location / split
    if not folder.is_dir():
        others = sorted(path.parent.name for path in location.glob("*/*") if path.name.lower().endswith(_NAMES))
        if others:
            names = list(dict.fromkeys(others))
            choose = f"Choose one with task.splits=[{names[-1]}]. " if split == "test" else ""  # a probe asks for train
            raise ClipevalError(
                f"{location} has the splits {', '.join(names)}, and none called {split!r}. {choose}{cure}"
            )
        tars = _tars(location, account) if location.is_dir() else []
        if not tars:
            raise ClipevalError(f"{folder} is missing: the set has no split {split!r} here. {cure}")
        account.assume(
            f"the shards lie in {location.name} itself, not in {location.name}/{split}: all {len(tars)} are read"
        )
        return _without_gaps(tars, account)
    tars = _tars(folder, account)
    count_file = folder / SHARD_COUNT
    if not count_file.exists():
        if not tars:
            raise ClipevalError(
                f"{count_file} is missing and {folder} holds no tar. Fetch it with `clipeval download`."
            )
        return _without_gaps(tars, account)
    text = decode(count_file).strip()
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise ClipevalError(f"{count_file} reads {text[:40]!r}; the number of shards was expected.")
    count = int(text)
    by_name = {_stem(path): path for path in tars}
    wanted = [str(i) for i in range(count)]
    if not set(wanted) & set(by_name) and len(tars) == count:  # 000000.tar, shard-0.tar
        return tars
    missing = [f"{name}.tar" for name in wanted if name not in by_name]
    if missing:
        raise ClipevalError(
            f"{folder}: nshards.txt says {text} shards, and {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''} "
            "missing. Fetch the set again with `clipeval download`."
        )
    for name, path in by_name.items():
        if name not in wanted:
            account.leave_out(path.name, f"a tar beside the {count} that nshards.txt counts")
    return [by_name[name] for name in wanted]


def _tars(folder: Path, account: Account) -> list[Path]:
    paths = []
    for path in sorted(folder.iterdir()):
        if is_litter(path.name):
            account.ignore(path.name)
        elif path.name.lower().endswith(_NAMES) and path.is_file():
            paths.append(path)
        elif path.name.lower().endswith((".tar.zst", ".tar.lz4", ".zip", ".7z")):
            raise ClipevalError(
                f"{path} is in a compression that is not read; shards are .tar, .tar.gz, .tar.bz2 or .tar.xz."
            )
    stems = [_stem(path) for path in paths]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None:
        names = ", ".join(path.name for path in paths if _stem(path) == twice)
        raise ClipevalError(f"{folder} holds one shard twice: {names}. Keep one of them.")
    return sorted(paths, key=lambda p: ([int(n) for n in re.findall(r"\d+", _stem(p))] or [0], p.name))


def _stem(path: Path) -> str:
    ending = next(e for e in sorted(_NAMES, key=len, reverse=True) if path.name.lower().endswith(e))
    return path.name[: -len(ending)]


def _without_gaps(tars: list[Path], account: Account) -> list[Path]:
    """The tars; flagged where their numbers leave some out."""
    numbers = [int(_stem(path)) if _stem(path).isdigit() else None for path in tars]
    known = [n for n in numbers if n is not None]
    if len(known) == len(numbers) and known:
        absent = sorted(set(range(min(known[0], 1), known[-1])) - set(known))
        if absent:
            some = ", ".join(f"{n}" for n in absent[:5])
            account.assume(
                f"{len(absent)} numbers are missing among the shards {tars[0].name} to {tars[-1].name}: {some}"
            )
    return tars


def plain_tar(path: Path, cache: Path | None, account: Account) -> Path:
    """The shard itself, or a decompressed copy of it in the cache, named by its content.

    Raises:
        ClipevalError: the compressed file is cut short or damaged.
    """
    with path.open("rb") as file:
        start = file.read(8)
        opener = next((opener for magic, opener in _MAGIC if start.startswith(magic)), None)
        if opener is None:
            return path
        file.seek(0)
        name = hashlib.file_digest(file, "sha256").hexdigest()
    folder = (cache.parent if cache else Path(tempfile.gettempdir(), "clipeval")) / "decompressed"
    copy = folder / name / f"{_stem(path)}.tar"  # errors name the shard
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        partial = copy.with_name(f"{copy.name}.{os.getpid()}")
        try:
            with opener(path) as source, partial.open("wb") as target:
                shutil.copyfileobj(source, target, 2**20)
            partial.replace(copy)
        except (EOFError, lzma.LZMAError, gzip.BadGzipFile, OSError) as problem:
            if isinstance(problem, OSError) and problem.errno is not None and not isinstance(problem, gzip.BadGzipFile):
                raise
            raise ClipevalError(
                f"{path} cannot be decompressed ({problem}): it was cut short or damaged on its way. Fetch it again."
            ) from None
        finally:
            partial.unlink(missing_ok=True)
    account.remark(f"{path.name} is compressed and read through a copy in {folder}")
    return copy
