"""From a composed config to a run folder: resolve the model, plan, run what is missing, write the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console
from rich.filesize import decimal

from clipeval.configs.collector import rare_collections
from clipeval.configs.errors import ClipevalError
from clipeval.data.config import data_config
from clipeval.decoding.processes import default_workers
from clipeval.engine.earlier_results import check_folder, stale_lines
from clipeval.engine.features import DETERMINISTIC_BATCH, FeatureStores
from clipeval.engine.plan import Plan, PlannedTask, make_plan, translated
from clipeval.engine.progress import Progress
from clipeval.engine.runner import ModelRun, RunOptions, RunSummary, run_tasks
from clipeval.engine.scoring import ScoredTask, score_derived
from clipeval.engine.stream import StreamOptions
from clipeval.models import Encoder, ModelHandle, pick_device, resolve
from clipeval.models.check import Report, check_once, remembered
from clipeval.models.handle import scale_of
from clipeval.models.head_files import head_path, save_head
from clipeval.models.precision import indexed
from clipeval.preprocess.nvjpeg import require_nvjpeg
from clipeval.results import mirror
from clipeval.results.heartbeats import heartbeat
from clipeval.results.provenance import code, provenance
from clipeval.results.records import COUNTS, Record
from clipeval.results.run_folder import RunFolder
from clipeval.results.uncertainty import intervals
from clipeval.stores.embeddings import ChunkRange, key_of
from clipeval.stores.pixels import check_room
from clipeval.tasks.ties import flags as tie_flags


@dataclass
class Evaluation:
    """One model on one set of tasks: what `clipeval run`, `plan` and the Python interface share."""

    config: DictConfig
    handle: ModelHandle
    folder: RunFolder
    console: Console
    parts: Mapping[str, ChunkRange | None] | None = None
    """{task: the part of it} that this process does; None: all of the config."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """{task: why} of what `prepare` left out with `data.on_missing=skip`."""
    _opened: Sequence[str] = ()
    _doubts: list[str] = field(default_factory=list)
    _unscaled: Sequence[PlannedTask] = ()
    """Tasks that wait for the model's logit_scale until it is loaded."""
    _batch_size: int | None = None
    """What the stream used last."""

    @classmethod
    def open(cls, config: DictConfig, console: Console, handle: ModelHandle | None = None) -> Evaluation:
        """Resolves the model and the run folder, of which an address is read; loads nothing, and writes nothing to it.

        In the config, the device is the picked one.
        """
        config.runtime.device = str(pick_device(config.runtime.device))
        folder = RunFolder(mirror.opened(config.out, config.cache.root))
        if handle is None:
            handle = resolve(config.model, Path(config.cache.root).expanduser())
        return cls(config, handle, folder, console)

    @cached_property
    def stores(self) -> FeatureStores:
        """The embeddings of images that are kept."""
        root = Path(self.config.cache.root).expanduser() if self.config.cache.features else None
        return FeatureStores(root, whole_chunks=bool(self.config.runtime.deterministic))

    def run(self) -> RunSummary:
        """Computes what is missing, and brings what stands up to date.

        Raises:
            ClipevalError: a task cannot run, or records differ and `resume=refuse`.
        """
        (model,) = run_planned([(self, self.prepare())])
        return model.summary

    def plan(self) -> Plan:
        """Opens every task; see `clipeval.engine.plan`."""
        self.handle.bring(self.say)
        self.handle.require_precision(self.config.runtime.precision)
        require_nvjpeg(self.config.runtime, self.handle.preprocess)
        self._keep_nothing_of_the_unknown()
        config, parts = self.config, self.parts
        if parts is not None:
            config = config.copy()
            with open_dict(config):
                config.tasks = {name: node for name, node in config.tasks.items() if name in parts}
        with self.console.status("reading the sets …") as status, rare_collections():
            plan = make_plan(config, self.handle, self.folder, lambda name: status.update(f"reading {name} …"))
        for planned in plan.tasks:
            planned.part = (parts or {}).get(planned.id)
        splits = (r for planned in plan.tasks for s in planned.splits.values() for r in s.remarks)
        for remark in dict.fromkeys([*splits, *(r for planned in plan.tasks for r in planned.remarks)]):
            self.say(remark)
        return plan

    def prepare(self, plan: Plan | None = None) -> Plan:
        """The plan, once nothing stands in its way.

        Args:
            plan: one that is made already.

        Raises:
            ClipevalError: a task cannot run, the folder is another model's or another version's, or `resume=refuse`.
        """
        plan = self.plan() if plan is None else plan
        if plan.problems or self.parts is None:  # a share may consist of skipped tasks alone
            plan.raise_problems()
        self.skipped, self._opened = plan.skipped, [planned.id for planned in plan.tasks]
        if plan.skipped:
            count = f"{len(plan.skipped)} of {len(plan.skipped) + len(plan.tasks)} tasks are skipped"
            self.say(f"{count}, for their data cannot be opened (data.on_missing=skip):")
            for task, problem in plan.skipped.items():
                self.say(f"  {task}: {problem}")
        check_folder(self.folder, self.handle, self.config.tasks)
        for line in stale_lines(self.folder, plan, self.config.resume):
            self.say(line)
        self._want_heads(plan)
        self._give_scale(plan)
        return plan

    def announce(self) -> None:
        """Says in `run.json` what the folder is to hold, all parts of it."""
        config = OmegaConf.to_container(self.config, resolve=True)
        doubts = {"doubts": list(self._doubts)} if self._doubts else {}
        model = {**self.handle.describe(), "weights": self.handle.weights_digest, **doubts}
        skipped = {"skipped": dict(self.skipped)} if self.skipped else {}
        about = {"model": model, "config": config, **skipped, **provenance()}
        self.folder.write_run(about, opened=self._opened)
        self.folder.deliver()

    def model_run(self, plan: Plan) -> ModelRun:
        """What the runner is to do of a plan."""
        progress = Progress(self.console, total=len(plan.tasks), done=len(plan.tasks) - len(plan.open))
        heads = bool(self.config.head.save)
        return ModelRun(self.handle, plan.open, self.stores, self.write_record, progress, heads, self.inspect)

    def inspect(self, encoder: Encoder) -> None:
        """Says what is doubtful about the model before anything is believed of it, and notes it in `run.json`."""
        if self._unscaled:
            self._tell_scale(self._unscaled, scale_of(encoder))
            self._unscaled = ()
        known = len(self._doubts)
        report = check_once(self.handle, encoder, Path(self.config.cache.root).expanduser())
        self.doubt(report, self.handle.checkpoint_flags())  # known, now that it is loaded
        if len(self._doubts) > known:
            self.announce()

    def doubt(self, report: Report | None, of_checkpoint: Sequence[str] = ()) -> None:
        """Prints each doubt once: what the handle says, what its checkpoint gave rise to, and what a check has found."""
        for line in dict.fromkeys((*self.handle.flags, *of_checkpoint, *(report.doubts if report else ()))):
            if line not in self._doubts:
                self._doubts.append(line)
                self.console.print(f"(!) {self.handle.name}: {line}", markup=False, highlight=False, soft_wrap=True)

    def options(self) -> RunOptions:
        """How to run, from the config's `runtime`."""
        runtime, device = self.config.runtime, indexed(torch.device(self.config.runtime.device))
        steady = bool(runtime.deterministic)
        stream = StreamOptions(
            workers=default_workers(device) if runtime.workers is None else int(runtime.workers),
            batch_size=runtime.batch_size or (DETERMINISTIC_BATCH if steady else None),
            fast=runtime.preprocess == "fast",
            nvjpeg=runtime.preprocess == "nvjpeg",
            aligned=steady,
            on_error=self.config.data.on_error,
            batch_memo=self._batch_memo(device),
            note_batch=partial(setattr, self, "_batch_size"),
            device_resize=runtime.resize == "device" or (runtime.resize == "auto" and device.type == "cuda"),
        )
        pixels = Path(self.config.cache.root).expanduser() if self.config.cache.pixels else None
        return RunOptions(device, runtime.precision, bool(runtime.compile), stream, pixels)

    def _batch_memo(self, device: torch.device) -> Path | None:
        """Where the batch size is remembered that a GPU like this one was found to run this model with."""
        if device.type != "cuda" or not torch.cuda.is_available() or self.handle.unidentified is not None:
            return None
        runtime, gpu = self.config.runtime, torch.cuda.get_device_properties(device)
        about = [self.handle.image_digest, runtime.precision, bool(runtime.compile), torch.__version__]
        name = key_of({"of": [*about, gpu.name, gpu.total_memory]})
        return Path(self.config.cache.root).expanduser() / "batches" / name

    def say_pixels(self, plan: Plan) -> None:
        """Says how much room the pixels will take that `cache.pixels=true` keeps of this run.

        Raises:
            ClipevalError: the disk has not that much.
        """
        options = self.options()
        if options.pixels is None:
            return
        if options.stream.nvjpeg or not self.handle.preprocess.exact:
            what = "what nvJPEG decodes" if options.stream.nvjpeg else self.handle.preprocess.describe()
            self.say(f"cache.pixels: nothing is kept of {what}")
        elif needed := options.pixel_growth(plan.open, self.handle.preprocess, self.stores):
            check_room(options.pixels, needed)
            self.say(f"cache.pixels: {decimal(needed)} of resized pixels will be kept in {options.pixels / 'pixels'}")

    def write_record(self, scored: ScoredTask) -> Record:
        """Writes a task's record and predictions, and its head where `head.save` wants it."""
        planned, scores, options = scored.planned, scored.scores, self.options()
        task, test = planned.task, scored.samples["test"]
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
            flags=(*of_model, *planned.flags, *scored.flags, *cut, *tied),
            notes=planned.notes,
            prompts=planned.prompts,
            timings=scored.timings,
            options={
                "device": str(options.device),
                "workers": options.stream.workers,
                "batch_size": self._batch_size or options.stream.batch_size,
                "compile": options.compile,
                "deterministic": options.stream.aligned,
            },
            ties={"rule": task.ties, "count": scores.ties.count, "ranges": scores.ties.ranges},
            run={name: code()[name] for name in ("commit", "dirty")},
        )
        if self.config.head.save and task.one_head and test.head is not None:
            about = {"cut": cut, "text": self.handle.text_digest, "model": self.handle.name, "prompts": planned.prompts}
            about |= translated(task, data_config(self.config.tasks[planned.id], self.config.data))
            save_head(head_path(self.config.head.save, planned.id), test.head, test.classnames, about)
        return self.folder.write(record, scores.predictions)

    def say(self, text: str) -> None:
        """Prints a line as it is."""
        self.console.print(text, markup=False, highlight=False)

    def say_folder(self) -> None:
        """Prints which model fills which folder."""
        local = self.handle.name.startswith("local-dir:")  # its path says nothing; its slug was made to
        name = self.handle.slug if local else self.handle.name
        self.console.print(f"{name} → {self.folder.place}", markup=False, highlight=False, soft_wrap=True)

    def _keep_nothing_of_the_unknown(self) -> None:
        """No embeddings are kept of a model that the next run could not tell from another.

        Raises:
            ClipevalError: this process was given a part of a task, and the parts meet in what is kept.
        """
        why = self.handle.unidentified
        if why is None or not self.config.cache.features:
            return
        cure = "give its class an attribute `digest`, a text that changes with what it holds"
        if any(part is not None for part in (self.parts or {}).values()):
            raise ClipevalError(
                f"{self.handle.name} cannot be told from another model ({why}), so tasks cannot be shared out in parts: {cure}, or "
                "set cache.features=false in every process."
            )
        self.config.cache.features = False
        self.say(f"nothing of {self.handle.name} is kept for other runs ({why}); to reuse results, {cure}")

    def _want_heads(self, plan: Plan) -> None:
        """A task that is done is scored once more where its head is to be kept and is not: its embeddings are at hand."""
        folder = self.config.head.save
        for planned in plan.tasks if folder else ():
            if planned.state == "done" and planned.task.one_head and not head_path(folder, planned.id).exists():
                planned.state, planned.why = "todo", ("its head is not kept yet",)

    def _give_scale(self, plan: Plan) -> None:
        """Tells the tasks that turn cosines into probabilities the model's own scale.

        Where the model is loaded for images anyway, `inspect` tells them; else its text tower is loaded for it.
        """
        wanted = [
            planned
            for planned in plan.open
            if planned.task.scaled and getattr(planned.task, "logit_scale", None) is None
        ]
        whole = not any(planned.part for planned in plan.open)
        if wanted and whole and any(len(self.stores.of(s).missing) for p in plan.open for s in p.features.values()):
            self._unscaled = wanted
        elif wanted:
            self._tell_scale(wanted, self.handle.logit_scale)

    def _tell_scale(self, wanted: Sequence[PlannedTask], scale: float | None) -> None:
        for planned in wanted:
            if scale is None:
                said = "the model has no logit_scale: 100, CLIP's own, is assumed, and probabilities hang on it"
                planned.warnings = (*planned.warnings, said)
            planned.task = planned.task.with_scale(100.0 if scale is None else scale)

    def relabel(self, planned: PlannedTask) -> None:
        """Another main metric, name or footnote needs no computing: the record that stands is amended."""
        task, old = planned.task, planned.record
        assert old is not None
        said = {name: getattr(task, name) for name in ("key", "name", "group", "metric", "chance")}
        new = replace(old, **said, notes=planned.notes)
        if new != old:
            self.folder.amend(new)


def run_planned(runs: Sequence[tuple[Evaluation, Plan]]) -> list[ModelRun]:
    """Computes what is open of one plan or several, over one decoding of the images, and brings their folders up to date.

    Args:
        runs: evaluations with the plans that they have prepared, of models that see images and texts alike.

    Returns:
        What came of each; of several, one that failed says so in `problem`.

    Raises:
        ClipevalError: see `clipeval.engine.runner.run_tasks`.
    """
    for evaluation, plan in runs:
        for line in score_derived(plan.open, evaluation.folder, evaluation.write_record):
            evaluation.say(line)
    models = [evaluation.model_run(plan) for evaluation, plan in runs]
    with ExitStack() as stack:
        failed = []
        for evaluation, plan in runs:
            evaluation.doubt(remembered(evaluation.handle, Path(evaluation.config.cache.root).expanduser()))
            evaluation.announce()
            for planned in plan.tasks:
                if planned.state == "done":
                    evaluation.relabel(planned)
            units = [planned.unit for planned in plan.open]
            failed.append(stack.enter_context(heartbeat(evaluation.folder.path, units)) if units else None)
        if any(failed):
            run_tasks(models, runs[0][0].options())
        for model, say in zip(models, failed, strict=True):
            if say is not None and model.problem is not None:
                say(model.problem)
    for evaluation, plan in runs:
        # Two jobs that began in the same instant may both have read run.json before either wrote it.
        if not evaluation.folder.names(planned.id for planned in plan.tasks):
            evaluation.announce()
        evaluation.folder.rebuild_eval_results()
    return models
