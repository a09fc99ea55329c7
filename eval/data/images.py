"""Random access to the encoded images of one split, by position, from any number of processes."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from struct import Struct
from typing import Any, Protocol

import numpy as np

from clipeval.configs.addresses import is_address, shown
from clipeval.configs.errors import ClipevalError
from clipeval.data.remote import Ranges

OPEN_FILES = 64
"""How many shards a process keeps open: a folder of single images must not run into the limit of file descriptors."""


class Images(Protocol):
    """N encoded images. Implementations are picklable, and reading is safe in a forked process."""

    digest: str
    """sha256 of the bytes of every image and of their order."""

    def __len__(self) -> int: ...

    def read(self, position: int) -> bytes:
        """The encoded image file at `position` (0 to N - 1)."""
        ...

    def location(self, position: int) -> str:
        """Where that image lies, in words that name its shard and key."""
        ...


@dataclass
class FileImages:
    """Images that are byte ranges of files: the members of tars, or files of their own.

    Args:
        files: the distinct files: paths, or addresses (s3://…) of which ranges are read.
        file: int32 [N], the file that each image lies in.
        offset: int64 [N], its first byte.
        size: int64 [N], its length in bytes.
        keys: N names.
        digest: of the images' bytes and order.
    """

    files: Sequence[str]
    file: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    keys: Sequence[str]
    digest: str
    contents: np.ndarray | None = field(default=None, repr=False, compare=False)
    """uint64 [N], equal for equal images, where their digests were at hand."""
    _open: OrderedDict[int, int] = field(default_factory=OrderedDict, repr=False, compare=False)
    _pid: int = field(default=-1, repr=False, compare=False)
    _ranges: Ranges = field(default_factory=Ranges, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.file)

    def read(self, position: int) -> bytes:
        number, offset, size = int(self.file[position]), int(self.offset[position]), int(self.size[position])
        if is_address(self.files[number]):
            return self._ranges.read(self.files[number], offset, size, int(self._ends[number]))
        data = os.pread(self._descriptor(number), size, offset)
        if len(data) != size:
            raise ClipevalError(
                f"{self.location(position)}: {size} bytes were expected and {len(data)} are left; the file was cut "
                "short after it was indexed. Fetch it again (`clipeval download`)."
            )
        return data

    def read_part(self, position: int, start: int, size: int) -> bytes:
        """Some bytes of an image that lies on this machine, from `start` of it."""
        number, offset = int(self.file[position]), int(self.offset[position])
        return os.pread(self._descriptor(number), size, offset + start)

    def location(self, position: int) -> str:
        path = self.files[int(self.file[position])]
        return f"{shown(path) if is_address(path) else path}, key {self.keys[position]!r}"

    def subset(self, rows: np.ndarray) -> FileImages:
        """Some of the images, int64 [M]."""
        return FileImages(
            self.files,
            self.file[rows],
            self.offset[rows],
            self.size[rows],
            [self.keys[int(row)] for row in rows],
            digest_of(self.digest, rows.tobytes()),
            None if self.contents is None else self.contents[rows],
        )

    @cached_property
    def _ends(self) -> np.ndarray:
        """Where the last image of each file ends, int64 [files]."""
        ends = np.zeros(len(self.files), dtype=np.int64)
        np.maximum.at(ends, self.file, self.offset + self.size)
        return ends

    def _descriptor(self, file: int) -> int:
        if (
            self._pid != os.getpid()
        ):  # a fork shares file offsets but not this table; pread needs neither, so start anew
            self._open, self._pid = OrderedDict(), os.getpid()
        if file in self._open:
            self._open.move_to_end(file)
            return self._open[file]
        if len(self._open) >= OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        descriptor = self._open[file] = os.open(self.files[file], os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        return descriptor

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict(), "_pid": -1, "contents": None}


_LENGTHS = Struct("<Q")


def digest_of(*parts: bytes | str) -> str:
    """sha256 over parts, each preceded by its length so that no two lists of parts run together."""
    state = hashlib.sha256()
    for first in range(0, len(parts), 4096):  # a call for each of 80,000 prompts would cost more than the hashing
        raw = [part.encode() if isinstance(part, str) else part for part in parts[first : first + 4096]]
        sizes = map(len, raw)
        state.update(b"".join(chain.from_iterable(zip(map(_LENGTHS.pack, sizes), raw, strict=True))))
    return state.hexdigest()
