"""`clipeval download`: every set of the chosen tasks and the model's weights, checked, converted, locked.

After it no run needs a network. A second call sends no request at all: the lock files say that everything is there.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from filelock import Timeout
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]
from rich.console import Console
from rich.progress import TaskID

from clipeval.configs.errors import ClipevalError
from clipeval.data import DataConfig
from clipeval.data.lock import NAME, Entry, Lock, entry_of, write_lock
from clipeval.download.cached import convert_cached
from clipeval.download.convert import convert
from clipeval.download.plan import Action, DataSet, Plan, gather, plan
from clipeval.download.problems import FULL, DiskFullError, UnreachableError, free_space, no_room
from clipeval.download.remote import Cancelled, Hub, RemoteFile, quiet_client
from clipeval.download.report import Display, DownloadError, Report, Row, location_name
from clipeval.download.shards import SHARD_SIZE, install

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
    hub = Hub(endpoint)
    gathered = gather(tasks, root, splits)
    display = Display(console or Console(stderr=True))
    with quiet_client(), display.running(), _threads(workers) as pool:
        plans = _plan_all(gathered.sets, hub, pool, verify)
        if any(isinstance(p, Plan) and p.need is not Action.NOTHING for p in plans.values()):
            with _alone(root, display):
                again = [data for data, p in plans.items() if isinstance(p, Plan) and p.need is not Action.NOTHING]
                plans.update(_plan_all(again, hub, pool, verify))
                rows = _Work(hub, pool, display, shard_size).run(plans)
        else:
            rows = _Work(hub, pool, display, shard_size).run(plans)
        by_name = {name: row for data, row in zip(plans, rows, strict=True) for name in data.names}
        by_name.update({row.name: row for row in gathered.rows})
        report = Report(list({id(by_name[name]): by_name[name] for name in tasks}.values()))
        if handle is not None:
            report.rows.append(_fetch_model(handle, display))
    if report.failures:
        raise DownloadError(report)
    return report


@contextmanager
def _threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that begin nothing more once the block has ended, however it ends."""
    pool = ThreadPoolExecutor(max_workers=max(1, workers), thread_name_prefix="download")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _plan_all(
    sets: Sequence[DataSet], hub: Hub, pool: ThreadPoolExecutor, full: bool
) -> dict[DataSet, Plan | ClipevalError]:
    """A plan for each set, or why there is none; the first set that finds no network ends it all."""
    futures = {data: pool.submit(plan, data, hub, full=full) for data in sets}
    plans: dict[DataSet, Plan | ClipevalError] = {}
    for data, future in futures.items():
        try:
            plans[data] = future.result()
        except (UnreachableError, DiskFullError):
            for other in futures.values():
                other.cancel()
            raise
        except ClipevalError as problem:
            plans[data] = problem
    return plans


class _Work:
    """One call's transfers: files of all sets side by side, sets finished in their order."""

    def __init__(self, hub: Hub, pool: ThreadPoolExecutor, display: Display, shard_size: int) -> None:
        self._hub, self._pool, self._display, self._shard_size = hub, pool, display, shard_size
        self._stop = threading.Event()

    def run(self, plans: Mapping[DataSet, Plan | ClipevalError]) -> list[Row]:
        """Does what the plans say; a row for each, failures included."""
        able = [p for p in plans.values() if isinstance(p, Plan)]
        _check_room(able)
        self._display.set_total(sum(file.size for p in able for file in (*p.missing, *p.check)))
        running: dict[DataSet, list[Future[int]]] = {}
        bars: dict[DataSet, TaskID] = {}
        try:
            for p in able:
                _give_up_old_lock(p)
                files = [*p.missing, *p.check]
                bars[p.data] = self._display.add(location_name(p.data.folder), sum(file.size for file in files))
                running[p.data] = [self._pool.submit(self._bring, p, file, bars[p.data]) for file in files]
            rows = []
            for data, outcome in plans.items():
                if isinstance(outcome, ClipevalError):
                    rows.append(Row(data.name, str(data.folder), "failed", note=str(outcome)))
                    continue
                rows.append(self._finish(outcome, running[data], able))
                self._display.finish(bars[data])
            return rows
        finally:  # whatever ends this early, Ctrl-C included, ends the transfers: they go on where they stopped another time
            self._stop.set()
            for future in (future for futures in running.values() for future in futures):
                future.cancel()

    def _bring(self, p: Plan, file: RemoteFile, bar: TaskID) -> int:
        """One file, checked. Gives the bytes that came over the network."""
        target = p.target / file.path
        if self._stop.is_set():
            raise Cancelled
        if file in p.check and file.matches(target):
            self._display.advance(bar, file.size)
            return 0
        assert p.commit is not None
        kept = p.data.partial / file.identity
        had = kept.stat().st_size if kept.exists() else 0
        self._hub.fetch(
            p.data.hub,
            p.commit,
            file,
            target,
            p.data.partial,
            lambda size: self._display.advance(bar, size),
            self._stop,
        )
        return file.size - min(had, file.size)

    def _finish(self, p: Plan, transfers: Sequence[Future[int]], plans: Sequence[Plan]) -> Row:
        """Waits for a set's files, converts, locks."""
        try:
            transferred = _all(transfers)
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
            return Row(p.data.name, str(p.data.folder), "failed", note=str(problem))
        except OSError as problem:
            if problem.errno in FULL:
                needed = sum(other.space for other in plans if _disk(other.data.folder) == _disk(p.data.folder))
                raise no_room(p.data.folder, needed, free_space(p.data.folder)) from problem
            note = f"{problem.filename or p.data.folder} cannot be read or written ({problem.strerror}). Check its permissions."
            return Row(p.data.name, str(p.data.folder), "failed", note=note)
        note = p.note
        if p.need is Action.FETCH and lock is not None and not (p.data.folder / NAME).exists():
            note = f"the folder is read-only, so {NAME} could not be written"
        files, size = (0, 0) if lock is None else (len(lock.files), lock.size)
        return Row(p.data.name, str(p.data.folder), status, files, size, transferred, note)

    def _converted(self, p: Plan) -> Lock:
        """Turns the fetched sources into the one layout, moves it into place, and removes the sources."""
        self._display.say(f"converting {p.data.hub}")
        made = p.data.partial / "made"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        sources = [p.target / file.path for file in p.files]
        form = convert(sources, made, self._shard_size)
        (p.data.folder / NAME).unlink(missing_ok=True)
        names = install(made, p.data.folder)
        lock = Lock(
            hub=p.data.hub,
            requested=p.data.revision,
            revision=p.commit,
            form=form,
            files={name: entry_of(p.data.folder / name) for name in names},
            source={file.path: _entry(file, path) for file, path in zip(p.files, sources, strict=True)},
        )
        write_lock(p.data.folder, lock)
        shutil.rmtree(p.data.partial)
        return lock


def _locked(p: Plan) -> Lock:
    """The lock of a set whose files have all been checked; written, unless the folder cannot be."""
    form = "files" if p.data.kind in ("huggingface", "pairs", "caption_rows") else "webdataset"
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


def _entry(file: RemoteFile, path: Path) -> Entry:
    return Entry(file.size, file.sha256) if file.sha256 else entry_of(path)


def _give_up_old_lock(p: Plan) -> None:
    """A folder that moves to another revision has no lock while it does: a run must not take the mixture for either."""
    if p.need is Action.FETCH and p.lock is None:
        with suppress(PermissionError):  # where the lock cannot be removed no file can be replaced, and it stays true
            (p.data.folder / NAME).unlink(missing_ok=True)


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


def _all(transfers: Sequence[Future[int]]) -> int:
    """The bytes that a set's transfers brought; waits for all of them, then raises the first problem."""
    problems = [problem for future in transfers if (problem := future.exception()) is not None]
    for problem in sorted(problems, key=lambda problem: not isinstance(problem, (DiskFullError, OSError))):
        raise problem
    return sum(future.result() for future in transfers)


@contextmanager
def _alone(root: Path | None, display: Display) -> Iterator[None]:
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
            display.say(f"another download is at work in {root}: waiting for it")
            held.enter_context(WeakFileLock(root / BUSY))
        yield


def _fetch_model(handle: Weights, display: Display) -> Row:
    if handle.missing is None:
        return Row("model", handle.name, "reused")
    display.say(f"fetching the model {handle.name}")
    try:
        handle.fetch()
    except ClipevalError as problem:
        return Row("model", handle.name, "failed", note=str(problem))
    return Row("model", handle.name, "fetched")
