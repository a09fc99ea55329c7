"""Decoder processes: they take small runs of samples, whatever shard they lie in, and write uint8 pixels into shared memory.

The memory is taken from the system once and used again and again: a fresh block for each run of samples cost a tenth of the
time of `preprocess=fast`. On a CPU, decoders stand still while the encoder runs (`Decoders.paused`).
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from clipeval.configs.errors import ClipevalError
from clipeval.data.images import Images
from clipeval.preprocess.transforms import Convert, Transform, decode_limits

CHUNK = 32
"""Samples that a worker decodes before it hands them over."""
AHEAD = {"cpu": 2, "cuda": 4}
"""Runs of samples that each worker may be ahead of the encoder."""


@dataclass(frozen=True)
class DecodeJob:
    """The images of one split that are still to be embedded.

    Attributes:
        name: for the progress bar.
        images: random access to the split.
        positions: int64, which of them, in order.
        convert: rgb_first or as_decoded (`facts/layouts.md`, "Pixels").
        mixed: whether the model runs under automatic mixed precision when precision is `datacomp`.
        output: what the encoder makes of them (`Encoder.encode`).
        max_pixels, max_text_chunk: as `clipeval.preprocess.transforms.decode_limits` takes them.
    """

    name: str
    images: Images
    positions: np.ndarray
    convert: Convert
    mixed: bool
    output: str = "embeddings"
    max_pixels: int | None = None
    max_text_chunk: int | None = None


class Decoded(NamedTuple):
    """Some images of one job.

    Attributes:
        job: its number.
        places: int64 [n], places in the job's positions.
        pixels: [n, 3, h, w], valid until the next one is asked for.
        failures: places of images that could not be read, and why.
    """

    job: int
    places: np.ndarray
    pixels: torch.Tensor
    failures: list[tuple[int, str]]


@dataclass(frozen=True)
class _Answer:
    """What a worker sends: of run `number`, how many images lie in its place; or the images, where there is no place."""

    number: int
    images: int
    pixels: torch.Tensor | None
    failures: list[tuple[int, str]]


class _Decoder(Dataset[_Answer]):
    """What a worker does: the run of samples with the given number, decoded."""

    def __init__(
        self,
        jobs: Sequence[DecodeJob],
        runs: Sequence[tuple[int, int, int]],
        transform: Transform,
        fast: bool,
        places: torch.Tensor | None,
        gate: Gate | None,
    ) -> None:
        self.jobs, self.runs, self.transform, self.fast = jobs, runs, transform, fast
        self.places, self.gate = places, gate

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, number: int) -> _Answer:
        job, first, last = self.jobs[self.runs[number][0]], *self.runs[number][1:]
        # In turn: by the time that a place comes round again, what lay there has been used (see `Decoders`).
        place = None if self.places is None else self.places[number % len(self.places)]
        found: list[torch.Tensor] = []
        failures: list[tuple[int, str]] = []
        with decode_limits(job.max_pixels, job.max_text_chunk):
            for sample in range(first, last):
                if self.gate is not None:
                    self.gate.wait()
                position = int(job.positions[sample])
                out = None if place is None else place[len(found)]
                try:
                    found.append(self.transform.pixels(job.images.read(position), job.convert, self.fast, out))
                except (ValueError, OSError) as problem:
                    failures.append((sample, f"{job.images.where(position)}: {problem}"))
        alone = default_collate(found) if place is None and found else None  # in a worker, into shared memory
        return _Answer(number, len(found), alone, failures)


class Gate:
    """Open: decoders go on. Shut: they wait before the next image.

    A byte that forked processes share says which; a semaphore wakes those that wait. Unlike a lock it belongs to nobody, so
    that a decoder that is killed takes nothing with it. (Looking at the byte every 2 ms cost the encoder 3% of its time.)

    Args:
        workers: how many processes may wait.
    """

    def __init__(self, context: multiprocessing.context.BaseContext, workers: int) -> None:
        self._is_shut, self._parent, self._workers = mmap.mmap(-1, 1), os.getpid(), workers
        self._wake = context.Semaphore(0)

    def open(self) -> None:
        self._is_shut[0] = 0
        for _ in range(self._workers - self._wake.get_value()):
            self._wake.release()

    def shut(self) -> None:
        self._is_shut[0] = 1

    def wait(self) -> None:
        """Returns once it is open; ends the process if the one that opens it is gone."""
        while self._is_shut[0]:
            self._wake.acquire(True, 5)
            if os.getppid() != self._parent:
                os._exit(1)


class Decoders:
    """Starts decoding a list of jobs at once; iterating gives the images of every job, in order.

    Args:
        jobs: what to decode.
        transform: the model's preprocessing.
        fast: `runtime.preprocess=fast`.
        workers: processes; 0 decodes in this one.
        device: where the encoder is.
    """

    def __init__(
        self, jobs: Sequence[DecodeJob], transform: Transform, fast: bool, workers: int, device: torch.device
    ) -> None:
        self._runs = [
            (number, first, min(first + CHUNK, len(job.positions)))
            for number, job in enumerate(jobs)
            for first in range(0, len(job.positions), CHUNK)
        ]
        workers = min(workers, len(self._runs))
        ahead = AHEAD.get(device.type, 4)
        forks = sys.platform == "linux"
        self._places: torch.Tensor | None = None
        if workers and forks and transform.shape is not None:
            # What may be on its way, and one that is in use; a multiple of the workers, so that each has its own to write to.
            self._places = _shared(((ahead + 1) * workers, CHUNK, *transform.shape), transform.dtype)
        context = multiprocessing.get_context("fork" if forks else None)
        self._gate = Gate(context, workers) if workers and forks and shares_cores(device) else None
        self._loader = DataLoader(
            _Decoder(jobs, self._runs, transform, fast, self._places, self._gate),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=ahead if workers else None,
            multiprocessing_context=context if workers else None,
            worker_init_fn=_yield_to_encoder if device.type == "cpu" else _leave_signals,
        )
        self._iterator = iter(self._loader)

    def __iter__(self) -> Iterator[Decoded]:
        for answer in self._iterator:
            job, first, last = self._runs[answer.number]
            bad = {sample for sample, _ in answer.failures}
            samples = np.array([s for s in range(first, last) if s not in bad], dtype=np.int64)
            pixels = answer.pixels
            if pixels is None and self._places is not None:
                pixels = self._places[answer.number % len(self._places)][: answer.images]
            yield Decoded(job, samples, torch.empty(0) if pixels is None else pixels, answer.failures)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Holds the decoders while the encoder runs on their cores.

        Its threads wait for each other after every layer, so that a decoder on one core costs the time of all. Decoders that
        run by themselves, on every core, cost what they use: 4% more images a second from ViT-B-32-256 in bf16.
        """
        if self._gate is None:
            yield
            return
        self._gate.shut()
        try:
            yield
        finally:
            self._gate.open()

    def close(self) -> None:
        """Ends the processes."""
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


def shares_cores(device: torch.device) -> bool:
    """Whether the encoder takes every core of this job, so that decoders can only run in its place."""
    return device.type == "cpu" and torch.get_num_threads() >= len(os.sched_getaffinity(0))


def default_workers(device: torch.device) -> int:
    """Decoder processes where none are asked for: every core of this job; less one that an encoder on a CPU needs meanwhile."""
    cores = len(os.sched_getaffinity(0))
    return cores if device.type == "cuda" or shares_cores(device) else max(1, cores - 1)


def _shared(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Memory that forked processes share. It has no name in /dev/shm, which in a container is often too small."""
    size = int(np.prod(shape)) * dtype.itemsize
    return torch.frombuffer(mmap.mmap(-1, size), dtype=dtype).view(shape)


def _yield_to_encoder(worker: int) -> None:
    """Decoders on the encoder's own cores run at low priority, so as not to stop its threads while it embeds texts."""
    os.nice(5)
    _leave_signals(worker)


def _leave_signals(worker: int) -> None:
    """A terminal and Slurm send their signals to every process of a job; what is to be done is the main process's business, which
    ends its decoders itself. If it is killed, they see that it is gone."""
    for name in ("SIGTERM", "SIGINT", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
