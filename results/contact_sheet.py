"""Pictures side by side with a line or two under each, as one PNG: the samples on which two runs part."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from clipeval.results.records import Record

SIZE = 160
"""The side of a picture's square, in pixels."""

MARGIN = 12
FRAME = 3
LINE = 15


def contact_sheet(
    disagreements: pd.DataFrame, pictures: Mapping[str, bytes], record: Record | None = None, *, columns: int = 6
) -> bytes:
    """A PNG of the samples in `disagreements` whose picture is at hand, in its order.

    Args:
        disagreements: rows of one task of `Comparison.disagreements`.
        pictures: {key: an encoded image}, for the keys of `picture_keys`.
        record: gives the class names to print; without it, indices are printed.
        columns: pictures in a row.

    Raises:
        ValueError: none of the pictures is at hand.
    """
    names = list((record.prompts.get("classnames") or []) if record else [])
    cells = []
    for sample in disagreements.to_dict("records"):
        row = {str(name): value for name, value in sample.items()}
        picture = montage([pictures.get(key) for key in picture_keys(row)])
        if picture is not None:
            cells.append((picture, _caption(row, names)))
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


def picture_keys(row: Mapping[Any, object]) -> list[str]:
    """The keys of the pictures that a row of predictions, or of samples that part, is about."""
    if _says(row, "associated"):
        return str(row["associated"]).split(" ")
    return [str(row["image"] if _says(row, "image") else row["key"])]


def montage(contents: Sequence[bytes | None], size: int = SIZE, frames: Sequence[str] = ()) -> Image.Image | None:
    """Several images in a square of at most `size` on a side, each in a frame of its colour where there are such.

    One image alone is its thumbnail. None where none can be read.
    """
    wide = math.ceil(math.sqrt(len(contents)))
    cell = size // wide
    inside = cell - 2 * FRAME if frames else cell
    thumbnails = [
        (number, image) for number, one in enumerate(contents) if (image := thumbnail(one, inside)) is not None
    ]
    if len(contents) == 1 or not thumbnails:
        return thumbnails[0][1] if thumbnails else None
    sheet = Image.new("RGB", (cell * wide, cell * math.ceil(len(contents) / wide)), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for number, image in thumbnails:
        left, top = number % wide * cell, number // wide * cell
        sheet.paste(image, (left + (cell - image.width) // 2, top + (cell - image.height) // 2))
        if frames:
            draw.rectangle((left, top, left + cell - 2, top + cell - 2), outline=frames[number], width=2)
    return sheet


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


RIGHT, WRONG, PLAIN = (0, 110, 40), (170, 30, 30), (0, 0, 0)


def _caption(row: Mapping[str, object], names: Sequence[str]) -> list[tuple[str, Ink]]:
    """What the sample is and what each run said, what does better in green."""
    inks = {side: RIGHT if row["better"] == side.upper() else WRONG for side in "ab"}
    if _says(row, "label") and _says(row, "prediction_a"):
        said = {side: class_name(row[f"prediction_{side}"], names) for side in "ab"}
        inks = {side: RIGHT if row[f"prediction_{side}"] == row["label"] else WRONG for side in "ab"}
        head = class_name(row["label"], names)
    elif _says(row, "own") and _says(row, "answer_a"):
        said, head = {side: str(row[f"answer_{side}"]) for side in "ab"}, str(row["own"])
    else:
        said = {side: f"{float(str(row[f'score_{side}'])):.2f}" for side in "ab"}
        head = f"cue: {row['cue']}" if _says(row, "cue") else str(row["key"])
    return [(head, PLAIN), *((f"{side.upper()}: {said[side]}", inks[side]) for side in "ab")]


def _says(row: Mapping[Any, object], name: str) -> bool:
    """Whether a row has an entry of its own under a name."""
    return name in row and not pd.isna(row[name])  # type: ignore[call-overload]


def class_name(index: object, names: Sequence[str]) -> str:
    """A class's name, or its index where the name is unknown; a blank name is shown as such."""
    place = int(str(index))
    return (names[place].strip() or "(blank)") if 0 <= place < len(names) else str(place)


def _fit(text: str, draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """Text cut to the picture's width."""
    while draw.textlength(text, font=font) > SIZE and len(text) > 1:
        text = text[:-2] + "…"
    return text
