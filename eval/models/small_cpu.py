"""What serves a machine of few cores, where the encoder and the decoders take each other's time; on a GPU, none of it is used.

Gains measured on 2 cores with ViT-B-32-256 in bf16:

    keep_freed_memory   a batch's activations take memory that the process has already: 4% of the time
    Gate                no decoder works while the encoder has its core: the encoder runs at 0.98 of its rate in place of 0.88,
                        and a run, decoding included, at 0.89 of the bare encoder in place of 0.86
    yield_to_encoder    the same while texts are embedded, where decoders do not stand still: they run at low priority

Prefix sharing (`.prefixes`: 230 to 500 prompts/s) and the tokenizer's memory (`.bpe`: a tenth of the time) serve GPUs as well.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext

import torch

from clipeval.results.cores import usable_cores

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Asks glibc not to hand large blocks back to the system; elsewhere, does nothing.

    A batch's activations of 25 MB and more are otherwise mapped, zeroed and unmapped anew for each layer: 4% of the time of
    ViT-B-32-256 on a CPU, and two thirds of what the main process spends on a batch while decoders fill it.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 2**30)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def shares_cores(device: torch.device) -> bool:
    """Whether the encoder takes every core of this job, so that decoders can only run in its place."""
    return device.type == "cpu" and torch.get_num_threads() >= usable_cores()


def yield_to_encoder() -> None:
    """Lowers the priority of a decoder on the encoder's own cores."""
    os.nice(5)


class Gate:
    """Open: decoders go on. Shut: they wait before the next image.

    The encoder's threads wait for each other after every layer, so that a decoder on one core costs the time of all.
    A byte that forked processes share says which; a semaphore wakes those that wait. Unlike a lock it belongs to nobody, so
    that a decoder that is killed takes nothing with it. (Looking at the byte every 2 ms cost the encoder 3% of its time.)

    Args:
        workers: how many processes may wait.
    """

    def __init__(self, context: BaseContext, workers: int) -> None:
        self._is_shut, self._parent, self._workers = mmap.mmap(-1, 1), os.getpid(), workers
        self._wake = context.Semaphore(0)

    @contextmanager
    def shut(self) -> Iterator[None]:
        """Holds the decoders for a block."""
        self._is_shut[0] = 1
        try:
            yield
        finally:
            self._is_shut[0] = 0
            for _ in range(self._workers - self._wake.get_value()):
                self._wake.release()

    def wait(self) -> None:
        """Returns once it is open; ends the process if the one that opens it is gone."""
        while self._is_shut[0]:
            self._wake.acquire(True, 5)
            if os.getppid() != self._parent:
                os._exit(1)
