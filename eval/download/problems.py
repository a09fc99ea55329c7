"""What can go wrong between here and the hub, each as one sentence that names the thing and the cure."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import httpx2
from huggingface_hub import get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from rich.filesize import decimal

from clipeval.configs.errors import ClipevalError

TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class UnreachableError(ClipevalError):
    """The hub does not answer at all: trying the next set is of no use."""


class DiskFullError(ClipevalError):
    """There is no room for what is to be fetched: trying the next set is of no use."""


def status_of(problem: BaseException) -> int | None:
    """The HTTP status that an exception carries, if any."""
    response = getattr(problem, "response", None)
    return None if response is None else int(response.status_code)


def original(problem: BaseException) -> BaseException:
    """What the hub or the network said, of an exception that huggingface_hub wraps in one of its own."""
    if isinstance(problem, (LocalEntryNotFoundError, ValueError)) and problem.__cause__ is not None:
        return original(problem.__cause__)
    return problem


def is_transient(problem: BaseException) -> bool:
    """Whether trying again may help: a rate limit, a server's fault, a broken or slow connection, a short file."""
    status = status_of(problem)
    if status is not None:
        return status in TRANSIENT
    if isinstance(problem, (httpx2.TransportError, RuntimeError)):
        return True  # RuntimeError: hf_xet's, or the client that threads share was closed, as when one cannot connect
    short_file = isinstance(problem, OSError) and "Consistency check failed" in str(problem)
    return short_file and not isinstance(problem, HfHubHTTPError)


def retry_after(problem: BaseException) -> float | None:
    """The seconds that the server asks to wait (`Retry-After`), if it does."""
    response = getattr(problem, "response", None)
    value = "" if response is None else response.headers.get("Retry-After", "").strip()
    return float(value) if value.isdigit() else None


def explain(
    problem: BaseException, repo: str, revision: str | None, endpoint: str, file: str | None = None
) -> ClipevalError:
    """The one sentence for a failed request.

    Args:
        problem: what huggingface_hub, its HTTP client or the file system raised.
        repo: the data set's repository.
        revision: what was asked for; None: the default branch.
        endpoint: the hub's address.
        file: what was being fetched.
    """
    what = repo if file is None else f"{repo}, file {file}"
    page = f"{endpoint}/datasets/{repo}"
    status = status_of(problem)
    if isinstance(problem, HFValidationError):
        return ClipevalError(
            f"data.hub={repo!r} is no repository of the hub, which is named as org/name ({_cause(problem)})."
        )
    if isinstance(problem, (ValueError, FileMetadataError)):
        return ClipevalError(
            f"{what}: {endpoint} does not answer as the hub does ({_cause(problem)}). Check HF_ENDPOINT, and whether a proxy or "
            "a login page answers in its place."
        )
    if isinstance(problem, GatedRepoError):
        return ClipevalError(_gated(repo, page))
    if isinstance(problem, RevisionNotFoundError):
        return ClipevalError(f"{repo} has no revision {revision!r}: see {page}/tree for its branches and commits.")
    if isinstance(problem, EntryNotFoundError):
        return ClipevalError(
            f"{what}: the hub lists this file and does not serve it at revision {revision!r}; see {page}."
        )
    if isinstance(problem, RepositoryNotFoundError) or status == 401:
        hint = "the token in HF_TOKEN may not read it" if get_token() else "no token is set (HF_TOKEN)"
        return ClipevalError(
            f"{endpoint} knows no data set {repo!r}, or it is private or gated and {hint}. Check data.hub in the task's config; "
            f"if {page} opens in your browser, accept its terms there and set HF_TOKEN to a token of that account."
        )
    if status == 403:
        return ClipevalError(
            f"{what}: access is refused (403). Accept the set's terms at {page}, and give the token in HF_TOKEN the right to "
            "read gated repositories."
        )
    if status == 429:
        return ClipevalError(
            f"{what}: {endpoint} keeps limiting the rate (429). Wait some minutes and run `clipeval download` again: what "
            "came is kept. A token in HF_TOKEN has a higher limit."
        )
    if status is not None and status >= 500:
        return ClipevalError(
            f"{what}: {endpoint} answers with an error of its own ({status}), again and again. Run `clipeval download` again "
            "later: what came is kept."
        )
    if isinstance(problem, OfflineModeIsEnabled):
        return UnreachableError(
            f"{repo} is not on this machine, and HF_HUB_OFFLINE forbids fetching it. Unset HF_HUB_OFFLINE."
        )
    if isinstance(problem, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError)):
        return UnreachableError(
            f"{endpoint} cannot be reached ({_cause(problem)}), and {repo} is not complete on this machine. Check the "
            "connection, the proxy (HTTPS_PROXY) and HF_ENDPOINT, or run `clipeval download` on a machine with a network "
            "and copy data.root."
        )
    xet = (
        " HF_HUB_DISABLE_XET=1 fetches over plain HTTP." if isinstance(problem, (RuntimeError, PermissionError)) else ""
    )
    return ClipevalError(
        f"{what}: the transfer keeps breaking off ({_cause(problem)}). Run `clipeval download` again: the files that came are "
        f"kept.{xet}"
    )


def no_room(folder: Path, needed: int, free: int) -> DiskFullError:
    """The sentence for a disk that is too small for what is still to be fetched and converted."""
    return DiskFullError(
        f"the disk is too full: {decimal(needed)} are needed below {folder}, and {decimal(free)} are free there. Make room, "
        "choose another data.root or fewer tasks, and run `clipeval download` again: what came is kept."
    )


def free_space(folder: Path) -> int:
    """The bytes free on the file system that a folder is, or will be, on."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _gated(repo: str, page: str) -> str:
    if get_token() is None:
        return (
            f"{repo} is gated: accept its terms at {page}, make a token at your account's settings, set HF_TOKEN to it, and "
            "run `clipeval download` again."
        )
    return (
        f"{repo} is gated, and the account of the token in HF_TOKEN may not read it: accept its terms at {page} with that "
        "account (and let the token read gated repositories), then run `clipeval download` again."
    )


def _cause(problem: BaseException) -> str:
    text = str(problem).strip().splitlines()
    return text[0] if text else type(problem).__name__
