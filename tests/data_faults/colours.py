"""A model that sees one thing, the colour of a picture, and reads one thing, the first colour that a text names.

So what a small input must score can be said beforehand: a picture of plain red goes with every text that names red.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from clipeval.preprocess.transforms import from_open_clip

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}
COLOURS = tuple(PALETTE)
_WORD = re.compile("|".join(COLOURS), re.IGNORECASE)


class ColourModel(nn.Module):
    """Embeddings of 9 numbers, one for each colour and one for `none of them`; a text without a colour has the last."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("palette", torch.tensor([PALETTE[c] for c in COLOURS], dtype=torch.float32) / 255)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """float32 [B, 3, h, w] in 0 to 1, to [B, 9]."""
        nearest = torch.cdist(images.float().mean(dim=(2, 3)), self.palette.float()).argmin(dim=1)
        return torch.nn.functional.one_hot(nearest, len(COLOURS) + 1).float()

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """int64 [T, 4], of `tokenizer`, to [T, 9]."""
        return torch.nn.functional.one_hot(tokens[:, 1] - 1, len(COLOURS) + 1).float()

    @staticmethod
    def tokenizer(texts: Sequence[str]) -> torch.Tensor:
        """Start, the number of the first colour that is named, end, padding."""
        numbers = [COLOURS.index(m[0].lower()) if (m := _WORD.search(text)) else len(COLOURS) for text in texts]
        return torch.tensor([[20, number + 1, 21, 0] for number in numbers])

    transform: Any = from_open_clip({"size": 8, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})


def picture(colour: str, format: str = "png", mode: str = "RGB", size: tuple[int, int] = (12, 12), **how: Any) -> bytes:
    """An encoded picture of one colour, in any format and mode that Pillow writes."""
    pixels = np.tile(np.array(PALETTE[colour], dtype=np.uint8), (size[1], size[0], 1))
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format, **how)
    return buffer.getvalue()


def write_picture(path: Path, colour: str, format: str | None = None, **how: Any) -> Path:
    """Writes a picture of one colour; its format is its ending's, or `format`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    endings = {"jpg": "jpeg", "jpe": "jpeg", "jfif": "jpeg", "tif": "tiff"}
    ending = path.suffix.lstrip(".").lower()
    path.write_bytes(picture(colour, format or endings.get(ending, ending) or "png", **how))
    return path
