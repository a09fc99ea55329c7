"""Addresses (s3://…, gs://…, hf://…, https://…): which texts are some, and what lies behind them, by fsspec.

Which protocols there are, and how one logs in to them, is fsspec's: environment variables of the cloud's own tools
(AWS_PROFILE, GOOGLE_APPLICATION_CREDENTIALS), and FSSPEC_<PROTOCOL>_<OPTION> for the rest, such as FSSPEC_S3_ENDPOINT_URL.
fsspec is imported when an address is opened.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from clipeval.configs.errors import ClipevalError, first_line, nearest

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
EXTRA = "pip install 'clipeval[remote]'"
"""What brings the packages that fsspec reads S3, Google's storage and the web with."""
_LOGIN = {
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for a public bucket FSSPEC_S3_ANON=true",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`",
    "hf": "run `hf auth login`, or set HF_TOKEN",
}
_DENIED = ("credential", "forbidden", "unauthorized", "accessdenied", "access denied", "401", "403")
_VERSIONS = ("ETag", "etag", "blob_id", "md5Hash", "generation", "LastModified", "last_modified", "mtime", "created")
"""What file systems call what tells two contents of one name apart, the surest first."""


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
def explained(address: str, done: str = "read") -> Iterator[None]:
    """What a file system raises about an address, which is to be read or `written`, becomes one ClipevalError, of that cause."""
    try:
        yield
    except ClipevalError:
        raise
    except Exception as problem:  # botocore's, aiohttp's, google's: none derives from OSError
        if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise  # this machine's disk, not the other's
        raise _error(address, problem, done) from problem


def version_of(entry: Mapping[str, Any]) -> str:
    """What tells a file's content from another one of the same name; empty where its file system says nothing of the kind.

    Args:
        entry: what `fs.info` or `fs.ls` says of it.
    """
    lfs = entry.get("lfs") or {}
    if isinstance(lfs, Mapping) and lfs.get("sha256"):
        return str(lfs["sha256"])
    return next((str(entry[key]) for key in _VERSIONS if entry.get(key) is not None), "")


def shown(address: str) -> str:
    """An address without password and without the query, which may be a signature."""
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def _error(address: str, problem: BaseException, done: str = "read") -> ClipevalError:
    cause = problem.__cause__
    if isinstance(problem, FileNotFoundError) and cause is not None and "404" not in str(cause):
        problem = cause  # fsspec's reader of the web calls everything so that gives no file, a refused connection too
    scheme, line = urlsplit(address).scheme.lower(), first_line(problem)
    if isinstance(problem, FileNotFoundError):
        return ClipevalError(f"{shown(address)}: there is no such file.")
    what = f"{type(problem).__name__}: {line[:200]}"
    if isinstance(problem, PermissionError) or any(word in what.lower() for word in _DENIED):
        return ClipevalError(f"{shown(address)} may not be {done} ({what}): {_LOGIN.get(scheme, 'it wants a log-in')}.")
    return ClipevalError(f"{shown(address)} cannot be {done} ({what}): see whether this machine reaches it.")
