"""`runtime.preprocess=nvjpeg`, its decoder simulated: JPEGs reach the device encoded, and everything else reaches it as ever."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.io
from PIL import Image

from clipeval.configs.errors import ClipevalError
from clipeval.decoding import decoders
from clipeval.decoding.decoders import DecodeJob
from clipeval.engine.features import feature_specs
from clipeval.engine.runner import RunOptions
from clipeval.engine.stream import ImageStream, StreamOptions
from clipeval.preprocess import nvjpeg
from clipeval.preprocess.device_resize import DeviceResize
from clipeval.preprocess.nvjpeg import DeviceDecode, JpegPacker, require_nvjpeg
from clipeval.preprocess.packed import least_bytes
from clipeval.preprocess.transforms import CustomTransform, Preprocess

CPU = torch.device("cpu")
SHAPES = [(40, 60, 3), (61, 33, 3), (30, 30), (24, 24, 3), (90, 11, 3)]


@pytest.fixture(autouse=True)
def two_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its 21 pictures are more than decoders hand over at once."""
    monkeypatch.setattr(decoders, "PACKED_CHUNK", 16)


def encoded(shape: tuple[int, ...], kind: str, seed: int, **how: Any) -> bytes:
    """Noise over a slope."""
    rng, buffer = np.random.default_rng(seed), io.BytesIO()
    slope = np.linspace(0, 200, shape[1]).reshape(1, -1, *([1] * (len(shape) - 2)))
    Image.fromarray((slope + rng.integers(0, 50, shape)).astype(np.uint8)).save(buffer, kind, **how)
    return buffer.getvalue()


class Mixed:
    """JPEGs, grey and progressive ones too, and what nvJPEG is not given: PNGs, CMYK, a JPEG that is cut short."""

    digest = "mixed"

    def __init__(self, broken: bool = False) -> None:
        self.data = [encoded(shape, "JPEG", seed) for seed, shape in enumerate(SHAPES * 4)]
        self.data += [encoded(shape, "PNG", 30 + seed) for seed, shape in enumerate(SHAPES)]
        self.data.append(encoded((50, 50, 3), "JPEG", 40, progressive=True))
        cmyk = io.BytesIO()
        Image.open(io.BytesIO(self.data[0])).convert("CMYK").save(cmyk, "JPEG")
        self.data.append(cmyk.getvalue())
        if broken:
            self.data[7] = self.data[7][:-200]
            self.data[9] = b"nothing"

    def __len__(self) -> int:
        return len(self.data)

    def read(self, place: int) -> bytes:
        return self.data[place]

    def location(self, place: int) -> str:
        return f"picture {place}"


class Decoder:
    """In place of `torchvision.io.decode_jpeg`; one brighter than libjpeg, so that its pixels are known."""

    def __init__(self, patch: pytest.MonkeyPatch, refuses: int = 0) -> None:
        self.calls: list[int] = []
        self.refuses = refuses
        self.real = torchvision.io.decode_jpeg
        patch.setattr(torchvision.io, "decode_jpeg", self)

    def __call__(self, jpegs: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        self.calls.append(len(jpegs))
        if any(len(jpeg) == self.refuses for jpeg in jpegs):
            raise RuntimeError("nvjpegDecodeBatched failed: 5")
        return [self.real(jpeg).clamp(max=254) + 1 for jpeg in jpegs]


class Keep:
    """Keeps the pixels as they come: the stream's own encoder would normalise them."""

    preprocess: Any = SimpleNamespace(normalise=lambda batch: batch)

    def encode(self, output: str, batch: torch.Tensor, mixed: bool = False) -> torch.Tensor:
        return batch.reshape(len(batch), -1).float()


def through(
    images: Mixed, transform: Preprocess, workers: int, on_error: str = "fail"
) -> tuple[dict[int, torch.Tensor], dict]:
    job = DecodeJob("a", images, np.arange(len(images)), "rgb_first", False)  # type: ignore[arg-type]
    options = StreamOptions(workers, 8, nvjpeg=True, on_error=on_error)
    rows: dict[int, torch.Tensor] = {}
    lost: dict[int, str] = {}
    with ImageStream([job], transform, options, CPU) as stream:
        for piece in stream.embed(Keep()):  # type: ignore[arg-type]
            lost.update(piece.failures)
            if not piece.failures:
                rows.update(zip(piece.indices.tolist(), piece.rows, strict=True))
    return rows, lost


def brighter(data: bytes) -> bytes:
    """What the simulated decoder makes of a JPEG, as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.minimum(np.asarray(Image.open(io.BytesIO(data))), 254) + 1).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("transform", [Preprocess((24, 24)), Preprocess((20, 32), resize_mode="longest", fill_color=9)])
def test_jpegs_are_decoded_on_the_device_and_the_rest_by_pillow(
    monkeypatch: pytest.MonkeyPatch, workers: int, transform: Preprocess
) -> None:
    images, decoder = Mixed(), Decoder(monkeypatch)
    found, _ = through(images, transform, workers)
    assert sum(decoder.calls) == 21 and len(decoder.calls) == 2, "those of one run at once"
    for place, data in enumerate(images.data):
        plain = place < 20 or place == 25
        wanted = transform.pixels(brighter(data) if plain else data)
        assert torch.equal(found[place], wanted.reshape(-1).float()), place


def test_what_nvjpeg_cannot_decode_pillow_does(monkeypatch: pytest.MonkeyPatch) -> None:
    images, transform = Mixed(), Preprocess((24, 24))
    decoder = Decoder(monkeypatch, refuses=len(images.data[3]))
    found, _ = through(images, transform, 0)
    assert decoder.calls[0] == 16 and decoder.calls[1:17] == [1] * 16, "one by one, where all at once do not go"
    for place in (2, 3, 4):
        data = images.data[place]
        wanted = transform.pixels(data if place == 3 else brighter(data))
        assert torch.equal(found[place], wanted.reshape(-1).float()), place


def test_an_image_of_another_shape_than_its_header_says_is_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    images, transform, decoder = Mixed(), Preprocess((24, 24)), Decoder(monkeypatch)
    monkeypatch.setattr(decoder, "real", lambda jpeg: torch.zeros(3, 5, 5, dtype=torch.uint8))
    found, _ = through(images, transform, 0)
    assert all(torch.equal(found[i], transform.pixels(data).reshape(-1).float()) for i, data in enumerate(images.data))


def test_what_nobody_can_decode_fails_or_is_skipped_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    images, transform = Mixed(broken=True), Preprocess((24, 24))
    Decoder(monkeypatch, refuses=len(images.data[3]))
    valid = images.data[3]
    images.data[3] = (
        valid[:200] + bytes(len(valid) - 202) + valid[-2:]
    )  # whole to look at: nvJPEG and Pillow both give up or not
    pillow = [place for place, data in enumerate(images.data) if not _reads(transform, data)]
    with pytest.raises(ClipevalError, match="picture 7: the image cannot be decoded"):
        through(images, transform, 0)
    found, lost = through(images, transform, 2, "skip")
    assert sorted(lost) == pillow and {7, 9} <= set(pillow) and all(f"picture {p}: " in why for p, why in lost.items())
    assert sorted(found) == [place for place in range(len(images)) if place not in lost]
    assert torch.equal(found[8], transform.pixels(brighter(images.data[8])).reshape(-1).float())


def test_a_block_that_holds_no_more_than_it_must_has_room_for_all() -> None:
    """Every image is then resized by the decoder."""
    for size in (1, 7, 24):
        preprocess = Preprocess((size, size + 3))
        for count in (1, 2, 16):
            block = np.zeros(least_bytes(preprocess, count), dtype=np.uint8)
            packer = JpegPacker(preprocess, block, count)
            data = [encoded((30 + n, 40, 3), "JPEG", n) for n in range(count)]
            for image in data:
                packer.add(image, "rgb_first")
            filled = torch.from_numpy(block)[: packer.finish()]
            assert packer.count == count
            found, lost = DeviceDecode(DeviceResize(preprocess, CPU))(filled, count)
            assert not lost and found.shape == (count, *preprocess.shape)


def _reads(transform: Preprocess, data: bytes) -> bool:
    try:
        transform.pixels(data)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("device", "transform", "said"),
    [
        (
            "cpu",
            Preprocess((24, 24)),
            r"it decodes on a CUDA device, and runtime\.device=cpu\. runtime\.preprocess=exact",
        ),
        ("mps", Preprocess((24, 24)), r"it decodes on a CUDA device, and runtime\.device=mps"),
        (
            "cuda",
            CustomTransform(torch.as_tensor, "own", "a function"),
            "own transform .* takes images that are decoded",
        ),
        (
            "cuda",
            Preprocess((24, 24)),
            r"torchvision does not decode on cuda \(not compiled with nvJPEG\); install its CUDA",
        ),
    ],
)
def test_it_is_refused_in_one_sentence_where_it_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, device: str, transform: Any, said: str
) -> None:
    def no_build(jpegs: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        raise RuntimeError("not compiled with nvJPEG\nException raised from …")

    nvjpeg._trial.cache_clear()
    monkeypatch.setattr(torchvision.io, "decode_jpeg", no_build)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    require_nvjpeg(SimpleNamespace(device=device, preprocess="exact"), transform)
    with pytest.raises(ClipevalError, match=rf"^runtime\.preprocess=nvjpeg: .*{said}"):
        require_nvjpeg(SimpleNamespace(device=device, preprocess="nvjpeg"), transform)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if isinstance(transform, Preprocess) and device == "cuda":  # of a job, seen from a node without a GPU
        require_nvjpeg(SimpleNamespace(device=device, preprocess="nvjpeg"), transform)
    nvjpeg._trial.cache_clear()


def test_its_embeddings_are_kept_apart_and_none_of_its_pixels() -> None:
    handle: Any = SimpleNamespace(
        name="m", preprocess=Preprocess((24, 24)), output_parts=lambda output: {"image": "digest"}
    )
    task: Any = SimpleNamespace(name="T", output="embeddings", mixed=False)
    data: Any = SimpleNamespace(convert="rgb_first", max_pixels=None, max_text_chunk=None)
    splits: Any = {"test": SimpleNamespace(images=Mixed())}
    keys = {}
    for how in ("exact", "fast", "nvjpeg"):
        runtime = SimpleNamespace(preprocess=how, precision="fp32", device="cuda", deterministic=False)
        spec = feature_specs(task, splits, data, SimpleNamespace(runtime=runtime), handle)["test"]  # type: ignore[arg-type]
        keys[how] = spec.key, spec.pixels_key
    assert len(set(keys.values())) == 3 and len({pixels for _, pixels in keys.values()}) == 3
    options = RunOptions(torch.device("cuda"), "fp32", False, StreamOptions(0, None, nvjpeg=True), Path("cache"))
    assert options.pixel_store(Preprocess((24, 24)), spec, "T") is None
