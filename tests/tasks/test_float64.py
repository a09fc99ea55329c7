"""Apple's GPUs have no float64: what is computed in it goes through one function, which takes values to the CPU there."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from clipeval.tasks.classification import in_float64

ROOT = Path(__file__).resolve().parents[2]


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
