"""Where the files of a tar lie. Plain headers are read here: on webdataset's own tars six times as fast as by tarfile."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BLOCK = tarfile.BLOCKSIZE
_OCTAL = re.compile(rb"[0-7]+")
_HARMLESS = frozenset({b"mtime", b"atime", b"ctime", b"uid", b"gid", b"uname", b"gname"})
"""Keywords of an extended header that change neither name nor place. webdataset's writer puts an mtime before each file."""


class Member(NamedTuple):
    """A regular file of a tar: its name, its first byte and its length; or a link, of length -1."""

    name: str
    offset: int
    size: int


class _NotPlainError(Exception):
    """Something that is left to tarfile: links, long names, sparse files, damage."""


def read_members(path: Path) -> list[Member]:
    """The regular files of a tar, and what else it has beside folders, in its order.

    Raises:
        tarfile.TarError, EOFError: it is no tar, or was cut short.
    """
    with path.open("rb") as file:
        try:
            return list(_plain(file.fileno(), os.fstat(file.fileno()).st_size))
        except _NotPlainError:
            return _by_tarfile(path)


def _plain(descriptor: int, length: int) -> Iterator[Member]:
    position = 0
    while True:
        header = os.pread(descriptor, BLOCK, position)
        if len(header) < BLOCK:
            raise _NotPlainError  # it lacks the empty block that ends a tar
        if header == tarfile.NUL * BLOCK:
            return
        name, prefix = header[:100].partition(b"\0")[0], header[345:346]
        if header[257:262] != b"ustar" or prefix != b"\0" or not name.isascii():
            raise _NotPlainError
        if _octal(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
            raise _NotPlainError
        kind, size, start = header[156:157], _octal(header[124:136]), position + BLOCK
        position = start + -(-size // BLOCK) * BLOCK
        if position > length:
            raise _NotPlainError
        if kind == tarfile.REGTYPE:
            yield Member(name.decode("ascii"), start, size)
        elif kind == tarfile.XHDTYPE:
            _check_extension(os.pread(descriptor, size, start))
        elif kind != tarfile.DIRTYPE or size:
            raise _NotPlainError


def _octal(field: bytes) -> int:
    digits = field.rstrip(b" \0").lstrip(b" ")
    if not _OCTAL.fullmatch(digits):
        raise _NotPlainError
    return int(digits, 8)


def _check_extension(records: bytes) -> None:
    """Raises _NotPlainError unless every `<length> <keyword>=<value>` record is of the harmless ones."""
    while records:
        length, space, rest = records.partition(b" ")
        keyword, equals, _ = rest.partition(b"=")
        whole = int(length) if length.isdigit() and len(length) < 5 else 0
        if not (space and equals) or keyword not in _HARMLESS or records[whole - 1 : whole] != b"\n" or whole < 5:
            raise _NotPlainError
        records = records[whole:]


def _by_tarfile(path: Path) -> list[Member]:
    members = []
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            if member.issparse():
                raise tarfile.ReadError(f"{member.name!r} is a sparse file, of which only the parts are stored")
            if member.isfile():
                members.append(Member(member.name, member.offset_data, member.size))
            elif not member.isdir():
                members.append(Member(member.name, 0, -1))
        end = tar.offset
    with path.open("rb") as file:
        file.seek(end)
        if file.read(BLOCK) != tarfile.NUL * BLOCK:  # tarfile takes a header that is cut short for the end
            raise tarfile.ReadError("it lacks the empty block that ends a tar")
    return members
