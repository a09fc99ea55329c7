"""The device that these tests run on, found once: the first GPU; the tests are skipped where there is none.

    scripts/test --gpu                                  # on a GPU
    CLIPEVAL_TEST_DEVICE=cpu scripts/test --gpu         # the tests themselves, tried on the CPU

On the CPU a test cannot show what it is for; it shows that it runs and that it holds where nothing is asynchronous.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

ASKED = os.environ.get("CLIPEVAL_TEST_DEVICE")
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips this folder's tests, and no other's, where there is no device."""
    if ASKED or torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="there is no CUDA device (CLIPEVAL_TEST_DEVICE=cpu tries these tests on the CPU)")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the tests run, with its index."""
    return torch.device(ASKED or "cuda:0")


@pytest.fixture(scope="session")
def second(device: torch.device) -> torch.device:
    """Another device than the current one; skips where there is only one."""
    if device.type != "cuda":
        return device
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one CUDA device")
    return torch.device("cuda:1")


@pytest.fixture(autouse=True)
def settings_come_back() -> Iterator[None]:
    """What a test does to the process's settings is undone, whatever became of it."""
    matmul, tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    new = getattr(torch.backends, "fp32_precision", None)
    yield
    if new is not None:
        torch.backends.fp32_precision = new
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = tf32


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    """uint8 [24, 3, 64, 64]: noise over colours, so that no two give the same embedding."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (24, 3, 1, 1))
    return torch.from_numpy(np.clip(colours + rng.integers(-60, 60, (24, 3, 64, 64)), 0, 255).astype(np.uint8))
