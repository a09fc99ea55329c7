"""From the bytes of an image to the pixels a model sees.

`Preprocess` is open_clip's evaluation transform taken apart, so that decoding and resizing can run in a worker and give
uint8, while the float arithmetic runs on the device. In exact mode the two together equal
`open_clip.image_transform_v2(cfg, is_train=False)` bit for bit; a transform that cannot be read runs as it is (`CustomTransform`).
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from torch.nn import functional

from clipeval.preprocess import watermark
from clipeval.preprocess.jpeg import read_plain

Convert = Literal["rgb_first", "as_decoded", "watermark"] | str
"""rgb_first: RGB, then resize and crop, as webdataset pipelines do. as_decoded: resize and crop in the image's own mode
(a palette image is then resized by nearest neighbour, an alpha channel is premultiplied), then RGB. watermark: as rgb_first, then
ImageNet-W's watermark, in the font that follows a colon (`clipeval.preprocess.watermark`)."""

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_CACHED_PIXELS = 2**16
MAX_RESIZED_PIXELS = 2**28
"""An image of 1 x 60,000 pixels would be resized to 224 x 13,440,000."""


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop, and the constants of the normalisation.

    >>> preprocess = Preprocess(size=(224, 224))
    >>> pixels = preprocess.pixels(Path("cat.jpg").read_bytes())        # uint8 [3, 224, 224]
    >>> batch = preprocess.normalise(pixels[None].to("cuda"))           # float32 [1, 3, 224, 224]
    """

    size: tuple[int, int]
    """Height and width."""
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    """shortest: the shorter side to the target, then a centre crop; longest: the longer side, then padding with
    `fill_color`; squash: both sides, whatever the shape."""
    fill_color: int = 0

    dtype: ClassVar[torch.dtype] = torch.uint8
    """What `pixels` gives."""
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.interpolation not in _RESAMPLING:
            raise ValueError(f"interpolation {self.interpolation!r} is not one of {', '.join(_RESAMPLING)}")
        if self.resize_mode not in ("shortest", "longest", "squash"):
            raise ValueError(f"resize_mode {self.resize_mode!r} is not one of shortest, longest, squash")
        if min(self.size) < 1:
            raise ValueError(f"size {self.size} must be a height and a width of at least 1")

    @property
    def digest(self) -> str:
        """16 hex digits, the same for the same pixels."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def describe(self) -> str:
        """One line, for records and people."""
        return (
            f"{self.resize_mode} {self.size[0]}x{self.size[1]} {self.interpolation}, mean {self.mean}, std {self.std}"
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the pixels of one image."""
        return 3, *self.size

    def pixels(
        self, data: bytes, convert: Convert = "rgb_first", fast: bool = False, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Decode, resize and crop one image.

        Args:
            data: an encoded image, of any format and mode that Pillow reads. Of an animation, the first frame. An EXIF
                orientation is not applied, since open_clip does not.
            convert: when the image becomes RGB.
            fast: torch's antialiased uint8 resize in place of Pillow's. Of a photograph's values under 1 % differ, by 1 or 2
                of 255; where the image is much taller than wide, a quarter, since Pillow then resizes columns first. JPEGs
                are not decoded at a reduced scale: on photographs that moved values by up to 70.
            out: uint8 [3, height, width], where to put them; None for memory of their own.

        Returns:
            uint8 [3, height, width] on the CPU: `out` where it is given.

        Raises:
            ValueError: the data is empty, truncated, too large or no image. It names neither shard nor key: the caller does.
        """
        out = torch.empty(self.shape, dtype=torch.uint8) if out is None else out
        if convert.startswith(watermark.PREFIX):
            resized = _convert_rgb(self._resize(_convert_rgb(_decode(data))))
            marked = watermark.watermarked(resized, convert.removeprefix(watermark.PREFIX))
            return out.copy_(torch.from_numpy(np.array(marked)).permute(2, 0, 1))
        if fast and (plain := _decode_plain_jpeg(data)) is not None:
            return out.copy_(self._resize_fast(plain))
        image = self.decode(data, convert)
        if fast and image.mode in ("L", "RGB"):
            hwc = np.array(image)
            return out.copy_(self._resize_fast(torch.from_numpy(hwc.reshape(*hwc.shape[:2], -1)).permute(2, 0, 1)))
        return self.resize(image, out)

    def decode(self, data: bytes, convert: Convert = "rgb_first") -> Image.Image:
        """The first half of `pixels`: the image as it is resized, in mode L or RGB or, as decoded, any other."""
        image = _decode(data)
        return image if image.mode in ("L", "RGB") or convert != "rgb_first" else _convert_rgb(image)

    def resize(self, image: Image.Image, out: torch.Tensor) -> torch.Tensor:
        """The second half: resized and cropped by Pillow, into `out`, uint8 [3, height, width]."""
        image = self._resize(image)
        # A plane at a time: straight copies. A grey image has one for all three.
        bands = (image if image.mode in ("L", "RGB") else _convert_rgb(image)).split()
        for plane, band in zip(out.numpy(), bands * 3 if len(bands) == 1 else bands, strict=True):
            plane[:] = np.asarray(band)
        return out

    def prepare(self, fast: bool) -> None:
        """Imports what `pixels` will need, if that takes long, so that processes which are forked afterwards have it."""
        if self.resize_mode == "longest":
            _open_clip_steps(self)
        elif fast:
            import torchvision.io  # noqa: F401

    def normalise(self, batch: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 3, h, w] to float32, by the arithmetic of ToTensor and Normalize, on the batch's own device."""
        if batch.dtype != torch.uint8:
            raise ValueError(f"expected uint8 pixels, got {batch.dtype}")
        if batch.device.type == "cpu":
            # Planes that fit the processor's cache at a time, in one thread: threads of torch that wait for each other take the
            # decoders' cores.
            out, given = np.empty(batch.shape, dtype=np.float32), batch.numpy()
            constants = _constants(self.mean, self.std, batch.device).numpy().T
            at_once = max(1, _CACHED_PIXELS // (batch.shape[2] * batch.shape[3]))
            for first in range(0, len(out), at_once):
                for channel, (scale, mean, std) in enumerate(constants):
                    planes = out[first : first + at_once, channel]
                    planes[:] = given[first : first + at_once, channel]
                    planes /= scale
                    planes -= mean
                    planes /= std
            return torch.from_numpy(out)
        # Divided by a tensor: CUDA multiplies by the reciprocal of a scalar, which is not the same number.
        scale, mean, std = _constants(self.mean, self.std, batch.device).view(3, 3, 1, 1)
        return batch.to(torch.float32).div_(scale).sub_(mean).div_(std)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after the resize and before the crop, as open_clip and torchvision round them."""
        if self.resize_mode == "squash":
            return self.size
        if self.resize_mode == "shortest" and self.size[0] == self.size[1]:
            target, short, long = self.size[0], min(height, width), max(height, width)
            stretched = int(target * long / short)
            return (target, stretched) if height <= width else (stretched, target)
        choose = min if self.resize_mode == "shortest" else max
        ratio = choose(height / self.size[0], width / self.size[1])
        return round(height / ratio), round(width / ratio)

    def _resize(self, image: Image.Image) -> Image.Image:
        """Resize and crop with Pillow, in the image's own mode."""
        height, width = self.resized(image.height, image.width)
        if min(height, width) < 1 or height * width > MAX_RESIZED_PIXELS:
            raise ValueError(f"an image of {image.width}x{image.height} pixels cannot be resized to {width}x{height}")
        if self.resize_mode == "longest":
            return cast(Image.Image, _open_clip_steps(self)(image))
        if self.resize_mode == "squash":
            return image.resize((width, height), _RESAMPLING[self.interpolation])
        # A target that is not square is resized by open_clip's ResizeKeepRatio(size), which is always bicubic.
        resampling = Image.Resampling.BICUBIC if self.size[0] != self.size[1] else _RESAMPLING[self.interpolation]
        left, top = round((width - self.size[1]) / 2.0), round((height - self.size[0]) / 2.0)
        if width > self.size[1] and height == self.size[0] and image.mode in ("L", "RGB"):
            # Pillow resizes columns, rounds to uint8, then resizes rows: what the crop takes off needs the first step only.
            if width != image.width:
                image = image.resize((width, image.height), resampling)
            image = image.crop((left, 0, left + self.size[1], image.height))
            return image if height == image.height else image.resize((self.size[1], height), resampling)
        if (height, width) != (image.height, image.width):
            image = image.resize((width, height), resampling)
        if (height, width) == self.size:
            return image
        return image.crop((left, top, left + self.size[1], top + self.size[0]))

    def _resize_fast(self, image: torch.Tensor) -> torch.Tensor:
        """uint8 [1 or 3, H, W] to uint8 [3, h, w] with torch's antialiased resize."""
        height, width = self.resized(*image.shape[1:])
        if min(height, width) < 1 or height * width > MAX_RESIZED_PIXELS:
            raise ValueError(
                f"an image of {image.shape[2]}x{image.shape[1]} pixels cannot be resized to {width}x{height}"
            )
        if (height, width) != tuple(image.shape[1:]):
            image = functional.interpolate(image[None], (height, width), mode=self.interpolation, antialias=True)[0]
        pad_h, pad_w = max(0, self.size[0] - height), max(0, self.size[1] - width)
        if pad_h or pad_w:
            sides = (pad_w // 2, pad_w - pad_w // 2, pad_h // 2, pad_h - pad_h // 2)
            image = functional.pad(image, sides, value=self.fill_color)
        top, left = round((image.shape[1] - self.size[0]) / 2.0), round((image.shape[2] - self.size[1]) / 2.0)
        return image[:, top : top + self.size[0], left : left + self.size[1]].expand(3, -1, -1)


@dataclass(frozen=True, eq=False)
class CustomTransform:
    """A user's own transform, run as it is: PIL image in, float tensor out. Same interface as `Preprocess`.

    It gives float32 (four times the bytes of uint8) and knows no fast mode.
    """

    transform: Callable[[Image.Image], Any]
    digest: str
    """Names the transform in cache keys. Whoever makes one vouches for it: code cannot be hashed."""
    reason: str
    """Why it could not be read as a Preprocess."""

    dtype: ClassVar[torch.dtype] = torch.float32
    exact: ClassVar[bool] = False

    @cached_property
    def shape(self) -> tuple[int, int, int] | None:
        """What it makes of a blank image of 256 x 256; of others it may make another. None: it does not take a blank one."""
        data = io.BytesIO()
        Image.new("RGB", (256, 256)).save(data, "PNG")
        try:
            channels, height, width = self.pixels(data.getvalue()).shape
        except ValueError:
            return None  # the decoders say what is wrong with which image
        return channels, height, width

    def describe(self) -> str:
        """One line, for records and people."""
        return f"the model's own transform ({self.reason})"

    def pixels(
        self, data: bytes, convert: Convert = "rgb_first", fast: bool = False, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """float32 [3, h, w]: the transform's own answer; where `out` has its shape, there. Raises ValueError as `Preprocess.pixels`
        does, and where the transform fails, whatever it raises: it is the user's."""
        image = _decode(data)
        image = _convert_rgb(image) if convert == "rgb_first" else image
        try:
            pixels = self.transform(image)
        except (MemoryError, torch.OutOfMemoryError):
            raise  # says nothing about the image
        except Exception as problem:
            raise ValueError(f"the model's transform failed: {type(problem).__name__}: {problem}") from problem
        if not isinstance(pixels, torch.Tensor) or pixels.ndim != 3 or pixels.shape[0] != 3:
            given = tuple(pixels.shape) if hasattr(pixels, "shape") else type(pixels).__name__
            raise ValueError(f"the model's transform must give a tensor [3, height, width], got {given}")
        if out is not None and out.shape == pixels.shape:
            return out.copy_(pixels)
        return pixels.to(torch.float32)

    def prepare(self, fast: bool) -> None:
        """Nothing: whoever made the transform has imported what it needs."""

    def normalise(self, batch: torch.Tensor) -> torch.Tensor:
        """The batch itself: the transform has normalised it."""
        return batch


Transform = Preprocess | CustomTransform


def from_open_clip(cfg: Mapping[str, Any]) -> Preprocess:
    """Read open_clip's `preprocess_cfg`; keys that are absent keep open_clip's defaults."""
    height, width = _pair(cfg.get("size", 224))
    given = {k: cfg[k] for k in ("interpolation", "resize_mode", "fill_color") if cfg.get(k) is not None}
    for name in ("mean", "std"):
        value = cfg.get(name)
        if value is not None:
            three = (value,) * 3 if isinstance(value, int | float) else tuple(value)
            given[name] = tuple(float(v) for v in three)
    if given.get("interpolation") == "random":  # a training augmentation; at inference open_clip uses bicubic
        given["interpolation"] = "bicubic"
    return Preprocess(size=(height, width), **given)


def _pair(size: Any) -> tuple[int, int]:
    values = (size, size) if isinstance(size, int | float) else tuple(size)
    values = values * 2 if len(values) == 1 else values[-2:]
    return int(values[0]), int(values[1])


@lru_cache(maxsize=32)
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """float32 [3, 3]: scale, mean and std of each channel, sent to a device once: sending them waits for all it has to do."""
    with torch.inference_mode(False):
        return torch.tensor([(255.0,) * 3, mean, std], dtype=torch.float32).to(device)


@lru_cache(maxsize=32)
def _open_clip_steps(preprocess: Preprocess) -> Callable[[Image.Image], Any]:
    """open_clip's own resize and padding, which depends on the image's mode."""
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from torchvision.transforms import Compose

    steps = image_transform_v2(PreprocessCfg(**{**asdict(preprocess), "mode": "RGB"}), is_train=False).transforms
    names = [type(step).__name__ for step in steps]
    return cast(Callable[[Image.Image], Any], Compose(steps[: names.index("MaybeConvertMode")]))


def _decode_plain_jpeg(data: bytes) -> torch.Tensor | None:
    """uint8 [1 or 3, H, W], a channels-last view, of a JPEG that libjpeg decodes as Pillow does; None: ask Pillow."""
    header = read_plain(data)
    limit = Image.MAX_IMAGE_PIXELS
    if header is None or (limit is not None and header.height * header.width > limit):
        return None
    from torchvision.io import decode_jpeg

    try:
        image = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    except RuntimeError:
        return None  # Pillow says what is wrong with it
    return cast(torch.Tensor, image) if image.shape[0] == header.components else None


@contextmanager
def decode_limits(max_pixels: int | None = None, max_text_chunk: int | None = None) -> Iterator[None]:
    """Lets Pillow decode larger images, or longer text chunks of a PNG, than it takes by itself; None leaves its own limit.

    Args:
        max_pixels: the largest image, in pixels (`data.max_pixels`).
        max_text_chunk: the longest text chunk once decompressed, and all of them together, in bytes (`data.max_text_chunk`).
    """
    before = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    if max_pixels is not None:
        Image.MAX_IMAGE_PIXELS = -(-max_pixels // 2)  # Pillow refuses more than twice this, and warns of more than it
    if max_text_chunk is not None:
        PngImagePlugin.MAX_TEXT_CHUNK = max_text_chunk
        PngImagePlugin.MAX_TEXT_MEMORY = max(max_text_chunk, before[2])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = before


def _decode(data: bytes) -> Image.Image:
    """Open and load with Pillow; whatever it raises on bad data becomes a ValueError that says why."""
    if not data:
        raise ValueError("the image is empty (0 bytes)")
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly every type on broken files
        reason = "no image format that Pillow knows" if isinstance(error, UnidentifiedImageError) else str(error)
        if isinstance(error, Image.DecompressionBombError):
            number = re.search(r"\d+", reason)
            reason = f"it has {int(number[0] if number else 0):,} pixels; data.max_pixels=N allows up to N"
        elif "MAX_TEXT_CHUNK" in reason or "text memory" in reason.lower() or "text chunk" in reason.lower():
            reason = "its text chunks are longer than Pillow reads; data.max_text_chunk=BYTES allows more"
        raise ValueError(
            f"the image cannot be decoded: {reason or type(error).__name__} ({len(data)} bytes)"
        ) from error
    return image


def _convert_rgb(image: Image.Image) -> Image.Image:
    try:
        return image.convert("RGB")
    except (OSError, ValueError) as error:
        raise ValueError(f"an image of mode {image.mode} cannot be converted to RGB: {error}") from error
