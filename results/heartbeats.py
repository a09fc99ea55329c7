"""Who is at work in a run folder: a small file for each process, for people to read. Nothing waits for one.

    status/<host>-<pid>-<random>.json   {"state": running | failed | stopped, "units": [...], "error": ...}

It is written whole, touched every few seconds while its process lives, and removed when the work is done. What a killed process
leaves is known by its age, or by its process id on the same machine; it holds nobody up. Of a run folder that is kept at an address
(`clipeval.results.mirror`) it lies there too, and is written anew every minute.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipeval.configs.files import write_atomically
from clipeval.results import mirror, safe_json

FOLDER = "status"
BEAT, SILENT = 15.0, 120.0
"""Seconds between two touches, and those after which a file that nobody touched is taken for a dead process's."""
SENT_EVERY = 4
"""Touches, of which one is sent to the address that a run folder is kept at."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Heartbeat:
    """One process's file.

    Attributes:
        state: running | failed | stopped | dead (it said running, and no longer lives).
        units: what it took on, as `clipeval.cluster.shares.TaskShard` prints.
        who: host, process and Slurm job, for people.
        job: its Slurm job, such as 12_3; None outside of Slurm.
        error: the last line of what stopped it.
        started: seconds since 1970.
    """

    path: Path
    state: str
    units: tuple[str, ...]
    who: str
    job: str | None
    error: str
    started: float


@contextmanager
def heartbeat(folder: Path, units: Sequence[str]) -> Iterator[Callable[[Exception], None]]:
    """Says that `units` are being worked on, and how it ended if it did not end well.

    Yields:
        What notes a failure that is not raised: of one model of several, the others of which go on.
    """
    path = folder / FOLDER / f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}.json"
    about = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "job": slurm_job(),
        "units": list(units),
        "started": time.time(),
    }
    _forget(folder, set(units))
    _write(path, {**about, "state": "running"})
    over = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, over), daemon=True)
    beat.start()
    failures: list[Exception] = []

    def failed(problem: Exception) -> None:
        failures.append(problem)
        lines = str(problem).strip().splitlines() or [type(problem).__name__]
        _write(path, {**about, "state": "failed", "error": lines[-1].strip()})

    try:
        yield failed
    except Exception as problem:
        failed(problem)
        raise
    except BaseException as problem:  # asked to stop
        _write(path, {**about, "state": "stopped", "error": type(problem).__name__})
        raise
    else:
        if not failures:
            _remove(path)
    finally:
        over.set()


def heartbeats(folder: Path) -> list[Heartbeat]:
    """Every readable heartbeat file of a run folder, the oldest first."""
    beats = []
    for path in (folder / FOLDER).glob("*.json"):
        if path.name.startswith("."):
            continue
        try:
            content, touched = safe_json.read(path), path.stat().st_mtime
            state = content["state"]
            if state == "running" and not _lives(content, touched):
                state = "dead"
            job = content.get("job")
            who = f"process {content['pid']} on {content['host']}" + (f", job {job}" if job else "")
            units, error = tuple(map(str, content["units"])), str(content.get("error", ""))
            beats.append(Heartbeat(path, state, units, who, job, error, float(content["started"])))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # removed meanwhile, or not ours: a heartbeat decides nothing
    return sorted(beats, key=lambda beat: beat.started)


def slurm_job() -> str | None:
    """This process's Slurm job as squeue names it; None outside of Slurm."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    return os.environ.get("SLURM_JOB_ID")


def _lives(content: dict[str, Any], touched: float) -> bool:
    if content["host"] == socket.gethostname():
        return Path(f"/proc/{int(content['pid'])}").exists() if Path("/proc/self").exists() else True
    return abs(time.time() - touched) < SILENT


def _forget(folder: Path, units: set[str]) -> None:
    """Removes what ended processes left about units that are taken up again."""
    for other in heartbeats(folder):
        if other.state != "running" and units.issuperset(other.units):
            _remove(other.path)


def _beat(path: Path, over: threading.Event) -> None:
    for number in itertools.count(1):
        if over.wait(BEAT):
            return
        try:
            os.utime(path)
        except OSError:
            return
        if number % SENT_EVERY == 0 and (kept := mirror.of(path.parents[1])) is not None:
            kept.beat(f"{FOLDER}/{path.name}")


def _write(path: Path, content: dict[str, Any]) -> None:
    try:
        write_atomically(path, json.dumps(content, indent=1).encode())
    except OSError as problem:  # the run itself will meet the same, and say so; a heartbeat is not worth stopping for
        log.debug("no heartbeat at %s: %s", path, problem)
        return
    if (kept := mirror.of(path.parents[1])) is not None:
        kept.beat(f"{FOLDER}/{path.name}")


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as problem:
        log.debug("the heartbeat %s stays: %s", path, problem)
    if (kept := mirror.of(path.parents[1])) is not None:
        kept.end_beat(f"{FOLDER}/{path.name}")
