"""Writing a data set in the one layout: test/0.tar … and nshards.txt, the same bytes for the same content."""

from __future__ import annotations

import io
import os
import re
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from clipeval.configs.errors import ClipevalError

SHARD_SIZE = 10**9
"""Bytes after which a new shard is begun."""

_SIGNATURES = (
    (re.compile(rb"\xff\xd8\xff"), "jpg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "png"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "webp"),
)


class ShardWriter:
    """Tars of about `limit` bytes below `<folder>/<split>`; leaving the `with` block writes nshards.txt.

    Members have no time, owner or mode of their own, so that two machines write equal bytes.
    """

    def __init__(self, folder: Path, split: str = "test", limit: int = SHARD_SIZE) -> None:
        self._folder, self._limit = folder / split, limit
        self._folder.mkdir(parents=True, exist_ok=True)
        self._tar: tarfile.TarFile | None = None
        self._keys: set[str] = set()
        self._size = 0
        self.shards = 0

    def add(self, key: str, members: Iterable[tuple[str, bytes]]) -> None:
        """Writes one sample: its members, (extension, content), side by side in one shard.

        Raises:
            ClipevalError: a second sample has this key, or the key has a dot or slash (a reader would cut it there).
        """
        if key in self._keys or not key or set(key) & set("./\n"):
            reason = "comes twice" if key in self._keys else "is empty or holds a dot, a slash or a line break"
            raise ClipevalError(f"the key {key!r} {reason}; every image needs a key of its own.")
        self._keys.add(key)
        if self._tar is None or self._size >= self._limit:
            self._close()
            self._tar = tarfile.open(self._folder / f"{self.shards}.tar", "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115
            self.shards, self._size = self.shards + 1, 0
        for extension, content in members:
            header = tarfile.TarInfo(f"{key}.{extension}")
            header.size = len(content)
            self._tar.addfile(header, io.BytesIO(content))
            self._size += len(content) + 2 * tarfile.BLOCKSIZE

    def _close(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._tar = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        if kind is None:
            (self._folder / "nshards.txt").write_text(str(self.shards), encoding="utf-8")


def extension_of(image: bytes, where: str) -> str:
    """The extension of an encoded image by its first bytes, whatever its file was called.

    Raises:
        ClipevalError: it is no JPEG, PNG or WebP.
    """
    for signature, extension in _SIGNATURES:
        if signature.match(image):
            return extension
    raise ClipevalError(f"{where}: {len(image):,} bytes that begin with {image[:8]!r} are no JPEG, PNG or WebP image.")


def install(made: Path, folder: Path) -> list[str]:
    """Moves a prepared set from `made` into its folder, in place of an earlier one, whose shard count goes first.

    Returns:
        The paths of the set's files, relative to the folder.
    """
    names = sorted(path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file())
    for old in (*folder.glob("*/nshards.txt"), *folder.glob("*/*.tar")):
        old.unlink()
    move(names, made, folder)
    shutil.rmtree(made)
    return names


def move(names: Iterable[str], source: Path, folder: Path) -> None:
    """Moves files, by their paths, from one folder to another.

    The shard count comes last: a reader begins with it, so that it never reads a mixture.
    """
    for name in sorted(names, key=lambda name: (name.endswith("nshards.txt"), name)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(source / name, folder / name)
