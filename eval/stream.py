"""One stream of images through one encoder: decoders work on samples, batches stay full across splits and tasks.

Workers take small runs of samples, whatever shard they lie in, decode and resize them, and ship uint8; the device turns
them into embeddings. The next run of samples is being decoded while the device works, and a batch may hold the end of
one split and the beginning of the next, so that nothing waits at a task's border.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from configs.errors import ClipevalError
from eval.cache import CHUNK as STORED
from eval.data.images import Images
from eval.models import Encoder
from eval.preprocess import Convert, Transform

CHUNK = 32
"""Samples that a worker decodes before it hands them over."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageJob:
    """The images of one split that are still to be embedded.

    Attributes:
        name: for the progress bar.
        images: random access to the split.
        positions: int64, which of them, in order.
        convert: rgb_first or as_decoded (`facts/layouts.md`, "Pixels").
        mixed: whether the model runs under automatic mixed precision when precision is `datacomp`.
        output: what the encoder makes of them (`Encoder.encode`).
    """

    name: str
    images: Images
    positions: np.ndarray
    convert: Convert
    mixed: bool
    output: str = "embeddings"


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
    """

    workers: int
    batch_size: int | None
    fast: bool = False
    aligned: bool = False
    on_error: str = "fail"


@dataclass(frozen=True)
class Embedded:
    """Embeddings (or another output) of some images of one job: float32 [n, D] on the CPU; or the images that could not
    be read."""

    job: int
    positions: np.ndarray
    rows: torch.Tensor
    failures: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class _Run:
    """A run of samples: job number, first and last (exclusive) place in that job's positions."""

    job: int
    first: int
    last: int


class _Decoder(Dataset[tuple[_Run, torch.Tensor, list[tuple[int, str]]]]):
    """What a worker does: the run of samples with the given number, decoded."""

    def __init__(self, jobs: Sequence[ImageJob], runs: Sequence[_Run], transform: Transform, fast: bool) -> None:
        self.jobs, self.runs, self.transform, self.fast = jobs, runs, transform, fast

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, number: int) -> tuple[_Run, torch.Tensor, list[tuple[int, str]]]:
        run = self.runs[number]
        job = self.jobs[run.job]
        pixels: list[torch.Tensor] = []
        failures: list[tuple[int, str]] = []
        for place in range(run.first, run.last):
            position = int(job.positions[place])
            try:
                pixels.append(self.transform.pixels(job.images.read(position), job.convert, self.fast))
            except (ValueError, OSError) as problem:
                failures.append((place, f"{job.images.where(position)}: {problem}"))
        batch = default_collate(pixels) if pixels else torch.zeros(0, dtype=torch.uint8)  # straight into shared memory
        return run, batch, failures


class ImageStream:
    """Decoders over a list of jobs, started at once; `embed` runs the encoder over what they make.

    Args:
        jobs: what to embed.
        transform: the model's preprocessing.
        options: workers, batch size and so on.
        device: where the encoder is; "cuda" pins memory.
    """

    def __init__(
        self, jobs: Sequence[ImageJob], transform: Transform, options: StreamOptions, device: torch.device
    ) -> None:
        self.jobs, self.options, self.device = jobs, options, device
        runs = [
            _Run(number, first, min(first + CHUNK, len(job.positions)))
            for number, job in enumerate(jobs)
            for first in range(0, len(job.positions), CHUNK)
        ]
        workers = min(options.workers, len(runs))
        self._loader = DataLoader(
            _Decoder(jobs, runs, transform, options.fast),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            pin_memory=device.type == "cuda",
            worker_init_fn=_yield_to_encoder if device.type == "cpu" else _leave_signals,
        )
        self._iterator = iter(self._loader)

    def embed(self, encoder: Encoder) -> Iterator[Embedded]:
        """Embeds every image of every job, in order.

        Raises:
            ClipevalError: an image cannot be read (with on_error=fail), or a worker was killed.
        """
        batches = _Batches(encoder, self.options.batch_size or default_batch(encoder, self.device), self.device)
        current: tuple[bool, str] | tuple[int, int] | None = None
        for run, pixels, failures in self._runs():
            job = self.jobs[run.job]
            if failures and self.options.on_error == "fail":
                raise ClipevalError(
                    f"{failures[0][1]}. Fetch the shard again (`clipeval download`), or leave such images out of the score, "
                    "counted and flagged, with data.on_error=skip."
                )
            if failures:
                lost = np.array([job.positions[place] for place, _ in failures], dtype=np.int64)
                reasons = tuple((int(job.positions[place]), reason) for place, reason in failures)
                yield Embedded(run.job, lost, torch.zeros(0), reasons)
            chunk = int(job.positions[run.first]) // STORED
            how = (job.mixed, job.output)
            kind: tuple[bool, str] | tuple[int, int] = (run.job, chunk) if self.options.aligned else how
            if current is not None and kind != current:  # a batch is of one kind; aligned: of one chunk of one split
                yield from batches.drain()
            current = kind
            if len(pixels):
                bad = {place for place, _ in failures}
                places = np.array([p for p in range(run.first, run.last) if p not in bad], dtype=np.int64)
                yield from batches.add(run.job, job.positions[places], pixels, how)
        yield from batches.drain()
        yield from batches.finish()

    def close(self) -> None:
        """Ends the decoders."""
        shutdown = getattr(self._iterator, "_shutdown_workers", None)
        if shutdown is not None:  # the loader's own clean-up, which otherwise waits for the garbage collector
            shutdown()

    def died(self, problem: Exception) -> ClipevalError | None:
        """What to say where `problem` came of a decoder process that died; None where all of them live.

        PyTorch raises it from a signal handler, so that it appears wherever the main process happens to be: while weights
        are loaded, say, where it may be wrapped in words about the file. So the processes are asked, too.
        """
        found = re.search(r"DataLoader worker \(pid.*", str(problem))
        gone = [f"pid {w.pid}, exit code {w.exitcode}" for w in getattr(self._iterator, "_workers", ()) if w.exitcode]
        if not found and not gone:
            return None
        return ClipevalError(
            f"a decoder process died ({found[0] if found else gone[0]}). The system may have ended it for want of memory: "
            "set runtime.workers lower, then run the same command again; what is finished is kept."
        )

    def _runs(self) -> Iterator[tuple[_Run, torch.Tensor, list[tuple[int, str]]]]:
        yield from self._iterator


class _Batches:
    """Fills batches, sends them to the encoder, and hands back rows once they are on the CPU."""

    def __init__(self, encoder: Encoder, size: int, device: torch.device) -> None:
        self.encoder, self.size, self.device = encoder, size, device
        self._waiting: list[tuple[int, np.ndarray, torch.Tensor]] = []
        self._count = 0
        self._how = (False, "embeddings")
        self._flying: deque[tuple[list[tuple[int, np.ndarray]], torch.Tensor, torch.cuda.Event | None]] = deque()

    def add(self, job: int, positions: np.ndarray, pixels: torch.Tensor, how: tuple[bool, str]) -> Iterator[Embedded]:
        self._waiting.append((job, positions, pixels))
        self._count += len(pixels)
        self._how = how
        while self._count >= self.size:
            yield from self._send(self.size)

    def drain(self) -> Iterator[Embedded]:
        while self._count:
            yield from self._send(min(self._count, self.size))

    def finish(self) -> Iterator[Embedded]:
        while self._flying:
            yield from self._land()

    def _send(self, count: int) -> Iterator[Embedded]:
        spans, parts, taken = [], [], 0
        while taken < count:
            job, positions, pixels = self._waiting.pop(0)
            use = min(len(pixels), count - taken)
            spans.append((job, positions[:use]))
            parts.append(pixels[:use])
            if use < len(pixels):
                self._waiting.insert(0, (job, positions[use:], pixels[use:]))
            taken += use
        self._count -= count
        moved = [part.to(self.device, non_blocking=True) for part in parts]
        batch = moved[0] if len(moved) == 1 else torch.cat(moved)
        rows = self._encode(batch)
        event = None
        if self.device.type == "cuda":  # copied while the next batch runs; picked up two batches later
            host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
            host.copy_(rows, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            rows = host
        self._flying.append((spans, rows, event))
        if len(self._flying) > (2 if event is not None else 0):
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
            torch.cuda.empty_cache()
            log.warning("out of device memory: going on with batches of %d", self.size)
        return torch.cat([self._encode(part) for part in torch.split(batch, self.size)])

    def _land(self) -> Iterator[Embedded]:
        spans, rows, event = self._flying.popleft()
        if event is not None:
            event.synchronize()
        rows = rows.cpu()
        start = 0
        for job, positions in spans:
            yield Embedded(job, positions, rows[start : start + len(positions)])
            start += len(positions)


def default_batch(encoder: Encoder, device: torch.device) -> int:
    """The batch size to use where none is given: on a GPU the smallest that gives 97% of the best rate, on a CPU 32.

    Found by running the model on blank images of doubling number until the rate stops growing or memory ends.
    """
    if device.type != "cuda":
        return 32
    height, width = getattr(encoder.preprocess, "size", None) or (224, 224)
    rates: dict[int, float] = {}
    size = 32
    while size <= 4096:
        try:
            rates[size] = _rate(
                encoder, torch.zeros(size, 3, height, width, dtype=encoder.preprocess.dtype, device=device)
            )
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        if rates[size] < 1.02 * rates.get(size // 2, 0.0):
            break
        size *= 2
    if not rates:
        return 1
    best = max(rates.values())
    return min(s for s, rate in rates.items() if rate >= 0.97 * best)


def _rate(encoder: Encoder, batch: torch.Tensor) -> float:
    """Images a second, the first pass left out."""
    with encoder.uncompiled():
        encoder.encode_images(batch)
        torch.cuda.synchronize()
        started = time.monotonic()
        for _ in range(3):
            encoder.encode_images(batch)
        torch.cuda.synchronize()
    return 3 * len(batch) / (time.monotonic() - started)


def default_workers(device: torch.device) -> int:
    """Decoder processes where none are asked for: every core of this job, less one on a CPU that the encoder needs."""
    cores = len(os.sched_getaffinity(0))
    return cores if device.type == "cuda" else max(1, cores - 1)


def _yield_to_encoder(worker: int) -> None:
    """Decoders on the encoder's own cores run at low priority: they are ahead anyway, and must not stop its threads."""
    os.nice(5)
    _leave_signals(worker)


def _leave_signals(worker: int) -> None:
    """A terminal and Slurm send their signals to every process of a job; what is to be done is the main process's business, which
    ends its decoders itself. If it is killed, they see that it is gone."""
    for name in ("SIGTERM", "SIGINT", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
