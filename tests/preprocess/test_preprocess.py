"""Pixels against open_clip's own transform, bit for bit, over formats, modes, shapes and settings."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torchvision.transforms as tv
from open_clip.transform import PreprocessCfg, image_transform, image_transform_v2
from PIL import Image

from clipeval.preprocess import transforms as module
from clipeval.preprocess.jpeg import read_plain
from clipeval.preprocess.reading import read_transform
from clipeval.preprocess.transforms import CustomTransform, Preprocess, from_open_clip

torch.set_num_threads(1)
SHAPES = [(500, 375), (375, 500), (33, 57), (1, 9), (17, 16), (64, 64), (255, 1000), (300, 40)]
CONFIGS: list[dict[str, Any]] = [
    {"size": 32},
    {"size": (32, 48)},
    {"size": (48, 30), "interpolation": "bilinear"},
    {"size": 40, "resize_mode": "squash"},
    {"size": 40, "resize_mode": "longest", "fill_color": 7},
    {"size": (48, 30), "resize_mode": "longest"},
    {"size": 37, "interpolation": "bilinear"},
    {"size": 64},
    {"size": 224, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
]


def natural(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours with some noise: compresses and resizes as photographs do."""
    rng = np.random.default_rng((seed, width, height))
    small = rng.integers(0, 255, (max(2, height // 12), max(2, width // 12), 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((image + rng.integers(-14, 14, image.shape)).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def grey16(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def transparent_palette(image: Image.Image) -> bytes:
    return encoded(image.convert("P"), "PNG", transparency=3)


def rotated_by_exif(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, "JPEG", exif=exif)


FORMATS: dict[str, Callable[[Image.Image], bytes]] = {
    "jpeg 4:4:4": lambda i: encoded(i, "JPEG", subsampling=0),
    "jpeg 4:2:2": lambda i: encoded(i, "JPEG", subsampling=1),
    "jpeg 4:2:0": lambda i: encoded(i, "JPEG", subsampling=2, quality=95),
    "jpeg progressive": lambda i: encoded(i, "JPEG", progressive=True, subsampling=2),
    "jpeg progressive 4:4:4": lambda i: encoded(i, "JPEG", progressive=True, subsampling=0, quality=40),
    "jpeg restart blocks": lambda i: encoded(i, "JPEG", restart_marker_blocks=3),
    "jpeg restart rows": lambda i: encoded(i, "JPEG", restart_marker_rows=1, subsampling=1),
    "jpeg grey": lambda i: encoded(i.convert("L"), "JPEG"),
    "jpeg CMYK": lambda i: encoded(i.convert("CMYK"), "JPEG"),
    "jpeg RGB": lambda i: encoded(i, "JPEG", keep_rgb=True),
    "jpeg EXIF orientation": rotated_by_exif,
    "png RGB": lambda i: encoded(i, "PNG"),
    "png L": lambda i: encoded(i.convert("L"), "PNG"),
    "png LA": lambda i: encoded(i.convert("LA"), "PNG"),
    "png P": lambda i: encoded(i.convert("P"), "PNG"),
    "png P transparent": transparent_palette,
    "png RGBA": lambda i: encoded(_with_alpha(i), "PNG"),
    "png 1": lambda i: encoded(i.convert("1"), "PNG"),
    "png 16 bits": lambda i: encoded(grey16(i), "PNG"),
    "webp lossless": lambda i: encoded(i, "WEBP", lossless=True),
    "webp": lambda i: encoded(i, "WEBP"),
    "webp RGBA": lambda i: encoded(_with_alpha(i), "WEBP"),
    "webp animated": lambda i: encoded(i, "WEBP", save_all=True, append_images=[i.rotate(90)]),
    "gif animated": lambda i: encoded(i, "GIF", save_all=True, append_images=[i.rotate(90)]),
    "tiff CMYK": lambda i: encoded(i.convert("CMYK"), "TIFF"),
    "bmp": lambda i: encoded(i, "BMP"),
}


@lru_cache
def file(kind: str, shape: tuple[int, int]) -> bytes:
    """A picture of a shape, encoded; some encoders are slow."""
    return FORMATS[kind](natural(*shape))


def _with_alpha(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    image.putalpha(natural(*image.size, seed=1).convert("L"))
    return image


@pytest.mark.parametrize("convert", ["rgb_first", "as_decoded"])
@pytest.mark.parametrize("kind", list(FORMATS))
def test_bit_identical_to_open_clip(kind: str, convert: Any) -> None:
    for number, shape in enumerate(SHAPES[2:6] if kind.startswith("gif") else SHAPES):  # GIF's quantisation is slow
        data = file(kind, shape)
        # All configs on one shape, one or two on each of the others: each pair of shape and config occurs over the formats.
        for cfg in CONFIGS if number == 0 else (CONFIGS[(number + len(kind)) % len(CONFIGS)], CONFIGS[0]):
            image = Image.open(io.BytesIO(data))
            transform = image_transform_v2(PreprocessCfg(**cfg), is_train=False)
            expected = transform(image.convert("RGB") if convert == "rgb_first" else image)
            ours = from_open_clip(cfg)
            pixels = ours.pixels(data, convert)
            assert pixels.dtype == torch.uint8
            assert torch.equal(ours.normalise(pixels[None])[0], expected), (cfg, shape)


def test_the_jpeg_short_cut_is_taken_only_where_it_is_safe() -> None:
    """Otherwise the test above would compare Pillow with itself."""
    image = natural(64, 48)
    for kind, encode in FORMATS.items():
        plain = read_plain(encode(image))
        short = kind.startswith("jpeg") and kind not in ("jpeg CMYK", "jpeg RGB")
        assert (plain is not None) == short, kind
        if plain is not None:
            assert plain == (48, 64, 1 if kind == "jpeg grey" else 3)


def test_damaged_jpegs_give_what_pillow_gives() -> None:
    """Bytes flipped and cut: the same pixels as Pillow where both decode, and never pixels where Pillow refuses."""
    rng = np.random.default_rng(0)
    originals = [encoded(natural(97, 61), "JPEG", subsampling=s, progressive=p) for s in (0, 2) for p in (False, True)]
    both = 0
    for i in range(300):
        data = bytearray(originals[i % 4])
        if i % 3 == 0:
            data = data[: rng.integers(10, len(data))]
        else:
            for _ in range(3):
                data[rng.integers(2, len(data))] = rng.integers(0, 256)
        ours = module._decode_plain_jpeg(bytes(data))
        if ours is None:
            continue
        pillow = np.asarray(Image.open(io.BytesIO(bytes(data))))
        assert np.array_equal(pillow.reshape(*pillow.shape[:2], -1), ours.permute(1, 2, 0).numpy())
        both += 1
    assert both > 50


@pytest.mark.parametrize("kind", ["jpeg 4:2:0", "jpeg progressive 4:4:4", "jpeg grey", "png RGB", "webp", "png RGBA"])
def test_fast_is_close(kind: str) -> None:
    for number, shape in enumerate([(500, 375), (375, 500), (255, 700), (640, 640), (30, 40)]):
        data = FORMATS[kind](natural(*shape))
        for cfg in (CONFIGS[-1], CONFIGS[3 + number % 3], {"size": 336}):
            preprocess = from_open_clip(cfg)
            exact, fast = (preprocess.pixels(data, fast=f).to(torch.int16) for f in (False, True))
            assert fast.shape == (3, *preprocess.size)
            difference = (exact - fast).abs()
            assert int(difference.max()) <= 2, (cfg, shape)
            # Of images much taller than wide, Pillow resizes the columns first, torch the rows: they round in between.
            assert float((difference > 0).float().mean()) < (0.35 if shape[1] > 2 * shape[0] else 0.02), (cfg, shape)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"not an image at all", "no image format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image format"),
        (b"\xff\xd8\xff", "cannot be decoded"),
        (encoded(natural(90, 80), "JPEG")[:1500], "cannot be decoded"),
        (encoded(natural(90, 80), "PNG")[:5000], "cannot be decoded"),
        (encoded(natural(90, 80), "WEBP")[:500], "cannot be decoded|no image format"),
        (b"GIF89a", "cannot be decoded|no image format"),
    ],
)
def test_bad_data_is_a_value_error(data: bytes, reason: str, fast: bool) -> None:
    for preprocess in (Preprocess((32, 32)), CustomTransform(tv.ToTensor(), "x", "test")):
        with pytest.raises(ValueError, match=reason):
            preprocess.pixels(data, fast=fast)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_decompression_bombs(kind: str, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(natural(90, 80), kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow refuses above twice that
    with pytest.raises(ValueError, match=r"data.max_pixels=N"):
        Preprocess((32, 32)).pixels(data, fast=fast)


@pytest.mark.parametrize("fast", [False, True])
def test_extreme_shapes_do_not_fill_the_memory(fast: bool) -> None:
    data = encoded(Image.new("RGB", (60_000, 1)), "PNG")
    with pytest.raises(ValueError, match="60000x1"):
        Preprocess((224, 224)).pixels(data, fast=fast)


def test_settings_are_checked() -> None:
    for wrong in ({"interpolation": "nearest"}, {"resize_mode": "crop"}, {"size": (0, 3)}):
        with pytest.raises(ValueError, match=str(next(iter(wrong.values())))[:4].replace("(", r"\(")):
            Preprocess(**{"size": (32, 32), **wrong})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="uint8"):
        Preprocess((32, 32)).normalise(torch.zeros(1, 3, 32, 32))


def test_digest_and_pickling() -> None:
    one = Preprocess((224, 224))
    assert pickle.loads(pickle.dumps(one)) == one == from_open_clip({"size": 224})  # noqa: S301
    others = [
        Preprocess((224, 225)),
        Preprocess((224, 224), mean=(0.5, 0.5, 0.5)),
        Preprocess((224, 224), std=(0.5, 0.5, 0.5)),
        Preprocess((224, 224), interpolation="bilinear"),
        Preprocess((224, 224), resize_mode="squash"),
        Preprocess((224, 224), fill_color=1),
    ]
    assert len({p.digest for p in (one, *others)}) == 7
    assert "224x224" in one.describe()


@pytest.mark.parametrize("cfg", CONFIGS)
def test_open_clip_transforms_are_read(cfg: dict[str, Any]) -> None:
    transform = image_transform_v2(PreprocessCfg(**cfg), is_train=False)
    read = read_transform(transform, "x")
    assert isinstance(read, Preprocess), read.reason
    expected = from_open_clip(cfg)
    if cfg["size"] != (48, 30) or cfg.get("resize_mode"):  # open_clip ignores the interpolation of a non-square target
        assert (read.size, read.interpolation, read.resize_mode) == (
            expected.size,
            expected.interpolation,
            expected.resize_mode,
        )


NORMALISE = tv.Normalize((0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    ("transform", "reason"),
    [
        (lambda image: torch.zeros(3, 8, 8), "not a torchvision Compose"),
        (tv.Compose([tv.Resize(32), tv.ToTensor()]), "no Normalize"),
        (
            tv.Compose([tv.Resize(32, tv.InterpolationMode.NEAREST), tv.CenterCrop(32), tv.ToTensor(), NORMALISE]),
            "nearest",
        ),
        (image_transform(32, is_train=True), "no Resize"),
        (
            tv.Compose([tv.Resize(40), tv.CenterCrop(32), lambda i: i.convert("RGB"), tv.ToTensor(), NORMALISE]),
            "differs",
        ),
        (
            tv.Compose(
                [
                    lambda i: i.convert("RGB"),
                    tv.Resize(32, tv.InterpolationMode.BICUBIC),
                    tv.CenterCrop(32),
                    tv.ToTensor(),
                    NORMALISE,
                ]
            ),
            "differs .* P image",
        ),
    ],
)
def test_other_transforms_run_as_they_are(transform: Callable[[Image.Image], Any], reason: str) -> None:
    read = read_transform(transform, "mine")
    assert isinstance(read, CustomTransform)
    assert re.search(reason, read.reason), read.reason
    assert read.digest == "mine"
    assert not read.exact


def test_original_clip_transform_is_read() -> None:
    """OpenAI's own: resize, crop, convert, to tensor, normalise."""
    steps = [tv.Resize(48, tv.InterpolationMode.BICUBIC), tv.CenterCrop(48), lambda i: i.convert("RGB"), tv.ToTensor()]
    constants = tv.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    assert read_transform(tv.Compose([*steps, constants]), "x") == Preprocess((48, 48))


def test_opaque_gives_the_transform_s_own_tensor() -> None:
    seen = []

    def transform(image: Image.Image) -> torch.Tensor:
        seen.append(image.mode)
        return tv.functional.to_tensor(image.convert("RGB")).double()

    opaque = CustomTransform(transform, "x", "test")
    data = encoded(natural(9, 7).convert("P"), "PNG")
    first, second = opaque.pixels(data, "rgb_first"), opaque.pixels(data, "as_decoded")
    assert seen == ["RGB", "P"]
    assert first.shape == (3, 7, 9)
    assert first.dtype == torch.float32
    assert torch.equal(first, second)
    assert opaque.normalise(first) is first
    with pytest.raises(ValueError, match=r"must give a tensor \[3, height, width\]"):
        CustomTransform(lambda image: np.zeros((3, 4, 4)), "x", "test").pixels(data)


def test_every_tag_s_preprocessing_can_be_read() -> None:
    for model, tag in open_clip.list_pretrained():
        cfg = open_clip.get_pretrained_cfg(model, tag)
        assert isinstance(from_open_clip(cfg), Preprocess)
