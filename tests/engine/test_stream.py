"""The image stream: order, full batches over the borders of splits, and memory that does not suffice."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clipeval.configs.errors import ClipevalError
from clipeval.decoding.decoders import DecodeJob
from clipeval.engine.stream import ImageStream, StreamOptions
from clipeval.preprocess.transforms import Preprocess

CPU = torch.device("cpu")


class Squares:
    """Images of one colour each: the number of the image."""

    digest = "squares"

    def __init__(self, first: int, count: int) -> None:
        self.first, self.count = first, count

    def __len__(self) -> int:
        return self.count

    def read(self, position: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (self.first + position,) * 3).save(buffer, "PNG")
        return buffer.getvalue()

    def location(self, position: int) -> str:
        return f"square {self.first + position}"


class Reader:
    """An encoder that says which images it saw, and holds `most` at a time."""

    preprocess = Preprocess((8, 8))

    def __init__(self, most: int = 1000) -> None:
        self.most, self.sizes = most, list[int]()

    def encode(self, output: str, batch: torch.Tensor, mixed: bool = False) -> torch.Tensor:
        if len(batch) > self.most:
            raise torch.OutOfMemoryError
        self.sizes.append(len(batch))
        mean, std = self.preprocess.mean[0], self.preprocess.std[0]
        return ((batch[:, 0, 0, :1] * std + mean) * 255).round()


def embed(encoder: Any, workers: int = 0, size: int = 40) -> list[list[float]]:
    jobs = [DecodeJob("a", Squares(0, 50), np.arange(50), "rgb_first", False)]
    jobs.append(DecodeJob("b", Squares(100, 70), np.arange(0, 70, 2), "rgb_first", False))
    stream = ImageStream(jobs, encoder.preprocess, StreamOptions(workers, size), CPU)
    found: list[dict[int, float]] = [{}, {}]
    try:
        for piece in stream.embed(encoder):
            found[piece.job].update(zip(piece.indices.tolist(), piece.rows[:, 0].tolist(), strict=True))
    finally:
        stream.close()
    return [[rows[position] for position in sorted(rows)] for rows in found]


EXPECTED = [[float(i) for i in range(50)], [100.0 + i for i in range(0, 70, 2)]]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_full_over_the_border_of_two_splits(workers: int) -> None:
    encoder = Reader()
    assert embed(encoder, workers) == EXPECTED
    assert encoder.sizes == [40, 40, 5]


def test_out_of_memory_halves_the_batch_and_goes_on() -> None:
    encoder = Reader(most=11)
    assert embed(encoder) == EXPECTED
    assert max(encoder.sizes) == 10 and sum(encoder.sizes) == 85
    assert encoder.sizes[-1] <= 10


def test_memory_that_holds_no_image_is_one_error() -> None:
    with pytest.raises(ClipevalError, match="does not hold one image"):
        embed(Reader(most=0))
