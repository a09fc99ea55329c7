"""`clipeval status RUN…`: which tasks are done, running, waiting, failed or missing, from the run folder and the queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from clipeval.cluster import slurm
from clipeval.cluster.job_notes import job_notes
from clipeval.configs.errors import EXIT_ERROR, EXIT_SKIPPED, ClipevalError
from clipeval.results.heartbeats import Heartbeat, heartbeats
from clipeval.results.mirror import place
from clipeval.results.records import DamagedRecord
from clipeval.results.run_folder import RunFolder

STYLES = {
    "done": "green",
    "running": "cyan",
    "waiting": "blue",
    "failed": "red",
    "missing": "yellow",
    "skipped": "yellow",
}


@dataclass(frozen=True)
class TaskState:
    """One task of a run folder: done | running | waiting | failed | missing | skipped, and what there is to say about it."""

    task: str
    state: str
    detail: str = ""


@dataclass(frozen=True)
class _Given:
    """What a job was given."""

    job: str
    living: str | None
    """Its state in the queue; None if it is not there, "?" if the queue cannot be asked."""
    logs: Path


def task_states(path: Path) -> list[TaskState]:
    """The state of every task that a run folder is to hold, in the suite's order.

    Raises:
        ClipevalError: it is no run folder.
    """
    folder = RunFolder(path)
    run = folder.run()
    if run is None:
        raise ClipevalError(f"{folder.place} has no run.json: it is not a run folder, or its first run has not begun.")
    beats, given, skipped = _heartbeats(path), _given(path), folder.skipped()
    tasks = list(dict.fromkeys([*run.get("tasks", {}), *folder.tasks()]))
    return [_state(folder, task, beats.get(task, []), given.get(task, []), skipped.get(task)) for task in tasks]


def print_status(paths: Sequence[Path], console: Console) -> int:
    """Prints the states.

    Returns:
        0 when every task of every folder is done, 3 when all but those that were skipped are, 1 otherwise.
    """
    complete, skipped = True, False
    for path in paths:
        states = task_states(path)
        table = Table("task", "state", "", box=None, header_style="bold")
        for task in states:
            table.add_row(task.task, Text(task.state, STYLES[task.state]), Text(task.detail))
        count = Counter(task.state for task in states)
        summary = ", ".join(f"{count[state]} {state}" for state in STYLES if count[state])
        of = f"; {count['done']} of {len(states)} tasks" if count["skipped"] else ""
        console.print(f"{place(path)}: {summary}{of}", markup=False, highlight=False)
        console.print(table)
        complete = complete and count["done"] + count["skipped"] == len(states)
        skipped = skipped or count["skipped"] > 0
    return EXIT_ERROR if not complete else EXIT_SKIPPED if skipped else 0


def _state(
    folder: RunFolder, task: str, beats: Sequence[Heartbeat], given: Sequence[_Given], skipped: str | None
) -> TaskState:
    damage = ""
    try:
        record = folder.record(task)
    except DamagedRecord as problem:
        record, damage = None, str(problem)
    if skipped is not None and (record is None or record.imported is None):
        return TaskState(task, "skipped", skipped)
    if record is not None:
        whence = f"imported from {record.imported['file']}, " if record.imported is not None else ""
        return TaskState(task, "done", f"{whence}{record.created}")
    running = [beat for beat in beats if beat.state == "running"]
    if running:
        parts = {unit for beat in running for unit in beat.units if _task(unit) == task}
        detail = "; ".join(sorted(beat.who for beat in running))
        return TaskState(task, "running", detail + (f"; {', '.join(sorted(parts))}" if parts != {task} else ""))
    waiting = [g for g in given if g.living]
    if waiting:
        return TaskState(task, "waiting", "; ".join(f"job {g.job} {str(g.living).lower()}" for g in waiting))
    failed = [beat for beat in beats if beat.state == "failed"]
    if failed:
        return TaskState(task, "failed", failed[-1].error)
    if beats:
        word = "was stopped" if beats[-1].state == "stopped" else "ended without a word; it may have been killed"
        return TaskState(task, "failed", f"{beats[-1].who} {word}")
    if given:
        return TaskState(task, "failed", f"job {given[-1].job} ended without a record: {_last_line(given[-1])}")
    return TaskState(task, "missing", damage)


def _heartbeats(path: Path) -> dict[str, list[Heartbeat]]:
    by_task: dict[str, list[Heartbeat]] = {}
    for beat in heartbeats(path):
        for unit in beat.units:
            by_task.setdefault(_task(unit), []).append(beat)
    return by_task


def _given(path: Path) -> dict[str, list[_Given]]:
    notes = job_notes(path)
    living = slurm.queued_jobs(note["job"] for note in notes)
    by_task: dict[str, list[_Given]] = {}
    for note in notes:
        for element, units in note["units"].items():
            name = _job_name(note, element)
            state = "?" if living is None else living.get(name)
            for task in {_task(unit) for unit in units}:
                by_task.setdefault(task, []).append(_Given(name, state, Path(str(note.get("logs", "")))))
    return by_task


def _job_name(note: dict[str, Any], element: str) -> str:
    return f"{note['job']}_{element}" if element else str(note["job"])


def _last_line(given: _Given) -> str:
    """The last line that a job wrote, of its errors first."""
    for path in (given.logs / f"{given.job}_0_log.err", given.logs / f"{given.job}_0_log.out"):
        try:
            lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
        except OSError:
            continue
        if lines:
            return lines[-1].strip()
    return f"no log in {given.logs}"


def _task(unit: str) -> str:
    return unit.split("[")[0]
