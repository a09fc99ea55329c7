"""The stream against batch by batch, on a device that is slow to answer: what waits for too little gives other images' rows."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clipeval.decoding.decoders import DecodeJob
from clipeval.decoding.uploads import Uploads
from clipeval.engine.stream import ImageStream, StreamOptions
from clipeval.models import resolve
from clipeval.models.batch_size import default_batch
from clipeval.preprocess.device_resize import DeviceResize
from clipeval.preprocess.packed import Packer
from clipeval.preprocess.transforms import Preprocess
from tests.gpu.towers import SIZE, write_tower

COUNT, BATCH = 500, 24
"""Of the last batch, a part."""


class Noise:
    """Pictures of noise, each another."""

    digest = "noise"

    def __len__(self) -> int:
        return COUNT

    def pixels(self, place: int) -> np.ndarray:
        rng = np.random.default_rng(place)
        return np.clip(rng.integers(0, 256, 3) + rng.integers(-60, 60, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)

    def read(self, place: int) -> bytes:
        data = io.BytesIO()
        Image.fromarray(self.pixels(place)).save(data, "PNG", compress_level=1)
        return data.getvalue()

    def location(self, place: int) -> str:
        return str(place)


class Slow:
    """Gives the sums of the images it was sent, once the device has slept: a copy that is not waited for is late or early."""

    preprocess = Preprocess((SIZE, SIZE))

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def encode(self, output: str, batch: torch.Tensor, mixed: bool = False) -> torch.Tensor:
        with torch.cuda.device(self.device) if self.device.type == "cuda" else torch.no_grad():
            if self.device.type == "cuda":
                torch.cuda._sleep(20_000_000)  # about 10 ms
            images = batch if batch.dtype == torch.uint8 else (batch * 255).round()
            return images.double().sum(dim=(2, 3)).float()


@pytest.fixture(scope="module")
def name(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tower(tmp_path_factory.mktemp("ViT"), "ViT")


def through(
    encoder: Any, device: torch.device, workers: int, size: int | None = BATCH, resize: bool = False
) -> torch.Tensor:
    """Every picture's row, by the stream, in the pictures' order; two jobs, so that a batch crosses their border."""
    half = np.arange(0, COUNT, 2), np.arange(1, COUNT, 2)
    jobs = [DecodeJob(f"job {i}", Noise(), places, "rgb_first", False) for i, places in enumerate(half)]
    stream = ImageStream(jobs, encoder.preprocess, StreamOptions(workers, size, device_resize=resize), device)
    rows: dict[int, torch.Tensor] = {}
    try:
        for piece in stream.embed(encoder):
            rows.update(zip(piece.indices.tolist(), piece.rows, strict=True))
    finally:
        stream.close()
    assert len(rows) == COUNT
    return torch.stack([rows[place] for place in range(COUNT)])


def all_pixels() -> torch.Tensor:
    return torch.stack([torch.from_numpy(Noise().pixels(place)).permute(2, 0, 1) for place in range(COUNT)])


def check(name: str, device: torch.device, folder: Path, workers: int, resize: bool = False) -> None:
    with resolve({"name": name}, folder).load(device) as encoder:
        assert encoder.device == device
        pixels = all_pixels()
        order = np.concatenate([np.arange(0, COUNT, 2), np.arange(1, COUNT, 2)])
        alone = torch.cat([encoder.encode_images(part).cpu() for part in pixels[order].split(BATCH)])
        wanted = torch.empty_like(alone)
        wanted[order] = alone
        assert float(torch.pdist(wanted).min()) > 1e-4, "two images that look alike to this model"
        torch.testing.assert_close(through(encoder, device, workers, resize=resize), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("resize", [False, True], ids=["workers", "device"])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_stream_is_batch_by_batch(
    name: str, device: torch.device, tmp_path: Path, workers: int, resize: bool, caplog: pytest.LogCaptureFixture
) -> None:
    check(name, device, tmp_path, workers, resize)
    assert "copied once more" not in caplog.text, "the decoders' memory is registered with CUDA"


@pytest.mark.parametrize("resize", [False, True], ids=["workers", "device"])
def test_the_stream_on_a_device_that_is_not_the_current_one(
    name: str, second: torch.device, tmp_path: Path, resize: bool
) -> None:
    check(name, second, tmp_path, 2, resize)


def expected_sums(device: torch.device) -> torch.Tensor:
    pixels = all_pixels()
    if device.type == "cpu":  # the stream normalises on the CPU
        return (Slow.preprocess.normalise(pixels) * 255).round().double().sum(dim=(2, 3)).float()
    return pixels.double().sum(dim=(2, 3)).float()


@pytest.mark.parametrize("resize", [False, True], ids=["workers", "device"])
@pytest.mark.parametrize("workers", [0, 1, 4])
def test_a_slow_device_gets_every_image_once_and_whole(device: torch.device, workers: int, resize: bool) -> None:
    assert torch.equal(through(Slow(device), device, workers, resize=resize), expected_sums(device))


@pytest.mark.parametrize("resize", [False, True], ids=["workers", "device"])
def test_a_slow_second_device_gets_every_image_once_and_whole(second: torch.device, resize: bool) -> None:
    assert torch.equal(through(Slow(second), second, 4, resize=resize), expected_sums(second))


def test_memory_that_cuda_does_not_register_is_copied_once_more(
    device: torch.device, caplog: pytest.LogCaptureFixture
) -> None:
    """Registered twice: CUDA refuses, and what is launched afterwards must not be told of it."""
    if device.type != "cuda":
        pytest.skip("nothing is registered for the CPU")
    memory = torch.arange(1 << 20, dtype=torch.int32)
    first, second = Uploads(device), Uploads(device)
    first.register(memory)
    second.register(memory)
    assert "copied once more" in caplog.text
    for sender, direct in ((first, True), (second, False)):
        there, free = sender.send(memory)
        assert (free is not None) is direct and torch.equal((there + 1).cpu(), memory + 1)
        sender.close()


def test_images_are_resized_by_the_kernel_to_pillows_pixels(
    device: torch.device, caplog: pytest.LogCaptureFixture
) -> None:
    rng, preprocess = np.random.default_rng(0), Preprocess((SIZE, SIZE))
    shapes = [(int(rng.integers(8, 300)), int(rng.integers(8, 300)), 3) for _ in range(40)]
    data = []
    for shape in shapes:
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(buffer, "PNG", compress_level=0)
        data.append(buffer.getvalue())
    block = np.zeros(1 << 24, dtype=np.uint8)
    packer = Packer(preprocess, block, len(data))
    for image in data:
        packer.add(image, "rgb_first")
    resize = DeviceResize(preprocess, device)
    found = resize(torch.from_numpy(block)[: packer.finish()], len(data))
    assert torch.equal(found.cpu(), torch.stack([preprocess.pixels(image) for image in data]))
    if device.type == "cuda":
        assert resize.way == resize._by_triton and "not resized by" not in caplog.text


def test_the_batch_size_that_is_found_serves(name: str, device: torch.device, tmp_path: Path) -> None:
    with resolve({"name": name}, tmp_path).load(device) as encoder:
        size = default_batch(encoder, device)
        assert size in {2**power for power in range(13)}
        found = through(encoder, device, 2, None)
        torch.testing.assert_close(found, through(encoder, device, 2), rtol=0, atol=1e-5)
