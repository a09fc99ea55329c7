"""clipeval's side of the benchmark: the functions that the command itself calls, with its defaults for two cores."""

from __future__ import annotations

import hashlib
import resource
import shutil
import tempfile
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import torch
from rich.console import Console

from clipeval.configs.compose import compose
from clipeval.data.config import DataConfig
from clipeval.data.split import open_split
from clipeval.decoding.decoders import PACKED_BYTES, DecodeJob, Decoders
from clipeval.decoding.processes import default_workers
from clipeval.engine.evaluation import Evaluation
from clipeval.engine.runner import RunOptions
from clipeval.engine.stream import ImageStream, StreamOptions
from clipeval.models import Encoder, resolve
from clipeval.models.batch_size import default_batch
from clipeval.models.small_cpu import keep_freed_memory
from clipeval.preprocess.packed import Packer, descriptors, resize
from clipeval.tasks import Retrieval, Samples
from clipeval.tasks.zero_shot import prompts, zero_shot_classifier
from scripts import benchmark_data


@cache
def _encoder(model: str, precision: str, device: str = "cpu") -> Encoder:
    return resolve({"name": model}, tempfile.gettempdir()).load(device, precision)


@cache
def _batch(model: str, precision: str, device: str) -> int:
    return default_batch(_encoder(model, precision, device), torch.device(device))


def heads(model: str, classes: list[int], templates: int, out: str, precision: str = "fp32") -> dict[str, Any]:
    """Heads of some of ImageNet's classes, all prompts at once."""
    encoder = _encoder(model, precision)
    names = [open_clip.IMAGENET_CLASSNAMES[i] for i in classes]
    texts = prompts(names, [template("{c}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES[:templates]])
    started = time.perf_counter()
    classifier = zero_shot_classifier(encoder.encode_texts(texts), [templates] * len(names))
    seconds = time.perf_counter() - started
    np.save(out, classifier.numpy())
    return {"seconds": seconds, "prompts": len(texts)}


class _NoModel:
    """Takes batches as an encoder does, and leaves the model out."""

    def __init__(self, preprocess: Any, kept: list[torch.Tensor] | None = None) -> None:
        self.preprocess, self.kept = preprocess, kept

    def encode(self, output: str, batch: torch.Tensor, mixed: bool = False) -> torch.Tensor:
        if self.kept is not None:
            self.kept.append(batch)
        return torch.zeros(len(batch), 1)


def preprocess(
    model: str, root: str, fast: bool = False, workers: int | None = 4, device: str = "cpu", times: int = 1
) -> dict[str, Any]:
    """One shard, indexed anew, through the stream (`times` times over); workers=None: as many as the device has by default."""
    transform = resolve({"name": model}, tempfile.gettempdir()).preprocess
    keep_freed_memory()  # as an encoder on a CPU does
    workers = default_workers(torch.device(device)) if workers is None else workers
    sink, options = _NoModel(transform), StreamOptions(workers, 32, fast)
    started = time.perf_counter()
    count = sum(len(piece.indices) for piece in _stream(transform, root, sink, options, device, times))
    return {"seconds": time.perf_counter() - started, "images": count}


def pixels(model: str, root: str, out: str, fast: bool = False) -> dict[str, Any]:
    """What the stream gives an encoder for a shard, normalised, saved."""
    transform, kept = resolve({"name": model}, tempfile.gettempdir()).preprocess, []
    sink, options = _NoModel(transform, kept), StreamOptions(4, 32, fast)
    count = sum(len(piece.indices) for piece in _stream(transform, root, sink, options))
    np.save(out, torch.cat(kept).numpy())
    return {"images": count}


def feed(model: str, root: str, scratch: str, how: str, times: int = 1, digest: bool = False) -> dict[str, Any]:
    """One shard up to the encoder's side, by a decoder on each core: `resized`, `decoded` (in blocks) or from the `store`.

    The digest is of the pixels; blocks are resized for it.
    """
    transform = resolve({"name": model}, tempfile.gettempdir()).preprocess
    split = open_split(DataConfig(folder="photos"), root, "test", None)
    options = RunOptions(torch.device("cpu"), "fp32", False, StreamOptions(0, None), Path(scratch))
    spec: Any = SimpleNamespace(images=split.images, convert="rgb_first")
    store = options.pixel_store(transform, spec, "photos") if how == "store" else None
    indices = np.tile(np.arange(len(split.images)), times)
    job = DecodeJob("photos", split.images, indices, "rgb_first", False, kept=store)
    gpu, workers = torch.device("cuda"), default_workers(torch.device("cuda"))  # nothing of it is used
    state, batch = hashlib.sha256(), torch.empty(PACKED_BYTES, dtype=torch.uint8)
    started, count = time.perf_counter(), 0
    decoders = Decoders([job], transform, False, workers, gpu, Packer if how == "decoded" else None)
    try:
        for decoded in decoders:
            flat = decoded.pixels.reshape(-1)
            batch[: len(flat)] = flat
            count += len(decoded.indices)
            if digest:
                about = descriptors(decoded.pixels, len(decoded.indices)) if how == "decoded" else None
                state.update((flat if about is None else resize(flat, about, transform)).numpy().tobytes())  # type: ignore[arg-type]
    finally:
        decoders.close()
    return {"seconds": time.perf_counter() - started, "images": count, "digest": state.hexdigest()}


def bare(model: str, images: int, precision: str = "fp32", device: str = "cpu") -> dict[str, Any]:
    """The encoder alone, on batches that are there already, of the size that the stream gives it."""
    encoder, size = _encoder(model, precision, device), _batch(model, precision, device)
    height, width = encoder.preprocess.size  # type: ignore[misc]
    batch = torch.randint(0, 256, (size, 3, height, width), dtype=torch.uint8, device=device)
    started = time.perf_counter()
    for _ in range(images // size):
        embeddings = encoder.encode_images(batch)
    embeddings.cpu()  # a GPU is done when its last answer is here
    return {"seconds": time.perf_counter() - started, "images": images // size * size}


def end_to_end(model: str, root: str, precision: str = "fp32", device: str = "cpu", times: int = 1) -> dict[str, Any]:
    """Decoders and encoder together; on a CPU, on the same cores."""
    encoder = _encoder(model, precision, device)
    options = StreamOptions(default_workers(torch.device(device)), _batch(model, precision, device))
    started = time.perf_counter()
    count = 0
    for piece in _stream(encoder.preprocess, root, encoder, options, device, times):
        count += len(piece.rows)
    return {"seconds": time.perf_counter() - started, "images": count}


def miniature(model: str, root: str) -> dict[str, Any]:
    """The 40 sets from a composed config to the last record, with nothing cached."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["suite=datacomp", f"data.root={root}", "model=open_clip", f"model.name={model}"]
        return _session([*words, f"out={folder}/run", f"cache.root={folder}/cache"])


def rescore(model: str, root: str, scratch: str, fresh: bool, prompts: str) -> dict[str, Any]:
    """A set evaluated in full (`fresh`), or again with other templates."""
    if fresh:
        shutil.rmtree(scratch, ignore_errors=True)
    words = ["suite=none", "task=webdataset", f"task.data.path={root}/photos", "model=open_clip", f"model.name={model}"]
    return _session([*words, f"prompts={prompts}", f"out={scratch}/run", f"cache.root={scratch}/cache"])


def run(words: list[str]) -> dict[str, Any]:
    """Any run."""
    return _session(words)


def association(model: str, root: str) -> dict[str, Any]:
    """A set of WinoGAViL's size, nothing cached; `images` is what was decoded and embedded."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "suite=none",
            "task=winogavil",
            f"task.data.path={root}/wino",
            "model=open_clip",
            f"model.name={model}",
        ]
        return _session([*words, f"out={folder}/run", f"cache.root={folder}/cache"])


def retrieval(images: int, captions: int) -> dict[str, Any]:
    """Scoring of a retrieval task on given embeddings."""
    x, y, counts = benchmark_data.embeddings(images, captions)
    task = Retrieval(key="retrieval", name="Retrieval", metric=None)
    samples = Samples(
        keys=[f"s{i:07d}" for i in range(images)],
        captions=[[f"caption {j}" for j in range(count)] for count in counts],
    )
    image, text = torch.from_numpy(x), torch.from_numpy(y)
    before = _peak()
    started = time.perf_counter()
    scores = task.score({"test": image}, text, {"test": samples})
    values = scores.metrics
    return {
        "seconds": time.perf_counter() - started,
        "peak_gb": _peak(),
        "before_gb": before,
        "metrics": {name: values[name] for name in values if "@" in name and name != "mean_recall@1"},
    }


def _stream(
    transform: Any, root: str, encoder: Any, options: StreamOptions, device: str = "cpu", times: int = 1
) -> Any:
    split = open_split(DataConfig(folder="photos"), root, "test", None)
    job = DecodeJob("photos", split.images, np.tile(np.arange(len(split.images)), times), "rgb_first", False)
    stream = ImageStream([job], transform, options, torch.device(device))
    try:
        yield from stream.embed(encoder)
    finally:
        stream.close()


def _session(words: list[str]) -> dict[str, Any]:
    """What `clipeval run` does once its config is composed."""
    config = compose(words, None)
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as quiet:
        outcome = Evaluation.open(config, Console(file=quiet)).run()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "images": outcome.images, "texts": outcome.texts, "records": len(outcome.records)}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
