"""Texts as rows of numbers, so that what a model writes about an image is streamed, stored and shared as its embedding is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

WIDTH = 512
"""Bytes of a row: more than the 30 tokens of a caption come to."""


def to_rows(texts: Sequence[str]) -> torch.Tensor:
    """float32 [N, 512]: each text's UTF-8 bytes, 0 behind them; a byte is exact in float32, and in bfloat16 too.

    A text of more bytes is cut after its last whole character, and one that holds the character 0 loses it.
    """
    rows = np.zeros((len(texts), WIDTH), dtype=np.float32)
    for row, text in zip(rows, texts, strict=True):
        content = text.replace("\0", "").encode("utf-8", errors="replace")[:WIDTH]
        content = content.decode("utf-8", errors="ignore").encode()
        row[: len(content)] = np.frombuffer(content, dtype=np.uint8)
    return torch.from_numpy(rows)


def to_texts(rows: torch.Tensor) -> list[str]:
    """The texts of `to_rows`."""
    return [bytes(row).rstrip(b"\0").decode() for row in rows.cpu().numpy().astype(np.uint8)]


def cut(rows: torch.Tensor) -> int:
    """How many texts of `to_rows` may have been cut: those that leave no room for another character."""
    longest = 4  # bytes of a character
    return int((rows[:, WIDTH - longest] != 0).sum())
