"""Notes in a run folder: which Slurm job was given which of its tasks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipeval.cluster import slurm
from clipeval.results import safe_json

JOBS = "jobs"
"""The folder of a run folder that says which job was given what."""


def queued_units(folder: Path) -> dict[str, str]:
    """{task: job} for the tasks of a run folder of which a job that waits or runs has at least a part."""
    given = job_notes(folder)
    living = slurm.queued_jobs(note["job"] for note in given) or {}
    held: dict[str, str] = {}
    for note in given:
        for element, units in note["units"].items():
            name = f"{note['job']}_{element}" if element else str(note["job"])
            for unit in units:
                if name in living:
                    held[unit.split("[")[0]] = name
    return held


def job_notes(folder: Path) -> list[dict[str, Any]]:
    """What each submission gave to which job, as noted in a run folder, the oldest first."""
    notes = []
    for path in sorted((folder / JOBS).glob("[!.]*.json"), key=lambda p: p.stat().st_mtime):
        try:
            note = safe_json.read(path)
            lists = note["units"].values() if isinstance(note["units"], Mapping) else [None]
            whole = all(isinstance(units, list) and all(isinstance(unit, str) for unit in units) for units in lists)
            if whole and re.fullmatch(r"\w+", note["job"]):
                notes.append(note)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a note that cannot be read says nothing; the records decide
    return notes
