"""What can be done with a finished run folder alone: check it, repeat it, and find its pictures again."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from clipeval.configs.compose import compose
from clipeval.configs.errors import ClipevalError, nearest
from clipeval.configs.old_names import renamed
from clipeval.configs.resolvers import user_cache
from clipeval.configs.schema import CONFIG, check
from clipeval.data.languages import translate
from clipeval.data.split import open_split
from clipeval.engine.evaluation import Evaluation
from clipeval.engine.plan import data_config, make_task
from clipeval.models import resolve
from clipeval.results.records import DamagedRecord, Record
from clipeval.results.run_folder import RunFolder
from clipeval.results.trust import NOBODY, Trust, check_model, check_plain, check_tasks
from clipeval.tasks.attributes import Attributes
from clipeval.tasks.base import Task
from clipeval.tasks.group_tables import group_tables
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
            f"{path} has no record of an attributes task; --groups shows FairFace, UTKFace and their like."
        )


def pictures(folder: str, task: str, keys: Sequence[str]) -> dict[str, bytes]:
    """{key: the encoded image} of some samples of a run; those whose data is not on this machine are left out.

    Nothing of the config is instantiated or fetched, and pictures are only read from the very data that the record was scored on:
    a config that names other files of this machine gets none of them into a page.
    """
    place = RunFolder(folder)
    config = StoredRun.read(place).config
    node = config.tasks.get(task)
    try:
        record = place.record(task, verify=False)
        if node is None or record is None or record.imported is not None:
            return {}
        data, root = data_config(node, config.data), config.data.root
        if not data.location(root).exists():  # `datasets` would look for it on the hub
            return {}
        split_name = str((node.get("splits") or ["test"])[-1])
        split = open_split(data, root, split_name, Path(user_cache()) / "index", on_error=str(config.data.on_error))
        if data.language and not data.captions:
            split = translate(split, data.language, record.key)
    except Exception as problem:  # noqa: BLE001 - whatever is wrong with it, the page says that the picture is not at hand
        log.debug("no pictures of %s: %s", task, problem)
        return {}
    if split.digest not in record.fingerprint.data.split("+"):
        return {}
    at = {key: i for i, key in enumerate(split.samples.keys)}
    return {key: split.images.read(at[key]) for key in keys if key in at}


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


def rerun(path: Path, out: Path, console: Console, trusted: Trust = NOBODY) -> Iterator[Check]:
    """Repeats a run from its manifest alone, into `out`, with no cache of embeddings, and compares sample by sample.

    Its model and data have to be on this machine: nothing is fetched, and nothing is written but `out` and the user's own cache.

    Raises:
        ClipevalError: the folder holds no run that can be repeated, or names a class that is not trusted.
    """
    old, stored = RunFolder(path), StoredRun.read(RunFolder(path), trusted)
    stored.check()
    check_model(_plain(stored.config.get("model")), stored.file, trusted)
    skipped = old.skipped()
    recorded = {r.task for r in old.records() if r.imported is None and r.task not in skipped}
    if not recorded:
        raise ClipevalError(f"{path} holds no result that was computed: there is nothing to repeat.")
    config = _repeatable(stored.config, recorded, out)
    config.data.on_missing = "fail"  # what was recorded is repeated, or this says why not
    batches = {r.options.get("batch_size") for r in old.records() if r.task in recorded}
    if config.runtime.batch_size is None and len(batches) == 1:  # as it was found then; another moves the last bits
        config.runtime.batch_size = batches.pop()
    handle = resolve(config.model, Path(config.cache.root), offline=True)
    session = Evaluation.open(config, console, handle)
    session.run()
    for name in config.tasks:
        before, after = old.record(name), session.folder.record(name)
        assert before is not None
        assert after is not None
        parts = before.fingerprint.differences(after.fingerprint)
        yield Check(
            name,
            _changed(old.predictions(before), session.folder.predictions(after)),
            f"differs in {', '.join(parts)}" if parts else "",
        )


def _repeatable(stored: DictConfig, recorded: Collection[str], out: Path) -> DictConfig:
    """The config of a run that repeats another: with the keys of this release, checked, writing where the user lets it."""
    config = compose(["suite=none"])
    OmegaConf.set_struct(config, False)
    for key, value in stored.items():
        if isinstance(value, DictConfig) and key in CONFIG and key != "slurm":
            config[key] = {**config[key], **value}
        elif key != "slurm":
            config[key] = value
    config.out, config.head.save = str(out), None
    config.cache = {"root": user_cache(), "features": False, "pixels": False}
    config.tasks = {name: node for name, node in config.tasks.items() if name in recorded}
    check(config)
    OmegaConf.set_struct(config, True)
    return config


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
