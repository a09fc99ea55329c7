"""Which of clipeval's suites the tasks of some runs make up, so that an average is over tasks that have a name together.

A run folder may hold more than one suite: what another program's file adds to DataComp's 38, tasks of one's own, a second suite
run into the same folder. An average over all of them would be comparable with nobody's.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

import clipeval.configs

LEAST = 5
"""Tasks that a suite must have to be looked for: smaller ones are groups of the report, which have averages of their own."""

LARGE = 30
"""Tasks of a suite whose average is a published figure: it is shown whatever else a run holds."""


@dataclass(frozen=True)
class Suite:
    """A suite's name, and the ids of those of its tasks that have a main metric, as the runs call them."""

    name: str
    tasks: tuple[str, ...]


def suites_in(planned: Mapping[str, Mapping[str, Any]]) -> list[Suite]:
    """The suites that some tasks make up: first the one that holds most of them, then others that are there in full.

    The first may lack tasks, up to half of them; where it holds neither half of what is planned nor `LARGE` tasks, the tasks
    were not chosen as a suite, and there is none.

    Args:
        planned: {task id: what the config or the record says of it}; those without a main metric do not count.
    """
    scored = {task: str(spec.get("key")) for task, spec in planned.items() if spec.get("metric") is not None}
    by_key = {key: task for task, key in scored.items()}
    found: list[tuple[Suite, set[str]]] = []
    for name in _names():
        ids = _tasks(name)
        held = {task: by_key[_key(task)] for task in ids if _key(task) in by_key}
        if len(ids) < LEAST or len(held) <= len(ids) / 2:
            continue
        # A planned task without a main metric, FairFace say, is missing from no average.
        known = {str(spec.get("key")) for spec in planned.values()}
        members = [held.get(task, task) for task in ids if task in held or (_key(task) not in known and _metric(task))]
        if len(members) >= LEAST:
            found.append((Suite(name, tuple(members)), set(held.values())))
    found.sort(key=lambda item: (-len(item[1]), len(item[0].tasks)))
    if not found or len(found[0][1]) < min(LARGE, len(scored) / 2):
        return []
    kept = [found[0]]
    for suite, held_tasks in found[1:]:
        if len(held_tasks) == len(suite.tasks) and not any(held_tasks <= set(larger.tasks) for larger, _ in kept):
            kept.append((suite, held_tasks))
    return [suite for suite, _ in kept]


def uncounted(planned: Mapping[str, Mapping[str, Any]], suite: Suite) -> list[str]:
    """The tasks with a main metric that a suite does not have."""
    return [task for task, spec in planned.items() if spec.get("metric") is not None and task not in suite.tasks]


def suite_tasks(name: str) -> tuple[str, ...]:
    """The ids of a suite's tasks, in its order. Raises KeyError where clipeval has no such suite."""
    if name not in _names():
        raise KeyError(name)
    return _tasks(name)


def suite_names() -> Collection[str]:
    """The names of clipeval's suites."""
    return _names()


def task_facts(task: str) -> tuple[str, str | None, str]:
    """A task's key, main metric and name, as its file states or inherits them."""
    return _key(task), _metric(task), _stated(task, "name") or task


def _folder() -> Path:
    return Path(clipeval.configs.__path__[0])


@cache
def _names() -> tuple[str, ...]:
    return tuple(sorted(file.stem for file in (_folder() / "suite").glob("*.yaml")))


@cache
def _tasks(name: str) -> tuple[str, ...]:
    """A suite's file is a defaults list: of tasks, `/task@tasks.ID: FILE`, and of other suites."""
    ids: dict[str, None] = {}
    for entry in _load("suite", name).get("defaults") or ():
        if isinstance(entry, str):
            ids |= dict.fromkeys(_tasks(entry) if entry != "_self_" else ())
        else:
            ids |= {str(key).rpartition("@tasks.")[2]: None for key in entry if "@tasks." in str(key)}
    return tuple(ids)


def _key(task: str) -> str:
    """A task's key; the id of one that is not clipeval's."""
    return _stated(task, "key") or task


@cache
def _stated(task: str, field: str) -> str | None:
    """What a task's own file says of it in one line."""
    file = _folder() / "task" / f"{task}.yaml"
    found = re.search(rf"^{field}: (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE) if file.is_file() else None
    return found[1].strip().strip("\"'") if found else None


@cache
def _metric(task: str) -> str | None:
    """A task's main metric: its file's, else that of the last of the files that it inherits from."""
    if not (_folder() / "task" / f"{task}.yaml").is_file():
        return None
    content = _load("task", task)
    if "metric" in content:
        metric: str | None = content["metric"]
        return metric
    found = [_metric(entry) for entry in content.get("defaults") or () if isinstance(entry, str) and entry != "_self_"]
    return next((metric for metric in reversed(found) if metric is not None), None)


def _load(group: str, name: str) -> dict[str, Any]:
    text = (_folder() / group / f"{name}.yaml").read_text(encoding="utf-8")
    return dict(yaml.load(text, Loader=yaml.CSafeLoader) or {})
