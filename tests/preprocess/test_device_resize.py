"""Resizing on the encoder's side: Pillow's pixels bit for bit, whoever resizes, in bounded memory."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from clipeval.decoding import decoders
from clipeval.decoding.decoders import DecodeJob
from clipeval.engine.stream import ImageStream, StreamOptions
from clipeval.preprocess import packed
from clipeval.preprocess.device_resize import DeviceResize, is_exact
from clipeval.preprocess.resample import axis_weights
from clipeval.preprocess.transforms import Preprocess
from tests.engine.fake_cuda import FakeCuda
from tests.preprocess.resample_trials import differs, draw

CPU = torch.device("cpu")
SHAPES = [(30, 50, 3), (50, 30, 3), (10, 10), (90, 7, 3), (24, 24, 3), (3, 70, 3), (1, 1), (80, 27, 3)]


def encoded(shape: tuple[int, ...], seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def fill(preprocess: Preprocess, images: list[bytes], capacity: int = 1 << 20) -> torch.Tensor:
    """A block with these images."""
    block = np.full(max(capacity, packed.least_bytes(preprocess, len(images))), 77, dtype=np.uint8)
    packer = packed.Packer(preprocess, block, len(images))
    for image in images:
        packer.add(image, "rgb_first")
    return torch.from_numpy(block)[: packer.used]


@pytest.mark.filterwarnings("ignore:Palette images")
def test_random_pictures_have_pillows_pixels() -> None:
    """A sample; `python -m tests.preprocess.resample_trials 5000` tries as many as one likes."""
    rng = np.random.default_rng(7)
    trials = [draw(rng) for _ in range(40)]
    assert [trial.what for trial in trials if differs(trial)] == []
    assert sum(trial.vertical for trial in trials) >= 2
    assert {trial.preprocess.resize_mode for trial in trials} == {"shortest", "longest", "squash"}


@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
def test_sums_stay_within_int32_and_weights_within_their_window(how: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        source, target = int(rng.integers(1, 900)), int(rng.integers(1, 900))
        first, weights = axis_weights(source, target, how, 0, target)
        assert int(np.abs(weights.astype(np.int64)).sum(axis=0).max()) * 255 + (1 << 21) < 2**31
        assert (np.abs(weights.astype(np.int64).sum(axis=0) - (1 << 22)) <= len(weights)).all()
        past = first + np.arange(len(weights))[:, None] >= source
        assert not weights[past].any() and (first >= 0).all()
        middle = axis_weights(source, target, how, target // 3, max(1, target // 2))
        columns = slice(target // 3, target // 3 + max(1, target // 2))
        assert np.array_equal(middle.weights, weights[: len(middle.weights), columns][:, : middle.weights.shape[1]])


@pytest.mark.parametrize("capacity", [0, 20_000, 1 << 20])
def test_a_block_of_any_capacity_gives_the_same_pixels(capacity: int) -> None:
    """What it has no room for is resized beforehand; at a capacity of 0 it holds just that."""
    images = [encoded(shape) for shape in SHAPES]
    for preprocess in (Preprocess((24, 24)), Preprocess((24, 40), resize_mode="longest", fill_color=9)):
        block = fill(preprocess, images, capacity)
        got = packed.resize(block, packed.descriptors(block, len(images)), preprocess)
        assert torch.equal(got, torch.stack([preprocess.pixels(image) for image in images]))
        assert len(block) <= max(capacity, packed.least_bytes(preprocess, len(images)))


def test_a_watermark_is_drawn_on_the_resized_picture_in_a_block_as_well() -> None:
    preprocess = Preprocess((32, 32))
    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    image, how = encoded((60, 80, 3)), f"watermark:{font}"
    block = np.zeros(packed.least_bytes(preprocess, 2), dtype=np.uint8)
    packer = packed.Packer(preprocess, block, 2)
    for convert in (how, "rgb_first"):
        packer.add(image, convert)
    filled = torch.from_numpy(block)[: packer.used]
    marked, plain = packed.resize(filled, packed.descriptors(filled, 2), preprocess)
    assert torch.equal(marked, preprocess.pixels(image, how)) and torch.equal(plain, preprocess.pixels(image))
    assert (marked != plain).any()


def test_an_image_that_cannot_be_read_leaves_no_trace() -> None:
    preprocess, block = Preprocess((24, 24)), np.zeros(100_000, dtype=np.uint8)
    packer = packed.Packer(preprocess, block, 4)
    good = [encoded((30, 40, 3)), encoded((9, 50, 3))]
    for image in (b"", good[0], b"no image", good[0][:-40], good[1]):
        if image in good:
            packer.add(image, "rgb_first")
        else:
            with pytest.raises(ValueError, match="image"):
                packer.add(image, "rgb_first")
    assert packer.count == 2
    whole = torch.from_numpy(block)
    got = packed.resize(whole[: packer.used], packed.descriptors(whole, 2), preprocess)
    assert torch.equal(got, torch.stack([preprocess.pixels(image) for image in good]))


class Pictures:
    """Pictures of every size and several modes; every eleventh is no image."""

    digest = "pictures"

    def __len__(self) -> int:
        return 100

    def read(self, position: int) -> bytes:
        if position % 11 == 5:
            return b"no image"
        rng = np.random.default_rng(position)
        height, width = rng.integers(1, 90, 2)
        image = Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8))
        buffer = io.BytesIO()
        image.convert(("RGB", "L", "RGBA", "P")[position % 4]).save(buffer, "PNG")
        return buffer.getvalue()

    def location(self, position: int) -> str:
        return f"picture {position}"


class Pixels:
    """An encoder that gives what it sees."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def encode(self, output: str, batch: torch.Tensor, mixed: bool = False) -> torch.Tensor:
        return batch.flatten(1)


def embed(options: StreamOptions, preprocess: Preprocess) -> tuple[dict[tuple[int, int], torch.Tensor], list[str]]:
    jobs = [DecodeJob("a", Pictures(), np.arange(100), "rgb_first", False)]
    jobs.append(DecodeJob("b", Pictures(), np.arange(99, 0, -3), "as_decoded", False))
    stream = ImageStream(jobs, preprocess, options, CPU)
    rows: dict[tuple[int, int], torch.Tensor] = {}
    failures: list[str] = []
    try:
        for piece in stream.embed(Pixels(preprocess)):  # type: ignore[arg-type]
            failures += [reason for _, reason in piece.failures]
            if len(piece.rows):
                places = [(piece.job, int(index)) for index in piece.indices]
                rows.update(zip(places, piece.rows, strict=True))
    finally:
        stream.close()
    return rows, failures


@pytest.mark.filterwarnings("ignore:This DataLoader")
@pytest.mark.parametrize("memory", [1, 1 << 20])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_stream_gives_the_same_rows_whoever_resizes(
    monkeypatch: pytest.MonkeyPatch, workers: int, memory: int
) -> None:
    monkeypatch.setattr(decoders, "PACKED_BYTES", memory)
    preprocess = Preprocess((24, 16), resize_mode="squash")
    wanted, failed = embed(StreamOptions(0, 13, on_error="skip"), preprocess)
    got, failed_too = embed(StreamOptions(workers, 13, on_error="skip", device_resize=True), preprocess)
    assert failed == failed_too and len(failed) == 12
    assert got.keys() == wanted.keys() and all(torch.equal(got[key], wanted[key]) for key in got)


def test_a_pillow_with_another_arithmetic_resizes_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(packed, "vertical_first", lambda *sizes: False)
    is_exact.cache_clear()
    preprocess = Preprocess((24, 24), resize_mode="squash")
    try:
        got, _ = embed(StreamOptions(0, 13, on_error="skip", device_resize=True), preprocess)
    finally:
        is_exact.cache_clear()
    assert "arithmetic of its own" in caplog.text
    wanted, _ = embed(StreamOptions(0, 13, on_error="skip"), preprocess)
    assert all(torch.equal(got[key], wanted[key]) for key in wanted)


def test_a_device_that_cannot_or_miscalculates_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The device `meta` computes nothing; a `cuda` whose kernel is one off, and whose tensor operations do not run."""
    images = [encoded(shape) for shape in SHAPES]
    preprocess = Preprocess((24, 24))
    wanted = torch.stack([preprocess.pixels(image) for image in images])
    assert torch.equal(DeviceResize(preprocess, torch.device("meta"))(fill(preprocess, images), len(images)), wanted)
    assert "not resized by tensor operations on meta" in caplog.text and "resized on the CPU" in caplog.text

    FakeCuda(monkeypatch)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: tensor)
    resize = DeviceResize(preprocess, torch.device("cuda"))
    monkeypatch.setattr(resize, "_by_triton", lambda block, about: packed.resize(block, about, preprocess) + 1)
    monkeypatch.setattr(resize, "_by_tensors", lambda block, about: 1 // 0)
    assert torch.equal(resize(fill(preprocess, images), len(images)), wanted)
    assert "Triton kernel on cuda: its pixels are not Pillow's" in caplog.text and "ZeroDivisionError" in caplog.text


INTERPRETED = """
import numpy as np, torch
from clipeval.preprocess import packed, resize_triton
from clipeval.preprocess.transforms import Preprocess
from tests.preprocess.test_device_resize import encoded, fill
resize_triton.TILE_FIRST, resize_triton.TILE_SECOND = 16, 8
for preprocess, shapes in [
    (Preprocess((12, 12)), [(16, 20, 3), (30, 12), (5, 7, 3)]),
    (Preprocess((9, 18), resize_mode="longest", interpolation="bilinear", fill_color=9), [(14, 12, 3), (12, 12, 3)]),
    (Preprocess((18, 7), resize_mode="squash"), [(26, 8, 3), (9, 20, 3)]),
]:
    images = [encoded(shape) for shape in shapes]
    block = fill(preprocess, images)
    got = resize_triton.resize(block, len(images), preprocess)
    assert torch.equal(got, torch.stack([preprocess.pixels(image) for image in images])), preprocess
print("exact")
"""


def test_the_triton_kernel_is_exact_under_its_interpreter() -> None:
    """Crops, padding, grey, both orders of the passes, images that span several tiles."""
    pytest.importorskip("triton")
    words = [sys.executable, "-c", INTERPRETED]
    done = subprocess.run(
        words, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert done.stdout.endswith("exact\n"), done.stderr


@pytest.mark.parametrize("target", [("cuda", 80, 32), ("cuda", 90, 32), ("hip", "gfx942", 64)])
def test_the_triton_kernel_compiles_for_devices_that_are_not_here(
    target: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from clipeval.preprocess import resize_triton

    kinds = {"block": "*u8", "words": "*i32", "out": "*u8", "plane": "i32", "fill": "i32"}
    tiles = {"tile_first": resize_triton.TILE_FIRST, "tile_second": resize_triton.TILE_SECOND}
    source = ASTSource(resize_triton._kernel, {**kinds, **dict.fromkeys(tiles, "constexpr")}, tiles)
    made = triton.compile(source, target=GPUTarget(*target), options={"num_warps": 2})
    assert len(made.asm["cubin" if target[0] == "cuda" else "hsaco"])
