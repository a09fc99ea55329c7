"""Data sets that lie elsewhere (`data.root=s3://…`, `hf://datasets/ORG`), by fsspec: shards are read by range, the rest is copied.

    cache.root/sets/<digest>/<name of the set>/…    its folder as the readers see it

The digest is of the address and of what lies there (names, sizes, versions): what changes there makes another copy. A
shard's place holds a pointer of a few lines, as Git LFS has it: where the shard is, how long, and of which version.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from clipeval.configs.addresses import explained, filesystem, is_address, shown, version_of
from clipeval.configs.errors import ClipevalError
from clipeval.configs.files import write_atomically
from clipeval.results import safe_json

AHEAD = 4 * 2**20
"""Bytes that are read at once where images are read one after another: a request for each would cost more than the bytes."""
TRANSFERS = 8
_GO_ON = "What is finished is kept; the same command goes on from there."


class SourceLostError(ClipevalError):
    """Where the data lie did not give what it has: no fault of a sample, and none is left out for it."""


@dataclass(frozen=True)
class Pointer:
    """A file that stays where it is.

    Attributes:
        address: of the file.
        size: in bytes.
        version: what tells its content from another one of the same name; empty where nothing does.
    """

    address: str
    size: int
    version: str

    @contextmanager
    def copied(self, folder: Path) -> Iterator[Path]:
        """All of it in a file that is gone after the block.

        Raises:
            SourceLostError: it came incomplete.
        """
        folder.mkdir(parents=True, exist_ok=True)
        fs, path = filesystem(self.address)
        with tempfile.TemporaryDirectory(prefix=".shard.", dir=folder) as temporary:
            copy = Path(temporary, PurePosixPath(path).name)
            _get(fs, path, self.address, self.size, copy)
            yield copy


@dataclass
class Ranges:
    """Byte ranges of files that lie elsewhere. Every process has connections of its own, opened when it first reads."""

    _files: dict[str, tuple[Any, str]] = field(default_factory=dict, repr=False)
    _ahead: tuple[str, int, bytes] = ("", 0, b"")
    _end: tuple[str, int] = ("", -1)
    _pid: int = -1

    def read(self, address: str, offset: int, size: int, end: int) -> bytes:
        """Some bytes of a file. Those that follow are read along where the last ones read lie right before these.

        Args:
            address: of the file.
            offset, size: which bytes.
            end: of what is of use in the file; nothing is read beyond it.

        Raises:
            SourceLostError: they cannot be had.
        """
        if self._pid != os.getpid():
            self._files, self._ahead, self._end, self._pid = {}, ("", 0, b""), ("", -1), os.getpid()
        name, start, held = self._ahead
        if name != address or not start <= offset <= offset + size <= start + len(held):
            follows = self._end[0] == address and 0 <= offset - self._end[1] <= AHEAD // 4
            start, held = offset, self._get(address, offset, max(size, min(AHEAD, end - offset)) if follows else size)
            self._ahead = address, start, held
        self._end = address, offset + size
        return held[offset - start : offset - start + size]

    def _get(self, address: str, offset: int, size: int) -> bytes:
        try:
            if address not in self._files:
                self._files[address] = filesystem(address)
            fs, path = self._files[address]
            with explained(address):
                data = bytes(fs.cat_file(path, start=offset, end=offset + size))
        except ClipevalError as problem:
            raise SourceLostError(f"{problem} {_GO_ON}") from None
        if len(data) > size:
            raise SourceLostError(
                f"{shown(address)}: its server gives no parts of files (byte ranges), by which shards are read. Fetch the set to a "
                "folder of this machine."
            )
        if len(data) < size:
            raise SourceLostError(
                f"{shown(address)} came incomplete: {len(data):,} of {size:,} bytes from byte {offset:,} on. {_GO_ON}"
            )
        return data

    def __getstate__(self) -> dict[str, Any]:
        return {}  # a process that unpickles it begins anew, for its `_pid` is none


_copies: set[Path] = set()
"""Folders in which this process has put pointers in the places of all shards."""


def pointer_at(path: Path) -> Pointer | None:
    """The pointer in the place of a shard; None where there is a shard.

    Only `local_copy` makes pointers: a set that somebody sent has none, and sends this machine nowhere.
    """
    if path.suffix.lower() != ".tar" or _copies.isdisjoint(path.parents):
        return None
    return Pointer(**safe_json.parse(path.read_bytes()))


def exists(address: str) -> bool:
    """Whether there is a file or folder at an address.

    Raises:
        ClipevalError: it cannot be asked.
    """
    fs, path = filesystem(address)
    with explained(address):
        fs.invalidate_cache()
        return bool(fs.exists(path))


def below(root: str | None, name: str, cache: Path) -> Path:
    """A file or folder beside the sets, on this machine: where it lies, or would lie, if it is not there.

    Raises:
        ClipevalError: `root` lies elsewhere, and cannot be read.
    """
    if root is not None and is_address(root):
        address = f"{root.rstrip('/')}/{name}"
        return local_copy(address, cache, by_range=False) if exists(address) else Path(address)
    return Path(root or "").expanduser() / name


def local_copy(address: str, cache: Path, *, by_range: bool) -> Path:
    """The folder (or file) at an address, on this machine.

    Args:
        address: as fsspec takes it.
        cache: `cache.root`.
        by_range: whether uncompressed shards (.tar) are left where they are, with a pointer in their place.

    Returns:
        A folder of the same name, or a file in it. What a call that was ended has copied is not copied again.

    Raises:
        ClipevalError: there is nothing, it may not be read, or something came incomplete.
        OSError: the disk is full or cannot be written.
    """
    address = address.rstrip("/")
    fs, root = filesystem(address)
    root = root.rstrip("/")
    with explained(address):
        files = _files(fs, root)
    if not files:
        raise ClipevalError(
            f"{shown(address)}: there is no such folder, or nothing in it. data.root is the folder above the sets' own; `clipeval "
            "show task=NAME` says what a set's folder is called."
        )
    if any(".." in PurePosixPath(name).parts for name in files):
        raise ClipevalError(f"{shown(address)} holds a name with '..' in it, which leads out of the folder.")
    sizes = {name: (int(entry.get("size") or 0), version_of(entry)) for name, entry in sorted(files.items())}
    digest = hashlib.sha256(json.dumps([address, sizes, by_range]).encode()).hexdigest()[:32]
    target = cache / "sets" / digest / PurePosixPath(root).name

    def one(name: str) -> None:
        copy, (size, version) = target / name if name else target, sizes[name]
        if copy.is_file():
            return
        if by_range and name.lower().endswith(".tar"):
            pointer = Pointer(f"{address}/{name}", size, version)
            write_atomically(copy, json.dumps(asdict(pointer)).encode())
            return
        copy.parent.mkdir(parents=True, exist_ok=True)
        path, where = (f"{root}/{name}", f"{address}/{name}") if name else (root, address)
        partial = copy.with_name(f".{copy.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            _get(fs, path, where, size, partial)
            partial.replace(copy)  # last: its presence says that it is whole
        finally:
            partial.unlink(missing_ok=True)

    with ThreadPoolExecutor(TRANSFERS) as pool:
        for _ in pool.map(one, sizes):
            pass
    with suppress(OSError):
        os.utime(target.parent)  # when it was last used: `clipeval cache prune`
    if by_range:
        _copies.add(target)
    return target


def _get(fs: Any, path: str, address: str, size: int, target: Path) -> None:
    with explained(address):
        fs.get_file(path, str(target))
    came = target.stat().st_size
    if came != size:
        raise SourceLostError(
            f"{shown(address)} came incomplete: {came:,} of {size:,} bytes. Run the same command again."
        )


def _files(fs: Any, root: str) -> dict[str, Mapping[str, Any]]:
    """{path below the root: what is known of it} of every file; of a file itself its path is empty."""
    fs.invalidate_cache()
    found: Mapping[str, Mapping[str, Any]] = fs.find(root, detail=True)
    files = {
        name[len(root) :].lstrip("/"): entry
        for name, entry in found.items()
        if entry.get("type") != "directory" and not name.endswith("/")  # S3's own marks of empty folders
    }
    unsized = [name for name, entry in files.items() if entry.get("size") is None]  # the web's listings say none
    with ThreadPoolExecutor(TRANSFERS) as pool:
        asked = pool.map(lambda name: fs.info(f"{root}/{name}".rstrip("/")), unsized)
        files.update(zip(unsized, asked, strict=True))
    return files
