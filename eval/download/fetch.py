"""`clipeval download`: every set of the chosen tasks and the model's weights, checked, converted, locked.

After it no run needs a network. A second call sends no request at all: the lock files say that everything is there.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

from filelock import Timeout
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]
from rich.console import Console
from rich.filesize import decimal

from clipeval.configs.errors import ClipevalError
from clipeval.data import DataConfig
from clipeval.data.config import AS_THEY_ARE
from clipeval.data.lock import NAME, Entry, Lock, entry_of, write_lock
from clipeval.download.cached import convert_cached
from clipeval.download.convert import convert
from clipeval.download.plan import Action, DataSet, Plan, gather, plan
from clipeval.download.problems import FULL, DiskFullError, UnreachableError, free_space, no_room
from clipeval.download.remote import Hub, RemoteFile
from clipeval.download.report import DownloadError, Report, Row
from clipeval.download.shards import SHARD_SIZE, install, move, room_for

BUSY = ".clipeval-download.lock"
"""Held in data.root while files are fetched, so that the jobs of an array do not fetch the same set at once."""


class Weights(Protocol):
    """What is needed of a model (`clipeval.models.ModelHandle`)."""

    name: str

    @property
    def missing(self) -> str | None:
        """None if all its files are on this machine."""

    def fetch(self) -> None:
        """Downloads what is missing."""


def download(
    tasks: Mapping[str, DataConfig],
    root: Path | None,
    handle: Weights | None,
    *,
    workers: int = 8,
    verify: bool = False,
    dry_run: bool = False,
    splits: Mapping[str, Sequence[str]] | None = None,
    endpoint: str | None = None,
    console: Console | None = None,
    shard_size: int = SHARD_SIZE,
) -> Report:
    """Fetches, checks, converts and locks the tasks' data and the model's weights.

    Args:
        tasks: each task's `data`, by its id.
        root: `data.root`; None where every task names a path of its own.
        handle: the model; None fetches data alone.
        workers: transfers at once.
        verify: also hash every locked file (`--verify`); what is damaged is fetched again.
        dry_run: fetch nothing, write nothing: the rows say what would be fetched, and under which terms (`--dry-run`).
        splits: which splits each task needs (test, train); None, or a task not named: all that the repository has.
        endpoint: the hub; None: HF_ENDPOINT, else huggingface.co.
        console: where bars are shown, if it is a terminal; None: standard error.
        shard_size: bytes of a converted set's shards.

    Returns:
        A row for each set and the model.

    Raises:
        DownloadError: some sets failed; the others are complete. Its `report` has the rows.
        ClipevalError: nothing more could be done: no network, no room on the disk, contradictory tasks.
    """
    console = console or Console(stderr=True)
    hub = Hub(endpoint, console)
    gathered = gather(tasks, root, splits)
    with hub.working(), _threads(hub, workers) as pool:
        work = _Work(hub, pool, console, workers, shard_size)
        plans = work.plan_all(gathered.sets, verify)
        again = [data for data, p in plans.items() if isinstance(p, Plan) and p.need is not Action.NOTHING]
        if dry_run:
            rows = [work.preview(data, p) for data, p in plans.items()]
        else:
            with _alone(root, work.say) if again else nullcontext():
                plans.update(work.plan_all(again, verify))
                rows = work.run(plans)
        by_name = {name: row for data, row in zip(plans, rows, strict=True) for name in data.names}
        by_name.update({row.name: row for row in gathered.rows})
        report = Report(list({id(by_name[name]): by_name[name] for name in tasks}.values()))
        if handle is not None:
            report.rows.append(_fetch_model(handle, work.say, dry_run))
    if report.failures:
        raise DownloadError(report)
    return report


@contextmanager
def _threads(hub: Hub, workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that begin nothing more once the block has ended, however it ends; Ctrl-C ends what they do as well.

    Transfers are theirs, not the main thread's: there, Ctrl-C would wait for huggingface_hub's own threads.
    """
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="download") as pool:
        try:
            yield pool
        except BaseException as problem:
            if not isinstance(problem, Exception):
                hub.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class _Work:
    """One call's work, set after set; the files of a set come side by side."""

    def __init__(self, hub: Hub, pool: ThreadPoolExecutor, console: Console, workers: int, shard_size: int) -> None:
        self._hub, self._pool, self._console = hub, pool, console
        self._workers, self._shard_size = max(1, workers), shard_size

    def say(self, text: str) -> None:
        """A line between the bars, where there is a terminal."""
        if self._console.is_terminal:
            self._console.print(text, markup=False, highlight=False)

    def plan_all(self, sets: Sequence[DataSet], full: bool) -> dict[DataSet, Plan | ClipevalError]:
        """A plan for each set, or why there is none; the first set that finds no network ends it all."""
        futures = {data: self._pool.submit(plan, data, self._hub, full=full) for data in sets}
        plans: dict[DataSet, Plan | ClipevalError] = {}
        for data, future in futures.items():
            try:
                plans[data] = future.result()
            except (UnreachableError, DiskFullError):
                raise
            except ClipevalError as problem:
                plans[data] = problem
        return plans

    def run(self, plans: Mapping[DataSet, Plan | ClipevalError]) -> list[Row]:
        """Does what the plans say; a row for each, failures included."""
        able = [p for p in plans.values() if isinstance(p, Plan)]
        _check_room(able)
        return [self._do(p, able) if isinstance(p, Plan) else _failed(data, str(p)) for data, p in plans.items()]

    def preview(self, data: DataSet, p: Plan | ClipevalError) -> Row:
        """What `run` would do for a set, what its files weigh, and under which terms it is given."""
        if isinstance(p, ClipevalError):
            return _failed(data, str(p))
        here = p.lock if p.need is Action.NOTHING else None
        files, size = (
            (len(p.files), sum(file.size for file in p.files)) if here is None else (len(here.files), here.size)
        )
        status = {Action.NOTHING: "reused", Action.FETCH: "to fetch"}.get(p.need, "to convert")
        note = p.note or self._hub.terms(data.hub)
        return Row(data.name, str(data.folder), status, files, size, p.to_transfer, note)

    def _do(self, p: Plan, plans: Sequence[Plan]) -> Row:
        """Fetches, converts and locks one set."""
        try:
            transferred = self._fetch(p)
            if p.need is Action.NOTHING:
                lock, status = p.lock, "reused"
            elif p.need is Action.CACHED:
                lock, status = convert_cached(p.data.cache, p.data.hub, p.data.folder, self._shard_size), "converted"
            elif p.need is Action.CONVERT:
                lock, status = self._converted(p), "converted"
            else:
                lock, status = _locked(p), "fetched" if transferred else "reused"
        except (DiskFullError, UnreachableError):
            raise
        except ClipevalError as problem:
            return _failed(p.data, str(problem))
        except OSError as problem:
            if problem.errno in FULL:
                needed = sum(other.space for other in plans if _disk(other.data.folder) == _disk(p.data.folder))
                raise no_room(p.data.folder, needed, free_space(p.data.folder)) from problem
            note = f"{problem.filename or p.data.folder} cannot be read or written ({problem.strerror}). Check its permissions."
            return _failed(p.data, note)
        note = p.note or self._hub.terms(p.data.hub)
        if p.need is Action.FETCH and lock is not None and not (p.data.folder / NAME).exists():
            note = f"the folder is read-only, so {NAME} could not be written"
        files, size = (0, 0) if lock is None else (len(lock.files), lock.size)
        return Row(p.data.name, str(p.data.folder), status, files, size, transferred, note)

    def _fetch(self, p: Plan) -> int:
        """Brings what a set lacks, checked: in place, or to where it is converted from. Gives the bytes that came."""
        matches = self._pool.map(lambda file: file.matches(p.data.folder / file.path), p.check)
        missing = [*p.missing, *(file for file, same in zip(p.check, matches, strict=True) if not same)]
        if not missing:
            return 0
        assert p.commit is not None
        about = [decimal(sum(file.size for file in missing)), self._hub.terms(p.data.hub)]
        self.say(f"fetching {p.data.hub} ({', '.join(filter(None, about))})")
        transfer = self._pool.submit(self._hub.fetch, p.data.hub, p.commit, missing, p.data.fetched, self._workers)
        transferred = transfer.result()
        if p.need is Action.FETCH:
            _move_into_place(p, {file.path for file in missing})
        return transferred

    def _converted(self, p: Plan) -> Lock:
        """Turns the fetched sources into the one layout, moves it into place, and removes the sources."""
        self.say(f"converting {p.data.hub}")
        made = room_for(p.data.folder)
        sources = [p.data.fetched / file.path for file in p.files]
        form = convert(sources, made, self._shard_size)
        source = {file.path: _entry(file, path) for file, path in zip(p.files, sources, strict=True)}
        return install(
            made,
            p.data.folder,
            form,
            hub=p.data.hub,
            requested=p.data.revision,
            revision=p.commit,
            source=source,
        )


def _failed(data: DataSet, note: str) -> Row:
    return Row(data.name, str(data.folder), "failed", note=note)


def _locked(p: Plan) -> Lock:
    """The lock of a set whose files have all been checked; written, unless the folder cannot be."""
    form = "files" if p.data.kind in ("huggingface", *AS_THEY_ARE) else "webdataset"
    files = {file.path: _entry(file, p.data.folder / file.path) for file in p.files}
    lock = Lock(p.data.hub, p.data.revision, p.commit, form, files, splits=p.splits)
    if lock.requested is None and p.lock is not None:
        lock = Lock(lock.hub, p.lock.requested, lock.revision, form, files, splits=p.splits)
    try:
        write_lock(p.data.folder, lock)
        shutil.rmtree(p.data.partial, ignore_errors=True)
    except OSError as problem:
        if problem.errno not in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise
    return lock


def _move_into_place(p: Plan, names: set[str]) -> None:
    """Moves fetched files into the set's folder. Until the last is there no run can take the mixture for the old set or the new.

    The shard counts, with which a reader begins, go first and come back last; a folder that moves to another revision has no
    lock meanwhile.
    """
    if p.lock is None:
        (p.data.folder / NAME).unlink(missing_ok=True)
    counts = {file.path for file in p.files if file.path.endswith("nshards.txt")}
    for name in counts & names:
        (p.data.folder / name).unlink(missing_ok=True)
    move(counts - names, p.data.folder, p.data.fetched)
    move(counts | names, p.data.fetched, p.data.folder)


def _entry(file: RemoteFile, path: Path) -> Entry:
    return Entry(file.size, file.sha256) if file.sha256 else entry_of(path)


def _check_room(plans: Sequence[Plan]) -> None:
    """Before the first byte: is there room for all of it?

    Raises:
        DiskFullError: it says how much is needed, where, and how much is free.
    """
    by_disk: dict[int, list[Plan]] = {}
    for p in plans:
        by_disk.setdefault(_disk(p.data.folder), []).append(p)
    for some in by_disk.values():
        needed, free = sum(p.space for p in some), free_space(some[0].data.folder)
        if needed > free:
            raise no_room(some[0].data.folder.parent, needed, free)


def _disk(folder: Path) -> int:
    """The file system that a folder is, or will be, on."""
    while not folder.exists():
        folder = folder.parent
    return folder.stat().st_dev


@contextmanager
def _alone(root: Path | None, say: Callable[[str], None]) -> Iterator[None]:
    """Holds data.root's lock, so that two downloads into it take turns; the later one finds the work done."""
    if root is None:
        yield
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise ClipevalError(f"data.root={root} cannot be made ({problem.strerror}). Choose another.") from None
    if not os.access(root, os.W_OK):
        yield
        return
    with ExitStack() as held:
        try:
            held.enter_context(WeakFileLock(root / BUSY, timeout=0.5))
        except Timeout:
            say(f"another download is at work in {root}: waiting for it")
            held.enter_context(WeakFileLock(root / BUSY))
        yield


def _fetch_model(handle: Weights, say: Callable[[str], None], dry_run: bool) -> Row:
    if handle.missing is None:
        return Row("model", handle.name, "reused")
    if dry_run:
        return Row("model", handle.name, "to fetch")
    say(f"fetching the model {handle.name}")
    try:
        handle.fetch()
    except ClipevalError as problem:
        return Row("model", handle.name, "failed", note=str(problem))
    return Row("model", handle.name, "fetched")
