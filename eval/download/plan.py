"""What one data set needs: nothing, some files, a conversion. Looked up before the first byte is fetched."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path, PurePosixPath

from huggingface_hub.errors import RevisionNotFoundError

from clipeval.configs.errors import ClipevalError
from clipeval.data import DataConfig
from clipeval.data.config import AS_THEY_ARE
from clipeval.data.lock import NAME, Lock, damage, read_lock
from clipeval.data.splits import same_split, split_of
from clipeval.download.cached import CACHE, cached_tables
from clipeval.download.remote import Hub, RemoteFile
from clipeval.download.report import Row
from clipeval.download.shards import PARTIAL

CONVERTED = "refs/convert/parquet"
"""Where the hub keeps its own parquet conversion of a repository."""
CONVERSION_SPACE = 1.05
"""Bytes of a prepared set over those of its sources: tar headers and captions."""

_OF_TEST = re.compile(r"(^|[/_.-])test([/_.-]|$)")


class Action(Enum):
    """What has to be done for a set."""

    NOTHING = "nothing"
    FETCH = "fetch"
    CONVERT = "convert"
    CACHED = "cached"


@dataclass(frozen=True)
class DataSet:
    """A folder that one task or several read, and where it comes from."""

    names: tuple[str, ...]
    folder: Path
    hub: str
    revision: str | None
    kind: str
    splits: tuple[str, ...] | None
    cure: str = ""

    @property
    def name(self) -> str:
        """The tasks' names."""
        return ", ".join(self.names)

    @property
    def partial(self) -> Path:
        """Where files are kept until the set is whole; gone afterwards."""
        return self.folder / PARTIAL

    @property
    def fetched(self) -> Path:
        """Where files are fetched into, on their way to `folder` or to a conversion."""
        return self.partial / "source"

    @property
    def cache(self) -> Path:
        """Where DataComp's hf_cache would lie."""
        return self.folder.parent / CACHE


@dataclass(frozen=True)
class Plan:
    """What a set needs.

    Attributes:
        need: see Action.
        commit: the commit to fetch.
        files: every file that the set, or its conversion, is made of.
        check: those of them that are there with the right size and whose content nobody has vouched for.
        missing: those that have to be fetched, unless an earlier call has.
        lock: the folder's present lock.
        splits: the splits that are fetched; None: all there are.
        note: for the report.
    """

    data: DataSet
    need: Action
    commit: str | None = None
    files: Sequence[RemoteFile] = ()
    check: Sequence[RemoteFile] = ()
    missing: Sequence[RemoteFile] = ()
    lock: Lock | None = None
    splits: tuple[str, ...] | None = None
    note: str = ""

    @property
    def to_transfer(self) -> int:
        """Bytes that have to come over the network, without what an earlier call fetched already."""
        return sum(file.size for file in self.missing if not file.is_whole(self.data.fetched))

    @property
    def space(self) -> int:
        """Bytes that the disk must have free, what an earlier call fetched already counted."""
        needed = self.to_transfer
        if self.need is Action.CONVERT:
            needed += int(CONVERSION_SPACE * sum(file.size for file in self.files))
        return needed


@dataclass
class DownloadRequests:
    """The distinct sets of the chosen tasks, and rows for those that the hub has no part in."""

    sets: list[DataSet] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)


def gather(
    tasks: Mapping[str, DataConfig], root: Path | None, splits: Mapping[str, Sequence[str]] | None
) -> DownloadRequests:
    """The distinct folders that the tasks read.

    Raises:
        ClipevalError: two tasks want different repositories or revisions in one folder.
    """
    gathered = DownloadRequests()
    by_folder: dict[Path, DataSet] = {}
    base = None if root is None else str(root)
    for name, config in tasks.items():
        place = config.hub_folder(base)
        if config.is_of_hub and not config.folder and (config.path or place is None):
            gathered.rows.append(_huggingface(name, config))
            continue
        folder = place if config.is_of_hub and place is not None else config.location(base)
        wanted = None if splits is None or name not in splits else tuple(sorted(splits[name]))
        if config.hub is None:
            gathered.rows.append(_local(name, folder, config.cure))
            continue
        lacking = dataclasses.replace(config, elsewhere=config.elsewhere or ()).for_split()
        data = DataSet((name,), folder, config.hub, config.revision, config.kind, wanted, lacking)
        other = by_folder.get(folder)
        if other is not None:
            if (other.hub, other.revision) != (data.hub, data.revision):
                raise ClipevalError(
                    f"the tasks {other.name} and {name} both read {folder}, from {other.hub} at {other.revision} and from "
                    f"{data.hub} at {data.revision}. Give one of them another data.folder."
                )
            both = None if other.splits is None or wanted is None else tuple(sorted({*other.splits, *wanted}))
            data = DataSet((*other.names, name), folder, data.hub, data.revision, data.kind, both, data.cure)
        by_folder[folder] = data
    gathered.sets = list(by_folder.values())
    return gathered


def plan(data: DataSet, hub: Hub, *, full: bool = False) -> Plan:
    """Looks at the folder, and at the hub where the folder does not settle it.

    Args:
        data: the set.
        hub: asked for the commit and its files; not at all where the lock and the folder agree.
        full: whether "agree" means contents and not sizes alone.

    Raises:
        ClipevalError: the hub cannot say, or has nothing that can be used.
    """
    lock = read_lock(data.folder)
    if lock is not None and not lock.comes_from(data.hub, data.revision):
        lock = None
    broken = {} if lock is None else damage(data.folder, lock, full=full)
    if lock is not None and not broken and lock.has_splits(data.splits):
        return Plan(data, Action.NOTHING, lock=lock, splits=lock.splits)
    from_cache = not _is_prepared(data.folder) if lock is None else lock.hub is None
    if from_cache and cached_tables(data.cache, data.hub):
        return Plan(data, Action.CACHED, note=f"from {CACHE}; its revision is unknown")
    if lock is not None and lock.revision:
        commit, files = lock.revision, _recorded(data, hub, lock.revision)
    else:
        commit = hub.commit(data.hub, data.revision)
        files = hub.files(data.hub, commit)
    as_it_is = data.kind in AS_THEY_ARE  # a table of any kind, beside pictures of its own
    if data.revision is None and not (as_it_is or _is_usable(files)):
        try:
            commit = hub.commit(data.hub, CONVERTED)
            files = hub.files(data.hub, commit)
        except ClipevalError as problem:
            if not isinstance(problem.__cause__, RevisionNotFoundError):
                raise
    if as_it_is or data.kind == "huggingface" or _is_webdataset(files):
        return _fetch(data, commit, files, lock, broken)
    return _convert(data, commit, files, lock)


def _recorded(data: DataSet, hub: Hub, commit: str) -> list[RemoteFile]:
    """The files of a commit that a lock records, which the repository's history may have lost since."""
    try:
        return hub.files(data.hub, commit)
    except ClipevalError as problem:
        if isinstance(problem.__cause__, RevisionNotFoundError) and data.revision != commit:
            raise ClipevalError(
                f"{data.hub} no longer has the commit {commit[:12]} that {data.folder / NAME} records, and some of its files here "
                "are damaged or missing. Delete that lock file to fetch the set as it is now."
            ) from problem
        raise


def _fetch(
    data: DataSet, commit: str, files: Sequence[RemoteFile], lock: Lock | None, broken: Mapping[str, str]
) -> Plan:
    """A repository whose files are used as they are."""
    wanted = [file for file in files if not _is_about(file.path)]
    splits = None
    if data.kind == "huggingface" or (data.kind in AS_THEY_ARE and _of(wanted, ".parquet")):
        # Parquet alone is read, and of a large set the splits that tasks need.
        wanted, splits = _of(wanted, ".parquet"), data.splits
        wanted = [
            file for file in wanted if any(same_split(name, split_of(file.path)) for name in splits or ())
        ] or wanted
        if not wanted:
            raise ClipevalError(f"{data.hub} at {commit[:12]} holds no parquet file; name a data.revision that does.")
    present = {PurePosixPath(file.path).parts[0] for file in wanted if file.path.endswith("/nshards.txt")}
    absent = sorted(set(data.splits or ()) - present)
    if present and absent:
        raise ClipevalError(f"{data.hub} has no split {absent[0]!r}; it has {', '.join(sorted(present))}. {data.cure}")
    if data.splits is not None and present - set(data.splits):
        splits = data.splits
        wanted = [file for file in wanted if PurePosixPath(file.path).parts[0] not in present - set(data.splits)]
    missing = [file for file in wanted if file.path in broken or not file.is_whole(data.folder)]
    known = lock.files if lock is not None else {}
    check = [file for file in wanted if file not in missing and file.path not in known]
    return Plan(data, Action.FETCH, commit, wanted, check, missing, lock, splits)


def _convert(data: DataSet, commit: str, files: Sequence[RemoteFile], lock: Lock | None) -> Plan:
    """A repository of parquet, or of a CSV and a zip."""
    parquet = _of(files, ".parquet")
    tests = [file for file in parquet if _OF_TEST.search(PurePosixPath(file.path).as_posix().split("/", 1)[-1])]
    sources = tests or parquet or [*_of(files, ".csv"), *_of(files, ".zip")]
    if not _is_usable(files):
        raise ClipevalError(
            f"{data.hub} at {commit[:12]} holds neither a webdataset (nshards.txt), nor parquet, nor a CSV with a zip of images; "
            "check data.hub and data.revision in the task's config."
        )
    if any("partial-" in file.path for file in sources):  # of a large repository the hub converts the beginning alone
        location = f"{data.hub} at {data.revision or CONVERTED}"
        raise ClipevalError(f"{location}: the hub's parquet conversion is partial; name another data.revision.")
    if lock is None and _is_prepared(data.folder):
        return Plan(data, Action.NOTHING, note="prepared elsewhere, so there is nothing to check it against")
    return Plan(data, Action.CONVERT, commit, sources, missing=sources, lock=lock)


def _huggingface(name: str, config: DataConfig) -> Row:
    """A set that the reader opens with `datasets`, from a path or from that library's own cache."""
    if config.path and Path(config.path).expanduser().exists():
        return Row(name, config.path, "local", note="not from the hub")
    source = config.hub or config.path or ""
    return Row(
        name, source, "local", note="read by `datasets` at its first run; data.root=PATH and data.hub fetch it there"
    )


def _local(name: str, folder: Path, cure: str) -> Row:
    if folder.exists():
        return Row(name, str(folder), "local", note="not from the hub")
    return Row(name, str(folder), "failed", note=f"{folder} does not exist, and the task names no data.hub. {cure}")


def _is_prepared(folder: Path) -> bool:
    """Whether a folder holds a whole set in the one layout, by its own word."""
    try:
        count = int((folder / "test" / "nshards.txt").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return all((folder / "test" / f"{i}.tar").exists() for i in range(count))


def _is_usable(files: Sequence[RemoteFile]) -> bool:
    """Whether a repository's files can be read or converted; the alternative is the hub's own conversion of it."""
    return _is_webdataset(files) or bool(_of(files, ".parquet") or (_of(files, ".csv") and _of(files, ".zip")))


def _is_webdataset(files: Sequence[RemoteFile]) -> bool:
    return any(file.path.endswith("nshards.txt") for file in files)


def _of(files: Sequence[RemoteFile], suffix: str) -> list[RemoteFile]:
    return [file for file in files if file.path.lower().endswith(suffix)]


def _is_about(path: str) -> bool:
    """Files about a repository, which no reader opens and which DataComp's own script does not fetch."""
    return any(part.startswith(".") for part in PurePosixPath(path).parts) or path == "README.md"
