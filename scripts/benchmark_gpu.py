"""What a GPU gets to do: images a second from files to embeddings, against the encoder's own rate and the decoders' own.

Each figure is of one pass that takes seconds, and `--repeats` is left aside: the row takes about two minutes on an H100 with
16 cores. Everything that was measured is in the row's `figures` in the JSON file, one for each model and precision.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from scripts import benchmark_data
from scripts.benchmark_rows import Bench, Result
from scripts.benchmark_worker import Side
from scripts.make_miniature import facts

WORKERS = (8, 16, 32)
MEASURED = (("ViT-B-32-256", "bf16", WORKERS), ("ViT-B-32-256", "fp32", WORKERS), ("ViT-L-14", "bf16", WORKERS[1:2]))
"""Models, precisions, and the numbers of decoders that each is measured with end to end."""
MINUTES = {("ViT-B-32-256", "bf16"): 2.0}
"""How long the 40 sets may take."""
MINUTES_KEPT = {("ViT-B-32-256", "bf16"): 1.0}
"""The same from the pixel store."""


def gpu(bench: Bench, device: str | None = None) -> Iterator[Result]:
    """End to end over the lower of both rates, and the 40 sets' time from it and from kept pixels; nothing where there is no GPU.

    Args:
        bench: as of every row.
        device: another device than `cuda`, to try this function without one.
    """
    if device is None and not torch.cuda.is_available():
        bench.say("  left out: there is no GPU")
        return
    device, log = device or "cuda", bench.scratch / "log-gpu.txt"
    size = bench.size
    root = str(benchmark_data.shard(bench.cache, size.decoded_for_gpu))
    images = sum(fact.samples for fact in facts())
    measured = MEASURED if torch.device(device).type == "cuda" else (("tiny", "fp32", (2,)), ("tiny", "bf16", (2,)))
    side = Side(Path(sys.executable), "scripts.benchmark_device", log)
    decoded: dict[tuple[str, int], float] = {}
    try:
        about = side("machine", device=device)
        about["main_thread_us"] = {
            str(batch): side("main_thread", device=device, workers=4, batch=batch, images=size.fed)["us"]
            for batch in (256, 1024)
        }
        about["probe"] = side("probe", device=device, samples=size.probed, classes=min(100, size.probed // 10))
        for model, precision, workers in measured:
            path = (
                benchmark_data.tiny_checkpoint(bench.cache)
                if model == "tiny"
                else benchmark_data.checkpoint(bench.cache, model)
            )
            on = {"model": path, "precision": precision, "device": device}
            figures: dict[str, Any] = {"model": model, "precision": precision, **about, **side("load", **on)}
            encoder = _rate(side("bare", **on, batch=figures["batch"]))
            figures["encoder"], figures["decoders"], figures["end_to_end"] = encoder, {}, {}
            head = side("texts", **on, classes=size.classes_on_gpu, templates=size.templates)
            figures["texts"] = head["texts"] / head["seconds"]
            for number in workers:
                data = {"root": root, "device": device, "workers": number, "times": size.times_on_gpu}
                if (model, number) not in decoded:
                    decoded[model, number] = _rate(side("decoders", model=path, **data))
                figures["decoders"][str(number)] = decoded[model, number]
                whole = side("end_to_end", **{**on, **data}, batch=figures["batch"])
                figures["end_to_end"][str(number)] = {
                    **whole,
                    "rate": _rate(whole),
                    "overlap": _overlap(whole, encoder, decoded[model, number]),
                }
                bench.say(
                    f"  {model}, {precision}, {number} decoders: {json.dumps(figures['end_to_end'][str(number)])}"
                )
            best = int(max(figures["end_to_end"], key=lambda number: figures["end_to_end"][number]["rate"]))
            ways = ("workers", "store", "nvjpeg") if torch.device(device).type == "cuda" else ("workers", "store")
            for how in ways:
                more = {"how": how, "kept": str(bench.scratch / f"kept-{model}")}
                data = {"root": root, "device": device, "workers": best, "times": size.times_on_gpu, **more}
                whole = side("end_to_end", **{**on, **data}, batch=figures["batch"])
                figures[f"end_to_end_{how}"] = {**whole, "rate": _rate(whole)}
            figures["scaling"] = _scaling(
                on, root, figures["batch"], about, size.times_on_gpu, log, decoders=workers[-1]
            )
            bench.say(f"  {json.dumps(figures)}")
            yield from _results(model, precision, figures, images)
    finally:
        side.close()


def _results(model: str, precision: str, figures: dict[str, Any], images: int) -> Iterator[Result]:
    """The table's lines of one model in one precision, of the number of decoders that was quickest."""
    best = max(figures["end_to_end"], key=lambda number: figures["end_to_end"][number]["rate"])
    whole, decoders = figures["end_to_end"][best], figures["decoders"][best]
    lower = min(figures["encoder"], decoders)
    notes = [
        f"{best} decoders on {figures['cores']} cores: {decoders:,.0f} images/s alone; encoder alone {figures['encoder']:,.0f}",
        f"batches of {figures['batch']}; first embedding after {whole['first_s']:.1f} s; device busy {whole['busy']:.0%}",
        f"{figures['texts']:,.0f} prompts/s",
    ]
    work = f"{model}, {precision}, {figures['device']}: end to end over the slower of encoder and decoders"
    rate = whole["rate"]
    yield Result("gpu", work, "images/s", [rate], [lower], [rate / lower], target=0.9, notes=notes, figures=figures)
    yield Result(
        "gpu",
        f"the images of the 40 sets at that rate, {model}, {precision}",
        "min",
        [images / rate / 60],
        at_most=MINUTES.get((model, precision)),
    )
    yield Result(
        "gpu",
        f"the same from the pixel store, {model}, {precision}",
        "min",
        [images / figures["end_to_end_store"]["rate"] / 60],
        at_most=MINUTES_KEPT.get((model, precision)),
    )


def _scaling(
    on: dict[str, Any], root: str, batch: int, about: dict[str, Any], times: int, log: Path, decoders: int
) -> dict[str, float]:
    """Images a second of 2, 4 and 8 devices that work side by side, the decoders divided among them; of one: `end_to_end`."""
    rates = {}
    for count in (2, 4, 8):
        if count > about["devices"]:
            break
        sides = [Side(Path(sys.executable), "scripts.benchmark_device", log) for _ in range(count)]
        try:
            calls = [{**on, "device": f"cuda:{number}"} for number in range(count)]
            for side, call in zip(sides, calls, strict=True):
                side("load", **call)
            data = {"root": root, "workers": max(1, decoders // count), "batch": batch, "times": times}
            with ThreadPoolExecutor(count) as pool:
                answers = list(
                    pool.map(lambda pair: pair[0]("end_to_end", **pair[1], **data), zip(sides, calls, strict=True))  # noqa: B023
                )
        finally:
            for side in sides:
                side.close()
        rates[str(count)] = sum(answer["images"] for answer in answers) / max(a["seconds"] for a in answers)
    return rates


def _rate(answer: dict[str, Any]) -> float:
    return float(answer["images"] / answer["seconds"])


def _overlap(whole: dict[str, Any], encoder: float, decoders: float) -> float:
    """1 where the quicker of encoder and decoders costs no time of its own, 0 where one waits for the other to end."""
    alone = whole["images"] / encoder, whole["images"] / decoders
    return float((sum(alone) - whole["seconds"]) / min(alone))
