"""One stream of images through one encoder: decoders work on samples, batches stay full across splits and tasks.

`clipeval.engine.decode` gives uint8 pixels, the device turns them into embeddings. The next samples are being decoded while a GPU
works, and a batch may hold the end of one split and the beginning of the next, so that nothing waits at a task's border.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
import torch

from clipeval.configs.errors import ClipevalError
from clipeval.engine.decode import Decoded, DecodeJob, Decoders
from clipeval.engine.store import CHUNK as STORED
from clipeval.models import Encoder
from clipeval.models.precision import current, indexed
from clipeval.preprocess.device_resize import DeviceResize, is_exact
from clipeval.preprocess.transforms import Preprocess, Transform
from clipeval.results.files import write_atomically

MOST_IN_BATCH = 4096
"""Images in the largest batch that is tried."""

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
        batch_memo: a file that remembers the batch size that was found; None: it is found anew.
        note_batch: told the batch size, once it is known and when memory makes it smaller.
    """

    workers: int
    batch_size: int | None
    fast: bool = False
    aligned: bool = False
    on_error: str = "fail"
    device_resize: bool = False
    batch_memo: Path | None = None
    note_batch: Callable[[int], None] = lambda size: None


@dataclass(frozen=True)
class Embedded:
    """Embeddings (or another output) of some images of one job: float32 [n, D] on the CPU; or the images that could not
    be read."""

    job: int
    positions: np.ndarray
    rows: torch.Tensor
    failures: tuple[tuple[int, str], ...] = ()


class ImageStream:
    """Decoders over a list of jobs, started at once; `embed` runs the encoder over what they make.

    Args:
        jobs: what to embed.
        transform: the model's preprocessing.
        options: workers, batch size and so on.
        device: where the encoder is; "cuda" pins memory.
    """

    def __init__(
        self, jobs: Sequence[DecodeJob], transform: Transform, options: StreamOptions, device: torch.device
    ) -> None:
        self.jobs, self.options, self.device = jobs, options, indexed(device)
        packed = options.device_resize and not options.fast and all(job.pixels is None for job in jobs)
        self._resize: DeviceResize | None = None
        if packed and isinstance(transform, Preprocess):
            if is_exact(transform):
                self._resize = DeviceResize(transform, self.device)
            else:
                log.warning("Pillow %s resizes with an arithmetic of its own: the decoders do it", PIL.__version__)
        self._decoders = Decoders(
            jobs, transform, options.fast, options.workers, self.device, packed=self._resize is not None
        )

    def embed(self, encoder: Encoder) -> Iterator[Embedded]:
        """Embeds every image of every job, in order.

        Raises:
            ClipevalError: an image cannot be read (with on_error=fail), or a worker was killed.
        """
        batches: _Batches | None = None
        before: tuple[bool, str] | tuple[int, int] | None = None
        for decoded in self._decoders:
            job, failures = self.jobs[decoded.job], decoded.failures
            if failures and self.options.on_error == "fail":
                raise ClipevalError(
                    f"{failures[0][1]}. Repair it, or fetch it again (`clipeval download` for a benchmark's set); or leave such "
                    "images out of the score, counted and flagged, with data.on_error=skip."
                )
            if failures:
                lost = np.array([job.positions[place] for place, _ in failures], dtype=np.int64)
                reasons = tuple((int(job.positions[place]), reason) for place, reason in failures)
                yield Embedded(decoded.job, lost, torch.zeros(0), reasons)
            if not len(decoded.places):
                continue
            positions = job.positions[decoded.places]
            how = (job.mixed, job.output)
            # A batch is of one kind; aligned: of one stored chunk of one split.
            kind = (decoded.job, int(positions[0]) // STORED) if self.options.aligned else how
            pixels = self._pixels(decoded)
            if batches is None:
                size = self.options.batch_size or self._found_batch(encoder, pixels)
                batches = _Batches(encoder, size, self.device, self._decoders, self.options.note_batch)
            if before is not None and kind != before:
                yield from batches.drain()
            before = kind
            yield from batches.add(decoded.job, positions, pixels, how)
        if batches is not None:
            yield from batches.drain()
            yield from batches.finish()

    def _pixels(self, decoded: Decoded) -> torch.Tensor:
        """[n, 3, h, w]: on the device, where that resizes."""
        if self._resize is None:
            return decoded.pixels
        with current(self.device):
            return self._resize(decoded.pixels, len(decoded.places))

    def _found_batch(self, encoder: Encoder, pixels: torch.Tensor) -> int:
        """The batch size for images such as these, remembered or found by trying; never more than there are images."""
        most = sum(len(job.positions) for job in self.jobs)
        memo = self.options.batch_memo
        if self.device.type != "cuda" or memo is None:
            return default_batch(encoder, self.device, pixels[:1], most)
        memo = memo.with_name(
            f"{memo.name}-{len(getattr(encoder, 'encoders', (encoder,)))}"
        )  # of so many models at once
        with suppress(OSError, ValueError):
            return min(int(memo.read_text()), _doubled(most))
        size = default_batch(encoder, self.device, pixels[:1], most)
        if size < _doubled(most):  # else it was not memory or speed that ended the search
            with suppress(OSError):  # a cache that may only be read
                write_atomically(memo, str(size).encode())
        return size

    def close(self) -> None:
        """Ends the decoders."""
        self._decoders.close()

    def died(self, problem: Exception) -> ClipevalError | None:
        """What to say where `problem` came of a decoder process that died; None where all of them live."""
        return self._decoders.died(problem)


class _Batches:
    """Fills batches, sends them to the encoder, and hands back rows once they are on the CPU."""

    def __init__(
        self, encoder: Encoder, size: int, device: torch.device, decoders: Decoders, note: Callable[[int], None]
    ) -> None:
        self.encoder, self.size, self.device, self.decoders, self.note = encoder, size, device, decoders, note
        note(size)
        self._spans: list[tuple[int, np.ndarray]] = []
        self._count = 0
        self._how = (False, "embeddings")
        self._buffer: torch.Tensor | None = None
        self._sent: deque[tuple[torch.Tensor, torch.cuda.Event | None]] = deque()
        self._flying: deque[_Flying] = deque()

    def add(self, job: int, positions: np.ndarray, pixels: torch.Tensor, how: tuple[bool, str]) -> Iterator[Embedded]:
        """Takes images in; their memory may be used for others afterwards."""
        self._how = how
        if self.device.type == "cpu" and not self._count and len(pixels) == self.size:  # a batch as it is
            self._spans = [(job, positions)]
            yield from self._send(pixels)
            return
        start = 0
        while start < len(pixels):
            use = min(len(pixels) - start, self.size - self._count)
            if self._buffer is None:
                self._buffer = self._next_buffer(pixels)
            self._buffer[self._count : self._count + use] = pixels[start : start + use]
            self._spans.append((job, positions[start : start + use]))
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
        """Memory for a batch: on a GPU two take turns, so that one is filled while the other waits to be copied."""
        if pixels.device.type != "cpu":  # on the device already, where everything happens in order
            return torch.empty((self.size, *pixels.shape[1:]), dtype=pixels.dtype, device=pixels.device)
        pinned = self.device.type == "cuda"
        if len(self._sent) < (2 if pinned else 1):
            with current(self.device):
                return torch.empty((self.size, *pixels.shape[1:]), dtype=pixels.dtype, pin_memory=pinned)
        buffer, copied = self._sent.popleft()
        if copied is not None:
            copied.synchronize()
        return buffer

    def _send(self, batch: torch.Tensor) -> Iterator[Embedded]:
        spans, buffer = self._spans, self._buffer
        self._spans, self._buffer, self._count = [], None, 0
        if self.device.type == "cpu" and batch.dtype == torch.uint8:  # one thread's work, beside the decoders
            batch = self.encoder.preprocess.normalise(batch)
        images = batch.to(self.device, non_blocking=self.device.type == "cuda")
        if buffer is not None and buffer.device.type == "cpu":
            self._sent.append((buffer, self._event()))
        with self.decoders.paused():
            rows = self._encode(images)
        if self.device.type == "cuda":  # copied while the next batch runs; picked up two batches later
            with current(self.device):
                host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
            rows = host.copy_(rows, non_blocking=True)
        self._flying.append(_Flying(spans, rows, self._event()))
        if len(self._flying) > (2 if self.device.type == "cuda" else 0):
            yield from self._land()

    def _event(self) -> torch.cuda.Event | None:
        """Comes when the GPU has done all that it was given so far; None on a CPU, which is done by now."""
        if self.device.type != "cuda":
            return None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        # On the stream that copies and encoder use: the current one of their device, which need not be the current device.
        event.record(torch.cuda.current_stream(self.device))
        return event

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
        for job, positions in done.spans:
            yield Embedded(job, positions, rows[start : start + len(positions)])
            start += len(positions)


class _Flying(NamedTuple):
    """A batch on the device: whose images it holds, its rows, and when they are there."""

    spans: list[tuple[int, np.ndarray]]
    rows: torch.Tensor
    event: torch.cuda.Event | None


def default_batch(
    encoder: Encoder, device: torch.device, like: torch.Tensor | None = None, most: int = MOST_IN_BATCH
) -> int:
    """The batch size to use where none is given: on a GPU the smallest that gives 97% of the best rate, on a CPU 32.

    Found by running the model on blank images of doubling number until the rate stops growing or memory ends.

    Args:
        encoder: the model.
        device: where it is.
        like: [1, 3, h, w], an image as the stream gives it; None: as the model's preprocessing says.
        most: how many images there are; no batch is tried that is twice as large.
    """
    if device.type != "cuda":
        return 32
    if like is None:
        like = torch.empty((1, *encoder.preprocess.shape), dtype=encoder.preprocess.dtype)  # type: ignore[misc]
    rates: dict[int, float] = {}
    size = 32
    while size <= min(MOST_IN_BATCH, _doubled(most)):
        try:
            rates[size] = _rate(encoder, torch.zeros(size, *like.shape[1:], dtype=like.dtype, device=device))
        except torch.OutOfMemoryError:
            break
        if rates[size] < 1.02 * rates.get(size // 2, 0.0):
            break
        size *= 2
    with current(device):
        torch.cuda.empty_cache()  # what larger batches reserved
    if not rates:
        return 1
    best = max(rates.values())
    return min(s for s, rate in rates.items() if rate >= 0.97 * best)


def _doubled(images: int) -> int:
    """The least of 32, 64, 128, … that holds this many images."""
    return max(32, 1 << (images - 1).bit_length())


def _rate(encoder: Encoder, batch: torch.Tensor) -> float:
    """Images a second, the first pass left out."""
    with encoder.uncompiled():
        encoder.encode_images(batch)
        torch.cuda.synchronize(batch.device)
        started = time.monotonic()
        for _ in range(3):
            encoder.encode_images(batch)
        torch.cuda.synchronize(batch.device)
    return 3 * len(batch) / (time.monotonic() - started)
