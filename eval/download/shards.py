"""Writing a data set in the one layout: test/0.tar … and nshards.txt, the same bytes for the same content."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

from clipeval.configs.errors import ClipevalError
from clipeval.data.lock import NAME, Entry, Lock, entry_of, write_lock

SHARD_SIZE = 10**9
"""Bytes after which a new shard is begun."""
PARTIAL = ".clipeval-partial"
"""Where a folder's unfinished business lies."""

_SIGNATURES = (
    (re.compile(rb"\xff\xd8\xff"), "jpg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "png"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "webp"),
)


class ShardWriter:
    """Tars of about `limit` bytes below `<folder>/<split>`, by `webdataset`; leaving the `with` block writes nshards.txt.

    Members have no time, owner or mode of their own, so that two machines write equal bytes.
    """

    def __init__(self, folder: Path, split: str = "test", limit: int = SHARD_SIZE) -> None:
        import webdataset  # torch comes with it: only for those who convert

        self._folder, self._limit = folder.resolve() / split, limit
        self._folder.mkdir(parents=True, exist_ok=True)
        self._keys: set[str] = set()
        self._size = 0
        self._writer = webdataset.ShardWriter(
            f"{self._folder}/".replace("%", "%%") + "%d.tar",
            maxcount=sys.maxsize,
            maxsize=sys.maxsize,  # it counts contents alone, and would begin a shard between the members of a sample
            verbose=0,
            encoder=False,
            mtime=0,
            mode=0o644,
            user="",
            group="",
        )
        self._plain()

    def add(self, key: str, members: Iterable[tuple[str, bytes]]) -> None:
        """Writes one sample: its members, (extension, content), side by side in one shard.

        Raises:
            ClipevalError: a second sample has this key, or the key has a dot or slash (a reader would cut it there).
        """
        if key in self._keys or not key or set(key) & set("./\n"):
            reason = "comes twice" if key in self._keys else "is empty or holds a dot, a slash or a line break"
            raise ClipevalError(f"the key {key!r} {reason}; every image needs a key of its own.")
        self._keys.add(key)
        if self._size >= self._limit:
            self._writer.next_stream()
            self._plain()
        for extension, content in members:  # one by one: together they would be sorted
            self._writer.write({"__key__": key, extension: content})
            self._size += len(content) + 2 * tarfile.BLOCKSIZE

    def _plain(self) -> None:
        """Begins a shard: in GNU's format, as before `webdataset` wrote them, so that their digests stay."""
        self._writer.tarstream.tarstream.format = tarfile.GNU_FORMAT
        self._size = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        shards = self._writer.shard
        self._writer.close()
        if kind is None:
            (self._folder / "nshards.txt").write_text(str(shards), encoding="utf-8")


def extension_of(image: bytes, location: str) -> str:
    """The extension of an encoded image by its first bytes, whatever its file was called.

    Raises:
        ClipevalError: it is no JPEG, PNG or WebP.
    """
    for signature, extension in _SIGNATURES:
        if signature.match(image):
            return extension
    raise ClipevalError(
        f"{location}: {len(image):,} bytes that begin with {image[:8]!r} are no JPEG, PNG or WebP image."
    )


def room_for(folder: Path) -> Path:
    """An empty folder, below the set's own, to prepare it in."""
    made = folder / PARTIAL / "made"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    return made


def install(
    made: Path,
    folder: Path,
    form: str,
    *,
    hub: str | None = None,
    requested: str | None = None,
    revision: str | None = None,
    source: Mapping[str, Entry] | None = None,
) -> Lock:
    """Moves a prepared set from `made` (see `room_for`) into its folder, in place of an earlier one, and locks it.

    Args:
        form, hub, requested, revision, source: see `Lock`.
    """
    names = sorted(path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file())
    (folder / NAME).unlink(missing_ok=True)
    for pattern in (
        "*/nshards.txt",
        "*/*.tar",
        "test/*.jsonl",
    ):  # the shard count, with which a reader begins, goes first
        for old in folder.glob(pattern):
            old.unlink()
    move(names, made, folder)
    lock = Lock(hub, requested, revision, form, {name: entry_of(folder / name) for name in names}, source or {})
    write_lock(folder, lock)
    shutil.rmtree(folder / PARTIAL)
    return lock


def move(names: Iterable[str], source: Path, folder: Path) -> None:
    """Moves files, by their paths, from one folder to another.

    The shard count comes last: a reader begins with it, so that it never reads a mixture.
    """
    for name in sorted(names, key=lambda name: (name.endswith("nshards.txt"), name)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(source / name, folder / name)
