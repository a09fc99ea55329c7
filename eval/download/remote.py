"""The hub as seen from here: which commit, which files, and their content, checked.

Requests, transfers, resumption within a transfer and checksums are huggingface_hub's: `snapshot_download` and
`verify_repo_checksums`. Around them stand what it leaves open: which failures are worth another attempt, that content which
does not match is thrown away, and that Ctrl-C ends its threads.
"""

from __future__ import annotations

import glob
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import httpx2
from huggingface_hub import HfApi, constants, get_session, snapshot_download
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]
from rich.console import Console

from clipeval.configs import hub_terms
from clipeval.configs.errors import ClipevalError
from clipeval.configs.files import sha256_of
from clipeval.data.library_logs import errors_only
from clipeval.download.problems import explain, is_transient, original, retry_after

LIBRARY = "clipeval"
ATTEMPTS = 6
"""How often a request or a transfer that brings nothing new is tried."""
LONGEST_WAIT = 300.0
"""The longest pause between two attempts, in seconds, whatever the server asks for."""

T = TypeVar("T")


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

    def is_whole(self, folder: Path) -> bool:
        """Whether a file of this name and size lies below a folder."""
        try:
            return (folder / self.path).stat().st_size == self.size
        except (FileNotFoundError, NotADirectoryError):
            return False

    def matches(self, path: Path) -> bool:
        """Whether a file on disk has this very content."""
        if self.sha256:
            return sha256_of(path) == self.sha256
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == self.blob


class Hub:
    """Data sets of the hub at `HF_ENDPOINT` (read now, not at import). Safe to use from several threads."""

    def __init__(self, endpoint: str | None, console: Console) -> None:
        self.endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        if not self.endpoint.startswith(("https://", "http://")):
            raise ClipevalError(f"HF_ENDPOINT is {self.endpoint!r}; an address that begins with https:// was expected.")
        self._api = HfApi(endpoint=self.endpoint, library_name=LIBRARY)
        self._stop = threading.Event()
        self._console = console
        self._terms: dict[str, str] = {}

    def terms(self, repo: str) -> str:
        """What a repository's page says of its licence and who may read it, known once `commit` has asked; before that ""."""
        return self._terms.get(repo, "")

    def commit(self, repo: str, revision: str | None) -> str:
        """The commit that a branch, tag or abbreviated commit stands for now.

        Raises:
            ClipevalError: there is no such repository or revision, or it may not be read, or the hub cannot be reached.
        """
        info = self._patiently(lambda: self._api.dataset_info(repo, revision=revision, timeout=30), repo, revision)
        self._terms[repo] = hub_terms.of_page(info)
        hub_terms.remember(self.endpoint, repo, info)
        if info.sha is None:
            raise ClipevalError(f"{self.endpoint} names no commit for {repo} at {revision or 'its default branch'}.")
        return info.sha

    def files(self, repo: str, commit: str) -> list[RemoteFile]:
        """Every file of a repository at a commit, sorted by path."""

        def listing() -> list[RemoteFile]:
            tree = self._api.list_repo_tree(repo, repo_type="dataset", revision=commit, recursive=True)
            return [
                RemoteFile(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
                for entry in tree
                if isinstance(entry, RepoFile)
            ]

        files = self._patiently(listing, repo, commit)
        for file in files:
            parts = PurePosixPath(file.path).parts
            if ".." in parts or file.path.startswith("/") or "\\" in file.path:
                raise ClipevalError(
                    f"{repo} lists a file that lies outside its folder ({file.path!r}); nothing was fetched."
                )
        return sorted(files, key=lambda file: file.path)

    def fetch(self, repo: str, commit: str, files: Sequence[RemoteFile], folder: Path, workers: int) -> int:
        """Brings files below `folder`, whole and checked. What lies there already, from an earlier call, is not fetched again.

        Content that does not match the hub's digest is thrown away and fetched once more.

        Args:
            files: what is wanted of the repository.
            folder: theirs alone: huggingface_hub keeps its notes and unfinished files in it (`.cache/huggingface`).
            workers: transfers at once.

        Returns:
            The bytes that came over the network, counted in whole files.

        Raises:
            ClipevalError: see `explain`; wrong content names the file and both digests.
            OSError: the disk is full or cannot be written.
            Cancelled: the work is over (`working`).
        """
        transferred, wrong = 0, list(files)
        for again in (False, True):

            def snapshot(files: Sequence[RemoteFile] = wrong, again: bool = again) -> None:
                with ExitStack() as shown:
                    snapshot_download(
                        repo,
                        repo_type="dataset",
                        revision=commit,
                        local_dir=folder,
                        allow_patterns=[glob.escape(file.path) for file in files],
                        max_workers=workers,
                        force_download=again,  # a damaged file is not to be taken from huggingface_hub's own cache once more
                        endpoint=self.endpoint,
                        library_name=LIBRARY,
                        tqdm_class=_bars(self._console, self._check, shown),
                    )

            transferred += sum(file.size for file in wrong if not file.is_whole(folder))
            self._patiently(snapshot, repo, commit, lambda: [f.path for f in files if not f.is_whole(folder)])
            verified = self._patiently(
                lambda: self._api.verify_repo_checksums(repo, repo_type="dataset", revision=commit, local_dir=folder),
                repo,
                commit,
            )
            actual = dict.fromkeys(verified.missing_paths, "none") | {
                m["path"]: m["actual"] for m in verified.mismatches
            }
            wrong = [file for file in files if file.path in actual]
            for file in wrong:
                (folder / file.path).unlink(missing_ok=True)
            if not wrong:
                return transferred
        raise ClipevalError(
            f"{repo}, file {wrong[0].path}: the hub says {(wrong[0].sha256 or wrong[0].blob)[:16]}… and sends content of "
            f"{actual[wrong[0].path][:16]}…, twice. A proxy may be altering it, or the hub's copy is damaged; nothing of it was "
            "kept."
        )

    @contextmanager
    def working(self) -> Iterator[None]:
        """While this lasts, huggingface_hub's warnings do not run through the bars; when it breaks off, so do its threads."""
        hooks = get_session().event_hooks[
            "request"
        ]  # a stalled transfer is tried again for a minute, unless it is told
        hooks.append(self._check)
        try:
            with errors_only("huggingface_hub"):
                yield
        finally:
            hooks.remove(self._check)

    def stop(self) -> None:
        """Ends the transfers of all threads; files that are not whole are dropped."""
        self._stop.set()
        with suppress(ImportError):  # its transfers over Xet are in another library's threads, and have no public end
            from huggingface_hub.utils._xet import abort_xet_session

            abort_xet_session()  # type: ignore[no-untyped-call]

    def _check(self, *_: object) -> None:
        if self._stop.is_set():
            raise Cancelled

    def _patiently(
        self, call: Callable[[], T], repo: str, revision: str | None, missing: Callable[[], Sequence[str]] = tuple
    ) -> T:
        """Calls, and calls again after a pause where that may help.

        The pause is what the server asks for (`Retry-After`), else 1, 2, 4, … s. Attempts that bring new files are not counted.

        Args:
            call: the request.
            repo, revision: what it asks for.
            missing: the files that a transfer has not brought yet.
        """
        tries, pause, before = 0, 1.0, len(missing())
        while True:
            self._check()
            try:
                return call()
            except (httpx2.HTTPError, OSError, RuntimeError, ValueError) as raised:
                problem = original(raised)
                if isinstance(problem, ClipevalError):
                    raise
                if (
                    isinstance(problem, OSError)
                    and problem.errno is not None
                    and not isinstance(problem, httpx2.HTTPError)
                ):
                    raise  # the disk's, not the network's
                lacking = missing()
                if len(lacking) < before:
                    tries, pause, before = 0, 1.0, len(lacking)
                tries += 1
                limit = 3 if isinstance(problem, httpx2.ConnectError) else ATTEMPTS
                if problem is not raised:  # what huggingface_hub wraps it has tried five times itself
                    limit = 2
                if not is_transient(problem) or tries >= limit:
                    more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
                    file = f"{lacking[0]}{more}" if lacking else None
                    raise explain(problem, repo, revision, self.endpoint, file) from problem
                _pause(min(LONGEST_WAIT, retry_after(problem) or pause), self._stop)
                pause *= 2


def _bars(console: Console, check: Callable[[], None], shown: ExitStack) -> type[tqdm]:
    """huggingface_hub's own bars, on the console if it is a terminal, until `shown` ends.

    Each of their steps is where huggingface_hub's threads can be told to end: by what `check` raises.
    """

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            silent = options.get("disable") or not console.is_terminal
            options |= {"disable": silent, "file": console.file, "leave": False}
            super().__init__(*args, **options)  # type: ignore[no-untyped-call]
            shown.callback(self.close)

        def update(self, n: float | None = 1) -> None:
            check()
            super().update(n)

    return Bar


def _pause(seconds: float, stop: threading.Event) -> None:
    stop.wait(seconds)
