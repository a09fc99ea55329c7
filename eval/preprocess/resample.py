"""Pillow's resize of 8-bit images as arithmetic of integers: which source pixels, with which weights, along which axis first.

Read from Pillow's `src/libImaging/Resample.c` (10 to 13): `precompute_coeffs` gives each output pixel a window of source pixels
and float64 weights that sum to 1; `normalize_coeffs_8bpc` rounds the weights to 22 bits; two passes, one for each axis, add
int32 products to one half, shift by 22 bits and clip to 0 … 255, so that what lies between the passes is uint8 again. The sums
stay within int32: the weights' absolute values add up to less than 1.3, and 1.3 x 255 x 2^22 < 2^31.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import PIL

BITS = 22
"""Pillow's PRECISION_BITS, 32 - 8 - 2."""

_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
_PILLOW = int(PIL.__version__.split(".")[0])


class AxisWeights(NamedTuple):
    """How the output pixels along one axis are made of the source's.

    Attributes:
        first: int32 [n], the first source pixel of each output pixel's window.
        weights: int32 [k, n], the window's weights, in units of 2^-22; 0 past its end, which may lie past the source's.
    """

    first: np.ndarray
    weights: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.first.nbytes + self.weights.nbytes


def vertical_first(height: int, width: int, to_height: int, to_width: int) -> bool:
    """Whether Pillow resizes columns before rows. Before version 13 it never does, but for pictures that `by_pillow` names."""
    return _PILLOW >= 13 and to_height < height and height - to_height > 2 * (width - to_width)


def by_pillow(height: int, width: int) -> bool:
    """Whether the order is left to Pillow: late releases of 12 turn it for pictures 100 times as tall as wide."""
    return _PILLOW < 13 and height > 100 * width


@lru_cache(maxsize=1024)
def axis_weights(source: int, target: int, interpolation: str, start: int, count: int) -> AxisWeights:
    """The weights of `count` output pixels, from the one at `start`.

    Args:
        source, target: how many pixels the axis has, before and after.
        interpolation: bilinear or bicubic.
        start, count: which of the `target` pixels are wanted.
    """
    if source == target:
        return AxisWeights(np.arange(start, start + count, dtype=np.int32), np.full((1, count), 1 << BITS, np.int32))
    scale = source / target
    stretch = max(scale, 1.0)
    support, inverse = _SUPPORT[interpolation] * stretch, 1.0 / stretch
    center = (np.arange(start, start + count) + 0.5) * scale
    first = np.maximum((center - support + 0.5).astype(np.int64), 0)  # astype cuts towards zero, as C does
    last = np.minimum((center + support + 0.5).astype(np.int64), source)
    taps = min(math.ceil(support) * 2 + 1, int((last - first).max()))
    exact = np.zeros((taps, count))
    total = np.zeros(count)
    for tap in range(taps):  # summed in Pillow's order, so that it is rounded alike
        exact[tap] = np.where(first + tap < last, _FILTERS[interpolation]((tap + first - center + 0.5) * inverse), 0.0)
        total += exact[tap]
    exact /= np.where(total != 0.0, total, 1.0)
    scaled = exact * (1 << BITS)
    return AxisWeights(first.astype(np.int32), np.where(exact < 0, scaled - 0.5, scaled + 0.5).astype(np.int32))


def _bilinear(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    return np.where(x < 1.0, 1.0 - x, 0.0)


def _bicubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution with a = -0.5, operations in Pillow's order."""
    a = -0.5
    x = np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


_FILTERS = {"bilinear": _bilinear, "bicubic": _bicubic}
