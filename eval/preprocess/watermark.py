"""ImageNet-W's watermark (Li et al. 2023), drawn as `imagenet_w.AddWatermark` of facebookresearch/Whac-A-Mole draws it.

That program adds it to the tensor that the model's transform is about to normalise: to the picture as it was resized and cropped.
The font is the makers' file, which is not shipped here.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

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
