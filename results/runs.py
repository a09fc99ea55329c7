"""Runs, as the reporter reads them: what was recorded, what was planned and is not there, what is damaged."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipeval.configs.errors import ClipevalError
from clipeval.configs.naming import CHECKPOINT_SUFFIXES
from clipeval.results import mirror
from clipeval.results.record_index import read_slim
from clipeval.results.records import DamagedRecord, Record, visible
from clipeval.results.run_folder import RunFolder
from clipeval.results.uncertainty import chance_corrected

WEIGHTS = (*CHECKPOINT_SUFFIXES, ".index.json")
"""What the names of checkpoint files end with."""

GROUPS = {
    "imagenet": "ImageNet",
    "imagenet_shifts": "ImageNet shifts",
    "vtab": "VTAB",
    "retrieval": "Retrieval",
    "wilds": "WILDS",
    "fairness": "Fairness",
    "other": "Other",
}
"""The report's groups in the order of its rows, with the names to print. A group of one's own comes after them."""


@dataclass(frozen=True)
class Run:
    """One run folder, read."""

    label: str
    folder: RunFolder
    info: Mapping[str, Any]
    records: Mapping[str, Record]
    planned: Mapping[str, Mapping[str, Any]]
    """Every task, recorded or not, in order: {id: {"key", "name", "protocol", "metric", "chance", "group"}}."""
    damaged: Sequence[DamagedRecord] = ()

    @property
    def model(self) -> Mapping[str, Any]:
        """The model: slug, name, pretrained and more."""
        if self.info.get("model"):
            model: Mapping[str, Any] = self.info["model"]
            return model
        return next((record.model for record in self.records.values()), {})

    @property
    def shared_flags(self) -> tuple[str, ...]:
        """The warnings that every record has, of two or more: they speak of the run, and are said once."""
        records = list(self.records.values())
        if len(records) < 2:
            return ()
        return tuple(text for text in records[0].flags if all(text in record.flags for record in records))

    def own_flags(self, record: Record) -> tuple[str, ...]:
        """A record's warnings without those that every record has."""
        shared = self.shared_flags
        return tuple(text for text in record.flags if text not in shared)

    def images(self, task: str) -> str:
        """What a task's images are known by: its data's place, which several tasks may share; its name where unknown."""
        config = ((self.info.get("config") or {}).get("tasks") or {}).get(task) or {}
        data = config.get("data") or {}
        return str(data.get("path") or data.get("folder") or task)

    @property
    def skipped(self) -> dict[str, str]:
        """{task: why} of the planned tasks that were left out, for their data could not be opened."""
        reasons = self.info.get("skipped") or {}
        return {task: str(reasons[task]) for task in self.planned if task in reasons and task not in self.records}

    @property
    def missing(self) -> list[str]:
        """The planned tasks without a record, which were not skipped."""
        return [task for task in self.planned if task not in self.records and task not in self.skipped]


def load(paths: Sequence[str | Path], slim: bool = False) -> list[Run]:
    """Reads run folders.

    Args:
        paths: the folders, or addresses at which they are kept.
        slim: whether records may lack the names of their classes; then only those are read that changed since the last time.

    Raises:
        ClipevalError: no path is given, one of them is no run folder, or it was written under another schema.
    """
    if not paths:
        raise ClipevalError("no run folder was named: give at least one, such as runs/<model>")
    runs = [_load(mirror.read(path), slim) for path in paths]
    labels = Counter(run.label for run in runs)
    tails = _tails([run.folder.path for run in runs])
    # Two runs of one model are told apart by their folders.
    return [
        dataclasses.replace(run, label=f"{run.label} ({tail})") if labels[run.label] > 1 else run
        for run, tail in zip(runs, tails, strict=True)
    ]


def _tails(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of some paths, of as many folders each, that tell them apart; whole where nothing does."""
    parts = [
        path.resolve().parts if mirror.of(path) is None else tuple(mirror.place(path).split("/")) for path in paths
    ]
    distinct = len(set(parts))
    for count in range(1, max(map(len, parts)) + 1):
        tails = ["/".join(part[-count:]) for part in parts]
        if len(set(tails)) == distinct:
            return tails
    return [mirror.place(path) for path in paths]


def _load(path: Path, slim: bool) -> Run:
    if not path.is_dir():
        raise ClipevalError(f"{path} is no run folder: it does not exist; `clipeval run out={path}` would make it")
    folder = RunFolder(path)
    damaged: list[DamagedRecord] = []
    try:
        info = folder.run() or {}
    except DamagedRecord as error:
        damaged.append(error)
        info = {}
    if slim:
        loaded = read_slim(folder.file("records"), damaged)
        records = {loaded[task].task: loaded[task] for task in sorted(loaded, key=_suite_order(info))}
    else:
        records = {record.task: record for record in folder.records(damaged=damaged)}
    # What was computed earlier of a task whose data cannot be opened now cannot be compared with what the run asks for.
    skipped = info.get("skipped") or {}
    records = {task: r for task, r in records.items() if task not in skipped or r.imported is not None}
    if not info and not records and not damaged:
        inside = sorted(child for child in path.iterdir() if (child / "run.json").exists())
        hint = (
            f"did you mean {' '.join(map(str, inside[:5]))}?" if inside else "give a folder that `clipeval run` wrote"
        )
        raise ClipevalError(f"{mirror.place(path)} is no run folder: it holds neither run.json nor records/; {hint}")
    info = {**info, **{name: visible(info[name]) for name in ("model", "tasks", "code", "hardware") if info.get(name)}}
    planned: dict[str, Mapping[str, Any]] = {task: spec or {} for task, spec in (info.get("tasks") or {}).items()}
    for task, record in records.items():
        # What was recorded speaks for itself, whatever was planned under the name.
        planned[task] = {
            "key": record.key,
            "name": record.name,
            "protocol": record.protocol,
            "metric": record.metric,
            "chance": record.chance,
            "group": record.group,
        }
    model = info.get("model") or next((record.model for record in records.values()), {})
    return Run(_label(model, path), folder, info, records, planned, damaged)


def _suite_order(info: Mapping[str, Any]) -> Callable[[str], tuple[int, str]]:
    """A key: the suite's order, then the alphabet's."""
    place = {task: index for index, task in enumerate(info.get("tasks", {}))}
    return lambda task: (place.get(task, len(place)), task)


def _label(model: Mapping[str, Any], path: Path) -> str:
    name, pretrained = model.get("name"), model.get("pretrained")
    # Where a bundled or a local model lies says nothing to a reader; its slug was made to.
    if not name or str(name).startswith("local-dir:"):
        return str(model.get("slug") or path.name)
    if not pretrained:
        return str(name)
    # A checkpoint file is known by its name, not by where it lies.
    short = Path(str(pretrained)).name if str(pretrained).endswith(WEIGHTS) else pretrained
    which = [part for part in ("EMA" if model.get("ema") else None, model.get("state_dict")) if part]
    return " ".join([f"{name} {short}", *map(str, which)])


def tasks(runs: Sequence[Run]) -> dict[str, Mapping[str, Any]]:
    """The tasks of all runs, in the report's order: by group, within it in the order of the first run that has them."""
    union: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        for task, spec in run.planned.items():
            union.setdefault(task, spec)
    groups = list(GROUPS) + sorted({str(spec.get("group")) for spec in union.values()} - GROUPS.keys())
    return dict(sorted(union.items(), key=lambda item: groups.index(str(item[1].get("group")))))


def _why_not(run: Run, task: str, broken: Collection[str]) -> str:
    return "skipped" if task in run.skipped else "damaged" if task in broken else "missing"


def group_name(group: str) -> str:
    """The name to print for a group."""
    text = group.replace("_", " ")
    return GROUPS.get(group, text[:1].upper() + text[1:])


def long_rows(runs: Sequence[Run]) -> list[list[dict[str, Any]]]:
    """For each run a row for each of its tasks, recorded or not, in the report's order.

    Columns: run, slug, model, pretrained, group, task, key, name, protocol, metric, value, low, high, chance,
    corrected, samples, classes, flags, notes, status (done, missing, skipped, damaged).
    """
    collected = []
    union = tasks(runs)
    for run in runs:
        rows = []
        broken = {error.path.stem for error in run.damaged}
        for task in union:
            if task not in run.planned:
                continue
            record = run.records.get(task)
            low, high = (record.interval if record else None) or (None, None)
            rows.append(
                {
                    "run": run.label,
                    "slug": run.model.get("slug", run.folder.name),
                    "model": run.model.get("name"),
                    "pretrained": run.model.get("pretrained"),
                    "group": run.planned[task].get("group"),
                    "task": task,
                    "key": run.planned[task].get("key"),
                    "name": run.planned[task].get("name") or task,
                    "protocol": run.planned[task].get("protocol"),
                    "metric": run.planned[task].get("metric"),
                    "value": record.value if record else None,
                    "low": low,
                    "high": high,
                    "chance": run.planned[task].get("chance"),
                    "corrected": chance_corrected(record.value, record.chance) if record else None,
                    "samples": record.samples if record else None,
                    "classes": record.classes if record else None,
                    "flags": record.flags
                    if record
                    else (f"skipped: {run.skipped[task]}",)
                    if task in run.skipped
                    else (),
                    "notes": record.notes if record else (),
                    "status": "done" if record else _why_not(run, task, broken),
                }
            )
        collected.append(rows)
    return collected
