"""The lines of `eval_results.jsonl`: DataComp's form of a run's records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from clipeval.results.json_io import to_jsonable
from clipeval.results.records import Record


def eval_results(records: Iterable[Record]) -> list[dict[str, Any]]:
    """DataComp's form: for each record `{"key", "dataset", "metrics": {..., "main_metric"}}`.

    As in `evaluate.py` of mlfoundations/datacomp; its NaN is null here, so that every JSON reader takes it. What was imported
    says from what in a further key, `imported`.
    """
    return [
        {
            "key": record.key,
            "dataset": record.name,
            "metrics": to_jsonable({**record.metrics, "main_metric": record.value}),
            **({} if record.imported is None else {"imported": record.imported["form"]}),
        }
        for record in records
    ]


def skipped_results(
    specs: Mapping[str, Mapping[str, Any]], why: Mapping[str, str], done: int, planned: int
) -> list[dict[str, Any]]:
    """A line for each task that was skipped, in DataComp's form: no metric, an undefined `main_metric`, and why."""
    return [
        {
            "key": spec.get("key") or task,
            "dataset": spec.get("name") or task,
            "metrics": {"main_metric": None},
            "skipped": why[task],
            "tasks": f"{done} of {planned}",
        }
        for task, spec in specs.items()
    ]


def jsonl(
    records: Iterable[Record], planned: Mapping[str, Mapping[str, Any] | None], skipped: Mapping[str, str]
) -> bytes:
    """The file itself, a line a task.

    Args:
        records: the run's, in the order of the lines.
        planned: {task: what `run.json` says of it} of all tasks of the run.
        skipped: {task: why}; of these, a record counts that was imported.
    """
    records = [r for r in records if r.task not in skipped or r.imported is not None]
    lines, done = eval_results(records), {r.task for r in records}
    unscored = {task: planned.get(task) or {} for task in skipped if task not in done}
    lines += skipped_results(unscored, skipped, len(done), len(planned))
    return "".join(json.dumps(line) + "\n" for line in lines).encode()
