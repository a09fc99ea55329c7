"""The lock file: what a downloaded folder holds, to the byte, and which revision of which repository it came from.

There is one for each folder, `<folder>/clipeval.lock.json`, not one for `data.root`: a folder that is copied, linked or
shared takes its lock along, two downloads into one root never write the same file, and `verify` needs the folder alone.

    {"schema": 1,
     "hub": "djghosh/wds_cifar10_test",       null where the folder was converted from DataComp's hf_cache
     "requested": "main",                     the revision that the task's config named; null: none
     "revision": "75099…",                    the commit it was resolved to, once; null: unknown (hf_cache)
     "form": "webdataset",                    as it came, or what made it: retrieval, association, files
     "files": {"test/0.tar": {"size": 1, "sha256": "…"}, …},      what lies in the folder
     "source": {"test/0000.parquet": {"size": 1, "sha256": "…"}}, what it was converted from; {} where nothing was
     "splits": ["test"],                      the splits that were fetched; null: all
     "digest": "…",                           sha256 of the paths and digests of `files`
     "created": "2026-11-23T22:50:00+00:00"}

It is written last, after every file's content has been checked: its existence means that the download is complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from clipeval.configs.errors import ClipevalError
from clipeval.configs.files import sha256_of, write_atomically
from clipeval.results import safe_json

NAME = "clipeval.lock.json"
SCHEMA = 1


@dataclass(frozen=True)
class Entry:
    """A file's size in bytes and the sha256 of its content."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Lock:
    """The content of a lock file; see the module's docstring."""

    hub: str | None
    requested: str | None
    revision: str | None
    form: str
    files: Mapping[str, Entry]
    source: Mapping[str, Entry] = field(default_factory=dict)
    splits: tuple[str, ...] | None = None

    @property
    def digest(self) -> str:
        """sha256 of the paths and digests of all files."""
        lines = "".join(f"{entry.sha256}  {path}\n" for path, entry in sorted(self.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files.values())

    def comes_from(self, hub: str | None, revision: str | None) -> bool:
        """Whether this is what a task means that names a repository and a revision; a folder from hf_cache always is."""
        if self.hub is None:  # the cache keeps no revision: there is nothing to compare
            return True
        return self.hub == hub and (revision is None or revision in (self.requested, self.revision))

    def has_splits(self, splits: tuple[str, ...] | None) -> bool:
        """Whether these splits (None: all that there are) were fetched."""
        return self.splits is None or (splits is not None and set(splits) <= set(self.splits))


def read_lock(folder: Path) -> Lock | None:
    """The folder's lock, or None where it has none.

    Raises:
        ClipevalError: the lock file is not one that this version can read, or was edited.
    """
    path = folder / NAME
    try:
        raw = safe_json.read(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as problem:
        raise ClipevalError(f"{path} is damaged ({problem}). Delete it and run `clipeval download` again.") from None
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        schema = raw.get("schema") if isinstance(raw, dict) else "none"
        raise ClipevalError(
            f"{path} has schema {schema}, and {SCHEMA} was expected. Delete it and run `clipeval download`."
        )
    try:
        lock = Lock(
            hub=raw["hub"],
            requested=raw["requested"],
            revision=raw["revision"],
            form=raw["form"],
            files={name: Entry(**entry) for name, entry in raw["files"].items()},
            source={name: Entry(**entry) for name, entry in raw["source"].items()},
            splits=None if raw["splits"] is None else tuple(raw["splits"]),
        )
    except (KeyError, TypeError, AttributeError) as problem:
        raise ClipevalError(
            f"{path} lacks or misnames {problem}. Delete it and run `clipeval download` again."
        ) from None
    if lock.digest != raw.get("digest"):
        raise ClipevalError(f"{path} contradicts its own digest: it was edited. Delete it and run `clipeval download`.")
    return lock


def write_lock(folder: Path, lock: Lock) -> None:
    """Writes the folder's lock, whole or not at all. Call it last, when every file has been checked."""
    body = {
        "schema": SCHEMA,
        **asdict(lock),
        "files": {name: asdict(entry) for name, entry in sorted(lock.files.items())},
        "source": {name: asdict(entry) for name, entry in sorted(lock.source.items())},
        "digest": lock.digest,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_atomically(folder / NAME, (json.dumps(body, indent=1) + "\n").encode())


def expected_digests(folder: Path) -> dict[str, str] | None:
    """sha256 of every file by its path in the folder (`test/0.tar`), as its lock says; None where it has no lock."""
    lock = read_lock(folder)
    return None if lock is None else {name: entry.sha256 for name, entry in lock.files.items()}


def check_lock(folder: Path, paths: Iterable[Path], known: Mapping[Path, str] | None = None) -> None:
    """Compares files that are about to be used with the folder's lock; where there is none, nothing is compared.

    Args:
        folder: a data set's folder.
        paths: files in it. Those that the lock does not name are not compared.
        known: sha256 of files that were hashed already.

    Raises:
        ClipevalError: a file is missing or is not what was downloaded.
    """
    locked = expected_digests(folder) or {}
    for path in paths if locked else ():
        expected = locked.get(path.relative_to(folder).as_posix())
        if expected is None:
            continue
        actual = (known or {}).get(path) or (sha256_of(path) if path.exists() else None)
        if actual != expected:
            difference = "it is missing" if actual is None else f"its sha256 is {actual[:12]}…"
            raise ClipevalError(
                f"{path} is not what was downloaded: {difference}, and the lock says {expected[:12]}…. "
                f"Fetch it again with `clipeval download --verify`; if the change is meant, delete {folder / NAME}."
            )


def verify(folder: Path, *, full: bool = False) -> list[str]:
    """What differs between a folder and its lock: a sentence for each file, none where all is well.

    Args:
        folder: a data set's folder.
        full: also hash every file's content. Otherwise sizes alone are compared, which costs a `stat` a file.
    """
    lock = read_lock(folder)
    if lock is None:
        return [f"{folder} has no {NAME}: nothing says what it should hold. Run `clipeval download`."]
    return [f"{folder / name}: {problem}." for name, problem in damage(folder, lock, full=full).items()]


def damage(folder: Path, lock: Lock, *, full: bool = False) -> dict[str, str]:
    """The files of a lock that are missing or other than it says, each with what is wrong with it."""
    differences: dict[str, str] = {}
    for name, entry in lock.files.items():
        path = folder / name
        try:
            size = path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            differences[name] = "missing"
            continue
        if size != entry.size:
            differences[name] = f"{size:,} bytes, and the lock says {entry.size:,}"
        elif full and (actual := sha256_of(path)) != entry.sha256:
            differences[name] = f"sha256 {actual[:12]}…, and the lock says {entry.sha256[:12]}…"
    return differences


def entry_of(path: Path) -> Entry:
    """A file's size and digest, as they are now."""
    return Entry(path.stat().st_size, sha256_of(path))
