"""Apple's GPUs have no float64: what is computed in it goes through one function, which takes values to the CPU there."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from clipeval import tasks as all_tasks
from clipeval.tasks.base import Samples, Task
from clipeval.tasks.classification import in_float64
from clipeval.tasks.neighbours import NearestNeighbours
from clipeval.tasks.probe import LinearProbe
from tests.tasks.apple import AppleGpu, OnMps
from tests.tasks.fakes import unit

ROOT = Path(__file__).resolve().parents[2]
CLASSES = 3


def test_values_of_a_device_without_float64_are_taken_to_the_cpu() -> None:
    values = torch.tensor([0.1, 0.2])
    on_a_mac: Any = SimpleNamespace(device=torch.device("mps"), cpu=lambda: values)
    assert torch.equal(in_float64(on_a_mac), values.double())
    assert in_float64(values).dtype == torch.float64


def test_nothing_else_makes_float64_tensors() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for folder in ("tasks", "eval")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in path.read_text().splitlines()
        if re.search(r"\.double\(|torch\.(float64|double)\b", line) and "def in_float64" not in line
    ]
    assert found == [
        'tasks/classification.py: return (values.cpu() if values.device.type == "mps" else values).double()'
    ]


def test_the_simulated_gpu_refuses_what_apples_does() -> None:
    with AppleGpu():
        rows = torch.ones(2, 3).to("mps")
        assert isinstance(rows, OnMps) and rows.device.type == "mps" and isinstance(rows @ rows.T, OnMps)
        assert rows.cpu().device.type == "cpu" and torch.zeros(2, device="mps").device.type == "mps"
        with pytest.raises(TypeError, match="float64"):
            rows.double()
        with pytest.raises(TypeError, match="float64"):
            torch.from_numpy(np.ones(3)).to("mps")
        with pytest.raises(TypeError, match="numpy"):
            rows.numpy()
        with pytest.raises(RuntimeError, match="same device"):
            rows + torch.ones(2, 3)


PROBES: dict[str, Task] = {
    "adamw": LinearProbe(key="a", name="A", metric="lp_acc1", epochs=2),
    "lbfgs": LinearProbe(key="a", name="A", metric="lp_acc1", solver="lbfgs", shots=4, strength=1.0),
    "neighbours": NearestNeighbours(key="a", name="A", metric="knn_acc1", neighbours=5),
}


def samples(count: int) -> Samples:
    labels = np.arange(count) % CLASSES
    return Samples(keys=[f"k{i}" for i in range(count)], labels=labels, classnames=[f"c{i}" for i in range(CLASSES)])


@pytest.mark.parametrize("which", PROBES)
def test_a_task_on_the_device_without_float64_scores_as_on_the_cpu(which: str) -> None:
    task = PROBES[which]
    counts = {"train": 60, "test": 30}
    tables = {split: samples(counts[split]) for split in task.splits}
    images = {split: unit(counts[split], 8, seed) for seed, split in enumerate(task.splits)}
    for split, rows in images.items():  # something to learn
        rows[:, :CLASSES] += torch.eye(CLASSES)[torch.from_numpy(tables[split].labels)]  # type: ignore[arg-type]
    nothing = torch.ones(0, 1)
    wanted = task.score(images, nothing, tables)
    with AppleGpu():
        found = task.score({split: rows.to("mps") for split, rows in images.items()}, nothing, tables)
    assert found.metrics.keys() == wanted.metrics.keys()
    assert found.metrics == pytest.approx(wanted.metrics, nan_ok=True)
    pd.testing.assert_frame_equal(found.predictions, wanted.predictions, rtol=1e-4)


def test_every_task_that_computes_on_the_device_is_tried_here() -> None:
    asks = {
        kind.__name__ for kind in vars(all_tasks).values() if isinstance(kind, type) and getattr(kind, "on_device", 0)
    }
    assert asks == {type(task).__name__ for task in PROBES.values()}
