"""What reaches the encoder's side on every core: resized by the decoders, as it was decoded, or from the pixel store."""

from __future__ import annotations

from collections.abc import Iterator

from scripts import benchmark_data
from scripts.benchmark_rows import Bench, Result

TIMES = 8
"""Passes over the kept pixels in one round, which would be over in a tenth of a second."""


def pixels(bench: Bench) -> Iterator[Result]:
    """Decoders on every core, as beside a GPU, each batch copied once; the same shard in each way."""
    common = {
        "model": benchmark_data.checkpoint(bench.cache, bench.size.model),
        "root": str(benchmark_data.shard(bench.cache, bench.size.decoded)),
        "scratch": str(bench.scratch / "kept"),
    }
    few = {**common, "root": str(benchmark_data.shard(bench.cache, min(256, bench.size.decoded))), "digest": True}
    bench.ours("feed", **common, how="store")  # fills it
    resized, decoded, kept = bench.rounds(
        lambda: bench.ours("feed", **common, how="resized"),
        lambda: bench.ours("feed", **common, how="decoded"),
        lambda: bench.ours("feed", **common, how="store", times=TIMES),
    )
    bench.ours("feed", **few, how="store")
    digests = {how: bench.ours("feed", **few, how=how)["digest"] for how in ("resized", "decoded", "store")}
    rates = [[answer["images"] / answer["seconds"] for answer in answers] for answers in (resized, decoded, kept)]
    named = (("decoded alone, resized by the encoder's device", rates[1], "decoded", None),)
    for work, ours, how, target in (*named, ("from the pixel store", rates[2], "store", 15.0)):
        same = digests[how] == digests["resized"]
        ratios = [b / a for a, b in zip(rates[0], ours, strict=True)]
        notes = ["`there` is ours too: the decoders resize", f"digests equal: {'yes' if same else 'NO'}"]
        yield Result(
            "pixels", f"500x375 JPEGs, {work}", "images/s", ours, rates[0], ratios, target, notes=notes, same=same
        )
