"""From a config's node to a Task, and what stands for its code and settings in a fingerprint."""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from clipeval.configs.errors import ClipevalError
from clipeval.data.prompts import prompts_digest
from clipeval.models.identity import code_digest
from clipeval.models.module_files import is_own
from clipeval.models.own_code import OwnCode, import_fresh, own_code
from clipeval.models.state import Walk, modules_of
from clipeval.results.trust import HYDRA, NOT_TASK, TARGET
from clipeval.tasks.base import Task


def make_task(name: str, node: DictConfig) -> Task:
    """The Task that a config node declares.

    Raises:
        ClipevalError: an argument is missing, unknown or impossible.
    """
    content = OmegaConf.to_container(node, resolve=True)
    arguments = {str(key): value for key, value in content.items() if key not in NOT_TASK}  # type: ignore[union-attr]
    _import_own(str(arguments.get("_target_")))
    try:
        task = _instantiated(arguments)
    except Exception as problem:
        raise ClipevalError(f"the config of the task {name!r} does not make a task: {problem}") from problem
    if not isinstance(task, Task):
        raise ClipevalError(f"the config of the task {name!r} names {arguments.get('_target_')}, which is not a Task.")
    return task


def _instantiated(arguments: dict[str, Any]) -> Any:
    """As `hydra.utils.instantiate` does it with plain values; without Hydra where no argument is an object of its own."""
    module, _, name = str(arguments.get(TARGET)).rpartition(".")
    plain = {key: value for key, value in arguments.items() if key != TARGET}
    if module and not _names_any(plain, {TARGET, *HYDRA}):
        found = None
        with contextlib.suppress(Exception):  # Hydra comes upon it again, and says what it is
            found = getattr(import_module(module), name)
        if isinstance(found, type):
            return found(**plain)
    from hydra.errors import InstantiationException  # 40 tasks of the package do without
    from hydra.utils import instantiate

    try:
        return instantiate(arguments, _convert_="all")
    except InstantiationException as problem:
        raise problem.__cause__ or problem from None


def _names_any(value: object, keys: set[str]) -> bool:
    """Whether a mapping with one of these keys is anywhere in a value of a config."""
    if isinstance(value, dict):
        return not keys.isdisjoint(value) or any(_names_any(item, keys) for item in value.values())
    return isinstance(value, list) and any(_names_any(item, keys) for item in value)


def _import_own(target: str) -> None:
    """Has a class of the user's own be what its source now says; Hydra says what is wrong with a name."""
    if is_own(target.rpartition(".")[0]):
        with contextlib.suppress(ImportError, ValueError):
            import_fresh(target)


def task_code(task: Task) -> OwnCode | None:
    """The code of a task's class, and of its settings' classes, where one of them is the user's own."""
    walk = Walk()
    walk.add([getattr(task, field.name) for field in dataclasses.fields(task)])
    modules = list(dict.fromkeys([*modules_of(type(task)), *walk.modules]))
    return own_code(modules) if modules else None


def protocol_digest(task: Task, code: OwnCode | None = None, cache: Path | None = None) -> str:
    """The protocol, its version and every setting that can change a metric; what only labels the record is left out.

    Args:
        task: the task.
        code: as `task_code` gives it; of clipeval's own tasks the version stands for the code.
        cache: where digests of files are remembered.
    """
    labels = {"key", "name", "metric", "chance", "group", "meanings"}
    if task.ties == "reference":  # as before there was a choice
        labels.add("ties")
    settings = {f.name: getattr(task, f.name) for f in dataclasses.fields(task) if f.name not in labels}
    known = f"{task.protocol}/{task.version}/{prompts_digest([repr(sorted(settings.items()))])[:16]}"
    if code is None:
        return known
    return f"{known}/{uuid.uuid4().hex[:16] if code.problem else code_digest(code, cache)}"
