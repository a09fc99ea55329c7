"""What a run would do: for each task what it needs, and whether its record already stands.

Planning reads configs, indices of data and digests of weights. It loads no weights, decodes no image and writes nothing
but the caches of indices and digests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from clipeval.configs.errors import ClipevalError, nearest
from clipeval.data.annotated import annotate
from clipeval.data.config import DataConfig, data_config
from clipeval.data.languages import translate
from clipeval.data.prompts import pooled_digest, prompt_set, prompts_digest
from clipeval.data.split import Split, apart_from, open_split
from clipeval.data.subset import take
from clipeval.engine.features import FeatureSpec, feature_specs
from clipeval.engine.task_config import make_task, protocol_digest, task_code
from clipeval.models import ModelHandle, text_precision
from clipeval.models.head_files import load_heads
from clipeval.results.derived import can_derive, find_record
from clipeval.results.fingerprint import Fingerprint, identity_differences
from clipeval.results.records import COUNTS, DamagedRecord, Record
from clipeval.results.run_folder import RunFolder
from clipeval.stores.embeddings import ChunkRange
from clipeval.tasks.base import Samples, Task
from clipeval.tasks.names import name_flags

SCORED = ("test", "outside")
"""The roles of splits whose samples are scored."""
FEW = 32
"""Samples that a task's metrics are tried on while planning."""


@dataclass
class PlannedTask:
    """One task of a run, opened.

    Attributes:
        id: the task's key in the config, and its record's file name.
        task: what to ask and how to score.
        splits: the splits it needs, opened and checked; by the task's names for them (`Task.roles`).
        samples: their tables, templates resolved.
        features: the images of each split, and how they are to be embedded.
        texts: the texts that the task asks about.
        prompts: {"name", "digest", "templates"}, as in the record.
        fingerprint: what its scores depend on.
        identity: digests of what else they depend on, in words: `{"tokenizer": …}`.
        notes: footnotes of its config.
        warnings: what a reader must know beside what its data's flags say.
        remarks: what is said once, when the task is opened.
        part: the chunks of its images that this process embeds; None for all. Who finds the last ones there scores it.
        source: the fingerprint, but for its protocol, of a classification whose predictions would do in place of embeddings.
        derived: that classification's record, where there is one.
        record: the record that stands, if any.
        state: done | stale | todo.
        why: for a stale one, the parts that differ; else empty.
    """

    id: str
    task: Task
    splits: Mapping[str, Split]
    samples: Mapping[str, Samples]
    features: Mapping[str, FeatureSpec]
    texts: list[str]
    prompts: Mapping[str, Any]
    fingerprint: Fingerprint
    identity: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    part: ChunkRange | None = None
    source: Fingerprint | None = None
    derived: Record | None = None
    record: Record | None = None
    state: str = "todo"
    why: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """What this process does of it, as `clipeval.cluster.shares.TaskShard` prints it."""
        return self.id if self.part is None else f"{self.id}[{self.part}]"

    @property
    def flags(self) -> list[str]:
        """What a reader of its scores must know about its data."""
        return [*(flag for split in self.splits.values() for flag in split.flags), *self.warnings]

    def with_weights_of(self, handle: ModelHandle, folder: RunFolder) -> PlannedTask:
        """The same task for other weights of the same architecture, with their folder's record."""
        features = {
            role: replace(spec, parts={**spec.parts, "image": handle.image_digest})
            for role, spec in self.features.items()
        }
        known = replace(self.fingerprint, weights=handle.weights_digest)
        task = replace(self, features=features, fingerprint=known, record=None, state="todo", why=())
        compare(task, folder)
        return task


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
            compare(planned, folder)
            _check_metric(planned)
            find_source(planned, folder)
        except MissingData as problem:
            plan.unopened = True
            (plan.skipped if config.data.on_missing == "skip" else plan.problems)[name] = str(problem)
            continue
        except ClipevalError as problem:
            plan.problems[name] = str(problem)
            continue
        plan.tasks.append(planned)
    return plan


def open_task(name: str, node: DictConfig, config: DictConfig, handle: ModelHandle) -> PlannedTask:
    """Opens one task: its data, its prompts, its fingerprint.

    Raises:
        ClipevalError: the config or the data is not what the task needs.
    """
    task = make_task(name, node)
    handle.require(task.output, task.name)
    cache = Path(config.cache.root).expanduser()
    data = data_config(node, config.data)
    splits = _open_splits(task, data, config, task.roles)
    if splits["test"].limited:
        task = replace(task, name=f"{task.name} (quick {data.limit:,})")
    plain = {role: split.digest for role, split in splits.items()}
    splits = {role: annotate(split, data, config.data.root, cache) for role, split in splits.items()}
    features = feature_specs(task, splits, data, config, handle)
    if node.get("outside") is not None:  # a second set, beside the one whose classes are asked about
        outside = data_config(node, config.data, "outside")
        added = _open_splits(task, outside, config, {"outside": task.splits[-1]})
        splits, features = {**splits, **added}, {**features, **feature_specs(task, added, outside, config, handle)}
    prompts = prompt_set(node.get("prompts") or config.get("prompts"))
    pooling = prompts.pooling()
    samples = {
        role: replace(s.samples, templates=prompts.load(s.samples), pooling=pooling) for role, s in splits.items()
    }
    head = (
        load_heads(config.head.load, name, samples, handle, set_key(task, data))
        if task.one_head and config.head.load
        else None
    )
    if head is not None:
        samples = {role: replace(table, head=head.weight) for role, table in samples.items()}
    try:
        texts = task.prompts(samples)
    except ValueError as problem:
        raise ClipevalError(f"{problem} (the set is {data.place(config.data.root)})") from None
    how, code = next(iter(features.values())).parts, task_code(task)
    marks = [handle.text_mark] if handle.text_mark and texts and head is None else []
    fingerprint = Fingerprint(
        weights=handle.weights_digest,
        preprocess="/".join([handle.preprocess.digest, how["preprocess"], data.convert, *marks]),
        precision=f"{how['precision']}/{text_precision(config.runtime.precision, config.runtime.device)}",
        data="+".join(split.digest for split in splits.values()),
        prompts=pooled_digest(texts, pooling) if head is None else head.digest,
        protocol=protocol_digest(task, code, cache),
    )
    source = replace(fingerprint, data="+".join(plain.values())) if can_derive(task, splits) else None
    identity = _identity(task, samples["test"], handle, given_head=head is not None)
    first = next(iter(samples.values()))
    about = {
        "name": prompts.name if head is None else head.name,
        "digest": fingerprint.prompts,
        "templates": len(first.templates),
        "classnames": list(first.classnames),
        **({"counts": identity[COUNTS]} if COUNTS in identity else {}),
    }
    warnings = [] if head is None else [*head.flags]
    if data.classnames is not None or not data.names_as_published:
        for what, names in task.name_lists(samples).items():
            warnings += name_flags(names, what)
    if task.roles["test"] != "test":
        warnings.append(f"scored on the split {task.roles['test']!r}")
    if how["preprocess"] == "nvjpeg":
        warnings.append("JPEGs decoded by nvJPEG: other pixels than the reference's (runtime.preprocess=nvjpeg)")
    remarks = [f"{task.name} is computed anew by each run: {code.problem}"] if code and code.problem else []
    notes = tuple(
        handle.cuts.described(note, texts) if "share_cut" in note or "mean_tokens" in note else note
        for note in node.get("notes") or ()
    )
    said = tuple(warnings), tuple(remarks)
    planned = PlannedTask(name, task, splits, samples, features, texts, about, fingerprint, identity, notes, *said)
    return replace(planned, source=source)


def set_key(task: Task, data: DataConfig) -> str | None:
    """The key of a set of labelled classes without its language; None where the classes differ between languages."""
    whole = data.language is None or not task.key.startswith("babel_imagenet/")
    return task.key.removesuffix(f"/{data.language}") if whole else None


def translated(task: Task, data: DataConfig) -> dict[str, str]:
    """What a kept head says of class names that are a translation: `clipeval.models.head_files.save_head`."""
    key = set_key(task, data)
    return {} if data.language is None or key is None else {"translated": key}


def _open_splits(task: Task, data: DataConfig, config: DictConfig, roles: Mapping[str, str]) -> dict[str, Split]:
    """The splits that a task needs, by its own names for them; `roles`: {that name: the split's name in the data}.

    `data.limit` is of what is scored: a probe trains on all of its training split.
    """
    root, index = config.data.root, Path(config.cache.root).expanduser() / "index"
    how = index, bool(config.data.strict), str(config.data.on_error)
    try:
        splits = {
            role: open_split(data if role in SCORED else replace(data, limit=None), root, split, *how)
            for role, split in roles.items()
        }
    except ClipevalError as problem:
        raise MissingData(str(problem)) from problem
    except OSError as problem:  # a folder that this user may not read, a disk that has gone
        if problem.filename is None:
            raise
        raise MissingData(f"{problem.filename} cannot be read: {problem.strerror}.") from problem
    if "train" in splits and "test" in splits:
        names = roles["test"], roles["train"]
        try:
            splits["test"] = apart_from(splits["test"], splits["train"], names, data.samples is None)
        except ClipevalError as problem:
            raise ClipevalError(f"{data.place(root)}: {problem}") from None
    if data.language and not data.captions:
        return {role: translate(split, data.language, task.key) for role, split in splits.items()}
    return splits


def _identity(task: Task, test: Samples, handle: ModelHandle, given_head: bool) -> dict[str, str]:
    """What scores depend on that no part of the fingerprint says."""
    identity = dict(handle.identity)
    if given_head and task.output != "captions":
        for part in ("tokenizer", "text clean-up"):  # no text is embedded
            identity.pop(part, None)
    if isinstance(test.templates, Mapping) and not given_head:
        # The same prompts in the same order can be shared out among the classes in several ways.
        counts = [len(test.templates.get(name, ())) for name in test.classnames]
        identity[COUNTS] = prompts_digest([repr(counts)])
    return identity


def _check_metric(planned: PlannedTask) -> None:
    """Tries the task on a few samples, so that a metric that does not exist costs no hours; a record that stands says it all."""
    task, samples = planned.task, planned.samples
    record = planned.record if planned.state == "done" else None
    if task.metric is None or (record is not None and task.metric in record.metrics):
        return
    few = {
        role: table if table.instances is not None else take(table, np.arange(min(FEW, len(table.keys))))
        for role, table in samples.items()
    }
    try:
        metrics = task.dry_run(few)
    except ValueError as problem:
        raise ClipevalError(str(problem)) from None
    if task.metric not in metrics:
        raise ClipevalError(nearest("metric", task.metric, metrics))


def find_source(planned: PlannedTask, folder: RunFolder) -> None:
    """Finds the classification whose predictions do: then no image and no text is embedded for this task."""
    if planned.state != "done" and planned.source is not None:
        planned.derived = find_record(planned.source, planned.identity, folder)


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
