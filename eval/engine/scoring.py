"""Each task is scored as soon as its embeddings are there, on a thread of its own, and its record is written."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from clipeval.configs.errors import ClipevalError
from clipeval.data.subset import take
from clipeval.engine.features import FeatureStores
from clipeval.engine.plan import PlannedTask
from clipeval.engine.progress import Progress
from clipeval.models.encoder import RAW
from clipeval.models.float32 import full_float32
from clipeval.models.memory import no_memory
from clipeval.models.precision import current, stream_of_its_own
from clipeval.models.shortened import shortened
from clipeval.models.unsound import first_unsound
from clipeval.results.derived import derived_scores
from clipeval.results.records import Record
from clipeval.results.run_folder import RunFolder
from clipeval.stores.embeddings import TextStore
from clipeval.tasks import text_rows
from clipeval.tasks.base import Samples, Scores, Task
from clipeval.tasks.host_rows import to_device
from clipeval.tasks.zero_shot import classifier_weights

log = logging.getLogger(__name__)

ROOM = 0.5
"""The part of a GPU's free memory that embeddings may take while a task is scored; the encoder needs the rest meanwhile."""
SHOWN = 20
"""Images left out that a flag names."""


class ScoredTask(NamedTuple):
    """A task that has its scores.

    Attributes:
        planned: the task.
        samples: what was scored, without images that could not be read; with its class vectors where those are kept.
        scores: what the task made of it.
        flags: what a reader of the scores must know of this run.
        timings: seconds, `embed_s` and `score_s`.
    """

    planned: PlannedTask
    samples: Mapping[str, Samples]
    scores: Scores
    flags: Sequence[str]
    timings: Mapping[str, float]


WriteRecord = Callable[[ScoredTask], Record]


def score_derived(tasks: Sequence[PlannedTask], folder: RunFolder, write_record: WriteRecord) -> Iterator[str]:
    """Scores those tasks that are made of another record's predictions, writes them, and says of each what it was made of.

    Raises:
        ClipevalError: see `clipeval.results.derived`.
    """
    for planned in tasks:
        record = planned.derived
        if record is None:
            continue
        started, scores = time.monotonic(), derived_scores(planned.task, planned.samples, record, folder)
        planned.prompts = {**planned.prompts, "predictions_of": record.task}
        flags = [flag for flag in record.flags if flag not in planned.flags]
        timings = {"embed_s": 0.0, "score_s": round(time.monotonic() - started, 3)}
        planned.record = write_record(ScoredTask(planned, planned.samples, scores, flags, timings))
        planned.state, planned.derived = "done", None
        yield f"{planned.task.name}: made of the predictions of {record.task}, no image is encoded"


@dataclass
class ScoringQueue:
    """The tasks of a model that wait for their embeddings.

    Attributes:
        waiting: whole tasks.
        stores: their images' embeddings.
        texts: the store of each task's texts, by the task's id.
        write_record: called on the scorer's thread.
        progress: told of each record.
        scorer: one thread, so that a task is scored while the next one's images are embedded.
        device: where tasks compute that ask for an accelerator.
        keep_heads: whether a task's class vectors are wanted with its scores.
        records: those written so far.
        dimensions: how many numbers of the embeddings are read; None: all.
        beside: the queues of models that have the same stores, this one too: what one of them needs is not freed.
    """

    waiting: list[PlannedTask]
    stores: FeatureStores
    texts: Mapping[str, TextStore]
    write_record: WriteRecord
    progress: Progress
    scorer: ThreadPoolExecutor
    device: torch.device
    keep_heads: bool = False
    records: list[Record] = field(default_factory=list)
    dimensions: int | None = None
    beside: Sequence[ScoringQueue] = ()
    _scoring: list[tuple[PlannedTask, Future[Record]]] = field(default_factory=list)
    _clock: float = field(default_factory=time.monotonic)

    def submit_ready(self) -> None:
        """Hands every task that is complete to the scorer, and raises what scoring raised."""
        for planned in list(self.waiting):
            if all(self.stores.of(spec).complete for spec in planned.features.values()):
                self.waiting.remove(planned)
                elapsed, self._clock = time.monotonic() - self._clock, time.monotonic()
                self._scoring.append((planned, self.scorer.submit(self._score, planned, elapsed)))
        self._collect([pair for pair in self._scoring if pair[1].done()])

    def close(self) -> None:
        """Waits for the last score."""
        self.submit_ready()
        while self._scoring:
            self._collect(self._scoring[:1])
        assert not self.waiting

    def _collect(self, finished: Sequence[tuple[PlannedTask, Future[Record]]]) -> None:
        """Notes records, and frees the embeddings that no other task needs: memory does not grow with the suite."""
        for pair in finished:
            self._scoring.remove(pair)
            record = pair[1].result()
            self.records.append(record)
            self.progress.done(record)
            queues = self.beside or [self]
            others = [p for queue in queues for p in (*queue.waiting, *(planned for planned, _ in queue._scoring))]
            needed = {spec.key for planned in others for spec in planned.features.values()}
            for spec in pair[0].features.values():
                if spec.key not in needed:
                    self.stores.of(spec).release()

    def _score(self, planned: PlannedTask, elapsed: float) -> Record:
        started = time.monotonic()
        samples, images, flags = self._embedded(planned)
        texts = planned.task.prompts(samples) if flags else planned.texts  # flagged by now is what was left out
        rows = self.texts[planned.id].rows(texts)
        if (output := planned.task.output) != "captions":
            images = {split: shortened(kept, self.dimensions, output == RAW) for split, kept in images.items()}
            rows = shortened(rows, self.dimensions, planned.task.text_output == RAW)
        self._check(planned, samples, images, texts, rows)
        if planned.task.output == "captions" and (long := text_rows.cut(images["test"])):
            flags.append(f"{long:,} captions fill the {text_rows.WIDTH} bytes that are kept of each, and may be cut")
        if self.keep_heads and planned.task.one_head:
            samples["test"] = replace(samples["test"], head=classifier_weights(rows, samples["test"]))
        scores = self._scores(planned, images, rows, samples, flags)
        timings = {"embed_s": round(elapsed, 3), "score_s": round(time.monotonic() - started, 3)}
        return self.write_record(ScoredTask(planned, samples, scores, flags, timings))

    def _scores(
        self,
        planned: PlannedTask,
        images: dict[str, torch.Tensor],
        rows: torch.Tensor,
        samples: Mapping[str, Samples],
        flags: list[str],
    ) -> Scores:
        """A task's scores. Where the device has no room for it beside the encoder, the CPU computes them, which is flagged."""
        task = planned.task
        # A thread begins on the first GPU, and on the stream that the encoder has there.
        with current(self.device), stream_of_its_own(self.device), full_float32():
            try:
                return task.score(self._placed(task, images), rows, samples)
            except torch.OutOfMemoryError as problem:
                said = f"{task.name}: {no_memory(self.device, problem)}"
            if self.device.type == "cpu":
                raise ClipevalError(
                    f"{said}. Give this job more; what is embedded is kept, and the same command goes on from there."
                )
            log.warning("%s; it is scored on the CPU", said)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()  # for the encoder, which goes on
            flags.append(f"scored on the CPU, for {self.device} had no memory left")
            return task.score(images, rows, samples)

    def _placed(self, task: Task, images: dict[str, torch.Tensor]) -> dict[str, Any]:
        """Embeddings where the task computes with them; a training split that the device has no room for stays where it is."""
        if not task.on_device:
            return images
        if not task.in_blocks or self.device.type != "cuda":
            return {split: embedded.to(self.device) for split, embedded in images.items()}
        return dict(to_device(images, self.device, ROOM * torch.cuda.mem_get_info(self.device)[0]))

    def _embedded(self, planned: PlannedTask) -> tuple[dict[str, Samples], dict[str, torch.Tensor], list[str]]:
        """The samples of each split that are embedded, their embeddings, and a flag for those that are left out."""
        samples, images, flags = dict(planned.samples), {}, []
        for split, spec in planned.features.items():
            store, table = self.stores.of(spec), samples[split]
            rows = store.finish()
            indices = np.arange(store.count) if table.positions is None else table.positions
            rows = rows if table.positions is None else rows[torch.from_numpy(indices)]
            kept = ~torch.isnan(rows[:, 0]).numpy()
            if not kept.all():
                samples[split] = take(table, np.flatnonzero(kept))
                lost = [store.failures[int(i)] for i in indices[~kept] if int(i) in store.failures][:SHOWN]
                flags.append(f"{int((~kept).sum())} of {len(kept):,} images left out, unreadable: {'; '.join(lost)}")
                rows = rows[torch.from_numpy(kept)]
            images[split] = rows
        return samples, images, flags

    def _check(
        self,
        planned: PlannedTask,
        samples: Mapping[str, Samples],
        images: Mapping[str, torch.Tensor],
        texts: Sequence[str],
        rows: torch.Tensor,
    ) -> None:
        """What this run embedded has been looked at; what lay in the cache has not.

        Raises:
            ClipevalError: an embedding is NaN, infinite or zero, or images and texts have different widths.
        """
        if planned.task.output == "captions":
            return
        store = self.texts[planned.id]
        who = f"{store.parts['label']}, {planned.task.name}"
        for split, embedded in images.items():
            if unsound := first_unsound(embedded):
                key, folder = samples[split].keys[unsound[0]], self.stores.of(planned.features[split]).folder
                raise ClipevalError(
                    f"{who}: the embedding of the sample {key!r} in the cache is {unsound[1]}. Remove {folder}, "
                    "and the images are embedded again."
                )
            widths = {embedded.shape[1], *(t.shape[1] for t in [rows] if len(t))}
            widths |= {table.head.shape[1] for table in samples.values() if table.head is not None}
            if len(widths) > 1:
                raise ClipevalError(
                    f"{who}: images have embeddings of {embedded.shape[1]} numbers, and texts of "
                    f"{', '.join(str(w) for w in sorted(widths - {embedded.shape[1]}))}: they cannot be compared."
                )
        if len(rows) and (unsound := first_unsound(rows)):
            raise ClipevalError(
                f"{who}: the embedding of the text {texts[unsound[0]]!r} in the cache is {unsound[1]}. Remove "
                f"{store.folder}, and the texts are embedded again."
            )
