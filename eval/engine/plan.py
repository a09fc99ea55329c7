"""What a run would do: for each task what it needs, and whether its record already stands.

Planning reads configs, indices of data and digests of weights. It loads no weights, decodes no image and writes nothing
but the caches of indices and digests.
"""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from clipeval.configs.errors import ClipevalError, nearest
from clipeval.data.images import Images
from clipeval.data.languages import translate
from clipeval.data.prompts import prompt_set, prompts_digest
from clipeval.data.split import DataConfig, Split, open_split, take
from clipeval.engine.head_files import load_heads
from clipeval.engine.shards import ChunkRange
from clipeval.models import ModelHandle, image_precision, text_precision
from clipeval.models.identity import code_digest
from clipeval.models.own_code import OwnCode, import_fresh, is_own, own_code
from clipeval.models.state import Walk, modules_of
from clipeval.preprocess.transforms import Convert
from clipeval.results.fingerprint import Fingerprint, identity_differences
from clipeval.results.records import COUNTS, DamagedRecord, Record
from clipeval.results.run_folder import RunFolder
from clipeval.results.trust import NOT_TASK
from clipeval.tasks.base import Samples, Task
from clipeval.tasks.names import name_flags

FEW = 32
"""Samples that a task's metrics are tried on while planning."""

DETERMINISTIC_BATCH = 32
"""The batch of `runtime.deterministic=true` where none is given; it divides the cache's chunk."""


@dataclass(frozen=True)
class FeatureSpec:
    """Images that some tasks need embedded in one way; tasks that agree on all of it share the work.

    Attributes:
        parts: everything that the embeddings depend on; the key of their store.
        images: the split's images.
        convert, mixed, output: as in `clipeval.engine.stream.DecodeJob`.
    """

    parts: Mapping[str, Any]
    images: Images
    convert: Convert
    mixed: bool
    output: str
    label: str = ""
    """For people who look into the cache."""
    max_pixels: int | None = None
    max_text_chunk: int | None = None
    """What may be decoded; no part of the key, for it changes no embedding."""


@dataclass
class PlannedTask:
    """One task of a run, opened.

    Attributes:
        id: the task's place in the config, and its record's file name.
        task: what to ask and how to score.
        splits: the splits it needs, opened and checked; by the task's names for them (`Task.roles`).
        samples: their tables, templates resolved.
        needs: the images of each split.
        prompts: {"name", "digest", "templates"}, as in the record.
        fingerprint: what its scores depend on.
        identity: digests of what else they depend on, in words: `{"tokenizer": …}`.
        notes: footnotes of its config.
        record: the record that stands, if any.
        state: done | stale | todo.
        why: for a stale one, the parts that differ; else empty.
        part: the chunks of its images that this process embeds; None for all. Who finds the last ones there scores it.
        warnings: what a reader must know beside what its data's flags say.
    """

    id: str
    task: Task
    splits: Mapping[str, Split]
    samples: Mapping[str, Samples]
    needs: Mapping[str, FeatureSpec]
    prompts: Mapping[str, Any]
    fingerprint: Fingerprint
    notes: tuple[str, ...]
    record: Record | None = None
    state: str = "todo"
    why: tuple[str, ...] = ()
    part: ChunkRange | None = None
    warnings: tuple[str, ...] = ()
    identity: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    """What is said once, when the task is opened."""

    @cached_property
    def texts(self) -> list[str]:
        """The texts that the task asks about."""
        return self.task.prompts(self.samples)

    @property
    def unit(self) -> str:
        """What this process does of it, as `clipeval.engine.shards.TaskShard` prints it."""
        return self.id if self.part is None else f"{self.id}[{self.part}]"

    @property
    def flags(self) -> list[str]:
        """What a reader of its scores must know about its data."""
        return [*(flag for split in self.splits.values() for flag in split.flags), *self.warnings]


@dataclass
class Plan:
    """Every task of a run, and what stands in its way."""

    tasks: list[PlannedTask] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    """{task id: why it cannot run}."""
    skipped: dict[str, str] = field(default_factory=dict)
    """{task id: why its data cannot be opened}, with `data.on_missing=skip`."""
    unopened: bool = False
    """Whether some of the problems are of data that cannot be opened."""

    @property
    def open(self) -> list[PlannedTask]:
        """The tasks that are still to be computed."""
        return [planned for planned in self.tasks if planned.state != "done"]

    def raise_problems(self) -> None:
        """One error for everything that stands in the way.

        Raises:
            ClipevalError: some task cannot run, or none is left.
        """
        problems = self.problems if self.problems or self.tasks else self.skipped
        if problems:
            lines = "\n".join(f"  {task}: {problem}" for task, problem in problems.items())
            count = len(self.problems) + len(self.tasks) + len(self.skipped)
            skip = "data.on_missing=skip runs the others, and says in every table which were left out."
            offered = f"\n{skip}" if self.tasks and self.unopened else ""
            raise ClipevalError(f"{len(problems)} of {count} tasks cannot run:\n{lines}{offered}")


class MissingData(ClipevalError):  # noqa: N818 - what it is, in the words of its users
    """The data of a task cannot be opened: it is not there, or not as the task needs it."""


def make_plan(
    config: DictConfig, handle: ModelHandle, folder: RunFolder, progress: Callable[[str], None] | None = None
) -> Plan:
    """Opens every task of a config and compares it with the records that stand.

    Args:
        config: as `clipeval.configs.compose` gives it.
        handle: the model, not loaded.
        folder: where records are.
        progress: told of each task before it is opened.
    """
    plan = Plan()
    nodes = {str(name): node for name, node in (config.get("tasks") or {}).items()}
    if not nodes:
        raise ClipevalError("the config has no task; choose some with suite=… or task=….")
    for name, node in nodes.items():
        if progress:
            progress(name)
        try:
            planned = open_task(name, node, config, handle)
        except MissingData as problem:
            plan.unopened = True
            (plan.skipped if config.data.on_missing == "skip" else plan.problems)[name] = str(problem)
            continue
        except ClipevalError as problem:
            plan.problems[name] = str(problem)
            continue
        compare(planned, folder)
        plan.tasks.append(planned)
    return plan


def open_task(name: str, node: DictConfig, config: DictConfig, handle: ModelHandle) -> PlannedTask:
    """Opens one task: its data, its prompts, its fingerprint.

    Raises:
        ClipevalError: the config or the data is not what the task needs.
    """
    task = make_task(name, node)
    handle.require(task.output, task.name)
    data = data_config(node, config.data)
    cache = Path(config.cache.root).expanduser()
    root = config.data.root
    strict, on_error = bool(config.data.strict), str(config.data.on_error)
    try:
        splits = {
            role: open_split(data, root, split, cache / "index", strict, on_error) for role, split in task.roles.items()
        }
    except ClipevalError as problem:
        raise MissingData(str(problem)) from problem
    except OSError as problem:  # a folder that this user may not read, a disk that has gone
        if problem.filename is None:
            raise
        raise MissingData(f"{problem.filename} cannot be read: {problem.strerror}.") from problem
    if data.language and not data.captions:
        splits = {s: translate(split, data.language, task.key) for s, split in splits.items()}
    prompts = prompt_set(node.get("prompts") or config.get("prompts"))
    samples = {
        s: dataclasses.replace(split.samples, templates=prompts.load(split.samples)) for s, split in splits.items()
    }
    loaded = load_heads(config.head.load, name, samples, handle) if task.one_head and config.head.load else None
    if loaded is not None:
        samples = {s: dataclasses.replace(table, head=loaded.weight) for s, table in samples.items()}
    try:
        texts = task.prompts(samples)
    except ValueError as problem:
        raise ClipevalError(f"{problem} (the set is {data.location(root)})") from None
    precision, device = config.runtime.precision, config.runtime.device
    how = {
        **handle.output_parts(task.output),
        "preprocess": config.runtime.preprocess if handle.preprocess.exact else "own",
        "convert": data.convert,
        "precision": image_precision(precision, task.mixed, device),
    }
    if config.runtime.deterministic:  # the same bits want the same batches: kept apart from embeddings made otherwise
        how["batches"] = f"aligned/{config.runtime.batch_size or DETERMINISTIC_BATCH}"
    needs = {
        s: FeatureSpec(
            {**how, "data": split.images.digest},
            split.images,
            data.convert,
            task.mixed,
            task.output,
            f"{handle.name}, {task.name}",
            data.max_pixels,
            data.max_text_chunk,
        )
        for s, split in splits.items()
    }
    code = task_code(task)
    fingerprint = Fingerprint(
        weights=handle.weights_digest,
        preprocess=f"{handle.preprocess.digest}/{how['preprocess']}/{data.convert}",
        precision=f"{how['precision']}/{text_precision(precision, device)}",
        data="+".join(split.digest for split in splits.values()),
        prompts=prompts_digest(texts) if loaded is None else loaded.digest,
        protocol=protocol_digest(task, code, cache),
    )
    about = {
        "name": prompts.name if loaded is None else loaded.name,
        "digest": fingerprint.prompts,
        "templates": len(next(iter(samples.values())).templates),
        "classnames": list(next(iter(samples.values())).classnames),
    }
    identity = _identity(task, samples["test"], handle, given_head=loaded is not None)
    if COUNTS in identity:
        about["counts"] = identity[COUNTS]
    planned = PlannedTask(name, task, splits, samples, needs, about, fingerprint, tuple(node.get("notes") or ()))
    planned.identity = identity
    if code is not None and code.problem:
        planned.remarks = (f"{task.name} is computed anew by each run: {code.problem}",)
    planned.warnings = () if loaded is None else loaded.flags
    if data.classnames is not None or not data.names_as_published:
        for what, names in task.name_lists(samples).items():
            planned.warnings = (*planned.warnings, *name_flags(names, what))
    if task.roles["test"] != "test":
        planned.warnings = (*planned.warnings, f"scored on the split {task.roles['test']!r}")
    planned.__dict__["texts"] = texts
    if task.metric is not None:
        _check_metric(planned)
    return planned


def _identity(task: Task, test: Samples, handle: ModelHandle, given_head: bool) -> dict[str, str]:
    """What scores depend on that no part of the fingerprint says."""
    found = dict(handle.identity)
    if given_head and task.output == "embeddings":
        found.pop("tokenizer", None)  # no text is embedded
    if isinstance(test.templates, Mapping) and not given_head:
        # The same prompts in the same order can be shared out among the classes in several ways.
        counts = [len(test.templates.get(name, ())) for name in test.classnames]
        found[COUNTS] = prompts_digest([repr(counts)])
    return found


def _check_metric(planned: PlannedTask) -> None:
    """Has the task dry_run on a few samples, so that a metric that does not exist costs no hours."""
    samples = {
        s: table if table.instances is not None else take(table, np.arange(min(FEW, len(table.keys))))
        for s, table in planned.samples.items()
    }
    try:
        metrics = planned.task.dry_run(samples)
    except ValueError as problem:
        raise ClipevalError(str(problem)) from None
    if planned.task.metric not in metrics:
        raise ClipevalError(nearest("metric", planned.task.metric, metrics))


def make_task(name: str, node: DictConfig) -> Task:
    """The Task that a config node declares.

    Raises:
        ClipevalError: an argument is missing, unknown or impossible.
    """
    arguments = {k: v for k, v in OmegaConf.to_container(node, resolve=True).items() if k not in NOT_TASK}  # type: ignore[union-attr]
    _import_own(str(arguments.get("_target_")))
    try:
        task = instantiate(arguments, _convert_="all")
    except Exception as problem:
        reason = problem.__cause__ or problem
        raise ClipevalError(f"the config of the task {name!r} does not make a task: {reason}") from problem
    if not isinstance(task, Task):
        raise ClipevalError(f"the config of the task {name!r} names {arguments.get('_target_')}, which is not a Task.")
    return task


def _import_own(target: str) -> None:
    """Has a class of the user's own be what its source now says; Hydra says what is wrong with a name."""
    if is_own(target.rpartition(".")[0]):
        with contextlib.suppress(ImportError, ValueError):
            import_fresh(target)


OF_ALL_TASKS = ("sep", "encoding", "max_pixels", "max_text_chunk")
"""What may be said for all tasks at once, as data.sep, or for one, as task.data.sep."""


def data_config(node: DictConfig, common: Mapping[str, Any] | None = None) -> DataConfig:
    """The `data` part of a task's config. `common`: the config's own `data`, of all tasks."""
    fields = OmegaConf.to_container(node.data, resolve=True)
    assert isinstance(fields, dict)
    known = {f.name for f in dataclasses.fields(DataConfig)}
    for key in OF_ALL_TASKS:
        if fields.get(key) is None and (common or {}).get(key) is not None:
            fields[key] = (common or {})[key]
    values: dict[str, Any] = {str(k): tuple(v) if isinstance(v, list) else v for k, v in fields.items() if k in known}
    return DataConfig(**values)


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


def compare(planned: PlannedTask, folder: RunFolder) -> None:
    """Finds out whether the record that stands is this task's."""
    try:
        planned.record = folder.record(planned.id)
    except DamagedRecord as problem:
        planned.state, planned.why = "stale", (str(problem),)
        return
    if planned.record is None:
        return
    if planned.record.imported is not None:  # it fills a table's row, and never stands for what would be computed
        planned.state, planned.why, planned.record = (
            "stale",
            (f"imported from {planned.record.imported['file']}, not computed",),
            None,
        )
        return
    differences = planned.fingerprint.differences(planned.record.fingerprint)
    others = identity_differences(planned.identity, planned.record.identity)
    if any(text.startswith("the model's") for text in others):  # which say it in more detail
        differences = [text for text in differences if not text.startswith("the weights")]
    differences += others
    planned.state, planned.why = ("stale", tuple(differences)) if differences else ("done", ())
