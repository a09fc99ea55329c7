"""Files that lie elsewhere (s3://…, gs://…, https://…), by fsspec: fetched once into the cache, whole or not at all.

cache.root/remote/<digest of the address>/<file name>     the copy
cache.root/remote/<digest of the address>.json            where it is from, its size and its sha256
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from clipeval.configs.addresses import explained, filesystem, shown
from clipeval.configs.errors import ClipevalError
from clipeval.configs.files import sha256_of, write_atomically
from clipeval.results import safe_json


def cached(address: str, cache_root: Path) -> Path | None:
    """The copy of a file on this machine; None where there is none yet."""
    path = _place(address, cache_root)
    return path if path.is_file() else None


def origin(address: str, cache_root: Path) -> dict[str, Any]:
    """What was noted of a copy when it was fetched: `address`, `size` and `sha256`; empty where there is none."""
    with suppress(OSError, ValueError):
        found = safe_json.read(_note(address, cache_root))
        return found if isinstance(found, dict) else {}
    return {}


def fetch(address: str, cache_root: Path) -> Path:
    """The copy of a file on this machine, fetched if it is not there yet.

    Raises:
        ClipevalError: it is not there, may not be read, cannot be reached, or came incomplete.
        OSError: the disk is full or cannot be written.
    """
    path = _place(address, cache_root)
    if path.is_file():
        return path
    fs, remote = filesystem(address)
    with explained(address):
        about = fs.info(remote)
    if about.get("type") == "directory":
        raise ClipevalError(f"{shown(address)} is a folder, and a file was expected.")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with explained(address):
            fs.get_file(remote, str(partial))
        size, said = partial.stat().st_size, about.get("size")
        if said is not None and size != said:
            raise ClipevalError(
                f"{shown(address)} came incomplete: {size:,} of {said:,} bytes. Run the same command again."
            )
        note = {"address": shown(address), "size": size, "sha256": sha256_of(partial)}
        write_atomically(_note(address, cache_root), json.dumps(note, indent=1).encode())
        partial.replace(path)  # last: its presence says that it is whole
    finally:
        partial.unlink(missing_ok=True)
    return path


def _place(address: str, cache_root: Path) -> Path:
    name = PurePosixPath(urlsplit(address).path).name or "file"
    return cache_root / "remote" / _digest(address) / name


def _note(address: str, cache_root: Path) -> Path:
    return cache_root / "remote" / f"{_digest(address)}.json"


def _digest(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()[:32]
