"""Pictures of 16 bits a pixel: Pillow's conversion to RGB, which open_clip uses, turns nearly all of them white."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path

from PIL import Image

from clipeval.data.account import NAMED, Account

HEAD = 32
"""Bytes of a file that `is_deep` looks at first."""
_PNG = b"\x89PNG\r\n\x1a\n"
_OTHERS = (b"II*\0", b"MM\0*", b"P5", b"\0\0\0\x0cjP", b"\xffO\xffQ")
"""TIFF, PGM and JPEG 2000 may hold such pictures; their headers are Pillow's to read."""


def is_deep(head: bytes, whole: Callable[[], bytes]) -> bool:
    """Whether an encoded image decodes to a mode of more than 8 bits (I;16, I, F).

    Args:
        head: its first `HEAD` bytes.
        whole: gives all of it; called for formats whose header is not that short.
    """
    if head.startswith(_PNG):
        return (
            len(head) > 25 and head[24] == 16 and head[25] == 0
        )  # bit depth and colour type: 16-bit colour is read well
    if not head.startswith(_OTHERS):
        return False
    try:
        with Image.open(io.BytesIO(whole())) as image:
            return image.mode[:1] in ("I", "F")
    except Exception:  # noqa: BLE001  (the decoder says what is wrong with it)
        return False


def deep_files(paths: Iterable[Path], keys: Iterable[str]) -> list[str]:
    """The keys of those files that are such pictures."""
    deep = []
    for path, key in zip(paths, keys, strict=True):
        with path.open("rb") as file:
            head = file.read(HEAD)
        if is_deep(head, path.read_bytes):
            deep.append(key)
    return deep


def flag_deep(keys: list[str], account: Account) -> None:
    """Flags such pictures."""
    if keys:
        some = ", ".join(keys[:NAMED]) + (", …" if len(keys) > NAMED else "")
        account.assume(
            f"{len(keys):,} pictures of more than 8 bits a pixel turn white, as in open_clip (convert them to 8 bits): {some}"
        )
