"""One stream of images through one encoder: decoders work on samples, batches stay full across splits and tasks.

`clipeval.decoding` gives uint8 pixels, the device turns them into embeddings. The next samples are being decoded while a GPU
works, and a batch may hold the end of one split and the beginning of the next, so that nothing waits at a task's border.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import PIL
import torch

from clipeval.configs.errors import ClipevalError
from clipeval.decoding.decoders import DecodeJob, Decoders
from clipeval.decoding.uploads import Uploads, mark
from clipeval.models.batch_size import default_batch
from clipeval.models.encoder import Encoder
from clipeval.models.encoder_group import EncoderGroup
from clipeval.models.memory import memory_errors_named
from clipeval.models.precision import current, indexed
from clipeval.preprocess.device_resize import DeviceResize, is_exact
from clipeval.preprocess.nvjpeg import DeviceDecode, JpegPacker
from clipeval.preprocess.packed import Packer
from clipeval.preprocess.transforms import Preprocess, Transform
from clipeval.stores.embeddings import CHUNK as STORED

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StreamOptions:
    """How the stream runs. None of these can change a score.

    Attributes:
        workers: decoder processes; 0 decodes in this process.
        batch_size: images in a batch of the encoder; None finds one.
        fast: `runtime.preprocess=fast`.
        aligned: batches begin anew with each chunk of a split, so that it gives the same bits wherever a run was cut
            (`runtime.deterministic`).
        on_error: fail or skip.
        device_resize: decoders hand over what they decoded, and the encoder's device resizes it, with the same pixels. Only an
            exact `Preprocess` without a pixel store is resized there (`runtime.resize`).
        nvjpeg: JPEGs are decoded on the device as well (`runtime.preprocess=nvjpeg`).
        batch_memo: a file that remembers the batch size that was found; None: it is found anew.
        note_batch: told the batch size, once it is known and when memory makes it smaller.
    """

    workers: int
    batch_size: int | None
    fast: bool = False
    aligned: bool = False
    on_error: str = "fail"
    device_resize: bool = False
    nvjpeg: bool = False
    batch_memo: Path | None = None
    note_batch: Callable[[int], None] = lambda size: None


@dataclass(frozen=True)
class Embedded:
    """Embeddings (or another output) of some images of one job, or the images that could not be read.

    Attributes:
        job: its number.
        indices: int64 [n], which images of the split.
        rows: float32 [n, D], on the CPU.
        failures: indices of images that could not be read, and why; there are no rows then.
    """

    job: int
    indices: np.ndarray
    rows: torch.Tensor
    failures: Sequence[tuple[int, str]] = ()


class ImageStream:
    """Decoders over a list of jobs, started at once; `embed` runs the encoder over what they make. A context manager.

    Args:
        jobs: what to embed.
        transform: the model's preprocessing.
        options: workers, batch size and so on.
        device: where the encoder is.
    """

    def __init__(
        self, jobs: Sequence[DecodeJob], transform: Transform, options: StreamOptions, device: torch.device
    ) -> None:
        self.jobs, self.options, self.device = jobs, options, indexed(device)
        self._uploads = Uploads(self.device) if self.device.type == "cuda" and jobs else None
        self._resize: DeviceResize | None = None
        self._decode: DeviceDecode | None = None
        resizes = options.device_resize and not options.fast and all(job.kept is None for job in jobs)
        if jobs and isinstance(transform, Preprocess) and (resizes or options.nvjpeg):
            if is_exact(transform) or options.nvjpeg:  # which resizes where no decoder can
                self._resize = DeviceResize(transform, self.device, self._send_block if self._uploads else None)
                self._decode = DeviceDecode(self._resize) if options.nvjpeg else None
            else:
                log.warning("Pillow %s resizes with an arithmetic of its own: the decoders do it", PIL.__version__)
        packer = None if self._resize is None else JpegPacker if self._decode else Packer
        self._decoders = Decoders(jobs, transform, options.fast, options.workers, self.device, packer)

    def embed(self, encoder: Encoder | EncoderGroup) -> Iterator[Embedded]:
        """Embeds every image of every job, in order.

        Raises:
            ClipevalError: an image cannot be read (with on_error=fail), a worker was killed, or the device has no room for a batch.
        """
        fix = "Set runtime.batch_size lower; what is embedded is kept"
        with memory_errors_named("the images of a batch", self.device, fix):
            yield from self._embed(encoder)

    def _embed(self, encoder: Encoder | EncoderGroup) -> Iterator[Embedded]:
        if self._uploads is not None:  # the decoders are at work by now
            self._uploads.register(self._decoders.memory)
        batches: _Batches | None = None
        before: tuple[bool, str] | tuple[int, int] | None = None
        for number, indices, pixels, failures in self._decoders:
            job = self.jobs[number]
            if self._decode is not None and len(indices):
                indices, pixels, more = self._decoded(job, indices, pixels)
                failures = [*failures, *more]
            if failures and self.options.on_error == "fail":
                raise ClipevalError(
                    f"{failures[0][1]}. Repair it, or fetch it again (`clipeval download` for a benchmark's set); or leave such "
                    "images out of the score, counted and flagged, with data.on_error=skip."
                )
            if failures:
                lost = np.array([index for index, _ in failures], dtype=np.int64)
                yield Embedded(number, lost, torch.zeros(0), failures)
            if not len(indices):
                continue
            how = (job.mixed, job.output)
            # A batch is of one kind; aligned: of one stored chunk of one split.
            kind = (number, int(indices[0]) // STORED) if self.options.aligned else how
            if self._resize is not None and self._decode is None:
                with current(self.device):
                    pixels = self._resize(pixels, len(indices))
            if batches is None:
                images = sum(len(job.indices) for job in self.jobs)
                memo, size = self.options.batch_memo, self.options.batch_size
                size = size or default_batch(encoder, self.device, pixels, images, memo)
                batches = _Batches(encoder, size, self.device, self._decoders, self._uploads, self.options.note_batch)
            if before is not None and kind != before:
                yield from batches.drain()
            before = kind
            yield from batches.add(number, indices, pixels, how)
        if batches is not None:
            yield from batches.drain()
            yield from batches.finish()

    def _decoded(
        self, job: DecodeJob, indices: np.ndarray, block: torch.Tensor
    ) -> tuple[np.ndarray, torch.Tensor, list[tuple[int, str]]]:
        """The images of a block of JPEGs, their pixels on the device, and those that could not be decoded."""
        assert self._decode is not None
        with current(self.device):
            pixels, lost = self._decode(block, len(indices))
            if self.device.type == "cuda":  # which may read the JPEGs until then
                self._decoders.keep_until(mark(self.device))
        failures = [(int(indices[place]), f"{job.images.location(int(indices[place]))}: {why}") for place, why in lost]
        return np.delete(indices, [place for place, _ in lost]), pixels, failures

    def _send_block(self, block: torch.Tensor) -> torch.Tensor:
        assert self._uploads is not None
        there, copied = self._uploads.send(block)
        if copied is not None:
            self._decoders.keep_until(copied)
        return there

    def close(self) -> None:
        """Ends the decoders."""
        self._decoders.close()
        if self._uploads is not None:
            self._uploads.close()

    def __enter__(self) -> ImageStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        died = self._decoders.died(problem) if isinstance(problem, Exception) else None
        self.close()
        if died is not None:
            raise died from None


class _Batches:
    """Fills batches, sends them to the encoder, and hands back rows once they are on the CPU."""

    def __init__(
        self,
        encoder: Encoder | EncoderGroup,
        size: int,
        device: torch.device,
        decoders: Decoders,
        uploads: Uploads | None,
        note: Callable[[int], None],
    ) -> None:
        self.encoder, self.size, self.device, self.decoders, self.note = encoder, size, device, decoders, note
        self.uploads = uploads
        note(size)
        self._spans: list[tuple[int, np.ndarray]] = []
        self._count = 0
        self._how = (False, "embeddings")
        self._buffer: torch.Tensor | None = None
        self._uploaded = False
        """Whether the buffer is one that `uploads` fills."""
        self._spare: torch.Tensor | None = None
        self._flying: deque[_Flying] = deque()

    def add(self, job: int, indices: np.ndarray, pixels: torch.Tensor, how: tuple[bool, str]) -> Iterator[Embedded]:
        """Takes images in; their memory may be used for others afterwards, unless the decoders were told to keep it."""
        self._how = how
        if self.device.type == "cpu" and not self._count and len(pixels) == self.size:  # a batch as it is
            self._spans = [(job, indices)]
            yield from self._send(pixels)
            return
        start = 0
        while start < len(pixels):
            use = min(len(pixels) - start, self.size - self._count)
            if self._buffer is None:
                self._buffer = self._next_buffer(pixels)
            self._put(self._buffer[self._count : self._count + use], pixels[start : start + use])
            self._spans.append((job, indices[start : start + use]))
            self._count, start = self._count + use, start + use
            if self._count == self.size:
                yield from self.drain()

    def drain(self) -> Iterator[Embedded]:
        """Sends what there is."""
        if self._count and self._buffer is not None:
            yield from self._send(self._buffer[: self._count])

    def finish(self) -> Iterator[Embedded]:
        """Hands back the rest."""
        while self._flying:
            yield from self._land()

    def _next_buffer(self, pixels: torch.Tensor) -> torch.Tensor:
        """Memory for a batch: on a GPU, from where it is filled while the encoder works on the one before."""
        shape = (self.size, *pixels.shape[1:])
        self._uploaded = self.uploads is not None and pixels.device.type == "cpu"
        if self._uploaded and self.uploads is not None:
            return self.uploads.empty(shape, pixels.dtype)
        if pixels.device.type != "cpu":  # on the device already, where everything happens in order
            with current(self.device):
                return torch.empty(shape, dtype=pixels.dtype, device=pixels.device)
        spare, self._spare = self._spare, None
        fits = spare is not None and spare.shape[1:] == pixels.shape[1:] and spare.dtype == pixels.dtype
        return spare if spare is not None and fits else torch.empty(shape, dtype=pixels.dtype)

    def _put(self, target: torch.Tensor, pixels: torch.Tensor) -> None:
        if not self._uploaded or self.uploads is None:
            target[:] = pixels
        elif (copied := self.uploads.fill(target, pixels)) is not None:
            self.decoders.keep_until(copied)

    def _send(self, batch: torch.Tensor) -> Iterator[Embedded]:
        spans, buffer = self._spans, self._buffer
        self._spans, self._buffer, self._count = [], None, 0
        if self._uploaded and self.uploads is not None:
            batch = self.uploads.hand_over(batch)
        elif self.device.type == "cpu" and batch.dtype == torch.uint8:  # one thread's work, beside the decoders
            batch = self.encoder.preprocess.normalise(batch)
        images = batch if batch.device == self.device else batch.to(self.device)
        with self.decoders.paused():
            rows = self._encode(images)
        if buffer is not None and buffer.device.type == "cpu":  # read by now
            self._spare = buffer
        arrived = None
        if self.device.type == "cuda":  # copied while the next batch runs; picked up two batches later
            with current(self.device):
                host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
            rows, arrived = host.copy_(rows, non_blocking=True), mark(self.device)
        self._flying.append(_Flying(spans, rows, arrived))
        if len(self._flying) > (2 if self.device.type == "cuda" else 0):
            yield from self._land()

    def _encode(self, batch: torch.Tensor) -> torch.Tensor:
        """Runs the encoder; where the device's memory does not suffice, halves the batch and goes on with halves."""
        try:
            if len(batch) <= self.size:
                mixed, output = self._how
                return self.encoder.encode(output, batch, mixed)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise ClipevalError(
                    "the device's memory does not hold one image and the model; use another device."
                ) from None
            self.size = max(1, len(batch) // 2)
            self.note(self.size)
            with current(self.device):
                torch.cuda.empty_cache()
            log.warning("out of device memory: going on with batches of %d", self.size)
        return torch.cat([self._encode(part) for part in torch.split(batch, self.size)])

    def _land(self) -> Iterator[Embedded]:
        done = self._flying.popleft()
        if done.event is not None:
            done.event.synchronize()
        rows = done.rows.cpu()
        start = 0
        for job, spans in groupby(
            done.spans, itemgetter(0)
        ):  # all of a job at once: what takes them in costs by the call
            indices = np.concatenate([span for _, span in spans])
            yield Embedded(job, indices, rows[start : start + len(indices)])
            start += len(indices)


class _Flying(NamedTuple):
    """A batch on the device: whose images it holds, its rows, and when they are there."""

    spans: list[tuple[int, np.ndarray]]
    rows: torch.Tensor
    event: torch.cuda.Event | None
