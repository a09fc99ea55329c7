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
from clipeval.engine.store import CHUNK, ImageStore

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
    """

    run: int
    task: str
    cost: float
    chunks: int


def missing_cost(planned: PlannedTask, store: Path | None, run: int = 0, factor: float = 1.0) -> TaskCost:
    """What is missing of a planned task, or of its part.

    Args:
        planned: the task.
        store: where embeddings are kept; None: nowhere, and then it cannot be cut.
        run: as in `TaskShard`.
        factor: what an image and a prompt cost by the model, in those of a ViT-B-32.
    """
    needs = planned.needs.values()
    missing = sum(len(ImageStore(store, need.parts, len(need.images)).missing) for need in needs)
    chunks = max(-(-len(need.images) // CHUNK) for need in needs)
    if planned.part is not None:
        chunks = planned.part.last - planned.part.first
        missing = missing * chunks // planned.part.of
    cost = factor * (missing + len(set(planned.texts)) / PROMPTS_PER_IMAGE) + TASK_COST
    return TaskCost(run, planned.id, cost, 1 if store is None else max(1, chunks))


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
            shares[number].append(
                TaskShard(load.run, load.task, None if whole else ChunkRange(first, last, load.chunks))
            )
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
