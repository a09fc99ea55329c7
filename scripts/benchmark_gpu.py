"""What a GPU gets to do: images a second from files to embeddings, against the encoder's own rate and the decoders' own."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

import torch

from scripts import benchmark_data
from scripts.benchmark_rows import Bench, Result
from scripts.make_miniature import facts

MODELS = ("ViT-B-32-256", "ViT-L-14")
PRECISIONS = ("bf16", "fp32")


def gpu(bench: Bench, device: str | None = None) -> Iterator[Result]:
    """End to end over the lower of both rates, and the 40 sets' time from it; nothing where there is no GPU.

    Args:
        bench: as of every row.
        device: another device than `cuda`, to try this function without one.
    """
    if device is None and not torch.cuda.is_available():
        bench.say("  left out: there is no GPU")
        return
    device = device or "cuda"
    name = torch.cuda.get_device_name() if device == "cuda" else device
    root = str(benchmark_data.shard(bench.cache, bench.size.decoded))
    images = sum(fact.samples for fact in facts())
    for model in MODELS if device == "cuda" else (bench.size.model,):
        path = benchmark_data.checkpoint(bench.cache, model)
        for precision in PRECISIONS:
            on = {"model": path, "precision": precision, "device": device}
            common = {"model": path, "root": root, "device": device, "times": bench.size.times_on_gpu}
            bare, decoded, whole = bench.rounds(
                lambda on=on: bench.ours("bare", **on, images=bench.size.decoded * bench.size.times_on_gpu),  # type: ignore[misc]
                lambda common=common: bench.ours("preprocess", **common, workers=None),  # type: ignore[misc]
                lambda common=common, on=on: bench.ours("end_to_end", **{**common, **on}),  # type: ignore[misc]
            )
            encoder, decoders, both = (
                [answer["images"] / answer["seconds"] for answer in side] for side in (bare, decoded, whole)
            )
            lower = [min(pair) for pair in zip(encoder, decoders, strict=True)]
            ratios = [rate / most for rate, most in zip(both, lower, strict=True)]
            rates = f"encoder alone {median(encoder):,.0f} images/s, decoders alone {median(decoders):,.0f}"
            work = f"{model}, {precision}, {name}: end to end over the slower of encoder and decoders"
            yield Result("gpu", work, "images/s", both, lower, ratios, target=0.9, notes=[rates])
            minutes = [images / rate / 60 for rate in both]
            most = 6.0 if model == MODELS[0] else None
            yield Result(
                "gpu", f"the images of the 40 sets at that rate, {model}, {precision}", "min", minutes, at_most=most
            )
