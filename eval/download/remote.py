"""The hub as seen from here: which commit, which files, and one file's bytes, checked.

The requests are huggingface_hub's: its client, headers, token, rate-limit back-off and `http_get`. Its `hf_hub_download`
is not used, for what version 2.4 does with a local folder: it deletes the old file before it has the new one, throws a
broken transfer away when the process ends, and never checks what it wrote.
"""

from __future__ import annotations

import io
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar, cast

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import RevisionNotFoundError
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, tqdm  # type: ignore[attr-defined]
from huggingface_hub.utils import logging as hub_logging

from clipeval.configs.errors import ClipevalError
from clipeval.data.lock import git_blob_of
from clipeval.download.problems import explain, is_transient, retry_after
from clipeval.results.files import sha256_of

LIBRARY = "clipeval"
ATTEMPTS = 6
"""How often a request or a transfer that brings nothing new is tried."""
LONGEST_WAIT = 300.0
"""The longest pause between two attempts, in seconds, whatever the server asks for."""

T = TypeVar("T")
Progress = Callable[[int], None]


class Cancelled(Exception):  # noqa: N818  (a signal between threads, not an error)
    """Another thread has failed or the user has pressed Ctrl-C."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository at one commit.

    Attributes:
        path: in the repository, with slashes.
        size: bytes.
        sha256: of the content, for files in large file storage; None for the others.
        blob: git's name for the content (sha1); of the pointer, for files in large file storage.
    """

    path: str
    size: int
    sha256: str | None
    blob: str

    @property
    def identity(self) -> str:
        """A name for the content, whichever digest the hub keeps of it."""
        return self.sha256 or self.blob

    def matches(self, path: Path) -> bool:
        """Whether a file on disk has this very content."""
        if path.stat().st_size != self.size:
            return False
        return sha256_of(path) == self.sha256 if self.sha256 else git_blob_of(path) == self.blob


class Hub:
    """Data sets of the hub at `HF_ENDPOINT` (read now, not at import). Safe to use from several threads."""

    def __init__(self, endpoint: str | None = None) -> None:
        self.endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        if not self.endpoint.startswith(("https://", "http://")):
            raise ClipevalError(f"HF_ENDPOINT is {self.endpoint!r}; an address that begins with https:// was expected.")
        self._api = HfApi(endpoint=self.endpoint, library_name=LIBRARY)

    def commit(self, repo: str, revision: str | None) -> str:
        """The commit that a branch, tag or abbreviated commit stands for now.

        Raises:
            ClipevalError: there is no such repository or revision, or it may not be read, or the hub cannot be reached.
        """
        info = _patiently(
            lambda: self._api.repo_info(repo, repo_type="dataset", revision=revision, timeout=30),
            lambda problem: explain(problem, repo, revision, self.endpoint),
        )
        if info.sha is None:
            raise ClipevalError(f"{self.endpoint} names no commit for {repo} at {revision or 'its default branch'}.")
        return info.sha

    def has_revision(self, repo: str, revision: str) -> bool:
        """Whether a branch or tag exists."""
        try:
            _patiently(
                lambda: self._api.repo_info(repo, repo_type="dataset", revision=revision, timeout=30),
                lambda problem: explain(problem, repo, revision, self.endpoint),
            )
        except ClipevalError as problem:
            if isinstance(problem.__cause__, RevisionNotFoundError):
                return False
            raise
        return True

    def files(self, repo: str, commit: str) -> list[RemoteFile]:
        """Every file of a repository at a commit, sorted by path."""

        def listing() -> list[RemoteFile]:
            tree = self._api.list_repo_tree(repo, repo_type="dataset", revision=commit, recursive=True)
            return [
                RemoteFile(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
                for entry in tree
                if isinstance(entry, RepoFile)
            ]

        found = _patiently(listing, lambda problem: explain(problem, repo, commit, self.endpoint))
        for file in found:
            parts = PurePosixPath(file.path).parts
            if ".." in parts or file.path.startswith("/") or "\\" in file.path:
                raise ClipevalError(
                    f"{repo} lists a file that lies outside its folder ({file.path!r}); nothing was fetched."
                )
        return sorted(found, key=lambda file: file.path)

    def fetch(
        self,
        repo: str,
        commit: str,
        file: RemoteFile,
        target: Path,
        partial: Path,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        """Brings one file to `target`, whole and checked, or raises and leaves `target` as it was.

        A transfer that breaks off goes on where it stopped, in this call or a later one: its bytes lie in `partial` under
        the content's own name. Content that does not match the hub's digest is thrown away and fetched once more.

        Raises:
            ClipevalError: see `explain`; wrong content names the file and both digests.
            OSError: the disk is full or cannot be written.
            Stopped: `stop` was set.
        """
        kept = partial / file.identity
        for last in (False, True):
            self._transfer(repo, commit, file, kept, progress, stop)
            if file.matches(kept):
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(kept, target)
                return
            actual = sha256_of(kept) if file.sha256 else git_blob_of(kept)
            kept.unlink()
            if last:
                raise ClipevalError(
                    f"{repo}, file {file.path}: the hub says {file.identity[:16]}… and sends content of {actual[:16]}…, twice. "
                    "A proxy may be altering it, or the hub's copy is damaged; nothing of it was kept."
                )
            progress(-file.size)

    def _transfer(
        self, repo: str, commit: str, file: RemoteFile, kept: Path, progress: Progress, stop: threading.Event
    ) -> None:
        """Makes `kept` as long as the file, going on from what is there."""
        url = hf_hub_url(repo, file.path, repo_type="dataset", revision=commit, endpoint=self.endpoint)
        headers = _Headers(build_hf_headers(library_name=LIBRARY), stop)
        headers["Accept-Encoding"] = "identity"  # a compressed body has no ranges to resume by
        kept.parent.mkdir(parents=True, exist_ok=True)
        counted = 0

        def count(position: int) -> None:
            nonlocal counted
            progress(position - counted)
            counted = position

        def attempt() -> None:
            if stop.is_set():
                raise Cancelled
            with _appending(kept, count, stop) as (stream, have):
                count(have)
                if have >= file.size:  # whole, or longer than it may be: its digest will tell
                    return
                http_get(
                    url,
                    cast(BinaryIO, stream),
                    resume_size=have,
                    headers=headers,
                    expected_size=file.size,
                    displayed_filename=file.path,
                    tqdm_class=_Silent,
                )

        _patiently(
            attempt,
            lambda problem: explain(problem, repo, commit, self.endpoint, file.path),
            advanced=lambda: kept.stat().st_size if kept.exists() else 0,
            stop=stop,
        )


class _Headers(dict[str, str]):
    """Headers that `http_get` copies before each attempt of its own: a stalled transfer can be told to stop there."""

    def __init__(self, headers: dict[str, str], stop: threading.Event) -> None:
        super().__init__(headers)
        self._stop = stop

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, str]:
        if self._stop.is_set():
            raise Cancelled
        return dict(self)


class _Stream(io.RawIOBase):
    """A file that `http_get` writes to, which counts what it gets and can be told to stop."""

    def __init__(self, file: BinaryIO, count: Progress, stop: threading.Event) -> None:
        self._file, self._count, self._stop = file, count, stop

    def write(self, data: Any) -> int:
        if self._stop.is_set():
            raise Cancelled
        written = self._file.write(data)
        self._count(self._file.tell())
        return written

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:  # http_get starts over where a server ignores ranges
        length = self._file.truncate(size)
        self._count(length)
        return length


@contextmanager
def _appending(path: Path, count: Progress, stop: threading.Event) -> Iterator[tuple[_Stream, int]]:
    """The partial file, open at its end, and its length; on disk in full when the block ends well."""
    with path.open("ab+") as file:
        have = file.seek(0, os.SEEK_END)
        yield _Stream(cast(BinaryIO, file), count, stop), have
        file.flush()
        os.fsync(file.fileno())


class _Silent(tqdm):
    """huggingface_hub's own bars would run through those of the report."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]


def _patiently(
    call: Callable[[], T],
    sentence: Callable[[BaseException], ClipevalError],
    advanced: Callable[[], int] | None = None,
    stop: threading.Event | None = None,
) -> T:
    """Calls, and calls again after a pause where that may help.

    The pause is what the server asks for (`Retry-After`), else 1, 2, 4, … s. Attempts that bring new bytes are not counted.

    Args:
        call: the request.
        sentence: the error to raise when it is given up.
        advanced: how far a transfer has come.
        stop: ends a pause early.
    """
    tries, pause, reached = 0, 1.0, -1 if advanced is None else advanced()
    while True:
        try:
            return call()
        except (httpx2.HTTPError, OSError, RuntimeError, ValueError) as problem:
            if isinstance(problem, ClipevalError):
                raise
            if isinstance(problem, OSError) and problem.errno is not None and not isinstance(problem, httpx2.HTTPError):
                raise  # the disk's, not the network's
            if advanced is not None and (now := advanced()) > reached:
                tries, pause, reached = 0, 1.0, now
            tries += 1
            limit = 3 if isinstance(problem, httpx2.ConnectError) and advanced is None else ATTEMPTS
            if not is_transient(problem) or tries >= limit:
                raise sentence(problem) from problem
            _pause(min(LONGEST_WAIT, retry_after(problem) or pause), stop)
            pause *= 2


def _pause(seconds: float, stop: threading.Event | None) -> None:
    if stop is None:
        time.sleep(seconds)
    else:
        stop.wait(seconds)


@contextmanager
def quiet_client() -> Iterator[None]:
    """While this lasts, huggingface_hub's warnings of its retries do not run through the progress display."""
    logger = hub_logging.get_logger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
