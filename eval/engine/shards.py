"""Shares of a run: which tasks, or which chunks of a large task, each of several processes takes.

All tasks are laid on one line, model by model, as long as they cost, and the line is cut into pieces of one length. So the
shares are equal, few of them load more than one model, and a task that is longer than a share is cut by ranges of
samples. Cuts fall on the chunks of the embedding store (`clipeval.engine.store`), which is all that such parts share: each process
writes its chunks, and the one that finds the store whole scores the task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import DictConfig, open_dict

from clipeval.configs.errors import ClipevalError
from clipeval.engine.store import CHUNK, ImageStore, key_of

if TYPE_CHECKING:  # whose parts are of a type below
    from pathlib import Path

    from clipeval.engine.plan import PlannedTask

SNAP = 0.05
"""A cut moves to a task's border that is nearer than this part of a share: a whole task needs no one else to finish it."""
TASK_COST = 300.0
"""What opening and scoring a task costs, in images."""
PROMPTS_PER_IMAGE = 17.0
"""Prompts that cost as much as one image (ViT-B-32 on a CPU: 361 prompts/s and 21 images/s)."""


@dataclass(frozen=True)
class ChunkRange:
    """Some chunks of a task's images: from `first` up to `last` of `of` equal lengths."""

    first: int
    last: int
    of: int

    def chunks(self, images: int) -> range:
        """The chunk numbers of a split that has this many images. Parts that tile a task tile its chunks."""
        count = -(-images // CHUNK)
        return range(self.first * count // self.of, self.last * count // self.of)

    def __str__(self) -> str:
        return f"{self.first}-{self.last}/{self.of}"


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
    planned_tasks: Sequence[PlannedTask], store: Path | None, run: int = 0, factor: float = 1.0
) -> list[TaskCost]:
    """What is missing of planned tasks, or of their parts; those that share images are one.

    Args:
        planned_tasks: the tasks.
        store: where embeddings are kept; None: nowhere, and then they cannot be cut.
        run: as in `TaskShard`.
        factor: what an image and a prompt cost by the model, in those of a ViT-B-32.
    """
    return [_missing_cost(tasks, store, run, factor) for tasks in _sharing_images(planned_tasks)]


def _sharing_images(planned_tasks: Sequence[PlannedTask]) -> list[list[PlannedTask]]:
    """Tasks in groups: two that need images of one store are in the same, directly or by way of others."""
    groups: list[tuple[set[str], list[PlannedTask]]] = []
    for planned in planned_tasks:
        # Parts are kept apart, unless they are the same part.
        keys = {f"{key_of(need.parts)} {planned.part}" for need in planned.needs.values()}
        found = [group for group in groups if group[0] & keys]
        if not found:
            groups.append((keys, [planned]))
            continue
        first = found[0]
        first[0].update(keys, *(other[0] for other in found[1:]))
        first[1].extend([*(task for other in found[1:] for task in other[1]), planned])
        groups = [group for group in groups if all(group is not other for other in found[1:])]
    return [tasks for _, tasks in groups]


def _missing_cost(tasks: Sequence[PlannedTask], store: Path | None, run: int, factor: float) -> TaskCost:
    needs = {key_of(need.parts): need for planned in tasks for need in planned.needs.values()}.values()
    missing = sum(len(ImageStore(store, need.parts, len(need.images)).missing) for need in needs)
    chunks = max(-(-len(need.images) // CHUNK) for need in needs)
    part = tasks[0].part
    if part is not None:
        chunks = part.last - part.first
        missing = missing * chunks // part.of
    prompts = len({text for planned in tasks for text in planned.texts})
    cost = factor * (missing + prompts / PROMPTS_PER_IMAGE) + TASK_COST * len(tasks)
    others = tuple(planned.id for planned in tasks[1:])
    return TaskCost(run, tasks[0].id, cost, 1 if store is None else max(1, chunks), others)


def partition(loads: Sequence[TaskCost], count: int) -> list[list[TaskShard]]:
    """Cuts tasks into `count` shares of about equal cost; the same loads give the same shares on every machine.

    Args:
        loads: every task, those of one model side by side.
        count: how many shares; some stay empty where there is less to share.

    Returns:
        `count` lists. Together they hold every task once, cut or whole.
    """
    if count < 1:
        raise ClipevalError(f"a run cannot be cut into {count} shares; at least 1 was expected.")
    shares: list[list[TaskShard]] = [[] for _ in range(count)]
    size = sum(load.cost for load in loads) / count or 1.0
    edge = 0.0
    for load in loads:
        for number, first, last in _pieces(load, edge, size, count):
            whole = last - first == load.chunks
            part = None if whole else ChunkRange(first, last, load.chunks)
            shares[number] += [TaskShard(load.run, task, part) for task in (load.task, *load.others)]
        edge += load.cost
    return shares


def _pieces(load: TaskCost, edge: float, size: float, count: int) -> list[tuple[int, int, int]]:
    """(share, first chunk, last chunk) of each piece of a task that begins at `edge` of the line."""
    end = edge + load.cost
    first_share = min(int((edge + SNAP * size) / size), count - 1)
    last_share = min(max(int((end - SNAP * size) / size), first_share), count - 1)
    if load.chunks == 1 or first_share == last_share:
        middle = min(int((edge + end) / 2 / size), count - 1)
        return [(middle if load.chunks == 1 else first_share, 0, load.chunks)]
    pieces, start = [], 0
    for number in range(first_share, last_share + 1):
        stop = load.chunks
        if number < last_share:
            stop = round(((number + 1) * size - edge) / load.cost * load.chunks)
        if stop > start:
            pieces.append((number, start, stop))
            start = stop
    return pieces


def only(config: DictConfig, units: Sequence[TaskShard]) -> DictConfig:
    """The same config with the tasks of some units alone."""
    config = config.copy()
    wanted = {unit.task for unit in units}
    with open_dict(config):
        config.tasks = {name: node for name, node in config.tasks.items() if name in wanted}
    return config
