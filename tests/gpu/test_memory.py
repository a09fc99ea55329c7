"""Batches that the device's memory does not hold are halved, compiled or not; a compiled tower is compiled once."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from clipeval.models import Encoder, resolve
from scripts.tiny_model import write_tiny_model
from tests.gpu.test_stream import BATCH, COUNT, through
from tests.gpu.towers import SIZE, write_tower


@pytest.fixture(scope="module")
def name(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("model"), size=SIZE)  # quick to compile


@pytest.fixture
def graphs() -> Iterator[dict[str, Counter[str]]]:
    """Compiles anew, and counts from nothing: the compiler's own counts."""
    import torch._dynamo.utils as compiler  # seconds that collecting the tests need not take

    torch._dynamo.reset()
    compiler.counters.clear()
    yield compiler.counters
    torch._dynamo.reset()


class Full:
    """In place of the image tower: holds `most` images at a time, and remembers how many it was given."""

    def __init__(self, encoder: Encoder, most: int) -> None:
        self.image, self.most, self.seen = encoder._image, most, list[int]()
        encoder._image = self

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(images))
        if len(images) > self.most:
            raise torch.OutOfMemoryError
        result: torch.Tensor = self.image(images)
        return result


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_a_batch_that_does_not_fit_is_halved(
    name: str, device: torch.device, tmp_path: Path, graphs: object, compiled: bool
) -> None:
    handle = resolve({"name": name}, tmp_path)
    with handle.load(device) as plain:
        wanted = through(plain, device, 0)
    with handle.load(device, compile=compiled) as encoder:
        tower = Full(encoder, 8)
        torch.testing.assert_close(through(encoder, device, 0), wanted, rtol=0, atol=1e-5)
        assert tower.seen[:3] == [BATCH, BATCH // 2, BATCH // 4]
        assert set(tower.seen[2:]) <= {BATCH // 4, *(() if compiled else range(1, BATCH // 4))}


def test_memory_that_really_ends(device: torch.device, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if device.type != "cuda":
        pytest.skip("the CPU's memory does not end with an error")
    with resolve({"name": write_tower(tmp_path / "ViT", "ViT")}, tmp_path).load(device) as encoder:
        wanted = through(encoder, device, 0)
        gc.collect()
        torch.cuda.empty_cache()
        # One layer of a batch of 480 makes 50 MB of activations, beside 24 MB of float32 pixels.
        most = torch.cuda.memory_reserved(device) + 40 * 2**20
        torch.cuda.set_per_process_memory_fraction(most / torch.cuda.get_device_properties(device).total_memory, device)
        try:
            found = through(encoder, device, 0, COUNT - 20)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        assert "out of device memory: going on with batches of 240" in caplog.text
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_run_is_one_graph(
    name: str, device: torch.device, tmp_path: Path, graphs: dict[str, Counter[str]], precision: str
) -> None:
    handle = resolve({"name": name}, tmp_path)
    with handle.load(device, precision) as plain:
        wanted = through(plain, device, 0)
    with handle.load(device, precision, compile=True) as encoder:
        found = through(encoder, device, 0)
    near = 1e-5 if precision == "fp32" else 2e-2
    torch.testing.assert_close(found, wanted, rtol=0, atol=near)
    assert graphs["stats"]["unique_graphs"] == 1, dict(graphs["graph_break"])
    assert COUNT % BATCH, "the last batch was smaller"
