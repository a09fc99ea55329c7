"""`runtime.devices=N`: one run over several GPUs of a machine, a process each.

The open tasks are cut into N shares of about equal cost, as an array of jobs is (`clipeval.cluster.shares`); each process embeds
its share into the same stores, and writes the records that it finds whole. What is left after that, the first process does
as a run on one device would. So the records are those of one device. On CPUs (`runtime.device=cpu`) the cores are divided.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pickle import PicklingError
from types import FrameType
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from clipeval.cluster.shares import TaskShard, missing_costs, partition
from clipeval.configs.errors import ClipevalError, first_line
from clipeval.decoding.processes import default_workers
from clipeval.engine.evaluation import Evaluation, run_planned
from clipeval.engine.features import FeatureStores
from clipeval.engine.plan import Plan, PlannedTask
from clipeval.engine.runner import RunSummary, run_tasks
from clipeval.models import ModelHandle
from clipeval.models.memory import no_memory
from clipeval.results.cores import usable_cores
from clipeval.results.heartbeats import heartbeat
from clipeval.stores.embeddings import ChunkRange


def run(evaluation: Evaluation) -> RunSummary:
    """Runs an evaluation on the devices that its config names.

    Raises:
        ClipevalError: as `Evaluation.run`; or a process failed.
    """
    plan, started = evaluation.prepare(), time.monotonic()
    evaluation.say_pixels(plan)
    if plan.open:
        say_devices(evaluation)
    todo = [planned.id for planned in plan.open]
    shared = run_on_devices([(evaluation, plan)])
    done = []
    if shared is not None:
        plan = shared.plans[0]
        done = [c.record for c in plan.tasks if c.record and c.state == "done" and c.id in todo]
    (model,) = run_planned([(evaluation, plan)])
    left, before = model.summary, shared or Shared([])
    seconds = time.monotonic() - started
    return RunSummary(
        [*done, *left.records], before.images + left.images, before.texts + left.texts, seconds, left.pending
    )


class Shared(NamedTuple):
    """What several processes did of one model or several.

    Attributes:
        plans: what each model's plan is after that.
        images, texts: how many they embedded.
    """

    plans: list[Plan]
    images: int = 0
    texts: int = 0


def run_on_devices(runs: Sequence[tuple[Evaluation, Plan]]) -> Shared | None:
    """Lets a process for each device do its share of what is open; None where one device is to do it all.

    Args:
        runs: evaluations with their plans, of models that see images and texts alike: an image is decoded for all of them at once,
            by the process in whose share it is.

    Raises:
        ClipevalError: a process failed.
    """
    first = runs[0][0]
    count = int(first.config.runtime.devices)
    todo = {planned.id: planned for _, plan in reversed(runs) for planned in reversed(plan.open)}
    shares = partition_tasks(list(reversed(todo.values())), first.stores, count) if count > 1 else []
    if len(shares) < 2:
        return None
    with ExitStack() as stack:
        for evaluation, plan in runs:
            evaluation.announce()
            stack.enter_context(heartbeat(evaluation.folder.path, [planned.unit for planned in plan.open]))
        others = [(evaluation.config, evaluation.handle) for evaluation, _ in runs[1:]]
        images, texts = run_shares(first.config, first.handle, shares, others)
    for evaluation, _ in runs:
        evaluation.stores.refresh()
    return Shared(plan_alike([evaluation for evaluation, _ in runs]), images, texts)


def plan_alike(evaluations: Sequence[Evaluation]) -> list[Plan]:
    """The plans of models that see images and texts alike; the sets are opened once, for the first one.

    Raises:
        ClipevalError: see `_plan_like`.
    """
    first = evaluations[0]
    opened = first.plan()
    return [opened, *(_plan_like(first, opened, evaluation) for evaluation in evaluations[1:])]


def _plan_like(first: Evaluation, plan: Plan, evaluation: Evaluation) -> Plan:
    """The plan of a model, whose sets were opened for the first one.

    Raises:
        ClipevalError: the two see images or texts differently, or its files are missing.
    """
    mine, theirs = evaluation.handle, first.handle
    mine.bring(evaluation.say)
    if mine.preprocess != theirs.preprocess or mine.tokenizer_digest != theirs.tokenizer_digest:
        raise ClipevalError(f"{mine.slug} and {theirs.slug} differ in preprocessing or tokenizer; run them one by one.")
    tasks = [planned.with_weights_of(mine, evaluation.folder) for planned in plan.tasks]
    return Plan(tasks, dict(plan.problems), dict(plan.skipped), plan.unopened)


def share_encodings(evaluations: Sequence[Evaluation]) -> None:
    """Gives those of one model, of which embeddings of several lengths are read, one set of stores: it encodes once."""
    known: dict[tuple[str, str], Evaluation] = {}
    for evaluation in evaluations:
        if evaluation.handle.dimensions is not None:
            encoding = evaluation.handle.image_digest, evaluation.handle.text_digest
            evaluation.stores = known.setdefault(encoding, evaluation).stores


def say_devices(evaluation: Evaluation) -> None:
    """Says where a run computes, and with how many decoders."""
    count, options = int(evaluation.config.runtime.devices), evaluation.options()
    device = options.device
    named = f"{count} x {device.type}" if count > 1 else str(device)
    if device.type == "cuda" and torch.cuda.is_available():
        named += f" ({torch.cuda.get_device_name(device)})"
    decoders = f"{options.stream.workers} decoder" + ("" if options.stream.workers == 1 else "s")
    evaluation.say(f"device: {named}, {options.precision}, {decoders}")


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


def run_shares(
    config: DictConfig,
    handle: ModelHandle,
    shares: Sequence[Sequence[TaskShard]],
    others: Sequence[tuple[DictConfig, ModelHandle]] = (),
) -> tuple[int, int]:
    """Runs each share in a process of its own.

    Args:
        config: composed; its `runtime.device` and `runtime.devices` say where.
        handle: the model, which is sent to the processes.
        shares: what each does.
        others: further models that see images and texts alike, with their configs: each process does its share for all of them.

    Returns:
        How many images and texts they embedded.

    Raises:
        ClipevalError: a process failed; the others are stopped, and what was finished is kept.
    """
    names = device_names(config.runtime.device, int(config.runtime.devices))
    context = get_context("spawn")
    processes, ends = [], []
    plain = OmegaConf.to_container(config, resolve=True)
    beside = [(OmegaConf.to_container(other, resolve=True), of) for other, of in others]
    for units, device in zip(shares, names, strict=False):
        end, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(plain, handle, list(units), device, len(names), theirs, beside))
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
    plain: dict[str, Any],
    handle: ModelHandle,
    units: list[TaskShard],
    device: str,
    count: int,
    end: Connection,
    others: Sequence[tuple[Any, ModelHandle]] = (),
) -> None:
    """One process: its share of the run on its device, for one model or several."""
    signal.signal(signal.SIGTERM, _stop)
    models = [(OmegaConf.create(given), of) for given, of in [(plain, handle), *others]]
    kind = torch.device(device)
    if kind.type == "cpu":
        torch.set_num_threads(max(1, usable_cores() // count))
    elif kind.type == "cuda":
        torch.cuda.set_device(kind)
    for config, _ in models:
        workers = config.runtime.workers
        config.runtime.workers = (
            max(1, (default_workers(kind) if workers is None else workers) // count) if workers != 0 else 0
        )
        config.runtime.device, config.runtime.devices = device, 1
    try:
        console = Console(stderr=True, force_terminal=False)
        evaluations = [Evaluation.open(config, console, of) for config, of in models]
        for evaluation in evaluations:
            evaluation.parts = {unit.task: unit.part for unit in units}
        plans = plan_alike(evaluations)
        plans[0].raise_problems()
        share_encodings(evaluations)
        runs = [e.model_run(plan) for e, plan in zip(evaluations, plans, strict=True) if plan.open]
        if runs:
            run_tasks(runs, evaluations[0].options())
        # A model of several that failed is tried once more, and named, by the process that started this one.
        _tell(end, None, (sum(run.summary.images for run in runs), sum(run.summary.texts for run in runs)))
    except ClipevalError as problem:
        _tell(end, str(problem))
    except KeyboardInterrupt:
        return  # the first process says so
    except torch.OutOfMemoryError as problem:
        _tell(end, f"{no_memory(device, problem)}; set runtime.batch_size lower")
        raise
    except BaseException as problem:  # what nobody foresaw: by its name, and its traceback in this process's output
        _tell(end, f"{type(problem).__name__}: {first_line(problem, '')}")
        raise


def _tell(end: Connection, problem: str | None, done: tuple[int, int] = (0, 0)) -> None:
    """The first process's last word from this one, which it may end meanwhile: another may have failed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with suppress(BrokenPipeError):  # it has stopped listening
        end.send((problem, done))


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
