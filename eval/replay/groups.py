"""Tables by group of a finished run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from clipeval.configs.errors import ClipevalError
from clipeval.replay.stored_run import StoredRun
from clipeval.results.run_folder import RunFolder
from clipeval.results.trust import NOBODY, Trust
from clipeval.tasks.attributes import Attributes
from clipeval.tasks.group_tables import group_tables


def tables_by_group(path: Path, trusted: Trust = NOBODY) -> Iterator[tuple[str, pd.DataFrame]]:
    """(title, table) of every attributes task of a run: for FairFace and UTKFace those that DataComp prints of them.

    Raises:
        ClipevalError: the run has no such task, or names a class that is not trusted.
    """
    folder = RunFolder(path)
    run, count = StoredRun.read(folder, trusted), 0
    run.check()
    for record in folder.records(damaged=[]):
        if record.imported is not None:
            continue
        task = run.task(record.task)
        if not isinstance(task, Attributes):
            continue
        count += 1
        names = task.names((record.prompts or {}).get("classnames", ()))
        for title, table in group_tables(task, record.metrics, names).items():
            yield f"{record.name}, {title}", table
    if not count:
        raise ClipevalError(
            f"{folder.place} has no record of an attributes task; --groups shows FairFace, UTKFace and their like."
        )
