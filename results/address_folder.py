"""The files of a run folder at an address (s3://bucket/folder), by fsspec: listed, read and written whole."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from clipeval.configs.addresses import explained, filesystem, shown, version_of
from clipeval.configs.errors import ClipevalError

FOLDERS = {"predictions": ".parquet", "records": ".json", "status": ".json", "jobs": ".json"}
FILES = ("run.json", "eval_results.jsonl", "sinks.json")
"""What a run folder holds. Nothing else that lies at an address is looked at."""
TRANSFERS = 8
_WHOLE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hf", "memory", "oss", "oci", "r2")
"""Stores in which nobody sees a file before all of it is there. In others it is written under another name, and renamed."""
_MODIFIED = ("LastModified", "last_modified", "mtime", "updated", "created")


class Stored(NamedTuple):
    """A file at an address.

    Attributes:
        size: in bytes; None where it is not said.
        version: another one for another content.
        modified: seconds since 1970; None where it is not said.
    """

    size: int | None
    version: str
    modified: float | None

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Stored:
        """What `fs.info` or `fs.ls` says of it."""
        size, when = entry.get("size"), next((entry[key] for key in _MODIFIED if entry.get(key)), None)
        seconds = when.timestamp() if isinstance(when, datetime) else when if isinstance(when, float) else None
        return cls(size, f"{size}:{version_of(entry)}", seconds)


class AddressFolder:
    """A folder at an address. Making one asks nobody.

    Attributes:
        address: as it may be shown.
        name: its last part.
        commits: whether each file that is written is a commit of a repository.
        digest: 32 hexadecimal digits that stand for the address and the server that is asked for it.

    Raises:
        ClipevalError: as `filesystem`.
    """

    def __init__(self, address: str) -> None:
        self._fs, root = filesystem(address)
        self._root = root.rstrip("/")
        self._scheme = urlsplit(address).scheme.lower()
        self.address = shown(address).rstrip("/")
        self.name = PurePosixPath(self._root).name
        self.commits = self._scheme == "hf"
        content = "\n".join([address.rstrip("/"), _endpoint(self._fs)])
        self.digest = hashlib.sha256(content.encode()).hexdigest()[:32]

    def list(self) -> dict[str, Stored]:
        """{name: what is known of it} of what a run folder holds, such as records/mnist.json; empty where there is nothing.

        Raises:
            ClipevalError: it cannot be read, there is no such bucket, or it is a file.
        """
        with explained(self.address):
            self._fs.invalidate_cache()
            top = self._ls("")
            if any(entry["name"] == self._root and entry.get("type") != "directory" for entry in top.values()):
                raise ClipevalError(f"{self.address} is a file, and a run folder was expected.")
            parts = [name for name in FOLDERS if name in top and top[name].get("type") == "directory"]
            with ThreadPoolExecutor(TRANSFERS) as pool:
                below = dict(zip(parts, pool.map(self._ls, parts), strict=True))
        found = {name: Stored.of(top[name]) for name in FILES if name in top}
        for part, entries in below.items():
            for name, entry in entries.items():
                if name.endswith(FOLDERS[part]) and not name.startswith(".") and entry.get("type") != "directory":
                    found[f"{part}/{name}"] = Stored.of(entry)
        return found

    def _ls(self, part: str) -> dict[str, Mapping[str, Any]]:
        try:
            entries = self._fs.ls(self._path(part).rstrip("/"), detail=True)
        except FileNotFoundError as problem:
            if problem.__cause__ is not None:  # of S3: that there is no such bucket
                raise
            return {}
        return {entry["name"].rstrip("/").rpartition("/")[2]: entry for entry in entries}

    def about(self, name: str) -> Stored | None:
        """What is known of a file; None where there is none.

        Raises:
            ClipevalError: it cannot be asked.
        """
        with explained(f"{self.address}/{name}"):
            self._fs.invalidate_cache()
            try:
                return Stored.of(self._fs.info(self._path(name)))
            except FileNotFoundError:
                return None

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is none.

        Raises:
            ClipevalError: it cannot be read.
        """
        with explained(f"{self.address}/{name}"):
            try:
                return bytes(self._fs.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> str | None:
        """Puts a file there, so that nobody sees a part of it.

        Returns:
            Its version; None where somebody else's content took its place at once.

        Raises:
            ClipevalError: it cannot be written. Its cause is what the file system raised.
        """
        path = self._path(name)
        with explained(f"{self.address}/{name}", "written"):
            if self._scheme in _WHOLE:
                self._fs.pipe_file(path, content)
            else:
                folder, _, last = path.rpartition("/")
                self._fs.makedirs(folder, exist_ok=True)
                temporary = f"{folder}/.{last}.{secrets.token_hex(8)}.tmp"
                self._fs.pipe_file(temporary, content)
                self._fs.mv(temporary, path)
        about = self.about(name)
        if about is None:
            return None
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if about.version.partition(":")[2].strip('"') == digest:  # as S3 has it of a file that came in one piece
            return about.version
        return about.version if self.read(name) == content and self.about(name) == about else None

    def remove(self, name: str) -> None:
        """Removes a file.

        Raises:
            ClipevalError: it cannot be done.
        """
        with explained(f"{self.address}/{name}", "removed"):
            self._fs.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def names_in(folder: Path) -> list[str]:
    """The files of a run folder of this machine, as an address calls them."""
    found = [name for name in FILES if (folder / name).exists()]
    for part, ending in FOLDERS.items():
        found += [f"{part}/{path.name}" for path in sorted((folder / part).glob(f"[!.]*{ending}"))]
    return found


def _endpoint(fs: Any) -> str:
    """Which of several servers of S3's protocol is spoken to: the same address is another folder on another one."""
    options = fs.storage_options
    given = options.get("endpoint_url") or (options.get("client_kwargs") or {}).get("endpoint_url")
    if given is None and "s3" in fs.protocol:
        given = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return str(given or "")
