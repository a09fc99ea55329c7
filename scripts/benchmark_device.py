"""The functions that the row `gpu` calls in a process of its own: one model on one device, each part alone and all together.

Every function takes and gives what JSON can hold. Rates are images (texts) a second. What is measured alone is measured with
the very code of a run: the stream without a model, the model without a stream.
"""

from __future__ import annotations

import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import torch

from clipeval.data.config import DataConfig
from clipeval.data.split import open_split
from clipeval.decoding.decoders import DecodeJob
from clipeval.engine.runner import RunOptions, store_batch
from clipeval.engine.stream import Embedded, ImageStream, StreamOptions
from clipeval.models import Encoder, resolve
from clipeval.models.batch_size import default_batch
from clipeval.models.precision import current
from clipeval.models.small_cpu import keep_freed_memory
from clipeval.results.cores import usable_cores
from clipeval.stores.embeddings import ImageStore
from clipeval.tasks.solvers import adamw, lbfgs
from clipeval.tasks.zero_shot import prompts, zero_shot_classifier
from scripts.benchmark_feed import Blank, Undecoded

AT_LEAST = 2.0
"""Seconds that the encoder alone is measured for."""


def machine(device: str) -> dict[str, Any]:
    """The device, its driver, and what feeds it."""
    kind = torch.device(device)
    cuda = kind.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(kind) if cuda else device,
        "devices": torch.cuda.device_count() if cuda else 1,
        "driver": _driver() if cuda else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cores": usable_cores(),
    }


def load(model: str, precision: str, device: str) -> dict[str, Any]:
    """Loads a model, in place of the one before, and finds its batch size."""
    _encoder.cache_clear()
    started = time.perf_counter()
    encoder = _encoder(model, precision, device)
    loaded = time.perf_counter()
    if encoder.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(encoder.device)
    size = default_batch(encoder, encoder.device)
    return {"load_s": loaded - started, "batch": size, "search_s": time.perf_counter() - loaded}


def bare(model: str, precision: str, device: str, batch: int) -> dict[str, Any]:
    """The encoder alone, on one batch of pixels that is on the device already."""
    encoder = _encoder(model, precision, device)
    height, width = encoder.preprocess.size  # type: ignore[misc, union-attr]
    pixels = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, device=encoder.device)
    encoder.encode_images(pixels).cpu()
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < AT_LEAST:
        for _ in range(4):
            rows = encoder.encode_images(pixels)
        rows.cpu()  # a GPU is done when its last answer is here
        count += 4 * batch
    return {"images": count, "seconds": time.perf_counter() - started}


def decoders(model: str, root: str, device: str, workers: int, times: int) -> dict[str, Any]:
    """The stream without a model: one shard, `times` times over."""
    transform = resolve({"name": model}, tempfile.gettempdir()).preprocess
    keep_freed_memory()
    stream = _stream(root, transform, _options("device", device, workers, 256), device, times)
    started = time.perf_counter()
    count = sum(len(piece.indices) for piece in _embed(stream, _Nothing(transform, torch.device(device))))
    return {"images": count, "seconds": time.perf_counter() - started}


def end_to_end(
    model: str,
    precision: str,
    device: str,
    root: str,
    workers: int,
    batch: int,
    times: int,
    how: str = "device",
    kept: str | None = None,
) -> dict[str, Any]:
    """Decoders and encoder together.

    Args:
        model, precision, device, root, workers, batch, times: as of the others.
        how: who makes the pixels: `device` resizes what the decoders decoded, as runs on CUDA do; `workers` resize; `nvjpeg`: the
            device decodes too; `store`: they come from `kept`, a folder, which a pass beforehand fills.
        kept: the pixel store's folder.

    Returns:
        `images`, `seconds`; `first_s`: from the start of the decoders to the first embedding; `busy`: the share of the time that
        the device spent in the encoder; `peak_gb` of the device's memory, allocated and reserved.
    """
    encoder = _Timed(_encoder(model, precision, device))
    cuda = encoder.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(encoder.device)
    options, store = _options(how, device, workers, batch), None if how != "store" else kept
    if store is not None:
        for _ in _embed(_stream(root, encoder.preprocess, options, device, 1, store), encoder):
            pass
        encoder.seconds()
        encoder = _Timed(encoder.encoder)
    started = time.perf_counter()
    count, first = 0, 0.0
    for piece in _embed(_stream(root, encoder.preprocess, options, device, times, store), encoder):
        first = first or time.perf_counter() - started
        count += len(piece.rows)
    seconds = time.perf_counter() - started
    return {
        "images": count,
        "seconds": seconds,
        "first_s": first,
        "busy": encoder.seconds() / seconds,
        "peak_gb": torch.cuda.max_memory_allocated(encoder.device) / 2**30 if cuda else None,
        "reserved_gb": torch.cuda.max_memory_reserved(encoder.device) / 2**30 if cuda else None,
        "host_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main_thread(device: str, workers: int, batch: int, images: int) -> dict[str, Any]:
    """Processor time that the main thread needs for an image of 224 px where decoding and the model cost nothing."""
    job = DecodeJob("photos", Blank(images), np.arange(images), "rgb_first", False)
    transform, store = Undecoded((224, 224)), ImageStore(None, {"benchmark": "main thread"}, images)
    stream = ImageStream([job], transform, StreamOptions(workers, batch), torch.device(device))
    started = time.thread_time()
    for piece in _embed(stream, _Nothing(transform, torch.device(device), 512)):
        store_batch(piece, job, store)
    return {"us": (time.thread_time() - started) / images * 1e6}


def texts(model: str, precision: str, device: str, classes: int, templates: int) -> dict[str, Any]:
    """Prompts of ImageNet's head."""
    encoder = _encoder(model, precision, device)
    written = [template("{c}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES[:templates]]
    asked = prompts(open_clip.IMAGENET_CLASSNAMES[:classes], written)
    encoder.encode_texts(asked[:64])
    started = time.perf_counter()
    zero_shot_classifier(encoder.encode_texts(asked), [templates] * classes)
    return {"texts": len(asked), "seconds": time.perf_counter() - started}


def probe(device: str, samples: int, classes: int, width: int = 512) -> dict[str, Any]:
    """Both recipes of a linear probe on embeddings that are on the device."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(samples) % classes
    means = torch.randn(classes, width, generator=generator)
    x = torch.nn.functional.normalize(means[y] + 3 * torch.randn(samples, width, generator=generator), dim=-1)
    x, y = x.to(device), y.to(device)
    recipes: dict[str, Callable[[], Any]] = {
        "adamw_s": lambda: adamw(x, y, classes, [0.0, 1e-4, 1e-2], seed=0),
        "lbfgs_s": lambda: lbfgs(x, y, classes, 1.0),
    }
    seconds = {}
    with current(torch.device(device)):
        for name, train in recipes.items():
            started = time.perf_counter()
            result = train()
            (result[-1] if isinstance(result, list) else result).weight.cpu()
            seconds[name] = time.perf_counter() - started
    return {"samples": samples, "classes": classes, "width": width, **seconds}


@cache
def _encoder(model: str, precision: str, device: str) -> Encoder:
    return resolve({"name": model}, tempfile.gettempdir()).load(device, precision)


class _Nothing:
    """Takes batches as an encoder does, and leaves the model out."""

    def __init__(self, preprocess: Any, device: torch.device, width: int = 1) -> None:
        # Of unit length: an embedding of zeros is refused.
        self.preprocess, self.rows = preprocess, torch.full((8192, width), width**-0.5, device=device)

    def encode(self, output: str, batch: torch.Tensor, mixed: bool = False) -> torch.Tensor:
        return self.rows[: len(batch)]


class _Timed:
    """An encoder, and how long its device was at each batch."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.preprocess, self.device = encoder, encoder.preprocess, encoder.device
        self._events: list[tuple[Any, Any]] = []
        self._seconds = 0.0

    def encode(self, output: str, batch: torch.Tensor, mixed: bool = False) -> torch.Tensor:
        if self.device.type != "cuda":
            started = time.perf_counter()
            rows = self.encoder.encode(output, batch, mixed)
            self._seconds += time.perf_counter() - started
            return rows
        with current(self.device):
            # Both lie behind the batch's copy in the device's queue: what is between them is the encoder.
            pair = [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
            pair[0].record()
            rows = self.encoder.encode(output, batch, mixed)
            pair[1].record()
            self._events.append((pair[0], pair[1]))
        return rows

    def seconds(self) -> float:
        for first, last in self._events:
            last.synchronize()
            self._seconds += first.elapsed_time(last) / 1000
        self._events.clear()
        return self._seconds


def _options(how: str, device: str, workers: int, batch: int) -> StreamOptions:
    on_device = torch.device(device).type == "cuda" and how == "device"
    return StreamOptions(workers, batch, device_resize=on_device, nvjpeg=how == "nvjpeg")


def _stream(
    root: str, transform: Any, options: StreamOptions, device: str, times: int, kept: str | None = None
) -> ImageStream:
    split = open_split(DataConfig(folder="photos"), root, "test", None)
    store = None
    if kept is not None:
        run = RunOptions(torch.device(device), "fp32", False, options, Path(kept))
        spec: Any = SimpleNamespace(images=split.images, convert="rgb_first")
        store = run.pixel_store(transform, spec, "photos")
    places = np.tile(np.arange(len(split.images)), times)
    job = DecodeJob("photos", split.images, places, "rgb_first", False, kept=store)
    return ImageStream([job], transform, options, torch.device(device))


def _embed(stream: ImageStream, encoder: Any) -> Iterator[Embedded]:
    try:
        yield from stream.embed(encoder)
    finally:
        stream.close()


def _driver() -> str | None:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None
