"""The lines of `eval_results.jsonl`: DataComp's form of a run's records."""

from __future__ import annotations

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
