"""Files that are written whole or not at all, and what a file's content is known by."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Puts `content` at `path` whole or not at all, and durably.

    A temporary file of a name of its own beside `path`, flushed to the disk, then renamed: any number of processes may
    write the same path, a reader sees one content or another, and what a killed writer leaves is ignored by everyone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The rename itself lives in the folder, which has to reach the disk too. Windows cannot open a folder.
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def stamps(folder: Path, suffix: str) -> Iterator[tuple[str, int, int]]:
    """The path, bytes and time of change (nanoseconds) of each file below a folder whose name ends in `suffix`, in order."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.is_dir():
                yield from stamps(Path(entry.path), suffix)
            elif entry.name.endswith(suffix):
                stat = entry.stat()
                yield entry.path, stat.st_size, stat.st_mtime_ns
