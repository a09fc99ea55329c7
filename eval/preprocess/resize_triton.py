"""`clipeval.preprocess.packed.resize` as one Triton kernel for a whole block of images of different sizes.

A program makes one tile of one plane of one image: for each source line that the tile's second pass needs it makes the first
pass over the tile's columns, rounds it to uint8 as Pillow does, and adds it to the tile with its weights. So what lies between
the passes is never in memory. "First" and "second" are axes, not directions: the descriptors give them strides.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from clipeval.preprocess.packed import FIELDS, WIDTH
from clipeval.preprocess.resample import BITS
from clipeval.preprocess.transforms import Preprocess

TILE_FIRST, TILE_SECOND = 64, 16
"""Output pixels of a program along the axis resized first, and along the other. Not tuned: no GPU was at hand."""

_AT = {name: tl.constexpr(number) for number, name in enumerate(FIELDS)}
_PIXELS, _CHANNELS, _CHANNEL_STRIDE = _AT["pixels"], _AT["channels"], _AT["channel_stride"]
_FIRST_SOURCE, _SECOND_SOURCE = _AT["first_source"], _AT["second_source"]
_FIRST_STRIDE, _SECOND_STRIDE = _AT["first_stride"], _AT["second_stride"]
_FIRST_WEIGHTS, _SECOND_WEIGHTS = _AT["first_weights"], _AT["second_weights"]
_FIRST_TAPS, _SECOND_TAPS = _AT["first_taps"], _AT["second_taps"]
_FIRST_BEGIN, _FIRST_END = _AT["first_begin"], _AT["first_end"]
_SECOND_BEGIN, _SECOND_END = _AT["second_begin"], _AT["second_end"]
_FIRST_SIZE, _SECOND_SIZE = _AT["first_size"], _AT["second_size"]
_FIRST_OUT, _SECOND_OUT = _AT["first_out"], _AT["second_out"]
_ROW = tl.constexpr(WIDTH)
_SHIFT = tl.constexpr(BITS)
_HALF = tl.constexpr(1 << (BITS - 1))


def resize(block: torch.Tensor, count: int, preprocess: Preprocess) -> torch.Tensor:
    """Resizes the images of a block on its device; as `clipeval.preprocess.packed.resize`, on the current stream."""
    height, width = preprocess.size
    out = torch.empty((count, *preprocess.shape), dtype=torch.uint8, device=block.device)
    # Of either direction the axis that is resized first.
    tiles = max(_tiles(width, height), _tiles(height, width))
    words = block[: len(block) // 4 * 4].view(torch.int32)
    _kernel[(count, tiles, 3)](
        block, words, out, height * width, preprocess.fill_color, TILE_FIRST, TILE_SECOND, num_warps=2
    )
    return out


def _tiles(first: int, second: int) -> int:
    return -(-first // TILE_FIRST) * -(-second // TILE_SECOND)


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(block, words, out, plane, fill, tile_first: tl.constexpr, tile_second: tl.constexpr):  # type: ignore[no-untyped-def]
    about = words + tl.program_id(0) * _ROW
    channel = tl.program_id(2)
    first_size, second_size = tl.load(about + _FIRST_SIZE), tl.load(about + _SECOND_SIZE)
    first_begin, first_end = tl.load(about + _FIRST_BEGIN), tl.load(about + _FIRST_END)
    second_begin, second_end = tl.load(about + _SECOND_BEGIN), tl.load(about + _SECOND_END)
    across = tl.cdiv(first_size, tile_first)
    tile = tl.program_id(1)
    first = (tile % across) * tile_first + tl.arange(0, tile_first)
    second = (tile // across) * tile_second + tl.arange(0, tile_second)
    covered_first = (first >= first_begin) & (first < first_end)
    covered_second = (second >= second_begin) & (second < second_end)

    # The first pass's windows; column n of its weights is n - first_begin.
    first_count, first_taps = first_end - first_begin, tl.load(about + _FIRST_TAPS)
    first_table = words + tl.load(about + _FIRST_WEIGHTS) + first - first_begin
    first_from = tl.load(first_table, mask=covered_first, other=0)
    last = tl.load(about + _FIRST_SOURCE) - 1
    second_count, second_taps = second_end - second_begin, tl.load(about + _SECOND_TAPS)
    second_table = words + tl.load(about + _SECOND_WEIGHTS) + second - second_begin
    second_from = tl.load(second_table, mask=covered_second, other=0)

    # Source lines that any pixel of the tile needs: none, where the tile is all padding or past the end.
    begin = tl.min(tl.where(covered_second, second_from, 0x7FFFFFFF), axis=0)
    end = tl.max(tl.where(covered_second, second_from + second_taps, 0), axis=0)
    end = tl.minimum(end, tl.load(about + _SECOND_SOURCE))

    channels = tl.load(about + _CHANNELS)
    base = block + tl.load(about + _PIXELS) + (channel % channels) * tl.load(about + _CHANNEL_STRIDE)
    first_stride, second_stride = tl.load(about + _FIRST_STRIDE), tl.load(about + _SECOND_STRIDE)
    total = tl.full([tile_second, tile_first], _HALF, tl.int32)
    for line in range(begin, end):
        between = tl.full([tile_first], _HALF, tl.int32)
        for tap in range(0, first_taps):
            at = tl.minimum(first_from + tap, last)  # past the end the weight is 0
            value = tl.load(base + line * second_stride + at * first_stride, mask=covered_first, other=0)
            weight = tl.load(first_table + (tap + 1) * first_count, mask=covered_first, other=0)
            between += value.to(tl.int32) * weight
        between = tl.minimum(tl.maximum(between >> _SHIFT, 0), 255)
        tap_second = line - second_from
        used = covered_second & (tap_second >= 0) & (tap_second < second_taps)
        weight_second = tl.load(second_table + (tap_second + 1) * second_count, mask=used, other=0)
        total += weight_second[:, None] * between[None, :]
    value = tl.minimum(tl.maximum(total >> _SHIFT, 0), 255)
    value = tl.where(covered_second[:, None] & covered_first[None, :], value, fill)
    to = out + (tl.program_id(0) * 3 + channel).to(tl.int64) * plane
    to_first, to_second = first * tl.load(about + _FIRST_OUT), second * tl.load(about + _SECOND_OUT)
    there = (second < second_size)[:, None] & (first < first_size)[None, :]
    tl.store(to + to_second[:, None] + to_first[None, :], value.to(tl.uint8), mask=there)
