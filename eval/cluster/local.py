"""`runtime.devices=N`: one run over several GPUs of a machine, a process each.

The open tasks are cut into N shares of about equal cost, as an array of jobs is (`clipeval.cluster.shares`); each process embeds
its share into the same stores, and writes the records that it finds whole. What is left after that, the first process does
as a run on one device would. So the records are those of one device. On CPUs (`runtime.device=cpu`) the cores are divided.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pickle import PicklingError
from types import FrameType
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from clipeval.cluster.shares import TaskShard, missing_costs, partition
from clipeval.configs.errors import ClipevalError
from clipeval.engine.decode import default_workers
from clipeval.engine.evaluation import Evaluation, run_planned
from clipeval.engine.features import FeatureStores
from clipeval.engine.plan import PlannedTask
from clipeval.engine.runner import RunSummary, run_tasks
from clipeval.engine.store import ChunkRange
from clipeval.models import ModelHandle
from clipeval.results.cores import usable_cores
from clipeval.results.heartbeats import heartbeat


def run(evaluation: Evaluation) -> RunSummary:
    """Runs an evaluation on the devices that its config names.

    Raises:
        ClipevalError: as `Evaluation.run`; or a process failed.
    """
    count = int(evaluation.config.runtime.devices)
    plan, started = evaluation.prepare(), time.monotonic()
    evaluation.say_pixels(plan)
    shares = partition_tasks(plan.open, evaluation.stores, count) if count > 1 else []
    images = texts = 0
    done: list[Any] = []
    if len(shares) > 1:
        todo = [planned.id for planned in plan.open]
        evaluation.announce()
        with heartbeat(evaluation.folder.path, [planned.unit for planned in plan.open]):
            images, texts = run_shares(evaluation.config, evaluation.handle, shares)
        evaluation.stores.refresh()
        plan = evaluation.plan()
        done = [c.record for c in plan.tasks if c.record and c.state == "done" and c.id in todo]
    (model,) = run_planned([(evaluation, plan)])
    left = model.summary
    seconds = time.monotonic() - started
    return RunSummary([*done, *left.records], images + left.images, texts + left.texts, seconds, left.pending)


def device_names(device: str, count: int) -> list[str]:
    """The devices that `count` processes use.

    Raises:
        ClipevalError: one GPU is named and several are asked for, or there are not that many.
    """
    kind = torch.device(device)
    if kind.type != "cuda":
        return [device] * count
    if kind.index is not None:
        raise ClipevalError(
            f"runtime.device={device} is one GPU, and runtime.devices={count}; use runtime.device=cuda."
        )
    there = torch.cuda.device_count()
    if there < count:
        raise ClipevalError(f"runtime.devices={count}, and this machine has {there} CUDA devices; use at most {there}.")
    return [f"cuda:{number}" for number in range(count)]


def partition_tasks(planned_tasks: Sequence[PlannedTask], stores: FeatureStores, count: int) -> list[list[TaskShard]]:
    """Cuts tasks into at most `count` shares by what is missing of them; a task that is itself a part is cut within it."""
    costs = missing_costs(planned_tasks, stores)
    parts = {planned.id: planned.part for planned in planned_tasks}
    shares = [[_within(unit, parts.get(unit.task)) for unit in share] for share in partition(costs, count)]
    return [share for share in shares if share]


def _within(unit: TaskShard, outer: ChunkRange | None) -> TaskShard:
    if outer is None or unit.part is None:
        return TaskShard(unit.run, unit.task, outer or unit.part)
    return TaskShard(
        unit.run, unit.task, ChunkRange(outer.first + unit.part.first, outer.first + unit.part.last, outer.of)
    )


def run_shares(config: DictConfig, handle: ModelHandle, shares: Sequence[Sequence[TaskShard]]) -> tuple[int, int]:
    """Runs each share in a process of its own.

    Args:
        config: composed; its `runtime.device` and `runtime.devices` say where.
        handle: the model, which is sent to the processes.
        shares: what each does.

    Returns:
        How many images and texts they embedded.

    Raises:
        ClipevalError: a process failed; the others are stopped, and what was finished is kept.
    """
    names = device_names(config.runtime.device, int(config.runtime.devices))
    context = get_context("spawn")
    processes, ends = [], []
    plain = OmegaConf.to_container(config, resolve=True)
    for units, device in zip(shares, names, strict=False):
        end, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(plain, handle, list(units), device, len(names), theirs))
        try:
            process.start()
        except (PicklingError, TypeError, AttributeError) as problem:  # the first one, if any: all get the same model
            raise ClipevalError(
                f"runtime.devices={len(names)} sends the model to other processes, and {handle.name} cannot be sent "
                f"({problem})."
            ) from None
        theirs.close()
        processes.append(process)
        ends.append(end)
    try:
        return _gather(ends)
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
        for process in processes:
            process.join()


def _gather(ends: list[Connection]) -> tuple[int, int]:
    images = texts = 0
    waiting: list[Any] = list(ends)
    while waiting:
        for end in wait(waiting):
            assert isinstance(end, Connection)
            waiting.remove(end)
            try:
                problem, done = end.recv()
            except EOFError:
                problem = "it was killed. The system may have ended it for want of memory: use fewer runtime.devices"
            if problem:
                raise ClipevalError(f"process {ends.index(end)} of {len(ends)}: {problem}")
            images, texts = images + done[0], texts + done[1]
    return images, texts


def _work(
    plain: dict[str, Any], handle: ModelHandle, units: list[TaskShard], device: str, count: int, end: Connection
) -> None:
    """One process: its share of the run on its device."""
    signal.signal(signal.SIGTERM, _stop)
    config = OmegaConf.create(plain)
    kind = torch.device(device)
    if kind.type == "cpu":
        torch.set_num_threads(max(1, usable_cores() // count))
    elif kind.type == "cuda":
        torch.cuda.set_device(kind)
    workers = config.runtime.workers
    config.runtime.workers = (
        max(1, (default_workers(kind) if workers is None else workers) // count) if workers != 0 else 0
    )
    config.runtime.device, config.runtime.devices = device, 1
    try:
        evaluation = Evaluation.open(config, Console(stderr=True, force_terminal=False), handle)
        evaluation.parts = {unit.task: unit.part for unit in units}
        plan = evaluation.plan()
        plan.raise_problems()
        model = evaluation.model_run(plan)
        if plan.open:
            run_tasks([model], evaluation.options())
        end.send((None, (model.summary.images, model.summary.texts)))
    except ClipevalError as problem:
        end.send((str(problem), (0, 0)))
    except KeyboardInterrupt:
        return  # the first process says so
    except torch.OutOfMemoryError as problem:
        end.send((f"{device} has no memory left ({_first_line(problem)}); set runtime.batch_size lower", (0, 0)))
        raise
    except (
        BaseException
    ) as problem:  # what nobody foresaw: said by its name, with the traceback in this process's output
        end.send((f"{type(problem).__name__}: {_first_line(problem)}", (0, 0)))
        raise


def _first_line(problem: BaseException) -> str:
    return next(iter(str(problem).strip().splitlines()), "")


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
