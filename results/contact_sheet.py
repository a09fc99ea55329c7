"""Pictures side by side with a line or two under each, as one PNG: the samples on which two runs part."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import pandas as pd
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from results.records import Record

SIZE = 160
"""The side of a picture's square, in pixels."""

MARGIN = 12
LINE = 15


def contact_sheet(
    parted: pd.DataFrame, pictures: Mapping[str, bytes], record: Record | None = None, *, columns: int = 6
) -> bytes:
    """A PNG of the samples in `parted` whose picture is at hand, in its order.

    Args:
        parted: rows of one task of `Comparison.parted`.
        pictures: {key: an encoded image}.
        record: gives the class names to print; without it, indices are printed.
        columns: pictures in a row.

    Raises:
        ValueError: none of the pictures is at hand.
    """
    names = list((record.prompts.get("classnames") or []) if record else [])
    cells = []
    for row in parted.to_dict("records"):
        picture = thumbnail(pictures.get(str(row["key"])))
        if picture is not None:
            cells.append((picture, _caption({str(name): value for name, value in row.items()}, names)))
    if not cells:
        raise ValueError("no picture for a contact sheet: none of the samples' images is at hand")
    columns = min(columns, len(cells))
    high = SIZE + 3 * LINE + MARGIN
    sheet = Image.new(
        "RGB", (MARGIN + columns * (SIZE + MARGIN), MARGIN + -(-len(cells) // columns) * high), (255, 255, 255)
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for index, (picture, caption) in enumerate(cells):
        left, top = MARGIN + index % columns * (SIZE + MARGIN), MARGIN + index // columns * high
        sheet.paste(picture, (left + (SIZE - picture.width) // 2, top + (SIZE - picture.height) // 2))
        for number, (text, ink) in enumerate(caption):
            draw.text((left, top + SIZE + 2 + number * LINE), _fit(text, draw, font), fill=ink, font=font)
    sink = io.BytesIO()
    sheet.save(sink, "PNG", optimize=True)
    return sink.getvalue()


def thumbnail(content: bytes | None, size: int = SIZE) -> Image.Image | None:
    """An image of at most `size` on a side, RGB, on white where it is transparent; None where it cannot be read."""
    if content is None:
        return None
    try:
        image: Image.Image = Image.open(io.BytesIO(content))
        image.draft("RGB", (size * 2, size * 2))
        image = image.convert("RGBA") if image.mode in ("P", "LA", "PA", "RGBA") else image.convert("RGB")
    except (UnidentifiedImageError, OSError):
        return None
    if image.mode == "RGBA":
        ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(ground, image).convert("RGB")
    image.thumbnail((size, size))
    if max(image.size) < size // 2:
        # Digits of 28 pixels are shown large enough to be seen, their pixels as they are.
        factor = size // max(image.size)
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    return image


Ink = tuple[int, int, int]


def _caption(row: Mapping[str, object], names: Sequence[str]) -> list[tuple[str, Ink]]:
    """What the sample is and what each run said, the right answer in green."""
    if "label" not in row or "prediction_a" not in row:
        return [(str(row["key"]), (0, 0, 0)), (f"better: {row['better']}", (0, 0, 0))]
    lines: list[tuple[str, Ink]] = [(class_name(row["label"], names), (0, 0, 0))]
    for side in "ab":
        said = row[f"prediction_{side}"]
        lines.append(
            (f"{side.upper()}: {class_name(said, names)}", (0, 110, 40) if said == row["label"] else (170, 30, 30))
        )
    return lines


def class_name(index: object, names: Sequence[str]) -> str:
    """A class's name, or its index where the name is unknown; a blank name is shown as such."""
    place = int(str(index))
    return (names[place].strip() or "(blank)") if 0 <= place < len(names) else str(place)


def _fit(text: str, draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """Text cut to the picture's width."""
    while draw.textlength(text, font=font) > SIZE and len(text) > 1:
        text = text[:-2] + "…"
    return text
