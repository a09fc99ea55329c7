"""Images that are made of others when they are read: of several sources, a part of one, or an array of pixels."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from clipeval.configs.errors import ClipevalError
from clipeval.data.images import Images

Box = tuple[int, int, int, int]
"""Left, top, width, height, in pixels."""

_NPY = b"\x93NUMPY"


@dataclass
class MadeImages:
    """N images of several sources.

    Attributes:
        sources: where the images lie.
        source: int32 [N], the source of each.
        position: int64 [N], its place there.
        boxes: N parts to cut out, None for the whole picture; empty where no picture is cut.
        digest: of the images' bytes, their order and their boxes.
    """

    sources: Sequence[Images]
    source: np.ndarray
    position: np.ndarray
    boxes: Sequence[Box | None] = field(default=())
    digest: str = ""

    def __len__(self) -> int:
        return len(self.source)

    def read(self, position: int) -> bytes:
        """The encoded image; what is cut out or made of an array is written as PNG, which keeps every pixel."""
        data = self.sources[int(self.source[position])].read(int(self.position[position]))
        if data.startswith(_NPY):
            data = encoded(_of_array(data, self.location(position)))
        box = self.boxes[position] if self.boxes else None
        return data if box is None else encoded(_cut(data, box))

    def location(self, position: int) -> str:
        place = self.sources[int(self.source[position])].location(int(self.position[position]))
        box = self.boxes[position] if self.boxes else None
        return place if box is None else f"{place}, box {box}"


def _cut(data: bytes, box: Box) -> Image.Image:
    """The part of a picture, in RGB; what lies beyond its edges is black, as Pillow's `crop` has it."""
    left, top, width, height = box
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB").crop((left, top, left + width, top + height))


def _of_array(data: bytes, location: str) -> Image.Image:
    """A picture of an array in numpy's format, uint8 [H, W, 3] in the order blue, green, red (EqBen's frames of YouCook2)."""
    try:
        pixels = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as problem:
        raise ClipevalError(f"{location}: not an array that can be read ({problem}).") from None
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ClipevalError(f"{location}: an array of uint8 [H, W, 3] was expected; got {pixels.dtype} {pixels.shape}.")
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, ::-1]))


def encoded(image: Image.Image) -> bytes:
    """A picture as PNG, which keeps every pixel."""
    sink = io.BytesIO()
    image.save(sink, "PNG", compress_level=1)
    return sink.getvalue()
