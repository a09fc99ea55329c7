"""What a JPEG says of itself before it is decoded: enough to know whether libjpeg alone gives the pixels that Pillow gives."""

from __future__ import annotations

from typing import NamedTuple

_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers without a length: TEM and the restart markers."""
_BASELINE_TO_PROGRESSIVE = frozenset({0xC0, 0xC1, 0xC2})
_OTHER_FRAMES = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
"""Lossless, hierarchical and arithmetic-coded frames."""


class PlainJpeg(NamedTuple):
    """The frame of a JPEG about whose colour space there is no doubt: 8 bits, grey or YCbCr, Huffman-coded."""

    height: int
    width: int
    components: int
    """1: grey; 3: YCbCr."""


def read_plain(data: bytes) -> PlainJpeg | None:
    """The frame header of a plain JPEG, or None for anything else: no JPEG, CMYK, RGB-coded, 12 bits, a broken header.

    The rules for colour are libjpeg's `default_decompress_parms`: three components are YCbCr if a JFIF marker says so, or
    an Adobe marker does (transform 1), or neither is there and their identifiers are 1, 2, 3. Everything else is left to
    Pillow.
    """
    if data[:3] != b"\xff\xd8\xff":
        return None
    position, end, jfif, adobe = 2, len(data), False, None
    while position + 4 <= end:
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _STANDALONE:
            position += 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if length < 2 or marker in _OTHER_FRAMES or marker in (0xD8, 0xD9, 0xDA):
            return None
        body = data[position + 4 : position + 2 + length]
        if marker == 0xE0 and body[:5] == b"JFIF\0":
            jfif = True
        elif marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        elif marker in _BASELINE_TO_PROGRESSIVE:
            return _plain_frame(body, jfif, adobe)
        position += 2 + length
    return None


def _plain_frame(body: bytes, jfif: bool, adobe: int | None) -> PlainJpeg | None:
    if len(body) < 6 or body[0] != 8 or len(body) < 6 + 3 * body[5]:
        return None
    height, width, components = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big"), body[5]
    if not height or not width:  # a height of 0 is given later, by a DNL marker
        return None
    if components == 3:
        identifiers = body[6], body[9], body[12]
        if not jfif and not (adobe == 1 or (adobe is None and identifiers == (1, 2, 3))):
            return None
        if jfif and adobe not in (None, 1):
            return None
    elif components != 1:
        return None
    return PlainJpeg(height, width, components)
