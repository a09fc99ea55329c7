"""Which of clipeval's suites the tasks of some runs make up, so that an average is over tasks that have a name together.

A run folder may hold more than one suite: what another program's file adds to DataComp's 38, tasks of one's own, a second suite
run into the same folder. An average over all of them would be comparable with nobody's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from clipeval.configs import catalog

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
    suites: list[tuple[Suite, set[str]]] = []
    for name in catalog.group_options("suite"):
        facts = tasks_of(name)
        held = {task: by_key[key] for task, (key, _, _) in facts.items() if key in by_key}
        if len(facts) < LEAST or len(held) <= len(facts) / 2:
            continue
        # A planned task without a main metric, FairFace say, is missing from no average.
        known = {str(spec.get("key")) for spec in planned.values()}
        members = [
            held.get(task, task)
            for task, (key, metric, _) in facts.items()
            if task in held or (key not in known and metric)
        ]
        if len(members) >= LEAST:
            suites.append((Suite(name, tuple(members)), set(held.values())))
    suites.sort(key=lambda item: (-len(item[1]), len(item[0].tasks)))
    if not suites or len(suites[0][1]) < min(LARGE, len(scored) / 2):
        return []
    kept = [suites[0]]
    for suite, held_tasks in suites[1:]:
        if len(held_tasks) == len(suite.tasks) and not any(held_tasks <= set(larger.tasks) for larger, _ in kept):
            kept.append((suite, held_tasks))
    return [suite for suite, _ in kept]


def uncounted(planned: Mapping[str, Mapping[str, Any]], suite: Suite) -> list[str]:
    """The tasks with a main metric that a suite does not have."""
    return [task for task, spec in planned.items() if spec.get("metric") is not None and task not in suite.tasks]


@cache
def tasks_of(name: str) -> dict[str, tuple[str, str | None, str]]:
    """{id: key, main metric and name} of the tasks of a suite of clipeval's. Raises ClipevalError where there is none."""
    return {task: _facts(option) for task, option in catalog.suite_tasks(name).items()}


@cache
def _facts(option: str) -> tuple[str, str | None, str]:
    content = catalog.content("task", option)
    return content["key"], content.get("metric"), content["name"]
