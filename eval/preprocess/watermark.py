"""ImageNet-W's watermark (Li et al. 2023), drawn as `imagenet_w.AddWatermark` of facebookresearch/Whac-A-Mole draws it.

That program adds it to the tensor that the model's transform is about to normalise: to the picture as it was resized and cropped.
The font is the makers' file, which is not shipped here.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from clipeval.configs.errors import ClipevalError

if TYPE_CHECKING:
    from clipeval.preprocess.transforms import Transform

PREFIX = "watermark:"
"""Of a `convert` that ends in the font's path."""
TEXT = "捷径捷径捷径"
FONT_SIZES = {224: 36, 384: 62, 512: 82, 518: 84}
OPACITY, LEFT, TOP = round(0.5 * 255), 0.01, 0.4


def watermarked(image: Image.Image, font: str) -> Image.Image:
    """The picture in RGB with the watermark.

    Args:
        image: of the model's size, mode RGB.
        font: the path of SourceHanSerifSC-ExtraLight.otf.
    """
    size = min(image.size)
    layer = Image.new("RGBA", image.size, (255, 255, 255, 0))
    place = LEFT * image.width, TOP * image.height
    ImageDraw.Draw(layer).text(
        place, TEXT, fill=(255, 255, 255, OPACITY), font=_font(font, FONT_SIZES.get(size, int(size / 6.22)))
    )
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def is_font(path: Path) -> bool:
    """Whether Pillow opens a file as a font."""
    try:
        ImageFont.truetype(str(path), 36)
    except OSError:
        return False
    return True


@lru_cache(maxsize=4)
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def drawn_with(font: Path, preprocess: Transform) -> tuple[str, str]:
    """How the decoders are told of ImageNet-W's watermark, and what embeddings depend on: its font's content.

    Raises:
        ClipevalError: the font is not there, or the model's own transform leaves no place to draw.
    """
    if not preprocess.exact:
        raise ClipevalError(
            f"data.convert=watermark: the watermark is drawn on the resized picture, and {preprocess.describe()} does not show it."
        )
    if not font.is_file() or not is_font(font):
        raise ClipevalError(
            f"{font} is {'no font' if font.is_file() else 'missing'}: the font of ImageNet-W's watermark, "
            "imagenet_w/fonts/SourceHanSerifSC-ExtraLight.otf of github.com/facebookresearch/Whac-A-Mole. Name it in "
            "task.outside.font."
        )
    return f"{PREFIX}{font.absolute()}", f"watermark/{hashlib.sha256(font.read_bytes()).hexdigest()[:16]}"
