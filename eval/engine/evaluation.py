"""From a composed config to a run folder: resolve the model, plan, run what is missing, file the records."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from clipeval.configs.errors import ClipevalError
from clipeval.engine.decode import default_workers
from clipeval.engine.devices import partition_tasks, run_shares
from clipeval.engine.head_files import head_path, save_head
from clipeval.engine.pixels import check_room, growth
from clipeval.engine.plan import DETERMINISTIC_BATCH, Plan, PlannedTask, make_plan
from clipeval.engine.progress import Progress
from clipeval.engine.runner import Outcome, RunOptions, run_tasks
from clipeval.engine.shards import TaskShard, only
from clipeval.engine.store import human_size, key_of
from clipeval.engine.stream import StreamOptions
from clipeval.models import ModelHandle, resolve
from clipeval.models.precision import indexed, pick_device
from clipeval.results.fingerprint import identity_differences
from clipeval.results.heartbeats import working
from clipeval.results.provenance import provenance
from clipeval.results.records import COUNTS, DamagedRecord, Record
from clipeval.results.run_folder import RunFolder
from clipeval.results.uncertainty import intervals
from clipeval.tasks.base import Samples, Scores
from clipeval.tasks.ties import flags as tie_flags
from clipeval.tasks.zero_shot import class_vectors


@dataclass
class Evaluation:
    """One model on one set of tasks: what `clipeval run`, `plan` and the Python interface share."""

    config: DictConfig
    handle: ModelHandle
    folder: RunFolder
    console: Console
    units: Sequence[TaskShard] | None = None
    """What of the config this process does; None: all of it."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """{task: why} of what `prepare` left out with `data.on_missing=skip`."""
    _opened: Sequence[str] = ()
    _batch_size: int | None = None
    """What the stream used last."""

    @classmethod
    def open(cls, config: DictConfig, console: Console, handle: ModelHandle | None = None) -> Evaluation:
        """Resolves the model and the run folder; loads and writes nothing."""
        config = config.copy()
        config.runtime.device = str(pick_device(config.runtime.device))
        if handle is None:
            handle = resolve(config.model, Path(config.cache.root).expanduser())
        return cls(config, handle, RunFolder(Path(config.out).expanduser()), console)

    def plan(self) -> Plan:
        """Opens every task; see `clipeval.engine.plan`."""
        if self.handle.missing:
            raise ClipevalError(self.handle.missing)
        self._keep_nothing_of_the_unknown()
        with self.console.status("reading the sets …") as status:
            config = self.config if self.units is None else only(self.config, self.units)
            plan = make_plan(config, self.handle, self.folder, lambda name: status.update(f"reading {name} …"))
            for unit in self.units or ():
                for planned in plan.tasks:
                    planned.part = unit.part if planned.id == unit.task else planned.part
        splits = (r for planned in plan.tasks for s in planned.splits.values() for r in s.remarks)
        for remark in dict.fromkeys([*splits, *(r for planned in plan.tasks for r in planned.remarks)]):
            self.console.print(remark, markup=False, highlight=False)
        return plan

    def _keep_nothing_of_the_unknown(self) -> None:
        """No embeddings are kept of a model that the next run could not tell from another.

        Raises:
            ClipevalError: this process was given a part of a task, and the parts meet in what is kept.
        """
        why = self.handle.unidentified
        if why is None or not self.config.cache.features:
            return
        cure = "give its class an attribute `digest`, a text that changes with what it holds"
        if any(unit.part is not None for unit in self.units or ()):
            raise ClipevalError(
                f"{self.handle.name} cannot be told from another model ({why}), so tasks cannot be shared out in parts: {cure}, or "
                "set cache.features=false in every process."
            )
        self.config.cache.features = False
        self.console.print(
            f"nothing of {self.handle.name} is kept for other runs ({why}); to reuse results, {cure}",
            markup=False,
            highlight=False,
        )

    def say_folder(self) -> None:
        """Prints which model fills which folder."""
        local = self.handle.name.startswith("local-dir:")  # its path says nothing; its slug was made to
        name = self.handle.slug if local else self.handle.name
        self.console.print(f"{name} → {self.folder.path}", markup=False, highlight=False, soft_wrap=True)

    def run(self) -> Outcome:
        """Computes what is missing, and brings what stands up to date.

        Raises:
            ClipevalError: a task cannot run, or records differ and `resume=refuse`.
        """
        plan = self.prepare()
        self.say_pixels(plan)
        self.announce()
        done = [planned for planned in plan.tasks if planned.state == "done"]
        for planned in done:
            self._relabel(planned)
        outcome = Outcome()
        if plan.open:
            with working(self.folder.path, [planned.unit for planned in plan.open]):
                outcome = self.compute(plan)
        self.folder.rebuild_eval_results()
        return outcome

    def compute(self, plan: Plan) -> Outcome:
        """Every open task of a plan, on one device or several; `run.json` and `eval_results.jsonl` are left alone."""
        started, count = time.monotonic(), int(self.config.runtime.devices)
        shares = partition_tasks(plan.open, self.options().store, count) if count > 1 else []
        images = texts = 0
        filed: list[Record] = []
        if len(shares) > 1:
            todo = {planned.id for planned in plan.open}
            images, texts = run_shares(self.config, self.handle, shares)
            plan = self.plan()
            filed = [c.record for c in plan.tasks if c.record and c.state == "done" and c.id in todo]
        progress = Progress(self.console, total=len(plan.tasks), done=len(plan.tasks) - len(plan.open))
        outcome = run_tasks(plan.open, self.handle, self.options(), self.file, progress)
        return Outcome(
            records=filed + outcome.records,
            images=images + outcome.images,
            texts=texts + outcome.texts,
            seconds=time.monotonic() - started,
            left=outcome.left,
        )

    def prepare(self) -> Plan:
        """The plan, once nothing stands in its way.

        Raises:
            ClipevalError: a task cannot run, the folder is another model's or another version's, or `resume=refuse`.
        """
        plan = self.plan()
        if plan.problems or self.units is None:  # a share may consist of skipped tasks alone
            plan.raise_problems()
        self.skipped, self._opened = plan.skipped, [planned.id for planned in plan.tasks]
        if plan.skipped:
            lines = (f"  {task}: {problem}" for task, problem in plan.skipped.items())
            count = f"{len(plan.skipped)} of {len(plan.skipped) + len(plan.tasks)} tasks are skipped"
            self.console.print(
                f"{count}, for their data cannot be opened (data.on_missing=skip):",
                *lines,
                sep="\n",
                markup=False,
                highlight=False,
            )
        self._check_folder()
        self._check_version()
        self._settle_stale(plan)
        self._want_heads(plan)
        return plan

    def announce(self) -> None:
        """Says in `run.json` what the folder is to hold, all units of it."""
        self.folder.write_run(self._about(), opened=self._opened)

    def _check_folder(self) -> None:
        """A folder holds one model. One that evolves takes the place of what it was, if no record of that stays.

        Raises:
            ClipevalError: the folder is another model's; or a task that this run leaves out has a record of what the model was.
        """
        if not (self.handle.evolves and self.folder.slug() == self.handle.slug):
            self.folder.check(self.handle.weights_digest, self.handle.slug)
        mine = dict(self.handle.identity)
        others = [
            record.task
            for record in self.folder.records(damaged=[])
            if record.imported is None
            and record.task not in self.config.tasks
            and (
                record.fingerprint.weights != self.handle.weights_digest
                or identity_differences(mine, {k: v for k, v in record.identity.items() if k in mine})
            )
        ]
        if others:
            raise ClipevalError(
                f"{self.folder.path} holds results of {', '.join(others)} by an earlier state of {self.handle.name}, which would "
                "stand beside those of this one: give this run a folder of its own with out=, evaluate those tasks too, or remove "
                "their records."
            )

    def _check_version(self) -> None:
        """Scores of two releases are never mixed in one folder; within a release, protocols carry their own versions."""
        try:
            theirs = ((self.folder.run() or {}).get("code") or {}).get("version")
        except DamagedRecord:  # written anew; the records vouch for themselves
            return
        mine = provenance()["code"]["version"]
        if theirs and theirs != mine:
            raise ClipevalError(
                f"{self.folder.path} was written by clipeval {theirs}, and this is {mine}, whose scores may differ: "
                f"give this run a folder of its own with out=, or go on with clipeval {theirs}."
            )

    def options(self) -> RunOptions:
        """How to run, from the config's `runtime`."""
        runtime, device = self.config.runtime, indexed(torch.device(self.config.runtime.device))
        steady = bool(runtime.deterministic)
        stream = StreamOptions(
            workers=default_workers(device) if runtime.workers is None else int(runtime.workers),
            batch_size=runtime.batch_size or (DETERMINISTIC_BATCH if steady else None),
            fast=runtime.preprocess == "fast",
            aligned=steady,
            on_error=self.config.data.on_error,
            batch_memo=self._batch_memo(device),
            note_batch=self._note_batch,
            device_resize=runtime.resize == "device" or (runtime.resize == "auto" and device.type == "cuda"),
        )
        cache, root = self.config.cache, Path(self.config.cache.root).expanduser()
        kept = root if cache.features else None, root if cache.pixels else None
        return RunOptions(device, runtime.precision, bool(runtime.compile), stream, *kept)

    def _batch_memo(self, device: torch.device) -> Path | None:
        """Where the batch size is remembered that a GPU like this one was found to run this model with."""
        if device.type != "cuda" or not torch.cuda.is_available() or self.handle.unidentified is not None:
            return None
        runtime, gpu = self.config.runtime, torch.cuda.get_device_properties(device)
        about = [self.handle.image_digest, runtime.precision, bool(runtime.compile), torch.__version__]
        name = key_of({"of": [*about, gpu.name, gpu.total_memory]})
        return Path(self.config.cache.root).expanduser() / "batches" / name

    def _note_batch(self, size: int) -> None:
        self._batch_size = size

    def say_pixels(self, plan: Plan) -> None:
        """Says how much room the pixels will take that `cache.pixels=true` keeps of this run.

        Raises:
            ClipevalError: the disk has not that much.
        """
        options = self.options()
        if options.pixels is None:
            return
        if not self.handle.preprocess.exact:
            self.console.print(
                f"cache.pixels: nothing is kept of {self.handle.preprocess.describe()}", markup=False, highlight=False
            )
        elif needed := growth(plan.open, self.handle.preprocess, options):
            check_room(options.pixels, needed)
            self.console.print(
                f"cache.pixels: {human_size(needed)} of resized pixels will be kept in {options.pixels / 'pixels'}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )

    def _settle_stale(self, plan: Plan) -> None:
        stale = [planned for planned in plan.tasks if planned.state == "stale"]
        if not stale:
            return
        lines = [f"  {planned.id}: {'; '.join(planned.why)}" for planned in stale]
        if self.config.resume == "refuse":
            raise ClipevalError(
                f"{self.folder.path} holds records of something else, and resume=refuse:\n" + "\n".join(lines) + "\n"
                "Choose another out=, or replace them with resume=recompute."
            )
        self.console.print(
            "Records that no longer hold, computed again:", *lines, sep="\n", markup=False, highlight=False
        )

    def _about(self) -> dict[str, Any]:
        config = OmegaConf.to_container(self.config, resolve=True)
        model = {**self.handle.describe(), "weights": self.handle.weights_digest}
        skipped = {"skipped": dict(self.skipped)} if self.skipped else {}
        return {"model": model, "config": config, **skipped, **provenance()}

    def file(
        self,
        planned: PlannedTask,
        samples: Mapping[str, Samples],
        texts: torch.Tensor,
        scores: Scores,
        flags: Sequence[str],
        timings: Mapping[str, float],
    ) -> Record:
        """Writes a task's record and predictions; what `run_tasks` calls once a task is scored."""
        task, options = planned.task, self.options()
        test = samples["test"]
        known = intervals(scores.statistics)
        cut = self.handle.cuts.flags(planned.texts) if planned.texts else []
        tied = tie_flags(scores.ties, scores.metrics, known, task.metric)
        of_model = dict.fromkeys((*self.handle.flags, *self.handle.checkpoint_flags()))
        record = Record(
            task=planned.id,
            key=task.key,
            name=task.name,
            protocol=task.protocol,
            group=task.group,
            model={**self.handle.describe(), "identity": {k: v for k, v in planned.identity.items() if k != COUNTS}},
            metric=task.metric,
            chance=task.chance,
            metrics=scores.metrics,
            intervals=known,
            samples=len(test.instances) if test.instances is not None else len(test.keys),
            classes=len(test.classnames) or None,
            fingerprint=planned.fingerprint,
            flags=(*of_model, *planned.flags, *flags, *cut, *tied),
            notes=planned.notes,
            prompts=planned.prompts,
            timings=timings,
            options={
                "device": str(options.device),
                "workers": options.stream.workers,
                "batch_size": self._batch_size or options.stream.batch_size,
                "compile": options.compile,
                "deterministic": options.stream.aligned,
            },
            ties={"rule": task.ties, "count": scores.ties.count, "ranges": scores.ties.ranges},
            run={k: v for k, v in provenance()["code"].items() if k in ("commit", "dirty")},
        )
        if self.config.head.save and task.one_head:
            about = {"cut": cut, "text": self.handle.text_digest, "model": self.handle.name, "prompts": planned.prompts}
            weight = class_vectors(texts, test)
            save_head(head_path(self.config.head.save, planned.id), weight, test.classnames, about)
        return self.folder.write(record, scores.predictions)

    def _want_heads(self, plan: Plan) -> None:
        """A task that is done is scored once more where its head is to be kept and is not: its embeddings are at hand."""
        for planned in plan.tasks if self.config.head.save else ():
            if (
                planned.state == "done"
                and planned.task.one_head
                and not head_path(self.config.head.save, planned.id).exists()
            ):
                planned.state, planned.why = "todo", ("its head is not kept yet",)

    def _relabel(self, planned: PlannedTask) -> None:
        """Another main metric, name or footnote needs no computing: the record that stands is amended."""
        task, old = planned.task, planned.record
        assert old is not None
        new = replace(
            old,
            key=task.key,
            name=task.name,
            group=task.group,
            metric=task.metric,
            chance=task.chance,
            notes=planned.notes,
        )
        if new != old:
            self.folder.amend(new)
