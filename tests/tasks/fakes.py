"""A model that is a lookup, so that clip_benchmark's own `evaluate` functions can be the oracle."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from clip_benchmark.metrics import zeroshot_classification as zsc


class Lookup:
    """Embeds texts by a table and images by doing nothing."""

    def __init__(self, vectors: dict[str, torch.Tensor]) -> None:
        self.names = list(vectors)
        self.table = torch.stack(list(vectors.values()))

    def tokenizer(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([self.names.index(text) for text in texts])

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.table[tokens]

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """What the runner would hand to a task: float32 [T, D], L2-normalised."""
        return F.normalize(self.table[self.tokenizer(texts)], dim=-1)


class Loader:
    """What clip_benchmark takes for a dataloader."""

    def __init__(self, batches: list[tuple[Any, Any]], classes: Sequence[str] = ()) -> None:
        self.batches = batches
        self.dataset = SimpleNamespace(classes=list(classes))

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return iter(self.batches)


def model(texts: Sequence[str], dim: int, seed: int = 0) -> Lookup:
    """A lookup with a random vector for each distinct text."""
    generator = torch.Generator().manual_seed(seed)
    return Lookup({text: torch.randn(dim, generator=generator) for text in dict.fromkeys(texts)})


def unit(rows: int, dim: int, seed: int = 1) -> torch.Tensor:
    """float32 [rows, dim], L2-normalised."""
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


def allow_numpy_2_4(monkeypatch: pytest.MonkeyPatch) -> None:
    """clip_benchmark 1.6.2 calls float() on an array of one element, which numpy 2.4 refuses."""
    monkeypatch.setattr(zsc, "float", lambda x: builtins.float(np.asarray(x).reshape(-1)[0]), raising=False)
