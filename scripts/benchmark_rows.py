"""The rows of the benchmark: each measures rounds, theirs and ours alternating, and says what ratio is to be reached."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from scripts import benchmark_data
from scripts.benchmark_process import clipeval
from scripts.benchmark_worker import Side
from scripts.make_miniature import facts

VIT = "ViT-B-32-256"
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of open_clip's normalisation."""


@dataclass(frozen=True)
class Size:
    """How much each row takes on."""

    model: str = VIT
    decoded: int = 2048
    images: int = 1024
    encoded: int = 512
    classes: int = 48
    their_classes: int = 4
    templates: int = 80
    retrieval: tuple[int, int] = (5000, 25010)
    association: tuple[int, int] = (3563, 4500)
    decoded_for_gpu: int = 1024
    times_on_gpu: int = 16
    classes_on_gpu: int = 1000
    fed: int = 40_960
    probed: int = 10_000


@dataclass
class Result:
    """One line of the table.

    Attributes:
        row, work: which row, and what was done.
        theirs, ours: a figure for each pair, in `unit`; None where there is no other side.
        ratios: ours against theirs for each pair, the larger the better; empty where a ratio says nothing.
        target: the least ratio (or most `unit`, with `at_most`) to reach; None for what is only reported.
        notes: what a reader must know.
        figures: all that was measured, where that is more than this line says.
        same: whether both sides gave the same numbers, where they have to; else no target is reached.
    """

    row: str
    work: str
    unit: str
    ours: list[float]
    theirs: list[float] | None = None
    ratios: list[float] = field(default_factory=list)
    target: float | None = None
    at_most: float | None = None
    notes: list[str] = field(default_factory=list)
    same: bool | None = None
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the target is reached by the median; None without one."""
        if self.same is False:
            return False
        if self.target is not None:
            return median(self.ratios) >= self.target
        return None if self.at_most is None else median(self.ours) <= self.at_most


@dataclass
class Bench:
    """What every row works with."""

    cache: Path
    scratch: Path
    repeats: int
    size: Size
    ours: Side
    their: Side | None
    say: Callable[[str], None]

    def rounds(self, *calls: Callable[[], Any] | None) -> list[list[Any]]:
        """Every call `repeats` times, in rounds whose order is turned about each time; what each gave. None gives nothing."""
        times: list[list[Any]] = [[] for _ in calls]
        for number in range(self.repeats):
            steps = list(zip(calls, times, strict=True))
            for call, answers in steps if number % 2 == 0 else reversed(steps):
                if call is not None:
                    answers.append(call())
            self.say(f"  {number + 1}/{self.repeats}")
        return times

    def beside(self, theirs: Callable[[], Any] | None, ours: Callable[[], Any]) -> tuple[list[Any], list[Any]]:
        """Theirs once and ours `repeats` times: for slow work whose target is an amount and no ratio."""
        once = [] if theirs is None else [theirs()]
        return once, self.rounds(ours)[0]

    def theirs(self, name: str, **arguments: Any) -> Callable[[], Any] | None:
        """A call of the other side; None where its environment is missing."""
        side = self.their
        return None if side is None else lambda: side(name, **arguments)


def heads(bench: Bench) -> Iterator[Result]:
    """ImageNet's head."""
    model, size = benchmark_data.checkpoint(bench.cache, bench.size.model), bench.size
    classes = np.random.default_rng(0).permutation(1000)[: size.classes].tolist()
    few = classes[: size.their_classes]
    files = [str(bench.scratch / f"head-{i}.npy") for i in range(4)]
    theirs = {"model": model, "classes": few, "templates": size.templates}
    mine = {**theirs, "classes": classes}
    a, amp, b, half = bench.rounds(
        bench.theirs("heads", **theirs, out=files[0]),
        bench.theirs("heads", **theirs, out=files[1], amp=True),
        lambda: bench.ours("heads", **mine, out=files[2]),
        lambda: bench.ours("heads", **mine, out=files[3], precision="bf16"),
    )
    note = f"{len(classes)} classes x {size.templates} templates here and {len(few)} of these classes there"
    result = _rates("heads", f"ImageNet's head, {size.model}, fp32", "prompts/s", a, b, "prompts", 10.0, [note])
    if a:
        far = float(np.abs(np.load(files[0]) - np.load(files[2])[: len(few)]).max())
        result.notes.append(f"largest difference of the heads {far:.0e}")
        result.same = far <= 1e-6
    yield result
    yield _rates("heads", "the same in bf16, over fp32 there", "prompts/s", a, half, "prompts", 25.0, [_bf16()])
    yield _rates("heads", "the same in bf16, over bf16 there (--amp)", "prompts/s", amp, half, "prompts", None)


def decode(bench: Bench) -> Iterator[Result]:
    """One shard through preprocessing."""
    model = benchmark_data.checkpoint(bench.cache, bench.size.model)
    root = str(benchmark_data.shard(bench.cache, bench.size.decoded))
    common = {"model": model, "root": root}
    a, exact, quick = bench.rounds(
        bench.theirs("preprocess", **common),
        lambda: bench.ours("preprocess", **common, fast=False),
        lambda: bench.ours("preprocess", **common, fast=True),
    )
    few = {"model": model, "root": str(benchmark_data.shard(bench.cache, min(256, bench.size.decoded)))}
    files = [str(bench.scratch / f"pixels-{i}.npy") for i in range(3)]
    if save := bench.theirs("pixels", **few, out=files[0]):
        save()
    for fast in (False, True):
        bench.ours("pixels", **few, out=files[1 + fast], fast=fast)
    for fast, b, target in ((False, exact, 2.5), (True, quick, 5.0)):
        name = "fast" if fast else "exact"
        result = _rates("decode", f"one shard of 500x375 JPEGs, 4 workers, {name}", "images/s", a, b, "images", target)
        if a:
            theirs, ours = np.load(files[0]), np.load(files[2 if fast else 1])
            if fast:
                steps = np.abs(theirs - ours) * 255 * np.array(STD, dtype=np.float32).reshape(3, 1, 1)
                part, most = (steps > 0.5).mean(), round(float(steps.max()))
                result.notes.append(f"{part:.2%} of values differ from the exact ones, by at most {most} of 255")
            else:
                result.same = np.array_equal(theirs, ours)
                result.notes.append(f"pixels identical: {'yes' if result.same else 'NO'} ({len(ours)} images)")
        yield result


def miniature(bench: Bench) -> Iterator[Result]:
    """The 40 sets in small."""
    model, root = benchmark_data.tiny_checkpoint(bench.cache), str(benchmark_data.miniature(bench.cache))
    a, b = bench.beside(
        bench.theirs("miniature", model=model, root=root), lambda: bench.ours("miniature", model=model, root=root)
    )
    notes = [f"{b[0]['images']:,} images and {b[0]['texts']:,} prompts here, both after start-up"]
    if a:
        notes.append(
            f"there {a[0]['sets']} sets: WinoGAViL is left out, FairFace and UTKFace run as plain classification"
        )
    yield _seconds("miniature", "40 miniature sets, tiny model, nothing cached", a, b, notes, at_most=8.5)


def end_to_end(bench: Bench) -> Iterator[Result]:
    """The stream against the bare encoder, and against theirs."""
    model, size = benchmark_data.checkpoint(bench.cache, bench.size.model), bench.size
    images, root = size.encoded, str(benchmark_data.shard(bench.cache, size.encoded))
    for precision, target in (("fp32", 0.93), ("bf16", 0.85)):
        common = {"model": model, "precision": precision}
        theirs = bench.theirs("end_to_end", model=model, root=root) if precision == "fp32" else None
        a, b, c = bench.rounds(
            lambda common=common: bench.ours("bare", **common, images=images),  # type: ignore[misc]
            lambda common=common: bench.ours("end_to_end", **common, root=root),  # type: ignore[misc]
            theirs,
        )
        work = f"images of 500x375, {size.model}, {precision}: end to end over the bare encoder"
        notes = [f"{images} images, start of the decoders included", *([_bf16()] if precision == "bf16" else [])]
        yield _rates("end_to_end", work, "images/s", a, b, "images", target, notes)
        if c:
            yield _rates("end_to_end", "the same in fp32, end to end over theirs", "images/s", c, b, "images", None)


def rescore(bench: Bench) -> Iterator[Result]:
    """Other templates on a set that is evaluated already."""
    model = benchmark_data.checkpoint(bench.cache, bench.size.model)
    root, scratch = str(benchmark_data.shard(bench.cache, bench.size.images)), str(bench.scratch / "rescore")
    a, b = [], []
    for number in range(bench.repeats):  # in this order: the second needs the first
        a.append(bench.ours("rescore", model=model, root=root, scratch=scratch, fresh=True, prompts="simple"))
        b.append(
            bench.ours("rescore", model=model, root=root, scratch=scratch, fresh=False, prompts="openai_imagenet_7")
        )
        bench.say(f"  {number + 1}/{bench.repeats}")
    notes = [
        f"{a[0]['images']:,} images; the second time {b[0]['images']} images and {b[0]['texts']:,} prompts embedded"
    ]
    notes.append("the cost of rescoring does not grow with the images; the full run's does")
    yield _seconds("rescore", "other templates on a set already evaluated, over the full run", a, b, notes, target=50.0)


def retrieval(bench: Bench) -> Iterator[Result]:
    """Scoring at MSCOCO's size."""
    images, captions = bench.size.retrieval
    a, b = bench.beside(
        bench.theirs("retrieval", images=images, captions=captions),
        lambda: bench.ours("retrieval", images=images, captions=captions),
    )
    notes = []
    if a:
        far = max(abs(a[0]["metrics"][k] - b[0]["metrics"][k]) for k in b[0]["metrics"])
        notes.append(f"largest difference of a recall {far:.0e}")
    yield _seconds("retrieval", f"scoring {images:,} images x {captions:,} captions", a, b, notes, at_most=5.0)
    theirs = [max(x["peak_gb"] for x in a)] if a else None
    notes = [f"of the whole process; {b[0]['before_gb']:.2f} GB before scoring"]
    yield Result(
        "retrieval", "peak memory of it", "GB", [max(x["peak_gb"] for x in b)], theirs, at_most=1.5, notes=notes
    )


def winogavil(bench: Bench) -> Iterator[Result]:
    """Decodes at WinoGAViL's size."""
    instances, pictures = bench.size.association
    root = benchmark_data.association(bench.cache, instances, pictures)
    lines = (root / "wino" / "test" / "instances.jsonl").read_text().splitlines()
    asked = sum(len(json.loads(line)["candidates"]) for line in lines)
    row = bench.ours("association", model=benchmark_data.tiny_checkpoint(bench.cache), root=str(root))
    notes = [f"{instances:,} instances name {asked:,} candidates; {row['images']:,} pictures were decoded and embedded"]
    notes.append("there: one embedding for each candidate of each instance, as DataComp's code does; counted, not run")
    ratio = [asked / row["images"]]
    yield Result(
        "winogavil",
        "pictures embedded",
        "images",
        [row["images"]],
        [asked],
        ratio,
        target=asked / pictures,
        notes=notes,
    )


def memory(bench: Bench) -> Iterator[Result]:
    """Peak memory of a whole run of the 40 sets: with 50 images each, and with as many as the real sets have."""
    model = benchmark_data.wide_checkpoint(bench.cache)
    runs = []
    for root in (benchmark_data.miniature(bench.cache), benchmark_data.whole(bench.cache)):
        with tempfile.TemporaryDirectory(dir=bench.scratch) as folder:
            words = ["suite=datacomp", f"data.root={root}", "model=open_clip", f"model.name={model}"]
            runs.append(clipeval(["run", *words, f"out={folder}/run", f"cache.root={folder}/cache"]))
            records = len(list(Path(folder, "run", "records").glob("*.json")))
        bench.say(f"  {runs[-1].seconds:.0f} s, {records} records")
    small, large = runs
    images = sum(fact.samples for fact in facts())
    notes = [f"{images:,} images of 24 pixels and a tiny model, embeddings of 512 numbers, {large.seconds:.0f} s"]
    notes.append("private and shared memory of all its processes; a real model's weights and activations come on top")
    yield Result(
        "memory",
        "peak of the 40 sets at full size, over that of 50 images a set",
        "GB",
        [large.peak_gb],
        [small.peak_gb],
        notes=notes,
    )


def _rates(
    row: str,
    work: str,
    unit: str,
    theirs: list[Any],
    ours: list[Any],
    count: str,
    target: float | None,
    notes: list[str] | None = None,
) -> Result:
    a, b = ([x[count] / x["seconds"] for x in side] for side in (theirs, ours))
    ratios = [y / x for x, y in zip(a, b, strict=True)] if a else []
    return Result(row, work, unit, b, a or None, ratios, target if ratios else None, notes=list(notes or ()))


def _seconds(
    row: str,
    work: str,
    theirs: list[Any],
    ours: list[Any],
    notes: list[str],
    target: float | None = None,
    at_most: float | None = None,
) -> Result:
    a, b = ([x["seconds"] for x in side] for side in (theirs, ours))
    ratios = [x / y for x, y in zip(a * len(b) if len(a) == 1 else a, b, strict=True)] if a else []
    return Result(row, work, "s", b, a or None, ratios, target if ratios else None, at_most, notes)


def _bf16() -> str:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "amx_bf16" in flags or "avx512_bf16" in flags:
        return "this processor has bf16 units"
    return "this processor has no bf16 units: bf16 is emulated, and the target is for one that has"
