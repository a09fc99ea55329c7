"""`clipeval verify`: a finished run folder, checked; and what its run.json says was run."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from clipeval.configs.errors import ClipevalError, nearest
from clipeval.configs.old_names import renamed
from clipeval.engine.task_config import make_task
from clipeval.results.records import DamagedRecord, Record
from clipeval.results.run_folder import RunFolder
from clipeval.results.trust import NOBODY, Trust, check_plain, check_tasks
from clipeval.tasks.base import Task
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


@dataclass(frozen=True)
class StoredRun:
    """What a run folder says was run. It may be anybody's: see `clipeval.results.trust` for what is made of it.

    Attributes:
        file: its run.json.
        config: resolved; nothing in it is an interpolation.
        trusted: what the user vouches for, besides the package.
    """

    file: Path
    config: DictConfig
    trusted: Trust

    @classmethod
    def read(cls, folder: RunFolder, trusted: Trust = NOBODY) -> StoredRun:
        """Reads run.json. Imports and calls nothing that it names.

        Raises:
            ClipevalError: the folder holds no run, or a config that no run has written.
        """
        run, file = folder.run(), folder.path / "run.json"
        if run is None or run.get("config") is None:
            raise ClipevalError(
                f"{folder.path} holds no run.json with a config: it is not the folder of a finished run."
            )
        content = renamed(run["config"])
        slurm = content.pop("slurm", None)  # shell words, which no command here reads, and which may hold a ${…}
        check_plain(content, file)
        try:
            config = OmegaConf.create({"tasks": {}, **content, "slurm": _literal(slurm)})
        except OmegaConfBaseException as problem:
            raise ClipevalError(f"{file} holds no config: {' '.join(str(problem).split())}") from None
        return cls(file, config, trusted)

    @property
    def model(self) -> dict[str, Any]:
        """The `model` of its config."""
        return _plain(self.config.get("model"))

    def check(self) -> None:
        """ClipevalError that names all of its tasks' classes which are not trusted."""
        check_tasks(_plain(self.config.tasks), self.file, self.trusted)

    def task(self, name: str) -> Task:
        """A task as the run's config declares it.

        Raises:
            ClipevalError: there is none, its class is not trusted, or its settings are none of that class.
        """
        if name not in self.config.tasks:
            raise ClipevalError(nearest("task of this run", name, self.config.tasks))
        node = self.config.tasks[name]
        check_tasks({name: _plain(node)}, self.file, self.trusted)
        return make_task(name, node)

    def statistics(self, record: Record, predictions: pd.DataFrame) -> Mapping[str, Statistic | None]:
        """Every metric of a record from its stored predictions.

        Raises:
            DamagedRecord: the predictions are not those of the task's protocol.
        """
        task = self.task(record.task)
        try:
            return task.statistics(predictions)
        except Exception as problem:  # a table that this protocol has not written can fail it anywhere
            path = self.file.parent / "predictions" / f"{record.task}.parquet"
            reason = f"it holds no predictions of the protocol {task.protocol!r} ({type(problem).__name__}: {problem})"
            raise DamagedRecord(path, reason) from problem


def _plain(node: DictConfig | None) -> dict[str, Any]:
    """A part of the config in Python's own types; empty where there is none."""
    content = OmegaConf.to_container(node, resolve=False) if isinstance(node, DictConfig) else {}
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}


def _literal(value: Any) -> Any:
    """A value with which OmegaConf does nothing: texts that hold `${` are escaped."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
    if isinstance(value, Mapping):
        return {key: _literal(item) for key, item in value.items()}
    return [_literal(item) for item in value] if isinstance(value, list) else value


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
                where = f"from {record.imported['file']}; another program's figure cannot be computed again"
                yield Check(name, "", f"imported {where}", unchecked=True)
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
