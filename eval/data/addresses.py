"""Files that lie elsewhere (s3://…, gs://…, https://…), by fsspec: fetched once into the cache, whole or not at all.

    cache.root/remote/<digest of the address>/<file name>     the copy
    cache.root/remote/<digest of the address>.json            where it is from, its size and its sha256

Which protocols there are, and how one logs in to them, is fsspec's: environment variables of the cloud's own tools
(AWS_PROFILE, GOOGLE_APPLICATION_CREDENTIALS), and FSSPEC_<PROTOCOL>_<OPTION> for the rest, such as FSSPEC_S3_ENDPOINT_URL.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from clipeval.configs.errors import ClipevalError, first_line, nearest
from clipeval.configs.files import sha256_of, write_atomically
from clipeval.results import safe_json

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
EXTRA = "pip install 'clipeval[remote]'"
"""What brings the packages that fsspec reads S3, Google's storage and the web with."""
_LOGIN = {
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for a public bucket FSSPEC_S3_ANON=true",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`",
    "hf": "run `hf auth login`, or set HF_TOKEN",
}
_DENIED = ("credential", "forbidden", "unauthorized", "accessdenied", "access denied", "401", "403")


def is_address(text: object) -> bool:
    """Whether a text names a file or folder elsewhere, as `s3://bucket/name` does."""
    return isinstance(text, str) and bool(_ADDRESS.match(text))


def filesystem(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it.

    Returns:
        An `fsspec.AbstractFileSystem`; the path as its methods take it. Use them inside `explained`.

    Raises:
        ClipevalError: fsspec knows no such protocol, the package that reads it is not installed, or the address holds a password.
    """
    import fsspec

    scheme = urlsplit(address).scheme.lower()
    if urlsplit(address).password:
        raise ClipevalError(
            f"{shown(address)} holds a password, which every record of a run would repeat: leave it out of the address "
            f"({_LOGIN.get(scheme, 'fsspec reads FSSPEC_' + scheme.upper() + '_USERNAME and …_PASSWORD')})."
        )
    if scheme not in (known := fsspec.available_protocols()):
        raise ClipevalError(f"{shown(address)}: {nearest('protocol', scheme, known)}")
    try:
        fs, path = fsspec.core.url_to_fs(address)
    except ImportError as problem:
        raise ClipevalError(f"{shown(address)} needs a package that is not installed ({problem}): {EXTRA}") from None
    except Exception as problem:  # each file system logs in here, and raises its own library's errors
        raise _error(address, problem) from problem
    return fs, str(path)


@contextmanager
def explained(address: str) -> Iterator[None]:
    """What a file system raises about an address becomes one ClipevalError."""
    try:
        yield
    except ClipevalError:
        raise
    except Exception as problem:  # botocore's, aiohttp's, google's: none derives from OSError
        if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise  # this machine's disk, not the other's
        raise _error(address, problem) from problem


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


def shown(address: str) -> str:
    """An address without password and without the query, which may be a signature."""
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def _place(address: str, cache_root: Path) -> Path:
    name = PurePosixPath(urlsplit(address).path).name or "file"
    return cache_root / "remote" / _digest(address) / name


def _note(address: str, cache_root: Path) -> Path:
    return cache_root / "remote" / f"{_digest(address)}.json"


def _digest(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()[:32]


def _error(address: str, problem: BaseException) -> ClipevalError:
    cause = problem.__cause__
    if isinstance(problem, FileNotFoundError) and cause is not None and "404" not in str(cause):
        problem = cause  # fsspec's reader of the web calls everything so that gives no file, a refused connection too
    scheme, line = urlsplit(address).scheme.lower(), first_line(problem)
    if isinstance(problem, FileNotFoundError):
        return ClipevalError(f"{shown(address)}: there is no such file.")
    what = f"{type(problem).__name__}: {line[:200]}"
    if isinstance(problem, PermissionError) or any(word in what.lower() for word in _DENIED):
        return ClipevalError(f"{shown(address)} may not be read ({what}): {_LOGIN.get(scheme, 'it wants a log-in')}.")
    return ClipevalError(f"{shown(address)} cannot be read ({what}): see whether this machine reaches it.")
