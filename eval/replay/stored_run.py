"""What a run folder says was run, read without torch: a folder that holds no run is refused at once, and so is untrusted code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from clipeval.configs.errors import ClipevalError, nearest
from clipeval.configs.old_names import renamed
from clipeval.results.records import DamagedRecord, Record
from clipeval.results.run_folder import RunFolder
from clipeval.results.trust import NOBODY, Trust, check_plain, check_tasks

if TYPE_CHECKING:
    from clipeval.tasks.base import Task
    from clipeval.tasks.statistics import Statistic


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
                f"{folder.place} holds no run.json with a config: it is not the folder of a finished run."
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
        from clipeval.engine.task_config import make_task

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
