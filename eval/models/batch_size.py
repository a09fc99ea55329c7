"""The batch size of the encoder where none is given."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from clipeval.configs.files import write_atomically
from clipeval.models.precision import current

if TYPE_CHECKING:
    from clipeval.models.encoder import Encoder
    from clipeval.models.encoder_group import EncoderGroup

ON_CPU = 32
LARGEST = 4096


def default_batch(
    encoder: Encoder | EncoderGroup,
    device: torch.device,
    like: torch.Tensor | None = None,
    images: int = LARGEST,
    memo: Path | None = None,
) -> int:
    """The batch size to use where none is given: on a GPU the smallest that gives 97% of the best rate, on a CPU 32.

    Found by running the model on blank images of doubling number until the rate stops growing or memory ends.

    Args:
        encoder: the model.
        device: where it is.
        like: [n, 3, h, w], images as the stream gives them; None: as the model's preprocessing says.
        images: how many there are; no batch is tried that is twice as large.
        memo: a file that remembers what was found for this model on this kind of device; None: none does.
    """
    if device.type != "cuda":
        return ON_CPU
    largest = min(LARGEST, max(ON_CPU, 1 << (images - 1).bit_length()))
    if memo is not None:
        memo = memo.with_name(
            f"{memo.name}-{len(getattr(encoder, 'encoders', (encoder,)))}"
        )  # of so many models at once
        with suppress(OSError, ValueError):
            return min(int(memo.read_text()), largest)
    if like is None:
        like = torch.empty((1, *encoder.preprocess.shape), dtype=encoder.preprocess.dtype)  # type: ignore[misc]
    rates: dict[int, float] = {}
    size = ON_CPU
    ended = False
    while size <= largest and not ended:
        try:
            rates[size] = _rate(encoder, torch.zeros(size, *like.shape[1:], dtype=like.dtype, device=device))
        except torch.OutOfMemoryError:
            break
        ended = rates[size] < 1.02 * rates.get(size // 2, 0.0)
        size *= 2
    with current(device):
        torch.cuda.empty_cache()  # what larger batches reserved
    if not rates:
        return 1
    best = max(rates.values())
    chosen = min(s for s, rate in rates.items() if rate >= 0.97 * best)
    if memo is not None and (
        ended or size <= largest or largest == LARGEST
    ):  # else the images ended it, and not the device
        with suppress(OSError):  # a cache that may only be read
            write_atomically(memo, str(chosen).encode())
    return chosen


def _rate(encoder: Encoder | EncoderGroup, batch: torch.Tensor) -> float:
    """Images a second, the first pass left out."""
    with encoder.uncompiled():
        encoder.encode("embeddings", batch)
        torch.cuda.synchronize(batch.device)
        started = time.monotonic()
        for _ in range(3):
            encoder.encode("embeddings", batch)
        torch.cuda.synchronize(batch.device)
    return 3 * len(batch) / (time.monotonic() - started)
