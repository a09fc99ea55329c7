"""Decoded images of different sizes in one block of bytes, and their resize to one size, whatever device the block is on.

    descriptors    int32 [n, 20], a row for each image: see `FIELDS`
    the rest       each image's pixels as they were decoded, and the weights of its two passes (`clipeval.preprocess.resample`)

Decoders fill blocks; `resize` makes uint8 [n, 3, height, width] of one, equal to `Preprocess.pixels` bit for bit. A block has a
fixed capacity: an image for which it has no room is resized by the decoder, with Pillow, and passes through unchanged.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from clipeval.preprocess import watermark
from clipeval.preprocess.resample import BITS, AxisWeights, axis_weights, by_pillow, vertical_first
from clipeval.preprocess.transforms import MAX_RESIZED_PIXELS, Convert, Preprocess

FIELDS = (
    "pixels",  # offset of the first pixel, in bytes
    "channels",  # 1: grey, for all three planes
    "channel_stride",  # in bytes
    "first_source",  # pixels along the axis that is resized first
    "second_source",
    "first_stride",  # in bytes
    "second_stride",
    "first_weights",  # offset of AxisWeights.first, then .weights, in words of 4 bytes
    "second_weights",
    "first_taps",
    "second_taps",
    "first_begin",  # output pixels along the first axis that the image covers; the others have the fill colour
    "first_end",
    "second_begin",
    "second_end",
    "first_size",  # output pixels along the first axis
    "second_size",
    "first_out",  # stride in the output's plane
    "second_out",
    "across",  # 1: the first axis runs along rows
)
WIDTH = len(FIELDS)
_ALIGNED = 16


class _Axis(NamedTuple):
    """One axis of an image on its way: source pixels, output pixels that it covers, and how those are made."""

    across: bool
    source: int
    stride: int
    begin: int
    end: int
    size: int
    out: int
    weights: AxisWeights


class Packer:
    """Fills a block with the images of one run of samples.

    Args:
        preprocess: what they are resized to.
        block: uint8 [capacity], to be filled; at least `least_bytes(preprocess, most)`.
        most: how many images may come.
    """

    def __init__(self, preprocess: Preprocess, block: np.ndarray, most: int) -> None:
        self.preprocess, self.block, self.most = preprocess, block, most
        self.count = 0
        self.used = aligned(4 * WIDTH * most)
        """Bytes of the block that are filled."""
        self._descriptors = block[: 4 * WIDTH * most].view(np.int32).reshape(most, WIDTH)
        self._tables: dict[int, int] = {}
        self._kept: list[AxisWeights] = []

    def add(self, data: bytes, convert: Convert) -> None:
        """Decodes an image and puts it in.

        Raises:
            ValueError: as `Preprocess.pixels`; the block is as it was.
        """
        if not convert.startswith(watermark.PREFIX):  # which is drawn on the resized picture
            image = self.preprocess.decode(data, convert)
            if self._add_decoded(image):
                return
            self.preprocess.resize(image, self._place())
            self._describe_resized()
            return
        self.add_resized(data, convert)

    def add_resized(self, data: bytes, convert: Convert) -> None:
        """Puts an image in as the decoder resizes it."""
        self.preprocess.pixels(data, convert, out=self._place())
        self._describe_resized()

    def finish(self) -> int:
        """How many bytes of the block are filled, once all images are in."""
        return self.used

    @property
    def spared(self) -> int:
        """Bytes that are kept for the images after the next one."""
        return (self.most - self.count - 1) * _resized_bytes(self.preprocess)

    def _place(self) -> torch.Tensor:
        """Where the next image goes, resized."""
        size = int(np.prod(self.preprocess.shape))
        return torch.from_numpy(self.block[self.used : self.used + size]).view(self.preprocess.shape)

    def _describe_resized(self) -> None:
        plane = self.preprocess.size[0] * self.preprocess.size[1]
        self.describe(_unchanged(self.preprocess), 3 * plane, 3, plane)

    def _add_decoded(self, image: Image.Image) -> bool:
        """Puts an image in as it is; False where it has to be resized first."""
        height, width = image.height, image.width
        if image.mode not in ("L", "RGB") or by_pillow(height, width):
            return False
        found = axes(self.preprocess, height, width, len(image.getbands()))
        if found is None:
            return False
        need = height * width * len(image.getbands()) + sum(axis.weights.nbytes for axis in found) + 4 * _ALIGNED
        if self.used + need + self.spared > len(self.block):
            return False
        raw = np.asarray(image)
        self.block[self.used : self.used + raw.size] = raw.reshape(-1)
        self.describe(found, raw.size, 1 if raw.ndim == 2 else 3, 1)
        return True

    def describe(self, both: tuple[_Axis, _Axis], size: int, channels: int, channel_stride: int) -> None:
        """Notes an image whose pixels, `size` bytes, lie where the block is filled up to."""
        pixels, self.used = self.used, aligned(self.used + size)
        tables = [self._table(axis.weights) for axis in both]
        first, second = both
        self._descriptors[self.count] = (
            pixels,
            channels,
            channel_stride,
            first.source,
            second.source,
            first.stride,
            second.stride,
            *tables,
            len(first.weights.weights),
            len(second.weights.weights),
            first.begin,
            first.end,
            second.begin,
            second.end,
            first.size,
            second.size,
            first.out,
            second.out,
            int(first.across),
        )
        self.count += 1

    def _table(self, weights: AxisWeights) -> int:
        """Where these weights lie, in words; images of one size share them."""
        known = self._tables.get(id(weights))  # they are cached, and so one object for one size
        if known is not None:
            return known
        start = self.used // 4
        words = self.block[self.used : self.used + weights.nbytes].view(np.int32)
        words[: len(weights.first)] = weights.first
        words[len(weights.first) :] = weights.weights.reshape(-1)
        self.used = aligned(self.used + weights.nbytes)
        self._tables[id(weights)] = start
        self._kept.append(weights)  # an id is of this object as long as it lives
        return start


def least_bytes(preprocess: Preprocess, most: int) -> int:
    """What a block must hold at least: `most` images that are resized already."""
    return aligned(4 * WIDTH * most) + most * _resized_bytes(preprocess)


def descriptors(block: torch.Tensor, count: int) -> np.ndarray:
    """int32 [count, 20], a view of a block on the CPU."""
    return block.numpy()[: 4 * WIDTH * count].view(np.int32).reshape(count, WIDTH)


def resize(block: torch.Tensor, about: np.ndarray, preprocess: Preprocess) -> torch.Tensor:
    """Resizes a block's images by tensor operations, one image after another.

    Args:
        block: uint8 [bytes], on any device.
        about: int32 [n, 20], its descriptors, on the CPU.
        preprocess: that it was filled for.

    Returns:
        uint8 [n, 3, height, width], on the block's device.
    """
    out = torch.full((len(about), *preprocess.shape), preprocess.fill_color, dtype=torch.uint8, device=block.device)
    words = block[: len(block) // 4 * 4].view(torch.int32)
    for image, row in zip(out, about.tolist(), strict=True):
        it = dict(zip(FIELDS, row, strict=True))
        channels, first, second = it["channels"], it["first_source"], it["second_source"]
        pixels = block[it["pixels"] : it["pixels"] + channels * first * second]
        across = bool(it["across"])
        lines, columns = (second, first) if across else (first, second)
        if it["channel_stride"] == 1:
            source = pixels.view(lines, columns, channels).permute(2, 0, 1)
        else:
            source = pixels.view(channels, lines, columns)
        target = image
        if across:
            source, target = source.transpose(1, 2), target.transpose(1, 2)
        between = _pass(source, words, it["first_weights"], it["first_taps"], it["first_end"] - it["first_begin"], 1)
        result = _pass(
            between, words, it["second_weights"], it["second_taps"], it["second_end"] - it["second_begin"], 2
        )
        target[:, it["first_begin"] : it["first_end"], it["second_begin"] : it["second_end"]] = result
    return out


def _pass(source: torch.Tensor, words: torch.Tensor, table: int, taps: int, count: int, axis: int) -> torch.Tensor:
    """One axis of uint8 [c, a, b], resized."""
    first, weights = words[table : table + count].long(), words[table + count : table + count + taps * count]
    weights = weights.view(taps, count, 1) if axis == 1 else weights.view(taps, count)
    total: torch.Tensor | int = 1 << (BITS - 1)
    for tap in range(taps):  # a weight past the source's end is 0
        total = source.index_select(axis, (first + tap).clamp_(max=source.shape[axis] - 1)).int() * weights[tap] + total
    assert isinstance(total, torch.Tensor)
    return (total >> BITS).clamp_(0, 255).to(torch.uint8)


def axes(preprocess: Preprocess, height: int, width: int, channels: int) -> tuple[_Axis, _Axis] | None:
    """How an image is resized, the axis first that Pillow does first; None where Pillow has to refuse it."""
    resized = preprocess.resized(height, width)
    if min(resized) < 1 or resized[0] * resized[1] > MAX_RESIZED_PIXELS:
        return None
    square = preprocess.size[0] == preprocess.size[1]
    # open_clip resizes to a target that is not square with ResizeKeepRatio(size), which is always bicubic.
    how = "bicubic" if preprocess.resize_mode == "shortest" and not square else preprocess.interpolation
    rows = _axis(False, height, resized[0], preprocess.size[0], how, width * channels, preprocess.size[1])
    columns = _axis(True, width, resized[1], preprocess.size[1], how, channels, 1)
    return (rows, columns) if vertical_first(height, width, *resized) else (columns, rows)


def _axis(across: bool, source: int, resized: int, size: int, how: str, stride: int, out: int) -> _Axis:
    """One axis: cropped in the middle where it is longer than `size`, padded on both sides where it is shorter."""
    start = round((resized - size) / 2.0) if resized > size else 0
    begin = (size - resized) // 2 if resized < size else 0
    count = min(resized, size)
    return _Axis(
        across, source, stride, begin, begin + count, size, out, axis_weights(source, resized, how, start, count)
    )


def _unchanged(preprocess: Preprocess) -> tuple[_Axis, _Axis]:
    height, width = preprocess.size
    rows, columns = (axis_weights(n, n, preprocess.interpolation, 0, n) for n in preprocess.size)
    first = _Axis(True, width, 1, 0, width, width, 1, columns)
    return first, _Axis(False, height, width, 0, height, height, width, rows)


def _resized_bytes(preprocess: Preprocess) -> int:
    height, width = preprocess.size
    return 3 * height * width + 8 * (height + width) + 4 * _ALIGNED


def aligned(count: int) -> int:
    """Up to the next multiple of 16 bytes."""
    return -(-count // _ALIGNED) * _ALIGNED
