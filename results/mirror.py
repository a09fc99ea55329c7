"""A run folder at an address (`out=s3://bucket/folder`): it is worked on in a folder of this machine, and kept at the address.

    cache.root/runs/<digest>/<name>/…       the run folder, staged: as any other, and all that a run reads
    cache.root/runs/<digest>/.ledger/…      of each file that both have: what it was when they last agreed
    cache.root/runs/<digest>/.address       where it belongs, for `clipeval cache`

What lies at the address is the truth: what differs there is fetched, and what was removed there goes here too. A staged file
that the ledger does not know, or that has changed since, was not sent yet: a run has ended between writing and sending it. The
next run sends it, unless the address has another one by now. A record and its predictions are one thing. Any number of
processes of any number of machines may write to one address: see `Mirror.send_task`.

Whoever opens an address gets the path of the staged folder. What `RunFolder` and its like write below it they send, for `of`
knows the path.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath

from clipeval.configs.addresses import is_address
from clipeval.configs.errors import ClipevalError
from clipeval.configs.files import sha256_of, write_atomically
from clipeval.results import ledger, safe_json
from clipeval.results.address_folder import TRANSFERS, AddressFolder, Stored, names_in
from clipeval.results.inside import inside

PASSING = "status/"
"""What speaks of processes that run: sent at once or never."""
PAUSES = (1.0, 5.0)
"""Seconds between the attempts to send a file. The libraries below try several times in each of them."""
FRESH = 10.0
"""Seconds for which a staged file may be in the making: of another process of this machine, between predictions and record."""
ROUNDS, BETWEEN = 3, 1.0
"""How often a task is looked at again that somebody else seems to be writing, and the seconds between."""
ADDRESS = ".address"

log = logging.getLogger(__name__)


class Mirror:
    """The run folder of an address. Making one asks and writes nothing.

    Attributes:
        address: as it may be shown.
        folder: the staged folder.
        lost: whether something could not be sent, since it was last pulled.

    Raises:
        ClipevalError: there is no such protocol, its package is missing, or the address holds a password.
    """

    def __init__(self, address: str, cache: Path) -> None:
        self._there = AddressFolder(address)
        self.address = self._there.address
        self.folder = cache / "runs" / self._there.digest / (self._there.name.lstrip(".") or "run")
        self.lost = False

    # What lies there comes here.

    def pull(self) -> None:
        """Brings the staged folder up to date: what has changed at the address is transferred, and nothing else.

        Raises:
            ClipevalError: the address cannot be read.
            OSError: the disk is full or cannot be written.
        """
        self.lost = False
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder.parent / ADDRESS, self.address.encode())
        for number in range(ROUNDS):
            time.sleep(BETWEEN if number else 0)
            there = self._there.list()
            seen = {name: self._mark(name) for name in there}
            news = [name for name, about in there.items() if self._is_news(name, about, there)]
            with ThreadPoolExecutor(TRANSFERS) as pool:
                for last in (False, True):  # records: nobody here is to see one before its predictions
                    part = [name for name in news if name.startswith("records/") == last]
                    list(pool.map(self._get, part, [there[name] for name in part], [seen[name] for name in part]))
            self._remove_gone(there)
            # Somebody may have been between predictions and record.
            if all(self._holds(task) for task in {task_of(name) for name in news} if task is not None):
                return

    def fetch(self, name: str) -> None:
        """Brings one file, if the address has another one than is staged.

        Raises:
            ClipevalError: the address cannot be read.
        """
        about, seen = self._there.about(name), self._mark(name)
        if about is not None and self._is_news(name, about, {name: about}):
            self._get(name, about, seen)

    def _is_news(self, name: str, about: Stored, there: Mapping[str, Stored]) -> bool:
        """Whether a file of the address is to take the place of what is staged."""
        task = task_of(name)
        if name.startswith("predictions/") and f"records/{task}.json" not in there:
            return False  # whoever wrote them has not finished, and what is staged may be whole
        known = ledger.entry(self.folder, name)
        if known is None or known.version != about.version or not (self.folder / name).exists():
            return True
        # What was not sent yet stays, if it is what a run wrote, or is writing.
        if task is None or not ledger.is_unsent(self.folder, name) or self._holds(task):
            return False
        return time.time() - (self.folder / name).stat().st_mtime > FRESH

    def _mark(self, name: str) -> ledger.Mark | None:
        try:
            return ledger.mark(self.folder / name)
        except FileNotFoundError:
            return None

    def _get(self, name: str, about: Stored, seen: ledger.Mark | None) -> None:
        """Fetches a file, unless what was staged is no longer what was `seen`: another process of this machine has written it."""
        for _ in range(ROUNDS):
            content = self._there.read(name)
            if content is None:  # removed meanwhile
                return
            if about.size in (None, len(content)):
                self._stage(name, content, about, seen)
                return
            again = self._there.about(name)  # replaced meanwhile, or cut off
            if again is None:
                return
            about = again
        raise ClipevalError(f"{self.address}/{name} came incomplete, {ROUNDS} times. Run the same command again.")

    def _stage(self, name: str, content: bytes, about: Stored, seen: ledger.Mark | None) -> None:
        path = inside(self.folder, name)
        fetched = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.fetched")
        try:
            write_atomically(fetched, content)
            if name.startswith(PASSING) and about.modified is not None:
                os.utime(fetched, (about.modified, about.modified))  # by which one knows who is still at work
            entry = ledger.Entry(ledger.mark(fetched), hashlib.sha256(content).hexdigest(), about.version)
            if self._mark(name) == seen:
                os.replace(fetched, path)
                ledger.note(self.folder, name, entry)
        finally:
            fetched.unlink(missing_ok=True)

    def _remove_gone(self, there: Mapping[str, Stored]) -> None:
        """What was removed at the address goes here as well, if nothing has been made of it since."""
        for name in names_in(self.folder):
            if name in there or ledger.entry(self.folder, name) is None or ledger.is_unsent(self.folder, name):
                continue
            if self._there.about(name) is None:  # else another process has sent it since they were listed
                inside(self.folder, name).unlink(missing_ok=True)
                ledger.forget(self.folder, name)

    def _holds(self, task: str) -> bool:
        """Whether a task's staged record and predictions are one another's."""
        try:
            record = (self.folder / f"records/{task}.json").read_bytes()
        except OSError:
            return False
        return _agree(record, lambda: sha256_of(self.folder / f"predictions/{task}.parquet"))

    # What is written here goes there.

    def send(self, name: str) -> None:
        """Sends a file, if the address does not have it already.

        Raises:
            ClipevalError: it could not be done, after several attempts.
        """
        if ledger.is_unsent(self.folder, name):
            self._send(name, PAUSES)

    def send_task(self, task: str) -> bool:
        """Sends a task's predictions, and then its record.

        Other machines may send the same task meanwhile. Each goes on until what lies at the address agrees with itself, and the
        last one to write sees what everyone else left, so that what is left agrees.

        Returns:
            Whether it agrees. If not, the task has to be written once more.

        Raises:
            ClipevalError: it could not be done, after several attempts.
        """
        predictions, record = f"predictions/{task}.parquet", f"records/{task}.json"
        if not (self.folder / predictions).exists():  # imported
            self.send(record)
            return True
        sent = self._send(predictions, PAUSES), self._send(record, PAUSES)
        if all(self._is_as_noted(name) for name in (predictions, record)):
            return _agree(sent[1], lambda: _sha256(sent[0]))  # else another process of this machine has written between
        content = self._there.read(record)
        return content is not None and _agree(content, lambda: _sha256(self._there.read(predictions)))

    def _is_as_noted(self, name: str) -> bool:
        known, about = ledger.entry(self.folder, name), self._there.about(name)
        return known is not None and about is not None and known.version == about.version

    def deliver(self) -> None:
        """Sends what an earlier run has written and not sent.

        Raises:
            ClipevalError: it could not be done, after several attempts.
        """
        for name in unsent(self.folder):
            task = task_of(name)
            if task is None:
                self.send(name)
            elif self._holds(task):  # else it is computed again
                self.send_task(task)

    def beat(self, name: str) -> None:
        """Sends a file that says that a process is at work. That it cannot be done is no reason to end the run."""
        if not (self.lost or self._there.commits):
            try:
                self._send(name, ())
            except (ClipevalError, OSError) as problem:
                log.debug("%s/%s was not sent: %s", self.address, name, problem)

    def end_beat(self, name: str) -> None:
        """Removes such a file."""
        ledger.forget(self.folder, name)
        if not (self.lost or self._there.commits):
            try:
                self._there.remove(name)
            except (ClipevalError, OSError) as problem:
                log.debug("%s/%s stays: %s", self.address, name, problem)

    def _send(self, name: str, pauses: Sequence[float]) -> bytes:
        """Sends a file, and gives its content."""
        path = inside(self.folder, name)
        seen, content = ledger.mark(path), path.read_bytes()
        version = self._written(name, content, list(pauses))
        if version is None:  # another's content by now, which the next look fetches
            ledger.forget(self.folder, name)
        else:
            ledger.note(self.folder, name, ledger.Entry(seen, _sha256(content), version))
        return content

    def _written(self, name: str, content: bytes, pauses: list[float]) -> str | None:
        while True:
            try:
                return self._there.write(name, content)
            except ClipevalError as problem:
                cause = problem.__cause__
                in_vain = isinstance(cause, PermissionError | FileNotFoundError | NotImplementedError)
                if not pauses or in_vain:
                    self.lost = self.lost or not name.startswith(PASSING)
                    raise ClipevalError(f"{problem} {self._safe()}") from cause
                log.debug("%s Again in %s s", problem, pauses[0])
                time.sleep(pauses.pop(0))

    def _safe(self) -> str:
        return f"What was computed is kept in {self.folder}, and the same command sends it and goes on from there."


def _agree(record: bytes, digest: Callable[[], str]) -> bool:
    """Whether a record's content names predictions of this digest, or none, being imported."""
    try:
        content = safe_json.parse(record)
        return content.get("imported") is not None or bool(content["predictions"]["sha256"] == digest())
    except (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError):
        return False


def _sha256(content: bytes | None) -> str:
    return "" if content is None else hashlib.sha256(content).hexdigest()


def task_of(name: str) -> str | None:
    """The task of a record's or a predictions file; None of any other."""
    return PurePosixPath(name).name.rpartition(".")[0] if name.startswith(("records/", "predictions/")) else None


def unsent(folder: Path) -> list[str]:
    """What lies in a staged folder and was not sent: records, of which predictions are a part, and notes. Asks nobody.

    The next run makes run.json and eval_results.jsonl anew; predictions without a record are of a task that was not finished.
    """
    names = names_in(folder)
    late = [name for name in names if not name.startswith(PASSING) and ledger.is_unsent(folder, name)]
    records = {f"records/{task_of(name)}.json" for name in late if task_of(name) is not None}.intersection(names)
    notes = {name for name in late if task_of(name) is None} - {"run.json", "eval_results.jsonl"}
    return sorted(records | notes)


_opened: dict[Path, Mirror] = {}
"""{staged folder: its mirror} of the addresses that this process has opened."""


def of(folder: Path) -> Mirror | None:
    """The mirror of a staged folder; None of any other."""
    return _opened.get(folder)


def place(folder: Path) -> str:
    """What to call a run folder: its address, or else its path."""
    mirror = of(folder)
    return str(folder) if mirror is None else mirror.address


def opened(where: str | Path, cache: str | Path) -> Path:
    """The run folder at a path or an address, on this machine, as it is now. What is written to it is sent.

    Args:
        where: a path, which is given back, or an address.
        cache: `cache.root`.

    Raises:
        ClipevalError: the address cannot be read.
    """
    if not is_address(where):
        return Path(where).expanduser()
    mirror = Mirror(str(where), Path(cache).expanduser().absolute())
    mirror = _opened.setdefault(mirror.folder, mirror)
    mirror.pull()
    with suppress(OSError):
        os.utime(mirror.folder.parent)  # when it was last used: `clipeval cache prune`
    return mirror.folder


def read(where: str | Path) -> Path:
    """The run folder at a path or an address, to be read, in the user's cache: the address has to have one.

    Raises:
        ClipevalError: the address cannot be read, or there is nothing.
    """
    if not is_address(where):
        return Path(where)
    from clipeval.configs.resolvers import user_cache

    folder = opened(where, user_cache())
    if not names_in(folder):
        raise ClipevalError(
            f"{place(folder)} is no run folder: nothing is there; `clipeval run out={place(folder)}` would make it"
        )
    if late := unsent(folder):
        said = "%s does not have %s yet, from %s: the command that computed them sends them"
        log.warning(said, place(folder), ", ".join(late), folder)
    return folder
