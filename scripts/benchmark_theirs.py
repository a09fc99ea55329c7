"""What a user would otherwise run: clip_benchmark's own functions, called as its command line calls them, in fp32 on the CPU.

Runs in .venv-baseline (scripts/clip_benchmark_env). Where clip_benchmark has no such work, there is no function here.
"""

from __future__ import annotations

import resource
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from clip_benchmark.datasets.builder import build_wds_dataset, get_dataset_collate_fn
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from torch.utils.data import DataLoader

from scripts import benchmark_data

BATCH, WORKERS = 64, 4
"""clip_benchmark's defaults."""


@cache
def _model(name: str) -> tuple[torch.nn.Module, Any, Any]:
    model, _, transform = open_clip.create_model_and_transforms(name)
    return model.eval(), transform, open_clip.get_tokenizer(name)


def threads(count: int) -> dict[str, Any]:
    torch.set_num_threads(count)
    return {"threads": torch.get_num_threads()}


def heads(model: str, classes: list[int], templates: int, out: str, amp: bool = False) -> dict[str, Any]:
    """Heads of some of ImageNet's classes, class by class."""
    tower, _, tokenizer = _model(model)
    names = [open_clip.IMAGENET_CLASSNAMES[i] for i in classes]
    prompts = [template("{c}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES[:templates]]
    started = time.perf_counter()
    classifier = zeroshot_classification.zero_shot_classifier(tower, tokenizer, names, prompts, "cpu", amp=amp)
    seconds = time.perf_counter() - started
    np.save(out, classifier.T.float().numpy())
    return {"seconds": seconds, "prompts": len(names) * len(prompts)}


def preprocess(model: str, root: str) -> dict[str, Any]:
    """One shard through its loader with four workers."""
    transform = _model(model)[1]
    started = time.perf_counter()
    count = sum(len(images) for images, _ in _loader(Path(root) / "photos", transform))
    return {"seconds": time.perf_counter() - started, "images": count}


def pixels(model: str, root: str, out: str) -> dict[str, Any]:
    """What the loader gives for a shard, saved."""
    batches = [images for images, _ in _loader(Path(root) / "photos", _model(model)[1])]
    np.save(out, torch.cat(batches).numpy())
    return {"images": sum(map(len, batches))}


def end_to_end(model: str, root: str) -> dict[str, Any]:
    """Loader and model together."""
    tower, transform, _ = _model(model)
    classifier = torch.ones(tower.text_projection.shape[-1], 10)
    started = time.perf_counter()
    logits, _ = zeroshot_classification.run_classification(
        tower, classifier, _loader(Path(root) / "photos", transform), "cpu", amp=False
    )
    return {"seconds": time.perf_counter() - started, "images": len(logits)}


def miniature(model: str, root: str) -> dict[str, Any]:
    """Every set as DataComp's loop does it: the model anew for each, heads class by class.

    Left out, in this side's favour: WinoGAViL, which clip_benchmark cannot read. FairFace and UTKFace are run as plain
    classification with the same texts.
    """
    started = time.perf_counter()
    done = 0
    for folder in sorted(Path(root).iterdir()):
        kind = folder / "dataset_type.txt"
        if kind.exists() and kind.read_text().strip() == "association":
            continue
        tower, _, transform = open_clip.create_model_and_transforms(model)
        _evaluate(tower.eval(), transform, open_clip.get_tokenizer(model), folder)
        done += 1
    return {"seconds": time.perf_counter() - started, "sets": done}


def retrieval(images: int, captions: int) -> dict[str, Any]:
    """The scoring part of its zeroshot_retrieval.evaluate, on given embeddings, at recall 1, 5 and 10."""
    x, y, counts = benchmark_data.embeddings(images, captions)
    image, text = torch.from_numpy(x), torch.from_numpy(y)
    before = _peak()
    started = time.perf_counter()
    scores = text @ image.t()
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[torch.arange(len(scores)), torch.from_numpy(np.repeat(np.arange(images), counts))] = True
    values, recall, batches = {}, zeroshot_retrieval.recall_at_k, zeroshot_retrieval.batchify
    for k in (1, 5, 10):
        for name, s, p in (("image", scores, positive), ("text", scores.T, positive.T)):
            recalled = batches(recall, s, p, BATCH, "cpu", k=k) > 0
            values[f"{name}_retrieval_recall@{k}"] = recalled.float().mean().item()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_gb": _peak(), "before_gb": before, "metrics": values}


def _evaluate(tower: torch.nn.Module, transform: Any, tokenizer: Any, folder: Path) -> None:
    dataset = build_wds_dataset("wds", transform, "test", str(folder))
    if dataset.classes is None:
        loader = _batches(dataset, collation_fn=get_dataset_collate_fn("mscoco_captions"))
        zeroshot_retrieval.evaluate(tower, loader, tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10])
        return
    zeroshot_classification.evaluate(
        tower, _batches(dataset), tokenizer, dataset.classes, dataset.templates, "cpu", amp=False
    )


def _loader(folder: Path, transform: Any) -> Any:
    return _batches(build_wds_dataset("wds", transform, "test", str(folder)))


def _batches(dataset: Any, **options: Any) -> Any:
    return DataLoader(dataset.batched(BATCH, **options), batch_size=None, shuffle=False, num_workers=WORKERS)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
