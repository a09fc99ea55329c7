"""The harness: plan the tasks, stream their images, embed their texts, score them, write their records.

    tasks      tasks without a valid record                                   clipeval.engine.plan
    images     every split that they need, once, through one encoder          clipeval.engine.stream, kept by clipeval.engine.store
    texts      every distinct text of all tasks, once                         kept by clipeval.engine.store
    scores     task.score(images, texts, samples), a pure function            tasks
    records    written whole, last, one by one: what is finished stays        clipeval.results.records

There is no branch for a protocol here: a task says which texts and splits it needs, and gets their embeddings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipeval.configs.errors import ClipevalError
from clipeval.data.split import take
from clipeval.engine.decode import DecodeJob
from clipeval.engine.pixels import pixel_store
from clipeval.engine.plan import FeatureSpec, PlannedTask
from clipeval.engine.progress import Progress
from clipeval.engine.store import CHUNK, ImageStore, TextStore, key_of
from clipeval.engine.stream import Embedded, ImageStream, StreamOptions
from clipeval.engine.unsound import CAUSES, first_unsound
from clipeval.models import Encoder, ModelHandle, text_precision
from clipeval.models.precision import current, full_float32
from clipeval.results.records import Record
from clipeval.tasks import text_rows
from clipeval.tasks.base import Samples, Scores

File = Callable[[PlannedTask, Mapping[str, Samples], torch.Tensor, Scores, Sequence[str], Mapping[str, float]], Record]

TEXTS_AT_ONCE = 16_384
"""Texts embedded between two writes of the text store: what a killed run may lose of them."""


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out. Only `precision` and `fast` can change a score; both are in the fingerprint.

    Attributes:
        device: where the model runs.
        precision: fp32 | bf16 | fp16 | datacomp.
        compile: whether the image tower is compiled.
        stream: decoders and batches.
        store: `cache.root` for embeddings; None keeps them in memory only.
        pixels: `cache.root` for resized pixels (`cache.pixels`); None keeps none.
    """

    device: torch.device
    precision: str
    compile: bool
    stream: StreamOptions
    store: Path | None
    pixels: Path | None = None


@dataclass
class Outcome:
    """What a run did: the records it wrote, in the order in which they were finished, and what it embedded."""

    records: list[Record] = field(default_factory=list)
    images: int = 0
    texts: int = 0
    seconds: float = 0.0
    left: list[str] = field(default_factory=list)
    """Tasks of which this process had a part, and whose other parts are not there yet."""


def run_tasks(
    planned_tasks: Sequence[PlannedTask],
    handle: ModelHandle,
    options: RunOptions,
    file: File,
    progress: Progress,
) -> Outcome:
    """Computes every given task and files its record.

    Args:
        planned_tasks: what to compute.
        handle: the model; it is loaded only when an embedding is missing.
        options: how.
        file: writes a task's record: `file(task, samples, texts, scores, flags, timings)`, the samples being those that were
            scored, texts their texts' embeddings.
        progress: shows how far it is.

    Raises:
        ClipevalError: an image cannot be read, a worker died, the model gives NaN. Records written before it stay.
    """
    started = time.monotonic()
    outcome = Outcome()
    stores = image_stores(planned_tasks, options.store)
    needs = {key_of(need.parts): (planned, need) for planned in planned_tasks for need in planned.needs.values()}
    jobs = {key: positions for key in stores if len(positions := _own(stores[key], key, planned_tasks))}
    texts = text_stores(planned_tasks, handle, options)
    wanted = wanted_texts(planned_tasks, texts)
    failures: dict[str, list[tuple[int, str]]] = {key: [] for key in stores}
    with (
        keeping(stores, options),
        ThreadPoolExecutor(max_workers=1) as scorer,  # scores one task while the next one's images are embedded
    ):
        whole = [planned for planned in planned_tasks if planned.part is None]
        queue = ScoringQueue(whole, stores, failures, texts, file, progress, scorer, outcome, options.device)
        if jobs or wanted:
            with (
                disable_tokenizer_threads(),
                open_stream(jobs, needs, handle, options) as stream,
                _load(handle, options, bool(jobs)) as encoder,
            ):
                outcome.texts = embed_texts(encoder, wanted, progress, planned_tasks)
                queue.submit_ready()
                outcome.images = _embed_images(stream, list(jobs), encoder, stores, failures, queue, progress)
        queue.submit_ready()
        queue.close()
    stores.clear()
    _finish_parts(
        [planned for planned in planned_tasks if planned.part is not None], handle, options, file, progress, outcome
    )
    outcome.seconds = time.monotonic() - started
    return outcome


def _own(store: ImageStore, key: str, planned_tasks: Sequence[PlannedTask]) -> np.ndarray:
    """The positions of a store that this process embeds: what is missing, of the chunks that are its tasks' parts."""
    missing, mine = store.missing, np.zeros(store.count, dtype=bool)
    for planned in planned_tasks:
        if any(key_of(need.parts) == key for need in planned.needs.values()):
            chunks = planned.part.chunks(store.count) if planned.part else range(-(-store.count // CHUNK))
            mine[chunks.start * CHUNK : chunks.stop * CHUNK] = True
    return np.asarray(missing[mine[missing]])


@contextmanager
def keeping(stores: Mapping[str, ImageStore], options: RunOptions) -> Iterator[None]:
    """Keeps what is embedded of a chunk when the run has to stop inside it; with fixed batches only whole chunks count."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, ClipevalError):
        if not options.stream.aligned:
            for store in stores.values():
                store.flush()
        raise


def _finish_parts(
    planned_tasks: Sequence[PlannedTask],
    handle: ModelHandle,
    options: RunOptions,
    file: File,
    progress: Progress,
    outcome: Outcome,
) -> None:
    """Scores the tasks whose last part has now arrived, whoever embedded the others."""
    ready = [
        planned
        for planned in planned_tasks
        if all(store.visited for store in image_stores([planned], options.store).values())
    ]
    outcome.left = [planned.id for planned in planned_tasks if planned not in ready]
    if ready:
        rest = run_tasks([replace(planned, part=None) for planned in ready], handle, options, file, progress)
        outcome.records += rest.records
        outcome.images += rest.images
        outcome.texts += rest.texts


def image_stores(planned_tasks: Sequence[PlannedTask], root: Path | None) -> dict[str, ImageStore]:
    """One store for each distinct need, in the order of the tasks."""
    stores: dict[str, ImageStore] = {}
    for planned in planned_tasks:
        for need in planned.needs.values():
            key = key_of(need.parts)
            if key not in stores:
                stores[key] = ImageStore(root, need.parts, len(need.images), need.label)
    return stores


def text_parts(handle: ModelHandle, options: RunOptions) -> dict[str, Any]:
    """What text embeddings depend on; the key of their store."""
    return {"text": handle.text_digest, "precision": text_precision(options.precision, str(options.device))}


@contextmanager
def open_stream(
    jobs: Mapping[str, np.ndarray],
    needs: Mapping[str, tuple[PlannedTask, FeatureSpec]],
    handle: ModelHandle,
    options: RunOptions,
) -> Iterator[ImageStream | None]:
    """Decoders over all jobs; they start before the model is loaded and while the texts are embedded."""
    if not jobs:
        yield None
        return
    work = []
    for key, positions in jobs.items():
        planned, need = needs[key]
        limits = need.max_pixels, need.max_text_chunk
        pixels = pixel_store(options, handle.preprocess, need, planned.task.name)
        work.append(
            DecodeJob(planned.task.name, need.images, positions, need.convert, need.mixed, need.output, *limits, pixels)
        )
    stream = ImageStream(work, handle.preprocess, options.stream, options.device)
    try:
        yield stream
    except Exception as problem:
        died = stream.died(problem)
        if died is None:
            raise
        raise died from None
    finally:
        stream.close()


@contextmanager
def _load(handle: ModelHandle, options: RunOptions, images: bool) -> Iterator[Encoder]:
    device, precision = str(options.device), options.precision
    encoder = handle.load(device, precision, options.compile) if images else handle.load_text(device, precision)
    try:
        yield encoder
    finally:
        encoder.close()


@contextmanager
def disable_tokenizer_threads() -> Iterator[None]:
    """Keeps the tokenizers' own threads from being forked into the decoders."""
    import os

    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = before or "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]


def text_stores(planned_tasks: Sequence[PlannedTask], handle: ModelHandle, options: RunOptions) -> dict[str, TextStore]:
    """The store of each task's texts: one for all, so that a text is embedded once.

    With fixed batches (`aligned`) a store for each list of texts: which others a text is embedded with, and so its last
    bits, must not depend on the other tasks of a run.
    """
    parts = text_parts(handle, options)
    if not options.stream.aligned:
        store = TextStore(options.store, parts, handle.name)
        return {planned.id: store for planned in planned_tasks}
    lists = dict.fromkeys(planned.fingerprint.prompts for planned in planned_tasks)
    apart = {prompts: TextStore(options.store, {**parts, "only": prompts}, handle.name) for prompts in lists}
    return {planned.id: apart[planned.fingerprint.prompts] for planned in planned_tasks}


def wanted_texts(
    planned_tasks: Sequence[PlannedTask], stores: Mapping[str, TextStore]
) -> list[tuple[TextStore, list[str]]]:
    """What each text store lacks; of a task done in parts, the process with the first part embeds the texts."""
    texts: dict[int, tuple[TextStore, list[str]]] = {}
    for planned in planned_tasks:
        if planned.part is None or planned.part.first == 0:
            store = stores[planned.id]
            texts.setdefault(id(store), (store, []))[1].extend(planned.texts)
    found = [(store, store.missing(every)) for store, every in texts.values()]
    return [(store, missing) for store, missing in found if missing]


def embed_texts(
    encoder: Encoder,
    wanted: Sequence[tuple[TextStore, list[str]]],
    progress: Progress,
    planned_tasks: Sequence[PlannedTask],
) -> int:
    """Embeds what `wanted_texts` found of `planned_tasks` into its stores; how many texts that were.

    Raises:
        ClipevalError: the model gives NaN, infinity or zeros for a text.
    """
    parts = [
        (store, missing[first : first + TEXTS_AT_ONCE])
        for store, missing in wanted
        for first in range(0, len(missing), TEXTS_AT_ONCE)
    ]
    total = sum(len(part) for _, part in parts)
    with progress.bar("texts", total, "prompts") as bar:
        for store, part in parts:
            rows = encoder.encode_texts(part, progress=bar.advance)
            if found := first_unsound(rows):
                bad, what = part[found[0]], found[1]
                tasks = [planned.task.name for planned in planned_tasks if bad in planned.texts]
                raise ClipevalError(
                    f"{store.parts['label']}, {', '.join(tasks[:3])}: the embedding of the text {bad!r} is {what}: {CAUSES}."
                )
            store.put(part, rows)
    return total


def _embed_images(
    stream: ImageStream | None,
    keys: list[str],
    encoder: Encoder,
    stores: Mapping[str, ImageStore],
    failures: dict[str, list[tuple[int, str]]],
    queue: ScoringQueue,
    progress: Progress,
) -> int:
    if stream is None:
        return 0
    count = 0
    with progress.bar("images", sum(len(job.positions) for job in stream.jobs), "images") as bar:
        for piece in stream.embed(encoder):
            key, job = keys[piece.job], stream.jobs[piece.job]
            bar.advance(len(piece.positions), job.name)
            count += store_batch(piece, job, stores[key], failures[key])
            if stores[key].complete:
                queue.submit_ready()
    return count


def store_batch(piece: Embedded, job: DecodeJob, store: ImageStore, failures: list[tuple[int, str]]) -> int:
    """Puts what the stream gave into its store; how many embeddings that were.

    Raises:
        ClipevalError: an embedding is NaN, infinite or zero.
    """
    if piece.failures:
        failures.extend(piece.failures)
        store.skip(piece.positions)
        return 0
    # A caption may be empty, and is then a row of zeros.
    if job.output == "embeddings" and (found := first_unsound(piece.rows)):
        where = job.images.where(int(piece.positions[found[0]]))
        raise ClipevalError(f"{store.parts['label']}: the embedding of {where} is {found[1]}: {CAUSES}.")
    store.put(piece.positions, piece.rows)
    return len(piece.positions)


def check_stored(
    planned: PlannedTask,
    images: Mapping[str, torch.Tensor],
    rows: torch.Tensor,
    texts: Sequence[str],
    samples: Mapping[str, Samples],
    stores: Mapping[str, ImageStore],
    text_store: TextStore,
) -> None:
    """What a task is about to be scored on. What this run embedded has been looked at; what lay in the cache has not.

    Raises:
        ClipevalError: an embedding is NaN, infinite or zero, or images and texts have different widths.
    """
    if planned.task.output != "embeddings":
        return
    model = text_store.parts["label"]
    for split, embedded in images.items():
        if found := first_unsound(embedded):
            key, where = samples[split].keys[found[0]], stores[split].folder
            raise ClipevalError(
                f"{model}, {planned.task.name}: the embedding of the sample {key!r} in the cache is {found[1]}. Remove {where}, "
                "and the images are embedded again."
            )
        widths = {embedded.shape[1], *(t.shape[1] for t in [rows] if len(t))}
        widths |= {table.head.shape[1] for table in samples.values() if table.head is not None}
        if len(widths) > 1:
            raise ClipevalError(
                f"{model}, {planned.task.name}: images have embeddings of {embedded.shape[1]} numbers, and texts of "
                f"{', '.join(str(w) for w in sorted(widths - {embedded.shape[1]}))}: they cannot be compared."
            )
    if len(rows) and (found := first_unsound(rows)):
        raise ClipevalError(
            f"{model}, {planned.task.name}: the embedding of the text {texts[found[0]]!r} in the cache is {found[1]}. Remove "
            f"{text_store.folder}, and the texts are embedded again."
        )


@dataclass
class ScoringQueue:
    """Scores each task as soon as all its embeddings are there, off the stream's thread, and files its record."""

    waiting: list[PlannedTask]
    stores: dict[str, ImageStore]
    failures: Mapping[str, list[tuple[int, str]]]
    texts: Mapping[str, TextStore]
    file: File
    progress: Progress
    scorer: ThreadPoolExecutor
    outcome: Outcome
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _scoring: list[Future[Record]] = field(default_factory=list)
    _clock: float = field(default_factory=time.monotonic)

    def submit_ready(self) -> None:
        """Hands every task that is complete to the scorer, and raises what scoring raised."""
        for planned in [planned for planned in self.waiting if self._complete(planned)]:
            self.waiting.remove(planned)
            elapsed, self._clock = time.monotonic() - self._clock, time.monotonic()
            stores = {split: self.stores[key_of(need.parts)] for split, need in planned.needs.items()}
            self._scoring.append(self.scorer.submit(self._score, planned, stores, elapsed))
        self._release()
        for future in [f for f in self._scoring if f.done()]:
            self._scoring.remove(future)
            self._finished(future)

    def close(self) -> None:
        """Waits for the last score."""
        while self._scoring:
            self._finished(self._scoring.pop(0))
        assert not self.waiting

    def _finished(self, future: Future[Record]) -> None:
        record = future.result()
        self.outcome.records.append(record)
        self.progress.done(record)

    def _complete(self, planned: PlannedTask) -> bool:
        return all(self.stores[key_of(need.parts)].complete for need in planned.needs.values())

    def _release(self) -> None:
        """Forgets the embeddings that no waiting task needs, so that memory does not grow with the suite."""
        needed = {key_of(need.parts) for planned in self.waiting for need in planned.needs.values()}
        for key in [key for key, store in self.stores.items() if store.complete and key not in needed]:
            del self.stores[key]

    def _score(self, planned: PlannedTask, stores: Mapping[str, ImageStore], elapsed: float) -> Record:
        started = time.monotonic()
        samples, flags = dict(planned.samples), []
        images = {split: store.finish() for split, store in stores.items()}
        for split, rows in images.items():
            places = samples[split].positions
            used = rows if places is None else rows[torch.from_numpy(places)]
            kept = ~torch.isnan(used[:, 0]).numpy()
            if not kept.all():
                samples[split] = take(samples[split], np.flatnonzero(kept))
                known = dict(self.failures[key_of(planned.needs[split].parts)])
                lost = [
                    known[int(p)] for p in (np.arange(len(kept)) if places is None else places)[~kept] if p in known
                ]
                flags.append(
                    f"{int((~kept).sum())} of {len(kept):,} images left out, unreadable: {'; '.join(lost[:20])}"
                )
                used = used[torch.from_numpy(kept)]
            images[split] = used.to(self.device) if planned.task.on_device else used
        texts = planned.task.texts(samples) if flags else planned.texts  # flagged by now is what was left out
        rows = self.texts[planned.id].rows(texts)
        check_stored(planned, images, rows, texts, samples, stores, self.texts[planned.id])
        if planned.task.output == "captions" and (long := text_rows.cut(images["test"].cpu())):
            flags.append(f"{long:,} captions fill the {text_rows.WIDTH} bytes that are kept of each, and may be cut")
        with current(self.device), full_float32():  # a thread begins on the first GPU
            scores = planned.task.score(images, rows, samples)
        timings = {"embed_s": round(elapsed, 3), "score_s": round(time.monotonic() - started, 3)}
        return self.file(planned, samples, rows, scores, flags, timings)
