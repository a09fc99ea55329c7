"""Several models of one architecture as one encoder: each batch of images goes through all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache

import torch

from clipeval.models.encoder import Encoder


class EncoderGroup:
    """Encoders that see images alike, as one for the stream: rows [B, M, D] side by side, as [B, M * D]."""

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        self.encoders, self.preprocess = encoders, encoders[0].preprocess

    @classmethod
    def of(cls, encoders: Sequence[Encoder]) -> Encoder | EncoderGroup:
        """One encoder as it is, several as a group."""
        return encoders[0] if len(encoders) == 1 else cls(encoders)

    def encode(self, output: str, batch: torch.Tensor, mixed: bool = False) -> torch.Tensor:
        """As `Encoder.encode`, of all of them."""
        batch = batch.to(self.encoders[0].device, non_blocking=True)
        try:
            return torch.cat([encoder.encode(output, batch, mixed) for encoder in self.encoders], dim=1)
        except torch.OutOfMemoryError:
            for encoder in self.encoders:  # those that had room for the batch too: it comes back in smaller ones
                encoder.forget_shape()
            raise

    @contextmanager
    def uncompiled(self) -> Iterator[None]:
        """As `Encoder.uncompiled`, of all of them."""
        with ExitStack() as stack:
            for encoder in self.encoders:
                stack.enter_context(encoder.uncompiled())
            yield


def share_tokenizer(encoders: Sequence[Encoder]) -> None:
    """Lets every model use what the first one's tokenizer made: texts are tokenised once."""
    if len(encoders) < 2:
        return
    tokenizer = encoders[0].tokenizer

    @lru_cache(maxsize=64)
    def tokens(texts: tuple[str, ...]) -> torch.Tensor:
        return torch.as_tensor(tokenizer(list(texts)))

    for encoder in encoders:
        encoder.tokenizer = lambda texts: tokens(tuple(texts))
