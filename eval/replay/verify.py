"""`clipeval verify`: a finished run folder, checked; and what its run.json says was run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipeval.replay.stored_run import StoredRun
from clipeval.results.records import DamagedRecord, Record
from clipeval.results.run_folder import RunFolder
from clipeval.results.trust import NOBODY, Trust
from clipeval.tasks.statistics import Statistic

log = logging.getLogger(__name__)

TOLERANCE = 1e-9
"""How far a metric that is computed again from the stored predictions may lie from the recorded one."""


@dataclass(frozen=True)
class Check:
    """What was found of one task: `problem` is empty where all is well, `unchecked` where nothing can be said."""

    task: str
    problem: str
    remark: str = ""
    unchecked: bool = False
    skipped: bool = False


def verify(path: Path, trusted: Trust = NOBODY) -> Iterator[Check]:
    """Checks every digest of a run folder, computes every metric again from the stored predictions, and looks for gaps.

    Raises:
        ClipevalError: the folder holds no run, or names a class that is not trusted.
    """
    folder = RunFolder(path)
    run = StoredRun.read(folder, trusted)
    run.check()
    planned = list((folder.run() or {}).get("tasks", {}))
    skipped = folder.skipped()
    for name in [*planned, *(t for t in folder.tasks() if t not in planned)]:
        try:
            record = folder.record(name)
            if name in skipped and (record is None or record.imported is None):
                yield Check(name, "", f"skipped: {skipped[name]}", skipped=True)
                continue
            if record is None:
                yield Check(name, "no record: the task is not finished")
                continue
            if record.imported is not None:
                location = f"from {record.imported['file']}; another program's figure cannot be computed again"
                yield Check(name, "", f"imported {location}", unchecked=True)
                continue
            found = run.statistics(record, folder.predictions(record))
        except DamagedRecord as problem:
            yield Check(name, str(problem))
            continue
        yield Check(name, "; ".join(_differences(record, found)), f"{len(record.metrics)} metrics agree")
    lines = path / "eval_results.jsonl"
    if not lines.exists():
        yield Check("eval_results.jsonl", "missing; `clipeval run` writes it again")


def _differences(record: Record, found: Mapping[str, Statistic | None]) -> Iterator[str]:
    for name in sorted({*record.metrics, *found}):
        if name not in found or name not in record.metrics:
            yield f"{name} is {'recorded' if name in record.metrics else 'not recorded'} and should not be"
            continue
        statistic, recorded = found[name], record.metrics[name]
        again = None if statistic is None or not np.isfinite(statistic.value) else float(statistic.value)
        same = again is recorded if again is None or recorded is None else abs(again - recorded) <= TOLERANCE
        if not same:
            yield f"{name} is recorded as {recorded} and comes to {again}"
