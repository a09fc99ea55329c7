"""Processor time of the main thread for an image, where decoders, model and copies cost nothing: its own ceiling beside a GPU.

The GPU is one that does nothing and takes no time, so that this can be measured without one: the row `gpu` measures the same on a
device. Torch's own part of an operation on a GPU, some microseconds for each of a few operations a batch, is not in it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

from clipeval.decoding.decoders import DecodeJob
from clipeval.engine.runner import store_batch
from clipeval.engine.stream import ImageStream, StreamOptions, _Batches
from clipeval.preprocess.transforms import Preprocess
from clipeval.stores.embeddings import ImageStore
from scripts.benchmark_rows import Bench, Result
from scripts.benchmark_worker import Side

MOST = 10.0
"""Microseconds an image."""
BATCHES = (256, 1024)
WIDTH = 512


def feed(bench: Bench) -> Iterator[Result]:
    """Both kinds of decoders' memory, registered with CUDA and not, at the batch sizes of two GPUs."""
    side = Side(Path(sys.executable), "scripts.benchmark_feed", bench.scratch / "log-feed.txt")
    try:
        for how, registered in (("resized", True), ("decoded", True), ("resized", False)):
            for batch in BATCHES if registered else BATCHES[:1]:
                call = {"how": how, "registered": registered, "batch": batch, "images": bench.size.fed, "workers": 2}
                us = [side("main_thread", **call)["us"] for _ in range(bench.repeats)]
                work = f"main thread, images {how} by the decoders, batches of {batch}"
                work += "" if registered else ", memory that CUDA does not register"
                yield Result("feed", work, "µs/image", us, at_most=MOST if registered else None)
    finally:
        side.close()


def main_thread(how: str, registered: bool, batch: int, images: int, workers: int) -> dict[str, Any]:
    """Processor time, µs an image, of all that is done on the main thread between decoders, encoder and store.

    Args:
        how: resized, or decoded: what the decoders hand over.
        registered: whether CUDA copies from their memory by itself.
        batch, images, workers: how many.
    """
    transform = Undecoded((224, 224))
    job, store = DecodeJob("photos", Blank(images), np.arange(images), "rgb_first", False), ImageStore(None, {}, images)
    options = StreamOptions(workers, batch, device_resize=how == "decoded")
    with ExitStack() as stack:
        stack.enter_context(free_device(registered))
        stream = stack.enter_context(ImageStream([job], transform, options, torch.device("cuda:0")))
        if stream._resize is not None:
            put = mock.patch.object(_Batches, "_put", lambda batches, target, pixels: None)  # from the GPU to the GPU
            stack.enter_context(put)
            there = torch.zeros(64, *transform.shape, dtype=torch.uint8)
            stream._resize._way = lambda block, about: there[: len(about)]
        started = time.thread_time()
        for piece in stream.embed(_Nothing(transform)):  # type: ignore[arg-type]
            store_batch(piece, job, store)
        seconds = time.thread_time() - started
    assert store.complete
    return {"us": seconds / images * 1e6}


@contextmanager
def free_device(registered: bool) -> Iterator[None]:
    """A GPU that does nothing, in no time: its tensors are the CPU's, and copies to it copy nothing."""
    to, copy, empty = torch.Tensor.to, torch.Tensor.copy_, torch.empty
    ones = torch.full((8192, WIDTH), WIDTH**-0.5)
    pool: dict[Any, torch.Tensor] = {}

    class Stream:
        def __init__(self, device: object = None) -> None: ...

        def wait_event(self, event: object) -> None: ...

        def synchronize(self) -> None: ...

    class Event:
        def record(self, stream: object) -> None: ...

        def synchronize(self) -> None: ...

    def copy_(tensor: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        return tensor if non_blocking else copy(tensor, source)

    def made(*given: Any, pin_memory: bool = False, device: Any = None, **more: Any) -> torch.Tensor:
        # Embeddings that have arrived, of unit length: zeros are refused.
        if pin_memory and more["dtype"] == torch.float32:
            return ones[: given[0][0]]
        if device is not None and device.type == "cuda":  # as CUDA's allocator does, which keeps what was used before
            return _kept(pool, given[0], more["dtype"], empty)
        return empty(*given, **more)

    def moved(tensor: torch.Tensor, *given: Any, **more: Any) -> torch.Tensor:
        cuda = given and isinstance(given[0], torch.device) and given[0].type == "cuda"
        return tensor if cuda else to(tensor, *given, **more)

    status = 0 if registered else 2
    cudart = SimpleNamespace(cudaHostRegister=lambda *given: status, cudaHostUnregister=lambda address: 0)
    fakes: dict[str, Any] = {"Stream": Stream, "Event": Event, "cudart": lambda: cudart}
    fakes |= {name: lambda device: nullcontext() for name in ("device", "stream")}
    fakes |= {"current_stream": lambda device: Stream()}
    with ExitStack() as stack:
        for name, fake in fakes.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, fake))
        stack.enter_context(mock.patch.object(torch.Tensor, "copy_", copy_))
        stack.enter_context(mock.patch.object(torch.Tensor, "to", moved))
        stack.enter_context(mock.patch.object(torch.Tensor, "record_stream", lambda tensor, stream: None))
        stack.enter_context(mock.patch.object(torch, "empty", made))
        yield


def _kept(pool: dict[Any, torch.Tensor], shape: Any, dtype: torch.dtype, empty: Any) -> torch.Tensor:
    if (shape, dtype) not in pool:
        pool[shape, dtype] = empty(shape, dtype=dtype)
    return pool[shape, dtype]


class _Nothing:
    """Takes batches as an encoder does, and leaves the model out."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess, self.rows = preprocess, torch.empty(8192, WIDTH)

    def encode(self, output: str, batch: torch.Tensor, mixed: bool = False) -> torch.Tensor:
        return self.rows[: len(batch)]


class Blank:
    """Images of no bytes."""

    digest = "blank"

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def read(self, place: int) -> bytes:
        return b""

    def location(self, place: int) -> str:
        return str(place)


class Undecoded(Preprocess):
    """Leaves the memory for pixels as it is; what it is said to have decoded is 64 x 48."""

    def pixels(self, data: bytes, convert: Any = "rgb_first", fast: bool = False, out: Any = None) -> torch.Tensor:
        return torch.zeros(self.shape, dtype=torch.uint8) if out is None else out

    def decode(self, data: bytes, convert: Any = "rgb_first") -> Image.Image:
        return Image.new("RGB", (64, 48))
