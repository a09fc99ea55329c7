"""`runtime.preprocess=nvjpeg`: JPEGs are decoded on a CUDA device by NVIDIA's nvJPEG, through torchvision, and resized there.

nvJPEG's inverse cosine transform and colours are not libjpeg's, so pixels are other than those of `exact`, which the name says. All
else is as exact: the resize is Pillow's bit for bit, and what is no plain JPEG, or what nvJPEG cannot decode, Pillow decodes.
Decoders only read: a block holds descriptors and weights as `clipeval.preprocess.packed` has them, then encoded JPEGs, then

    int32 [n, 2]    of each image, where its JPEG begins and how many bytes it has; 0: it is in the block as it was resized
"""

from __future__ import annotations

import io
import warnings
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from clipeval.configs.errors import ClipevalError, first_line
from clipeval.preprocess import packed, watermark
from clipeval.preprocess.device_resize import DeviceResize
from clipeval.preprocess.jpeg import read_plain
from clipeval.preprocess.resample import by_pillow
from clipeval.preprocess.transforms import Convert, Preprocess, Transform

LARGEST = 2**26
"""Bytes of a decoded image; a larger one is Pillow's, so that offsets of a block's images stay below 2^31."""
_END = b"\xff\xd9"


def why_not(device: torch.device, transform: Transform) -> str:
    """What stands against it, in a clause; empty where nothing does."""
    if not isinstance(transform, Preprocess):
        return f"{transform.describe()} takes images that are decoded already"
    if device.type != "cuda":
        return f"it decodes on a CUDA device, and runtime.device={device}"
    return _trial(device) if torch.cuda.is_available() else ""  # the device of a job on another machine


def require_nvjpeg(runtime: Any, transform: Transform) -> None:
    """Nothing where `runtime`, a config's, does not ask for it; ClipevalError where it does and it cannot be had."""
    reason = why_not(torch.device(runtime.device), transform) if runtime.preprocess == "nvjpeg" else ""
    if reason:
        raise ClipevalError(f"runtime.preprocess=nvjpeg: {reason}. runtime.preprocess=exact runs everywhere.")


@lru_cache(maxsize=8)
def _trial(device: torch.device) -> str:
    data = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 30, 30)).save(data, "JPEG")
    try:
        decode([torch.frombuffer(bytearray(data.getvalue()), dtype=torch.uint8)], device)
    except (RuntimeError, ImportError) as problem:
        said = first_line(problem)
        return f"torchvision does not decode on {device} ({said}); install its CUDA build"
    return ""


def decode(jpegs: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """JPEGs, each uint8 [bytes] on the CPU, as uint8 [1 or 3, h, w] on the device. RuntimeError if any cannot be decoded."""
    from torchvision.io import decode_jpeg

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # torchvision's, in favour of TorchCodec, which has no such function
        return list(decode_jpeg(jpegs, device=device))


class JpegPacker(packed.Packer):
    """Fills a block with encoded JPEGs; what is none is decoded and resized by Pillow, as `Packer` does where it has no room."""

    def __init__(self, preprocess: Preprocess, block: np.ndarray, most: int) -> None:
        super().__init__(preprocess, block, most)
        self._jpegs: list[bytes] = []
        """Of each image; empty: it is there already."""
        self._waiting = 16 * most
        """Bytes that `finish` will need."""

    def add(self, data: bytes, convert: Convert) -> None:
        plain = (
            None if convert.startswith(watermark.PREFIX) or not data.rstrip(b"\0").endswith(_END) else read_plain(data)
        )
        limit = Image.MAX_IMAGE_PIXELS
        if plain is not None and plain.height * plain.width <= min(limit or LARGEST, LARGEST // plain.components):
            size = plain.height * plain.width
            axes = (
                None
                if by_pillow(plain.height, plain.width)
                else packed.axes(self.preprocess, plain.height, plain.width, 1)
            )
            if axes is not None:
                need = sum(axis.weights.nbytes for axis in axes) + packed.aligned(len(data)) + 64
                if self.used + self._waiting + need + self.spared <= len(self.block):
                    self.describe(axes, 0, plain.components, size)
                    self._jpegs.append(data)
                    self._waiting += packed.aligned(len(data))
                    return
        self.add_resized(data, convert)
        self._jpegs.append(b"")

    def finish(self) -> int:
        directory = np.zeros((self.count, 2), dtype=np.int32)
        for place, data in enumerate(self._jpegs):
            if data:
                directory[place] = self.used, len(data)
                self.block[self.used : self.used + len(data)] = np.frombuffer(data, dtype=np.uint8)
                self.used = packed.aligned(self.used + len(data))
        self.block[self.used : self.used + directory.nbytes] = directory.reshape(-1).view(np.uint8)
        self.used += directory.nbytes
        return self.used


class DeviceDecode:
    """Decodes and resizes what `JpegPacker` packed.

    Args:
        resize: for the images of the same preprocessing, on a CUDA device.
    """

    def __init__(self, resize: DeviceResize) -> None:
        self.resize, self.device = resize, resize.device

    def __call__(self, block: torch.Tensor, count: int) -> tuple[torch.Tensor, list[tuple[int, str]]]:
        """The images of a block.

        Args:
            block: uint8 [bytes] on the CPU; what it says of the images' places is written anew.
            count: how many images it has.

        Returns:
            uint8 [m, 3, h, w] on the device, of those that could be decoded; and (place among the `count`, why) of the others.
        """
        about, directory = (
            packed.descriptors(block, count),
            block.numpy()[len(block) - 8 * count :].view(np.int32).reshape(count, 2),
        )
        places = np.flatnonzero(directory[:, 1])
        front = int(directory[places[0], 0]) if len(places) else len(block) - 8 * count
        jpegs = [block[start : start + length] for start, length in directory[places].tolist()]
        shapes = [self._shape(about[place]) for place in places]
        images = self._decode(jpegs, shapes)
        sizes = [channels * height * width for channels, height, width in shapes]
        about[places, 0] = front + np.concatenate([[0], np.cumsum(sizes)[:-1]]) if len(places) else 0
        blank = [
            image if image is not None else torch.zeros(shape, dtype=torch.uint8, device=self.device)
            for image, shape in zip(images, shapes, strict=True)
        ]
        there = torch.cat([self.resize.send(block[:front]), *(image.reshape(-1) for image in blank)])
        pixels, failures = self.resize.there(there, about), []
        for place, jpeg, image in zip(places.tolist(), jpegs, images, strict=True):
            if image is None:  # the words of Pillow for what nobody can decode
                try:
                    pixels[place] = self.resize.preprocess.pixels(jpeg.numpy().tobytes()).to(pixels.device)
                except ValueError as problem:
                    failures.append((place, str(problem)))
        if failures:
            lost = {place for place, _ in failures}
            pixels = pixels[[place for place in range(count) if place not in lost]]
        return pixels, failures

    def _shape(self, row: np.ndarray) -> tuple[int, int, int]:
        it = dict(zip(packed.FIELDS, row.tolist(), strict=True))
        first, second = it["first_source"], it["second_source"]
        height, width = (second, first) if it["across"] else (first, second)
        return it["channels"], height, width

    def _decode(self, jpegs: list[torch.Tensor], shapes: list[tuple[int, int, int]]) -> list[torch.Tensor | None]:
        """None for what nvJPEG cannot decode, or gives another shape than its header says."""
        if not jpegs:
            return []
        try:
            images: list[torch.Tensor | None] = [*decode(jpegs, self.device)]
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # one of them, and it does not say which
            images = [self._one(jpeg) for jpeg in jpegs]
        return [
            image if image is not None and tuple(image.shape) == shape else None
            for image, shape in zip(images, shapes, strict=True)
        ]

    def _one(self, jpeg: torch.Tensor) -> torch.Tensor | None:
        try:
            return decode([jpeg], self.device)[0]
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            return None
