"""What can be done with a finished run folder alone: check it, repeat it, and find its pictures again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from configs.errors import ClipevalError, nearest
from eval.data.split import open_split
from eval.plan import data_config, make_task
from eval.session import Session
from results.folder import RunFolder
from results.records import DamagedRecord, Record
from tasks.attributes import Attributes
from tasks.base import Task
from tasks.statistics import Statistic
from tasks.tables import group_tables

TOLERANCE = 1e-9
"""How far a metric that is computed again from the stored predictions may lie from the recorded one."""


@dataclass(frozen=True)
class Finding:
    """What was found of one task: `problem` is empty where all is well, `unchecked` where nothing can be said."""

    task: str
    problem: str
    remark: str = ""
    unchecked: bool = False
    skipped: bool = False


def stored_config(folder: RunFolder) -> DictConfig:
    """The resolved config of a run, from its run.json.

    Raises:
        ClipevalError: the folder holds no run.
    """
    run = folder.run()
    if run is None or "config" not in run:
        raise ClipevalError(f"{folder.path} holds no run.json with a config: it is not the folder of a finished run.")
    config = OmegaConf.create(run["config"])
    assert isinstance(config, DictConfig)
    return config


def stored_task(config: DictConfig, name: str) -> Task:
    """A task as the run's config declares it."""
    if name not in config.tasks:
        raise ClipevalError(nearest("task of this run", name, config.tasks))
    return make_task(name, config.tasks[name])


def statistics(record: Record, predictions: pd.DataFrame, config: DictConfig) -> Mapping[str, Statistic | None]:
    """Every metric of a record from its stored predictions."""
    return stored_task(config, record.task).statistics(predictions)


def tables_by_group(path: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """(title, table) of every attributes task of a run: for FairFace and UTKFace those that DataComp prints of them.

    Raises:
        ClipevalError: the run has no such task.
    """
    folder = RunFolder(path)
    config, count = stored_config(folder), 0
    for record in folder.records(damaged=[]):
        task = stored_task(config, record.task)
        if not isinstance(task, Attributes):
            continue
        count += 1
        names = task.names((record.prompts or {}).get("classnames", ()))
        for title, table in group_tables(task, record.metrics, names).items():
            yield f"{record.name}, {title}", table
    if not count:
        raise ClipevalError(
            f"{path} has no record of an attributes task; --groups shows FairFace, UTKFace and their like."
        )


def pictures(folder: str, task: str, keys: Sequence[str]) -> dict[str, bytes]:
    """{key: the encoded image} of some samples of a run; those whose data is not on this machine are left out."""
    config = stored_config(RunFolder(Path(folder)))
    node = config.tasks.get(task)
    if node is None:
        return {}
    try:
        split = open_split(
            data_config(node, config.data),
            config.data.root,
            stored_task(config, task).roles["test"],
            Path(config.cache.root) / "index",
            on_error=str(config.data.on_error),
        )
    except ClipevalError:
        return {}  # the page says that the picture is not at hand
    place = {key: i for i, key in enumerate(split.samples.keys)}
    return {key: split.images.read(place[key]) for key in keys if key in place}


def verify(path: Path) -> Iterator[Finding]:
    """Checks every digest of a run folder, computes every metric again from the stored predictions, and looks for gaps."""
    folder = RunFolder(path)
    config = stored_config(folder)
    planned = list((folder.run() or {}).get("tasks", {}))
    skipped = folder.skipped()
    for name in [*planned, *(t for t in folder.tasks() if t not in planned)]:
        try:
            record = folder.record(name)
            if name in skipped and (record is None or record.imported is None):
                yield Finding(name, "", f"skipped: {skipped[name]}", skipped=True)
                continue
            if record is None:
                yield Finding(name, "no record: the task is not finished")
                continue
            if record.imported is not None:
                where = f"from {record.imported['file']}; another program's figure cannot be computed again"
                yield Finding(name, "", f"imported {where}", unchecked=True)
                continue
            found = statistics(record, folder.predictions(record), config)
        except DamagedRecord as problem:
            yield Finding(name, str(problem))
            continue
        yield Finding(name, "; ".join(_differences(record, found)), f"{len(record.metrics)} metrics agree")
    lines = path / "eval_results.jsonl"
    if not lines.exists():
        yield Finding("eval_results.jsonl", "missing; `clipeval run` writes it again")


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


def rerun(path: Path, out: Path, console: Console) -> Iterator[Finding]:
    """Repeats a run from its manifest alone, into `out`, with no cache of embeddings, and compares sample by sample."""
    old, config = RunFolder(path), stored_config(RunFolder(path))
    skipped = old.skipped()
    recorded = {r.task for r in old.records() if r.imported is None and r.task not in skipped}
    if not recorded:
        raise ClipevalError(f"{path} holds no result that was computed: there is nothing to repeat.")
    config.out, config.cache.features = str(out), False
    config.data.on_missing = "fail"  # what was recorded is repeated, or this says why not
    for name in [name for name in config.tasks if name not in recorded]:
        del config.tasks[name]
    session = Session.open(config, console)
    session.run()
    for name in config.tasks:
        before, after = old.record(name), session.folder.record(name)
        assert before is not None
        assert after is not None
        parts = before.fingerprint.differences(after.fingerprint)
        yield Finding(
            name,
            _changed(old.predictions(before), session.folder.predictions(after)),
            f"differs in {', '.join(parts)}" if parts else "",
        )


def _changed(before: pd.DataFrame, after: pd.DataFrame) -> str:
    """How many rows answer differently, and the first of them; empty where none does. Scores may differ in the last bits."""
    if len(before) != len(after):
        return f"{len(after):,} rows, where there were {len(before):,}"
    different = np.zeros(len(before), dtype=bool)
    for column in before.columns:
        if column not in after:
            return f"the column {column} is gone"
        one, two = before[column], after[column]
        if pd.api.types.is_float_dtype(one):
            different |= ~np.isclose(one.to_numpy(float), two.to_numpy(float), rtol=0, atol=1e-3, equal_nan=True)
        else:
            different |= [not np.array_equal(a, b) for a, b in zip(one, two, strict=True)]
    if not different.any():
        return ""
    first = before.iloc[int(np.flatnonzero(different)[0])]
    return f"{int(different.sum()):,} of {len(before):,} samples differ, the first {first.get('key', first.name)!r}"
