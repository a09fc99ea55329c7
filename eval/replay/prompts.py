"""What prompts do: one set asked with several prompt sets in one run, each beside the first, sample by sample."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from clipeval.configs.errors import ClipevalError
from clipeval.replay.stored_run import StoredRun
from clipeval.results import paired
from clipeval.results.compare import DRAWS, align, paired_test
from clipeval.results.records import Record
from clipeval.results.run_folder import RunFolder
from clipeval.results.trust import NOBODY, Trust

BY_PROMPTS = " by prompts"
"""How the group of a task ends that was asked with several prompt sets."""


def prompt_tables(path: Path, trusted: Trust = NOBODY) -> Iterator[tuple[str, pd.DataFrame]]:
    """(title, table) of each set of a run that was asked with several prompt sets.

    The table has a row a prompt set, in the run's order, with the main metric and its 95% interval, the difference from the first
    row with its paired interval, and the p-value after Holm's correction over the rows.

    Raises:
        ClipevalError: the folder holds no run, or names a class that is not trusted.
    """
    folder = RunFolder(path)
    run = StoredRun.read(folder, trusted)
    run.check()
    sets: dict[str, list[Record]] = {}
    for record in folder.records(damaged=[]):
        if record.imported is None and str(record.group).endswith(BY_PROMPTS) and record.value is not None:
            sets.setdefault(record.key.rpartition("/")[0], []).append(record)
    for records in sets.values():
        if len(records) > 1:
            name = str(records[0].group).removesuffix(BY_PROMPTS)
            yield (
                f"What prompts do on {name}: {records[0].metric}, differences from the first",
                _table(folder, run, records),
            )


def _table(folder: RunFolder, run: StoredRun, records: list[Record]) -> pd.DataFrame:
    first, metric = records[0], str(records[0].metric)
    before = folder.predictions(first)
    rows, raw = {}, []
    for record in records:
        low, high = record.intervals.get(metric) or (float("nan"),) * 2
        row = {metric: record.metrics[metric], "low": low, "high": high}
        if record is not first:
            a, b, matched, _ = align(before, folder.predictions(record))
            one, other = run.statistics(first, a).get(metric), run.statistics(record, b).get(metric)
            if not matched or one is None or other is None:
                raise ClipevalError(f"{folder.place}: {first.task} and {record.task} have no samples in common.")
            (under, over), p, _ = paired_test(one, other, DRAWS, 0)
            raw.append(p)
            row |= {"difference": other.value - one.value, "from": under, "to": over}
        rows[record.key.rpartition("/")[2]] = row
    table = pd.DataFrame.from_dict(rows, orient="index")
    table["p"] = [float("nan"), *paired.holm(raw)]
    return table
