"""What decoder processes need of the system: how many, what can be sent to them, memory that all see, and signals."""

from __future__ import annotations

import mmap
import pickle
import signal

import numpy as np
import torch

from clipeval.models.small_cpu import shares_cores, yield_to_encoder
from clipeval.results.cores import usable_cores


def unpicklable(things: object) -> str:
    """Why something cannot be sent to a process that is started anew; empty where it can."""
    try:
        pickle.dumps(things)
    except (pickle.PicklingError, AttributeError, TypeError) as problem:
        return str(problem)
    return ""


def default_workers(device: torch.device) -> int:
    """Decoder processes where none are asked for: every core of this job; less one that an encoder on a CPU needs meanwhile."""
    cores = usable_cores()
    return cores if device.type == "cuda" or shares_cores(device) else max(1, cores - 1)


def shared_memory(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Memory that forked processes share. It has no name in /dev/shm, which in a container is often too small."""
    size = int(np.prod(shape)) * dtype.itemsize
    return torch.frombuffer(mmap.mmap(-1, size), dtype=dtype).view(shape)


def start_beside_encoder(worker: int) -> None:
    yield_to_encoder()
    leave_signals(worker)


def leave_signals(worker: int) -> None:
    """A terminal and Slurm send their signals to every process of a job; what is to be done is the main process's business, which
    ends its decoders itself. If it is killed, they see that it is gone."""
    for name in ("SIGTERM", "SIGINT", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
