"""Decoder processes: they take small runs of samples, whatever shard they lie in, and write uint8 pixels into shared memory.

The memory is taken from the system once and used again and again: a fresh block for each run of samples cost a tenth of the
time of `preprocess=fast`.
"""

from __future__ import annotations

import logging
import multiprocessing
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from clipeval.configs.errors import ClipevalError
from clipeval.data.images import Images
from clipeval.data.remote import SourceLostError
from clipeval.decoding.processes import leave_signals, shared_memory, start_beside_encoder, unpicklable
from clipeval.models.small_cpu import Gate, shares_cores
from clipeval.preprocess.packed import Packer, least_bytes
from clipeval.preprocess.transforms import Convert, Preprocess, Transform, decode_limits
from clipeval.stores.pixels import CHUNK as KEPT
from clipeval.stores.pixels import PixelStore, read_ahead

CHUNK = 32
"""Samples that a worker decodes before it hands them over."""
CUDA_CHUNK = 64
"""The same beside a CUDA device, whose main thread spends on each handing over what 20 images cost it."""
PACKED_CHUNK = 32
"""The same, where images are handed over as they were decoded."""
PACKED_BYTES = 64 << 20
"""Memory of a worker for images as they were decoded: for each of the runs it is ahead, and the one in use, 32 of 500 x 375 fit."""
AHEAD, PACKED_AHEAD = {"cpu": 2, "cuda": 4}, 2
"""Runs of samples that each worker may be ahead of the encoder."""

log = logging.getLogger(__name__)


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
        kept: where resized pixels are kept; None: nowhere.
    """

    name: str
    images: Images
    indices: np.ndarray
    convert: Convert
    mixed: bool
    output: str = "embeddings"
    max_pixels: int | None = None
    max_text_chunk: int | None = None
    kept: PixelStore | None = None


class Decoded(NamedTuple):
    """Some images of one job.

    Attributes:
        job: its number.
        indices: int64 [n], which images of the split.
        pixels: [n, 3, h, w]; or uint8 [bytes], a block of n images (`clipeval.preprocess.packed`). Valid until the next one is
            asked for, or longer: see `Decoders.keep_until`.
        failures: indices of images that could not be read, and why.
    """

    job: int
    indices: np.ndarray
    pixels: torch.Tensor
    failures: list[tuple[int, str]]


@dataclass(frozen=True)
class _Answer:
    """What a worker sends: how many images, or bytes of a block, lie in its slot; or the images, where there is no slot."""

    size: int
    pixels: torch.Tensor | None
    failures: list[tuple[int, str]]
    unkept: str = ""
    """Why its pixels could not be kept."""
    lost: str = ""
    """Why nothing can be read any more, which is no fault of an image."""


class _Run(NamedTuple):
    """Some samples that are decoded in one go."""

    job: int
    first: int
    last: int
    chunk: int
    """The file of the pixel store that they belong to; -1: there is no store."""
    whole: bool
    """Whether they are all images of that file."""


class _Decoder(Dataset[_Answer]):
    """What a worker does: the run of samples with the given number, decoded."""

    def __init__(
        self,
        jobs: Sequence[DecodeJob],
        runs: Sequence[_Run],
        transform: Transform,
        fast: bool,
        capacity: int,
        slots: torch.Tensor | None,
        gate: Gate | None,
        packer: type[Packer] | None,
    ) -> None:
        self.jobs, self.runs, self.transform, self.fast, self.packer = jobs, runs, transform, fast, packer
        self.capacity, self.slots, self.gate = capacity, slots, gate

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, number: int) -> _Answer:
        # In turn: by the time that a slot comes round again, what lay there has been used (see `Decoders`).
        slot = None if self.slots is None else self.slots[number % len(self.slots)]
        return self.decode(self.runs[number], slot)

    def decode(self, run: _Run, slot: torch.Tensor | None) -> _Answer:
        """Decodes a run, into `slot` where there is one."""
        if self.packer is not None:
            return self._pack(run, slot, self.packer)
        decoded: list[torch.Tensor] = []

        def one(data: bytes, convert: Convert) -> None:
            out = None if slot is None else slot[len(decoded)]
            pixels = self.transform.pixels(data, convert, self.fast, out)
            if decoded and pixels.shape != decoded[0].shape:
                raise ValueError(_other_size(pixels.shape, decoded[0].shape))
            decoded.append(pixels)

        failures, lost = self._each(run, one)
        if decoded and slot is not None and decoded[0].shape != slot.shape[1:]:
            slot = None  # a transform of the user's own, which gives this size to these images
        alone = default_collate(decoded) if slot is None and decoded else None  # in a worker, into shared memory
        store, unkept = self.jobs[run.job].kept, ""
        if store is not None and run.whole and not failures and not lost:
            pixels = alone if slot is None else slot[: len(decoded)]
            assert pixels is not None
            try:
                store.save(run.chunk, pixels.numpy())
            except OSError as problem:
                unkept = f"{problem.filename or store.folder}: {problem.strerror}"
        return _Answer(len(decoded), alone, failures, unkept, lost)

    def _pack(self, run: _Run, slot: torch.Tensor | None, kind: type[Packer]) -> _Answer:
        assert isinstance(self.transform, Preprocess)
        block = torch.empty(self.capacity, dtype=torch.uint8) if slot is None else slot
        packer = kind(self.transform, block.numpy(), run.last - run.first)
        failures, lost = self._each(run, packer.add)
        used = packer.finish()
        return _Answer(used, block[:used].clone() if slot is None else None, failures, lost=lost)

    def _each(self, run: _Run, take: Callable[[bytes, Convert], None]) -> tuple[list[tuple[int, str]], str]:
        """Gives every image of a run to `take`; the indices of those that could not be read, and why; and `_Answer.lost`."""
        job = self.jobs[run.job]
        failures: list[tuple[int, str]] = []
        with decode_limits(job.max_pixels, job.max_text_chunk):
            for index in job.indices[run.first : run.last].tolist():
                if self.gate is not None:
                    self.gate.wait()
                try:
                    take(job.images.read(index), job.convert)
                except SourceLostError as problem:
                    return failures, str(problem)
                except (ValueError, OSError) as problem:
                    failures.append((index, f"{job.images.location(index)}: {problem}"))
        return failures, ""


class Decoders:
    """Starts decoding a list of jobs at once; iterating gives the images of every job, in order.

    Args:
        jobs: what to decode.
        transform: the model's preprocessing.
        fast: `runtime.preprocess=fast`.
        workers: processes; 0 decodes in this one.
        device: where the encoder is.
        packer: fills blocks with images as they were decoded, or not even that, for the encoder's side to go on with. Needs a
            `Preprocess`, and no pixel store.
    """

    def __init__(
        self,
        jobs: Sequence[DecodeJob],
        transform: Transform,
        fast: bool,
        workers: int,
        device: torch.device,
        packer: type[Packer] | None = None,
    ) -> None:
        chunk = PACKED_CHUNK if packer else CUDA_CHUNK if device.type == "cuda" else CHUNK
        self._jobs, self._runs = jobs, [run for number, job in enumerate(jobs) for run in _runs(number, job, chunk)]
        there = [{} if job.kept is None else job.kept.files() for job in jobs]
        self._kept = [there[run.job].get(run.chunk) for run in self._runs]
        for job, files in zip(jobs, there, strict=True):
            if files and job.kept is not None:
                job.kept.touch()
        todo = [run for run, kept in zip(self._runs, self._kept, strict=True) if kept is None]
        workers = min(workers, len(todo))
        transform.prepare(fast)
        ahead = PACKED_AHEAD if packer else AHEAD.get(device.type, 4)
        forks = sys.platform == "linux"
        if workers and not forks and (why := unpicklable([jobs, transform])):
            log.warning(
                "images are decoded in this process, for they cannot be sent to others on %s: %s", sys.platform, why
            )
            workers = 0
        capacity = 0
        if packer:
            assert isinstance(transform, Preprocess)
            capacity = max(PACKED_BYTES // (ahead + 1) // 4096 * 4096, least_bytes(transform, chunk))
        self._slots: torch.Tensor | None = None
        if workers and forks and transform.shape is not None:
            # What may be on its way, and one that is in use; a multiple of the workers, so that each has its own to write to.
            slot = (capacity,) if packer else (chunk, *transform.shape)
            self._slots = shared_memory(((ahead + 1) * workers, *slot), transform.dtype)
        context = multiprocessing.get_context("fork" if forks else None)
        self._gate = Gate(context, workers) if workers and forks and shares_cores(device) else None
        self._decoder = _Decoder(jobs, todo, transform, fast, capacity, self._slots, self._gate, packer)
        self._loader = DataLoader(
            self._decoder,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=ahead if workers else None,
            multiprocessing_context=context if workers else None,
            worker_init_fn=start_beside_encoder if device.type == "cpu" else leave_signals,
        )
        self._iterator = iter(self._loader)
        self._workers, self._given = workers, -1
        self._used: dict[int, torch.cuda.Event] = {}
        """{run: when its slot may be written to}, of runs that a GPU still copies."""

    @property
    def memory(self) -> torch.Tensor | None:
        """What the processes write to, uint8 or float32; None where there is no such memory."""
        return self._slots

    def keep_until(self, event: torch.cuda.Event) -> None:
        """Leaves the pixels that were given last as they are until an event."""
        self._used[self._given] = event

    def __iter__(self) -> Iterator[Decoded]:
        runs = list(zip(self._runs, self._kept, strict=True))
        read = read_ahead((self._store(run), run.chunk, path) for run, path in runs if path is not None)
        number, warned = 0, False
        sizes: dict[int, torch.Size] = {}
        for run, path in runs:
            job = self._jobs[run.job]
            answer, pixels = None, None
            if path is not None:
                pixels = _chosen(next(read), job.indices[run.first : run.last])
                if pixels is None:  # damaged or gone: here, for the decoders have not been told of it
                    answer = self._decoder.decode(run, None)
            else:
                # Asking for a run sends a process to the slot of the one that lies so far back.
                if (used := self._used.pop(number - self._workers, None)) is not None:
                    used.synchronize()
                answer, self._given = next(self._iterator), number
                if answer.pixels is None and self._slots is not None:
                    pixels = self._slots[number % len(self._slots)][: answer.size]
                number += 1
            if answer is not None and answer.lost:
                raise SourceLostError(answer.lost)
            failures = [] if answer is None else answer.failures
            if answer is not None and answer.unkept and not warned:
                warned = True
                log.warning("not all pixels are kept (cache.pixels): %s", answer.unkept)
            if pixels is None:
                pixels = torch.empty(0) if answer is None or answer.pixels is None else answer.pixels
            indices = job.indices[run.first : run.last]
            if failures:
                indices = indices[~np.isin(indices, [index for index, _ in failures])]
            size = sizes.setdefault(run.job, pixels.shape[1:]) if len(indices) else None
            if size is not None and pixels.shape[1:] != size:
                text = _other_size(pixels.shape[1:], size)
                failures = [
                    *failures,
                    *((index, f"{job.images.location(index)}: {text}") for index in indices.tolist()),
                ]
                indices, pixels = indices[:0], pixels[:0]
            yield Decoded(run.job, indices, pixels, failures)

    def _store(self, run: _Run) -> PixelStore:
        store = self._jobs[run.job].kept
        assert store is not None
        return store

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
        text = found[0] if found else gone[0]
        return ClipevalError(
            f"a decoder process died ({text}). {self._why(text)}, then run the same command again; what is finished is kept."
        )

    def _why(self, text: str) -> str:
        if "Bus error" not in text and f"exit code -{int(signal.SIGBUS)}" not in text:
            return "The system may have ended it for want of memory: set runtime.workers lower"
        if self._slots is None:  # torch's own way, which takes names in /dev/shm
            return "/dev/shm is probably full: give the container more (docker run --shm-size=8g), or set runtime.workers lower"
        return "A file that it read was probably cut short meanwhile, or its disk failed: see that the data are whole"


def _other_size(size: Sequence[int], before: Sequence[int]) -> str:
    return f"the model's transform gave {list(size)} for it and {list(before)} for the image before it; it must give one size"


def _runs(number: int, job: DecodeJob, chunk: int) -> Iterator[_Run]:
    """A job's samples in runs of `chunk`; with a pixel store, those of each of its files."""
    if job.kept is None:
        for first in range(0, len(job.indices), chunk):
            yield _Run(number, first, min(first + chunk, len(job.indices)), -1, False)
        return
    files = job.indices // KEPT
    borders = [0, *(np.flatnonzero(np.diff(files)) + 1).tolist(), len(files)] if len(files) else [0]
    for first, last in pairwise(borders):
        file = int(files[first])
        every = np.arange(file * KEPT, min((file + 1) * KEPT, job.kept.count))
        yield _Run(number, first, last, file, np.array_equal(job.indices[first:last], every))


def _chosen(kept: np.ndarray | None, indices: np.ndarray) -> torch.Tensor | None:
    """Of a file's pixels those of some images of its split, in memory that is not to be written to."""
    if kept is None:
        return None
    inside = indices % KEPT
    some = kept if np.array_equal(inside, np.arange(len(kept))) else kept[inside]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of memory that cannot be written to: nobody does
        return torch.from_numpy(some)
