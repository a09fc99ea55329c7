"""What each precision, the fast preprocessing and compilation change on the quickstart suite: answers, metrics, seconds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from scripts.benchmark_rows import Bench, Result

OPTIONS = {
    "fp32, exact": [],
    "precision=bf16": ["runtime.precision=bf16"],
    "precision=fp16": ["runtime.precision=fp16"],
    "precision=datacomp": ["runtime.precision=datacomp"],
    "preprocess=fast": ["runtime.preprocess=fast"],
    "compile=true": ["runtime.compile=true"],
}
ANSWERS = ("prediction", "top_key", "top_caption", "chosen")
"""Columns of predictions that hold an answer; those of tables that have none are compared whole."""


def precision(bench: Bench) -> Iterator[Result]:
    """Each option against the reference, whole runs with nothing cached, after start-up."""
    base = bench.scratch / "precision"
    times: dict[str, list[float]] = {name: [] for name in OPTIONS}
    for number in range(bench.repeats):
        for place, (name, words) in enumerate(OPTIONS.items()):
            folder = base / str(place)
            shutil.rmtree(folder, ignore_errors=True)
            common = ["suite=quickstart", f"out={folder}/run", f"cache.root={folder}/cache"]
            times[name].append(bench.ours("run", words=[*common, *words])["seconds"])
        bench.say(f"  {number + 1}/{bench.repeats}")
    reference = times["fp32, exact"]
    for place, (name, seconds) in enumerate(times.items()):
        ratios = [a / b for a, b in zip(reference, seconds, strict=True)] if place else []
        notes = [effect(base / "0" / "run", base / str(place) / "run")] if place else []
        theirs = reference if place else None
        yield Result("precision", f"quickstart suite, {name}", "s", seconds, theirs, ratios, notes=notes)


def effect(reference: Path, other: Path) -> str:
    """How many answers, and which metrics, differ between two runs of the same tasks, in words."""
    changed = rows = 0
    metrics: dict[str, float] = {}
    for path in sorted((reference / "predictions").glob("*.parquet")):
        a, b = pd.read_parquet(path), pd.read_parquet(other / "predictions" / path.name)
        answers = [c for c in a.columns if c in ANSWERS or c.startswith("prediction")]
        columns = answers or [c for c in a.columns if not c.startswith("score") and a[c].dtype.kind != "f"]
        different = [any(str(a[c].iloc[i]) != str(b[c].iloc[i]) for c in columns) for i in range(len(a))]
        changed, rows = changed + sum(different), rows + len(a)
        name = f"{path.stem}.json"
        x, y = (json.loads((run / "records" / name).read_text()) for run in (reference, other))
        values = [(x["metrics"][m], y["metrics"][m]) for m in x["metrics"]]
        metrics[path.stem] = max((abs(u - v) for u, v in values if u is not None and v is not None), default=0.0)
    worst = max(metrics, key=lambda task: metrics[task])
    text = f"{changed} of {rows:,} answers change ({changed / rows:.2%})"
    return (
        f"{text}; largest change of a metric {metrics[worst]:.4f} ({worst})"
        if metrics[worst]
        else f"{text}; no metric changes"
    )
