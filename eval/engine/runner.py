"""The harness: what some models lack of their tasks' images and texts is embedded, and each task is scored once that is there.

    images     every split that a task needs, decoded once, through the encoder of every model    clipeval.engine.stream
    texts      every distinct text of all tasks of a model, once
    scores     task.score(images, texts, samples), a pure function                                clipeval.engine.scoring
    records    written whole, last, one by one: what is finished stays

There is no branch for a protocol here: a task says which texts and splits it needs, and gets their embeddings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipeval.configs.errors import ClipevalError
from clipeval.decoding.decoders import DecodeJob
from clipeval.engine.features import FeatureSpec, FeatureStores
from clipeval.engine.plan import PlannedTask
from clipeval.engine.progress import Progress
from clipeval.engine.scoring import ScoringQueue, WriteRecord
from clipeval.engine.stream import Embedded, ImageStream, StreamOptions
from clipeval.models import Encoder, ModelHandle, text_precision
from clipeval.models.encoder_group import EncoderGroup, share_tokenizer
from clipeval.models.memory import memory_errors_named
from clipeval.models.precision import deterministic_algorithms
from clipeval.models.texts import disable_tokenizer_threads
from clipeval.models.trial import try_image
from clipeval.models.unsound import CAUSES, first_unsound
from clipeval.preprocess.quick_imports import need_meta_kernels
from clipeval.preprocess.transforms import Preprocess, Transform
from clipeval.results.records import Record
from clipeval.stores.embeddings import ImageStore, TextStore, key_of
from clipeval.stores.pixels import PixelStore

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
        pixels: `cache.root` for resized pixels (`cache.pixels`); None keeps none.
    """

    device: torch.device
    precision: str
    compile: bool
    stream: StreamOptions
    pixels: Path | None = None

    def pixel_store(self, transform: Transform, spec: FeatureSpec, label: str) -> PixelStore | None:
        """Where the resized pixels of some images are kept; None: nowhere, for code of the user's own or a GPU makes them."""
        if self.pixels is None or self.stream.nvjpeg or not isinstance(transform, Preprocess):
            return None
        return PixelStore.of(self.pixels, spec.images, transform, spec.convert, self.stream.fast, label)

    def pixel_growth(self, tasks: Sequence[PlannedTask], transform: Transform, stores: FeatureStores) -> int:
        """By how many bytes a run of these tasks lets the pixel stores grow; `stores` have the embeddings that are there."""
        growth: dict[Path, int] = {}
        for planned in tasks:
            for spec in planned.features.values():
                store = self.pixel_store(transform, spec, planned.task.name)
                if store is not None and store.folder not in growth:
                    growth[store.folder] = store.missing_bytes(stores.of(spec).missing)
        return sum(growth.values())


@dataclass
class RunSummary:
    """What a run did: the records it wrote, in the order in which they were finished, and what it embedded."""

    records: list[Record] = field(default_factory=list)
    images: int = 0
    texts: int = 0
    seconds: float = 0.0
    pending: list[str] = field(default_factory=list)
    """Tasks of which this process had a part, and whose other parts are not there yet."""


@dataclass(eq=False)
class ModelRun:
    """One model of a run: what is to be computed with it, and what came of it.

    Attributes:
        handle: the model; it is loaded only when an embedding is missing.
        tasks: what to compute.
        stores: what is embedded already.
        write_record: writes a task's record once it is scored.
        progress: shows how far it is.
        keep_heads: whether class vectors are wanted with the scores (`head.save`).
        inspect: looks at the model once it is loaded for images, before any is embedded.
        summary: what was done.
        problem: why it failed, where other models of the run went on.
    """

    handle: ModelHandle
    tasks: Sequence[PlannedTask]
    stores: FeatureStores
    write_record: WriteRecord
    progress: Progress
    keep_heads: bool = False
    inspect: Callable[[Encoder], None] | None = None
    summary: RunSummary = field(default_factory=RunSummary)
    problem: ClipevalError | None = None
    encoder: Encoder | None = field(default=None, init=False)
    missing: dict[TextStore, list[str]] = field(default_factory=dict, init=False)

    def start(self, options: RunOptions, scorer: ThreadPoolExecutor, opened: dict[str, TextStore]) -> None:
        """Finds out which texts are missing, and lets the tasks wait for their embeddings.

        Of a task that is done in parts, the process with the first part embeds the texts.

        Args:
            options: how the run is carried out.
            scorer: where tasks are scored.
            opened: the stores of texts that models with the same stores of images have opened.
        """
        stores = text_stores(self, options, opened)
        asked: dict[TextStore, list[str]] = {}
        for planned in self.tasks:
            if planned.part is None or planned.part.first == 0:
                asked.setdefault(stores[planned.id], []).extend(planned.texts)
        self.missing = {store: missing for store, texts in asked.items() if (missing := store.missing(texts))}
        whole = [planned for planned in self.tasks if planned.part is None]
        told = self.write_record, self.progress, scorer, options.device, self.keep_heads, self.summary.records
        self.queue = ScoringQueue(whole, self.stores, stores, *told, dimensions=self.handle.dimensions)

    def load(self, stack: ExitStack, options: RunOptions, images: bool, owner: ModelRun) -> None:
        """Loads what is needed of the model, if anything is.

        Args:
            stack: closes it.
            options: how the run is carried out.
            images: whether images are to be embedded.
            owner: the model that embeds for all that have its stores; the others take its encoder.
        """
        fix = "Run it alone, or on a device with more memory, or with runtime.precision=bf16"
        with memory_errors_named(f"{self.handle.slug} cannot be loaded", options.device, fix):
            if owner is not self:
                if owner.problem is not None:
                    raise owner.problem
                self.encoder = owner.encoder
            elif images:
                self.encoder = self.handle.load(str(options.device), options.precision, options.compile)
            elif self.missing:
                self.encoder = self.handle.load_text(str(options.device), options.precision)
            if self.encoder is None and self.missing:  # another part of what its owner's tasks ask
                self.encoder = owner.encoder = owner.handle.load_text(str(options.device), options.precision)
        if self.encoder is not None:
            stack.callback(self.encoder.close)
            if images and self.handle.ready:
                try_image(self.encoder)
            if images and self.inspect is not None:
                self.inspect(self.encoder)

    def embed_texts(self) -> None:
        """Embeds the texts that are missing; what is complete with them is scored.

        Raises:
            ClipevalError: the model gives NaN, infinity or zeros for a text.
        """
        with self.progress.bar("texts", sum(map(len, self.missing.values())), "prompts") as bar:
            for store, missing in self.missing.items():
                missing = store.missing(missing)  # but for what another model with the same stores has embedded
                for first in range(0, len(missing), TEXTS_AT_ONCE):
                    assert self.encoder is not None
                    texts = missing[first : first + TEXTS_AT_ONCE]
                    output = store.parts.get("output", "embeddings")
                    rows = self.encoder.encode_texts(texts, progress=bar.advance, output=output)
                    if unsound := first_unsound(rows):
                        bad, what = texts[unsound[0]], unsound[1]
                        tasks = [planned.task.name for planned in self.tasks if bad in planned.texts]
                        raise ClipevalError(
                            f"{store.parts['label']}, {', '.join(tasks[:3])}: the embedding of the text {bad!r} is {what}: "
                            f"{CAUSES}."
                        )
                    store.put(texts, rows)
                    self.summary.texts += len(texts)
        if self.problem is None:
            self.queue.submit_ready()

    def fail(self, problem: ClipevalError) -> None:
        """Ends this model's part."""
        self.problem, self.encoder, self.missing = problem, None, {}
        self.queue.waiting.clear()


def run_tasks(models: Sequence[ModelRun], options: RunOptions) -> None:
    """Computes the tasks of one model, or of several that see images and texts alike, over one decoding of the images.

    What is done is noted in each model's `summary`. A model of several that cannot be loaded, or gives NaN, fails alone.

    Raises:
        ClipevalError: an image cannot be read, a worker died, the only model fails. Records written before it stay.
    """
    started = time.monotonic()
    need_meta_kernels()
    owners = {model: next(other for other in models if other.stores is model.stores) for model in models}
    jobs = decode_jobs(models, options, owners)
    sighted = {model for _, stores in jobs for model in stores}
    steady = deterministic_algorithms(options.device) if options.stream.aligned else nullcontext()
    with steady, flush_on_interrupt(models), ThreadPoolExecutor(max_workers=1) as scorer, ExitStack() as loaded:
        opened: dict[str, TextStore] = {}
        for model in models:
            model.start(options, scorer, opened)
        for model in models:
            model.queue.beside = [other.queue for other in models if other.stores is model.stores]
        for model in [model for model in models if model.handle.ready]:
            model.load(loaded, options, owners[model] in sighted, owners[model])
        # Decoders start before the other models are loaded, and work while texts are embedded.
        decoders = [job for job, _ in jobs], models[0].handle.preprocess, options.stream, options.device
        with disable_tokenizer_threads(), ImageStream(*decoders) as stream:
            for model in [model for model in models if not model.handle.ready]:
                with _failing_alone(model, models):
                    model.load(loaded, options, owners[model] in sighted, owners[model])
            share_tokenizer(list(dict.fromkeys(model.encoder for model in models if model.encoder is not None)))
            for model in models:
                with _failing_alone(model, models):
                    model.embed_texts()
            _fail_with_owners(owners)
            embed_images(stream, [stores for _, stores in jobs], models)
            _fail_with_owners(owners)
        for model in models:
            with _failing_alone(model, models):
                model.queue.close()
    for model in models:
        if model.problem is None:
            _finish_parts(model, options)
        model.summary.seconds = time.monotonic() - started


def _fail_with_owners(owners: Mapping[ModelRun, ModelRun]) -> None:
    """Whose embeddings another model was to make, fails with it."""
    for model, owner in owners.items():
        if owner.problem is not None and model.problem is None:
            model.fail(owner.problem)


@contextmanager
def _failing_alone(model: ModelRun, models: Sequence[ModelRun]) -> Iterator[None]:
    """What goes wrong with one of several models is noted, and the others go on."""
    try:
        yield
    except ClipevalError as problem:
        if len(models) == 1:
            raise
        model.fail(problem)
        model.stores.flush()


def decode_jobs(
    models: Sequence[ModelRun], options: RunOptions, owners: Mapping[ModelRun, ModelRun] | None = None
) -> list[tuple[DecodeJob, dict[ModelRun, ImageStore]]]:
    """What is missing of each split, decoded once for all models; and the stores that take it, by the model that fills them.

    Of a task that is done in parts, this process embeds the chunks of its part.
    """
    missing: dict[str, np.ndarray] = {}
    stores: dict[str, dict[ModelRun, ImageStore]] = {}
    features: dict[str, tuple[str, FeatureSpec]] = {}
    for model in models:
        for planned in model.tasks:
            for spec in planned.features.values():
                store, key = model.stores.of(spec), spec.pixels_key
                mine = slice(None) if planned.part is None else planned.part.rows(store.count)
                missing.setdefault(key, np.zeros(store.count, dtype=bool))[mine] |= ~store.done[mine]
                stores.setdefault(key, {})[owners[model] if owners else model] = store
                features.setdefault(key, (planned.task.name, spec))
    jobs = []
    for key, (name, spec) in features.items():
        if missing[key].any():
            limits = spec.max_pixels, spec.max_text_chunk
            indices = np.flatnonzero(missing[key])
            kept = options.pixel_store(models[0].handle.preprocess, spec, name)
            job = DecodeJob(name, spec.images, indices, spec.convert, spec.mixed, spec.output, *limits, kept)
            jobs.append((job, stores[key]))
    return jobs


@contextmanager
def flush_on_interrupt(models: Sequence[ModelRun]) -> Iterator[None]:
    """Keeps what is embedded of a chunk when the run has to stop inside it."""
    try:
        yield
    except BaseException:  # an error that nobody foresaw as well
        for model in models:
            model.stores.flush()
        raise


def text_parts(handle: ModelHandle, options: RunOptions, output: str = "embeddings") -> dict[str, Any]:
    """What text embeddings depend on; the key of their store. `output`: see `clipeval.tasks.base.Task.text_output`."""
    parts = {"text": handle.text_digest, "precision": text_precision(options.precision, str(options.device))}
    return parts if output == "embeddings" else {**parts, "output": output}


def text_stores(model: ModelRun, options: RunOptions, opened: dict[str, TextStore]) -> dict[str, TextStore]:
    """The store of each task's texts: one for all that want the same of them, so that a text is embedded once.

    With fixed batches (`aligned`) a store for each list of texts: which others a text is embedded with, and so its last
    bits, must not depend on the other tasks of a run.
    """

    def store(parts: Mapping[str, Any]) -> TextStore:
        key = f"{id(model.stores)}/{key_of(parts)}"
        if key not in opened:
            opened[key] = TextStore(model.stores.root, parts, model.handle.name)
        return opened[key]

    def parts(planned: PlannedTask) -> dict[str, Any]:
        common = text_parts(model.handle, options, planned.task.text_output)
        return {**common, "only": planned.fingerprint.prompts} if options.stream.aligned else common

    return {planned.id: store(parts(planned)) for planned in model.tasks}


def embed_images(
    stream: ImageStream, stores: Sequence[Mapping[ModelRun, ImageStore]], models: Sequence[ModelRun]
) -> None:
    """Embeds what the stream decodes with all models; each task is scored once its last image is stored."""
    wanted = {model for takers in stores for model in takers}
    encoders = {model: model.encoder for model in models if model in wanted and model.encoder is not None}
    if not encoders:
        return
    with models[0].progress.bar("images", sum(len(job.indices) for job in stream.jobs), "images") as bar:
        for piece in stream.embed(EncoderGroup.of(list(encoders.values()))):
            job = stream.jobs[piece.job]
            bar.advance(len(piece.indices), job.name)
            parts = piece.rows.chunk(len(encoders), dim=1) if len(piece.rows) else [piece.rows] * len(encoders)
            for model, rows in zip(encoders, parts, strict=True):
                store = stores[piece.job].get(model)
                if store is None or model.problem is not None or store.done[piece.indices].all():
                    continue
                with _failing_alone(model, models):
                    model.summary.images += store_batch(replace(piece, rows=rows), job, store)
                    if store.complete:
                        for other in models:  # those that have the same stores
                            if other.stores is model.stores and other.problem is None:
                                other.queue.submit_ready()
    for model in encoders:
        model.stores.settle()


def store_batch(piece: Embedded, job: DecodeJob, store: ImageStore) -> int:
    """Puts what the stream gave into its store; how many embeddings that were.

    Raises:
        ClipevalError: an embedding is NaN, infinite or zero.
    """
    if piece.failures:
        store.skip(piece.failures)
        return 0
    # A caption may be empty, and is then a row of zeros.
    if job.output == "embeddings" and (unsound := first_unsound(piece.rows)):
        location = job.images.location(int(piece.indices[unsound[0]]))
        raise ClipevalError(f"{store.parts['label']}: the embedding of {location} is {unsound[1]}: {CAUSES}.")
    store.put(piece.indices, piece.rows)
    return len(piece.indices)


def _finish_parts(model: ModelRun, options: RunOptions) -> None:
    """Scores the tasks whose last part has now arrived, whoever embedded the others."""
    model.stores.refresh()
    ready = []
    for planned in model.tasks:
        if planned.part is not None:
            if all(model.stores.of(spec).visited for spec in planned.features.values()):
                ready.append(replace(planned, part=None))
            else:
                model.summary.pending.append(planned.id)
    if ready:
        run_tasks([replace(model, tasks=ready)], options)
