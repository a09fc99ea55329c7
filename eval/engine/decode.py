"""Decoder processes: they take small runs of samples, whatever shard they lie in, and write uint8 pixels into shared memory.

The memory is taken from the system once and used again and again: a fresh block for each run of samples cost a tenth of the
time of `preprocess=fast`.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from clipeval.configs.errors import ClipevalError
from clipeval.data.images import Images
from clipeval.models.small_cpu import Gate, shares_cores, yield_to_encoder
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
        indices: int64, which of them, in order.
        convert: rgb_first or as_decoded (`facts/layouts.md`, "Pixels").
        mixed: whether the model runs under automatic mixed precision when precision is `datacomp`.
        output: what the encoder makes of them (`Encoder.encode`).
        max_pixels, max_text_chunk: as `clipeval.preprocess.transforms.decode_limits` takes them.
    """

    name: str
    images: Images
    indices: np.ndarray
    convert: Convert
    mixed: bool
    output: str = "embeddings"
    max_pixels: int | None = None
    max_text_chunk: int | None = None


class Decoded(NamedTuple):
    """Some images of one job.

    Attributes:
        job: its number.
        indices: int64 [n], which images of the split.
        pixels: [n, 3, h, w], valid until the next one is asked for.
        failures: indices of images that could not be read, and why.
    """

    job: int
    indices: np.ndarray
    pixels: torch.Tensor
    failures: list[tuple[int, str]]


@dataclass(frozen=True)
class _Answer:
    """What a worker sends: of run `number`, how many images lie in its slot; or the images, where there is no slot."""

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
        slots: torch.Tensor | None,
        gate: Gate | None,
    ) -> None:
        self.jobs, self.runs, self.transform, self.fast = jobs, runs, transform, fast
        self.slots, self.gate = slots, gate

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, number: int) -> _Answer:
        job, first, last = self.jobs[self.runs[number][0]], *self.runs[number][1:]
        # In turn: by the time that a slot comes round again, what lay there has been used (see `Decoders`).
        slot = None if self.slots is None else self.slots[number % len(self.slots)]
        decoded: list[torch.Tensor] = []
        failures: list[tuple[int, str]] = []
        with decode_limits(job.max_pixels, job.max_text_chunk):
            for index in job.indices[first:last].tolist():
                if self.gate is not None:
                    self.gate.wait()
                out = None if slot is None else slot[len(decoded)]
                try:
                    decoded.append(self.transform.pixels(job.images.read(index), job.convert, self.fast, out))
                except (ValueError, OSError) as problem:
                    failures.append((index, f"{job.images.where(index)}: {problem}"))
        alone = default_collate(decoded) if slot is None and decoded else None  # in a worker, into shared memory
        return _Answer(number, len(decoded), alone, failures)


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
        self._jobs = jobs
        self._runs = [
            (number, first, min(first + CHUNK, len(job.indices)))
            for number, job in enumerate(jobs)
            for first in range(0, len(job.indices), CHUNK)
        ]
        workers = min(workers, len(self._runs))
        transform.prepare(fast)
        ahead = AHEAD.get(device.type, 4)
        forks = sys.platform == "linux"
        self._slots: torch.Tensor | None = None
        if workers and forks and transform.shape is not None:
            # What may be on its way, and one that is in use; a multiple of the workers, so that each has its own to write to.
            self._slots = _shared(((ahead + 1) * workers, CHUNK, *transform.shape), transform.dtype)
        context = multiprocessing.get_context("fork" if forks else None)
        self._gate = Gate(context, workers) if workers and forks and shares_cores(device) else None
        self._loader = DataLoader(
            _Decoder(jobs, self._runs, transform, fast, self._slots, self._gate),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=ahead if workers else None,
            multiprocessing_context=context if workers else None,
            worker_init_fn=_start_beside_encoder if device.type == "cpu" else _leave_signals,
        )
        self._iterator = iter(self._loader)

    def __iter__(self) -> Iterator[Decoded]:
        for answer in self._iterator:
            job, first, last = self._runs[answer.number]
            indices = self._jobs[job].indices[first:last]
            if answer.failures:
                indices = indices[~np.isin(indices, [index for index, _ in answer.failures])]
            pixels = answer.pixels
            if pixels is None and self._slots is not None:
                pixels = self._slots[answer.number % len(self._slots)][: answer.images]
            yield Decoded(job, indices, torch.empty(0) if pixels is None else pixels, answer.failures)

    def paused(self) -> AbstractContextManager[None]:
        """Holds the decoders for a block, where they run on the encoder's cores."""
        return nullcontext() if self._gate is None else self._gate.shut()

    def close(self) -> None:
        """Ends the processes."""
        shutdown = getattr(self._iterator, "_shutdown_workers", None)
        if shutdown is not None:  # the loader's own clean-up, which otherwise waits for the garbage collector
            shutdown()

    def died(self, problem: BaseException) -> ClipevalError | None:
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


def default_workers(device: torch.device) -> int:
    """Decoder processes where none are asked for: every core of this job; less one that an encoder on a CPU needs meanwhile."""
    cores = len(os.sched_getaffinity(0))
    return cores if device.type == "cuda" or shares_cores(device) else max(1, cores - 1)


def _shared(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Memory that forked processes share. It has no name in /dev/shm, which in a container is often too small."""
    size = int(np.prod(shape)) * dtype.itemsize
    return torch.frombuffer(mmap.mmap(-1, size), dtype=dtype).view(shape)


def _start_beside_encoder(worker: int) -> None:
    yield_to_encoder()
    _leave_signals(worker)


def _leave_signals(worker: int) -> None:
    """A terminal and Slurm send their signals to every process of a job; what is to be done is the main process's business, which
    ends its decoders itself. If it is killed, they see that it is gone."""
    for name in ("SIGTERM", "SIGINT", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
