"""Shares of a run: which tasks, or which chunks of a large task, each of several processes takes (`--share I/N`).

All tasks are laid on one line, model by model, as long as they cost, and the line is cut into pieces of one length. So the
shares are equal, few of them load more than one model, and a task that is longer than a share is cut by ranges of
samples. Cuts fall on the chunks of the store (`clipeval.stores.embeddings`), which is all that such parts share: each process
writes its chunks, and the one that finds the store whole scores the task.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig

from clipeval.configs.errors import ClipevalError
from clipeval.engine.features import FeatureStores
from clipeval.engine.plan import PlannedTask
from clipeval.stores.embeddings import CHUNK, ChunkRange

SNAP = 0.05
"""A cut moves to a task's border that is nearer than this part of a share: a whole task needs no one else to finish it."""
TASK_COST = 300.0
"""What opening and scoring a task costs, in images."""
PROMPTS_PER_IMAGE = 17.0
"""Prompts that cost as much as one image (ViT-B-32 on a CPU: 361 prompts/s and 21 images/s)."""


@dataclass(frozen=True)
class TaskShard:
    """What a process is given: a task of a model, or a part of one.

    Attributes:
        run: the number of the model (of the composed config) among those shared out.
        task: the task's id.
        part: None for all of it.
    """

    run: int
    task: str
    part: ChunkRange | None = None

    def __str__(self) -> str:
        return self.task if self.part is None else f"{self.task}[{self.part}]"


@dataclass(frozen=True)
class TaskCost:
    """A task before it is shared out.

    Attributes:
        run, task: as in `TaskShard`.
        cost: in images of a ViT-B-32.
        chunks: in how many pieces it may be cut; 1 where it may not.
        others: tasks that need images of the same stores. They are cut as it is, so that no two processes embed the same image.
    """

    run: int
    task: str
    cost: float
    chunks: int
    others: tuple[str, ...] = ()


def missing_costs(
    planned_tasks: Sequence[PlannedTask], stores: FeatureStores, run: int = 0, factor: float = 1.0
) -> list[TaskCost]:
    """What is missing of planned tasks, or of their parts; those that share images are one.

    Args:
        planned_tasks: the tasks.
        stores: what is embedded already; tasks whose embeddings are kept nowhere cannot be cut.
        run: as in `TaskShard`.
        factor: what an image and a prompt cost by the model, in those of a ViT-B-32.
    """
    return [_missing_cost(tasks, stores, run, factor) for tasks in _sharing_images(planned_tasks)]


def _sharing_images(planned_tasks: Sequence[PlannedTask]) -> list[list[PlannedTask]]:
    """Tasks in groups: two that need images of one store are in the same, directly or by way of others."""
    groups: list[tuple[set[str], list[PlannedTask]]] = []
    for planned in planned_tasks:
        # Parts are kept apart, unless they are the same part.
        keys = {f"{spec.key} {planned.part}" for spec in planned.features.values()}
        sharing = [group for group in groups if group[0] & keys]
        if not sharing:
            groups.append((keys, [planned]))
            continue
        first, *rest = sharing
        first[0].update(keys, *(other[0] for other in rest))
        first[1].extend([*(task for other in rest for task in other[1]), planned])
        groups = [group for group in groups if all(group is not other for other in rest)]
    return [tasks for _, tasks in groups]


def _missing_cost(tasks: Sequence[PlannedTask], stores: FeatureStores, run: int, factor: float) -> TaskCost:
    specs = {spec.key: spec for planned in tasks for spec in planned.features.values()}.values()
    missing = sum(len(stores.of(spec).missing) for spec in specs)
    chunks = max(-(-len(spec.images) // CHUNK) for spec in specs)
    part = tasks[0].part
    if part is not None:
        chunks = part.last - part.first
        missing = missing * chunks // part.of
    prompts = len({text for planned in tasks for text in planned.texts})
    cost = factor * (missing + prompts / PROMPTS_PER_IMAGE) + TASK_COST * len(tasks)
    others = tuple(planned.id for planned in tasks[1:])
    return TaskCost(run, tasks[0].id, cost, 1 if stores.root is None else max(1, chunks), others)


def partition(costs: Sequence[TaskCost], count: int) -> list[list[TaskShard]]:
    """Cuts tasks into `count` shares of about equal cost; the same costs give the same shares on every machine.

    Args:
        costs: every task, those of one model side by side.
        count: how many shares; some stay empty where there is less to share.

    Returns:
        `count` lists. Together they hold every task once, cut or whole.
    """
    if count < 1:
        raise ClipevalError(f"a run cannot be cut into {count} shares; at least 1 was expected.")
    shares: list[list[TaskShard]] = [[] for _ in range(count)]
    size = sum(task.cost for task in costs) / count or 1.0
    edge = 0.0
    for task in costs:
        for number, first, last in _pieces(task, edge, size, count):
            whole = last - first == task.chunks
            part = None if whole else ChunkRange(first, last, task.chunks)
            shares[number] += [TaskShard(task.run, name, part) for name in (task.task, *task.others)]
        edge += task.cost
    return shares


def _pieces(task: TaskCost, edge: float, size: float, count: int) -> list[tuple[int, int, int]]:
    """(share, first chunk, last chunk) of each piece of a task that begins at `edge` of the line."""
    end = edge + task.cost
    first_share = min(int((edge + SNAP * size) / size), count - 1)
    last_share = min(max(int((end - SNAP * size) / size), first_share), count - 1)
    if task.chunks == 1 or first_share == last_share:
        middle = min(int((edge + end) / 2 / size), count - 1)
        return [(middle if task.chunks == 1 else first_share, 0, task.chunks)]
    pieces, start = [], 0
    for number in range(first_share, last_share + 1):
        stop = task.chunks
        if number < last_share:
            stop = round(((number + 1) * size - edge) / task.cost * task.chunks)
        if stop > start:
            pieces.append((number, start, stop))
            start = stop
    return pieces


def parse_share(text: str, environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """`I/N` (I from 0 to N - 1), or `slurm` for this array job's own, as (I, N).

    Raises:
        ClipevalError: neither; or `slurm` outside of an array.
    """
    if text == "slurm":
        return _slurm_share(os.environ if environment is None else environment)
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise ClipevalError(f"--share {text}: expected I/N with I from 0 to N-1, such as 0/16, or the word slurm.")
    return int(found[1]), int(found[2])


def _slurm_share(environment: Mapping[str, str]) -> tuple[int, int]:
    try:
        index, count = int(environment["SLURM_ARRAY_TASK_ID"]), int(environment["SLURM_ARRAY_TASK_COUNT"])
        least, most = int(environment.get("SLURM_ARRAY_TASK_MIN", 0)), int(environment["SLURM_ARRAY_TASK_MAX"])
    except KeyError as missing:
        raise ClipevalError(
            f"--share slurm: {missing.args[0]} is not set. It works in a job of an array (sbatch --array=0-15 …); "
            "elsewhere write --share I/N."
        ) from None
    step = (most - least) // (count - 1) if count > 1 else 1
    if (index - least) % step or (most - least) != step * (count - 1):
        raise ClipevalError(
            f"--share slurm: the array's {count} indices from {least} to {most} are not evenly spaced, so index {index} "
            "has no place among them; use a range such as --array=0-15."
        )
    return (index - least) // step, count


def config_costs(config: DictConfig, run: int = 0) -> list[TaskCost]:
    """What each task of a config costs, by what the config says of it or else by the size of its folder.

    It must not depend on what is done already: each process of a share works it out for itself, at its own time.
    """
    splittable = bool(config.cache.features)
    costs: dict[str, TaskCost] = {}
    for name, node in config.tasks.items():
        samples = node.data.get("samples") or _estimated_images(config, node)
        classes = node.data.get("classes") or 0
        splits = len(node.get("splits") or ["test"])
        chunks = max(1, -(-samples // CHUNK)) if splittable else 1
        location = str(node.data.get("path") or (node.data.get("root"), node.data.get("folder") or name))
        before = costs.get(location)
        if before is None:
            costs[location] = TaskCost(run, str(name), samples * splits + classes + TASK_COST, chunks)
        else:  # the same images: languages, shots, prompts
            cost = max(before.cost, samples * splits) + classes + TASK_COST
            chunks = max(before.chunks, chunks)
            costs[location] = replace(before, cost=cost, chunks=chunks, others=(*before.others, str(name)))
    return list(costs.values())


def _estimated_images(config: DictConfig, node: DictConfig) -> int:
    """About how many images a folder or file holds, from its size; 0 where it is not there (the plan will say so)."""
    name = node.data.get("path") or node.data.get("folder")
    root = None if node.data.get("path") else node.data.get("root") or config.data.root
    if not name or (root is None and not node.data.get("path")):
        return 0
    path = Path(root or "").expanduser() / Path(name).expanduser()
    files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
    return sum(file.stat().st_size for file in files if file.is_file()) // 50_000
