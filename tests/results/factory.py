"""Small synthetic run folders, for tests of what reads them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipeval.results.fingerprint import Fingerprint
from clipeval.results.records import Record
from clipeval.results.run_folder import RunFolder

PUBLISHED = Path(__file__).parents[2] / "results" / "published" / "published_openclip_38.csv"

SPECS: dict[str, dict[str, Any]] = {
    "imagenet1k": {"name": "ImageNet 1k", "group": "imagenet", "classes": 12, "n": 400},
    "imagenetv2": {"name": "ImageNet v2", "group": "imagenet_shifts", "classes": 12, "n": 300},
    "imagenet-a": {"name": "ImageNet-A", "group": "imagenet_shifts", "classes": 8, "n": 200},
    "caltech101": {
        "key": "vtab/caltech101",
        "name": "Caltech-101",
        "group": "vtab",
        "metric": "mean_per_class_recall",
        "classes": 10,
        "n": 300,
    },
    "mnist": {"name": "MNIST", "group": "other", "classes": 10, "n": 500, "chance": 0.10035},
    "fairface": {
        "key": "fairness/fairface",
        "name": "FairFace",
        "group": "fairness",
        "metric": None,
        "classes": 2,
        "n": 50,
    },
}


GROUP_OF = {
    "imagenet1k": "imagenet",
    "sun397": "vtab",
    "misc/winogavil": "retrieval",
    **dict.fromkeys(
        ("imagenet_sketch", "imagenetv2", "imagenet-a", "imagenet-o", "imagenet-r", "objectnet"), "imagenet_shifts"
    ),
}


def spec(task: str) -> dict[str, Any]:
    """What the config says about a task."""
    given = SPECS[task]
    classes = given["classes"]
    return {
        "key": given.get("key", task),
        "name": given["name"],
        "protocol": "classification",
        "metric": given.get("metric", "acc1"),
        "chance": given.get("chance", 1 / classes),
        "group": given["group"],
    }


def predictions(task: str, accuracy: float, seed: int) -> pd.DataFrame:
    """Labels and predictions of which about `accuracy` are right, in the classification protocol's columns."""
    given = SPECS[task]
    n, classes = given["n"], given["classes"]
    rng = np.random.default_rng(abs(hash_of(task)))
    labels = rng.integers(0, classes, n)
    rng = np.random.default_rng([seed, abs(hash_of(task))])
    # The first choice is right with probability `accuracy`, else it is the next class more often than another.
    wrong = (labels + np.where(rng.random(n) < 0.6, 1, rng.integers(1, classes, n))) % classes
    first = np.where(rng.random(n) < accuracy, labels, wrong)
    k = min(5, classes)
    ranks = (first[:, None] + np.arange(k)) % classes
    scores = np.sort(rng.normal(25, 2, (n, k)).astype(np.float32), axis=1)[:, ::-1]
    frame = pd.DataFrame({"key": [f"s{i:07d}" for i in range(n)], "label": labels, "prediction": first})
    for rank in range(k):
        frame[f"pred_{rank + 1}"] = ranks[:, rank]
        frame[f"score_{rank + 1}"] = scores[:, rank]
    return frame


def hash_of(text: str) -> int:
    """A number for a text, the same in every process."""
    return sum(ord(character) * 31**index for index, character in enumerate(text)) % 2**31


def record(task: str, frame: pd.DataFrame, model: dict[str, Any], **fields: Any) -> Record:
    """A record of these predictions, with Wilson-like intervals that are good enough for a table."""
    given = spec(task)
    right = frame["label"] == frame["prediction"]
    metrics: dict[str, float | None] = {
        "acc1": float(right.mean()),
        "acc5": float((frame.filter(like="pred_").to_numpy() == frame["label"].to_numpy()[:, None]).any(1).mean()),
        "mean_per_class_recall": float(right.groupby(frame["label"]).mean().mean()),
    }
    half = {
        name: 1.96 * (value * (1 - value) / len(frame)) ** 0.5 for name, value in metrics.items() if value is not None
    }
    return Record(
        **{
            **{"task": task, **given, "model": model, "metrics": metrics, "samples": len(frame)},
            "intervals": {name: (max(0.0, metrics[name] - h), min(1.0, metrics[name] + h)) for name, h in half.items()},  # type: ignore[operator]
            "classes": SPECS[task]["classes"],
            "fingerprint": fingerprint(),
            "prompts": {"name": "folder", "digest": "c" * 64, "templates": 14},
            "timings": {"images_s": 1.5, "texts_s": 0.5, "score_s": 0.1},
            "options": {"workers": 2, "batch_size": 64, "device": "cpu"},
            **fields,
        }
    )


def fingerprint(**fields: str) -> Fingerprint:
    """A fingerprint, with some parts changed."""
    return Fingerprint(
        **{
            **{
                "weights": "a" * 64,
                "preprocess": "exact/1",
                "precision": "fp32",
                "data": "b" * 64,
                "prompts": "c" * 64,
            },
            "protocol": "classification/1",
            **fields,
        }
    )


def run(
    path: Path,
    tasks: Sequence[str] = tuple(SPECS),
    *,
    planned: Sequence[str] | None = None,
    name: str = "ViT-Toy-32",
    pretrained: str = "toy_s1m",
    accuracy: float = 0.7,
    seed: int = 0,
    change: Callable[[str], dict[str, Any]] = lambda task: {},
) -> RunFolder:
    """A run folder of some tasks; `change(task)` gives fields of its record that differ."""
    model = {"slug": f"{name}__{pretrained}", "name": name, "pretrained": pretrained}
    folder = RunFolder(path)
    folder.write_run(
        {
            "model": {**model, "params_m": 12.5, "weights": "a" * 64},
            "config": {"tasks": {task: spec(task) for task in (planned or tasks)}},
            "code": {"version": "0.1.0", "commit": "0123456789abcdef", "dirty": False},
            "packages": {"torch": "2.0"},
            "hardware": {"cpu": "a processor", "cores": 2, "gpus": []},
            "created": "2026-01-02T03:04:05Z",
        }
    )
    for task in tasks:
        frame = predictions(task, accuracy, seed)
        folder.write(record(task, frame, model, created="2026-01-02T03:04:05Z", **change(task)), frame)
    folder.rebuild_eval_results()
    return folder


def published(path: Path, name: str, pretrained: str, tasks: Sequence[str] | None = None) -> RunFolder:
    """A run folder that holds a published model's own figures, over 38 tasks or some of them (by printed name)."""
    with open(PUBLISHED, newline="") as file:
        row = next(row for row in csv.DictReader(file) if (row["name"], row["pretrained"]) == (name, pretrained))
    from clipeval.results.published import COLUMNS

    model = {"slug": f"{name}__{pretrained}", "name": name, "pretrained": pretrained}
    folder = RunFolder(path)
    specs = {
        key.rpartition("/")[2]: {
            **{"key": key, "protocol": "classification", "name": column, "metric": metric, "chance": 0.01},
            "group": GROUP_OF.get(key, key.partition("/")[0] if "/" in key else "other"),
        }
        for key, (column, metric) in COLUMNS.items()
    }
    folder.write_run(
        {"model": {**model, "weights": "a" * 64}, "config": {"tasks": specs}, "created": "2026-01-02T03:04:05Z"}
    )
    frame = pd.DataFrame({"key": ["a"]})
    for task, about in specs.items():
        if tasks is not None and about["name"] not in tasks:
            continue
        value = float(row[about["name"]])
        folder.write(
            Record(
                task=task,
                **about,
                model=model,
                metrics={about["metric"]: value},
                intervals={about["metric"]: (max(0.0, value - 0.01), min(1.0, value + 0.01))},
                samples=1000,
                classes=None,
                fingerprint=fingerprint(),
                created="2026-01-02T03:04:05Z",
            ),
            frame,
        )
    return folder
