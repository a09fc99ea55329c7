"""A model of whose embeddings the first numbers alone are read, as those of Matryoshka training (Kusupati et al. 2022,
arXiv:2205.13147) are meant to be: what is encoded and kept is whole, so that all lengths share one encoding."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch.nn import functional

from clipeval.configs.errors import ClipevalError
from clipeval.configs.naming import slug_of
from clipeval.models.cuts import Cuts
from clipeval.models.encoder import Encoder
from clipeval.models.handle import ModelHandle, digest_of
from clipeval.models.texts import Tokenizer
from clipeval.preprocess.transforms import Transform


def shortened(rows: torch.Tensor, dimensions: int | None, raw: bool = False) -> torch.Tensor:
    """The first numbers of embeddings, of unit length again.

    Args:
        rows: float32 [N, D].
        dimensions: how many; None: all, as they are.
        raw: whether they are to stay as long as they are.

    Returns:
        float32 [N, dimensions].

    Raises:
        ClipevalError: there are fewer.
    """
    if dimensions is None or not len(rows):
        return rows
    if rows.shape[1] < dimensions:
        raise ClipevalError(f"model.dimensions={dimensions}: the model's embeddings have {rows.shape[1]} numbers")
    if rows.shape[1] == dimensions:
        return rows
    return rows[:, :dimensions] if raw else functional.normalize(rows[:, :dimensions], dim=-1)


class Shortened(ModelHandle):
    """Another handle's model, whose embeddings are cut when they are scored. `load` gives it whole.

    Args:
        whole: the model.
        dimensions: how many numbers are read.
        slug: names the run folder; None: as the model's own, and the number.

    Raises:
        ClipevalError: the architecture says that its embeddings have fewer.
    """

    def __init__(self, whole: ModelHandle, dimensions: int, slug: str | None = None) -> None:
        self.whole, self.dimensions, self.name = whole, dimensions, whole.name
        width = whole.embed_dim
        if width is not None and width < dimensions:
            raise ClipevalError(f"model.dimensions={dimensions}: the embeddings of {whole.name} have {width} numbers")
        words = f"{dimensions} dimensions"
        self.pretrained = f"{whole.pretrained}, {words}" if whole.pretrained else words
        self.slug = slug or slug_of(whole.slug, f"dim-{dimensions}")
        self.text_clean = whole.text_clean

    @property
    def flags(self) -> list[str]:  # type: ignore[override]
        """See `ModelHandle.flags`."""
        return self.whole.flags

    @property
    def preprocess(self) -> Transform:
        """See `ModelHandle.preprocess`."""
        return self.whole.preprocess

    @property
    def missing(self) -> str | None:
        """See `ModelHandle.missing`."""
        return self.whole.missing

    def fetch(self) -> None:
        """See `ModelHandle.fetch`."""
        self.whole.fetch()

    @property
    def on_demand(self) -> bool:
        """See `ModelHandle.on_demand`."""
        return self.whole.on_demand

    @property
    def weights_digest(self) -> str:
        """Of the weights and the number: other lengths have other scores."""
        return digest_of({"weights": self.whole.weights_digest, "dimensions": self.dimensions})

    @property
    def image_digest(self) -> str:
        """The model's own: embeddings are kept whole."""
        return self.whole.image_digest

    @property
    def text_digest(self) -> str:
        """The model's own: embeddings are kept whole."""
        return self.whole.text_digest

    @property
    def tokenizer_digest(self) -> str:
        """See `ModelHandle.tokenizer_digest`."""
        return self.whole.tokenizer_digest

    def load(self, device: str | torch.device = "cpu", precision: str = "fp32", compile: bool = False) -> Encoder:
        """The whole model: its embeddings are cut when they are scored."""
        return self.whole.load(device, precision, compile)

    def load_text(self, device: str | torch.device = "cpu", precision: str = "fp32") -> Encoder:
        """The whole model: its embeddings are cut when they are scored."""
        return self.whole.load_text(device, precision)

    def tokenizer(self) -> Tokenizer:
        """See `ModelHandle.tokenizer`."""
        return self.whole.tokenizer()

    @cached_property
    def cuts(self) -> Cuts:
        """See `ModelHandle.cuts`."""
        return self.whole.cuts

    @cached_property
    def logit_scale(self) -> float | None:
        """See `ModelHandle.logit_scale`."""
        return self.whole.logit_scale

    @property
    def identity(self) -> Mapping[str, str]:
        """See `ModelHandle.identity`."""
        return self.whole.identity

    @property
    def text_mark(self) -> str:
        """See `ModelHandle.text_mark`."""
        return self.whole.text_mark

    @property
    def architecture(self) -> Mapping[str, Any] | None:
        """See `ModelHandle.architecture`."""
        return self.whole.architecture

    @property
    def outputs(self) -> tuple[str, ...]:
        """Embeddings alone: what a model writes has no length that could be cut."""
        return ("embeddings",)

    @property
    def own_weights(self) -> bool:
        """See `ModelHandle.own_weights`: what was published is of whole embeddings."""
        return True

    def checkpoint_flags(self) -> tuple[str, ...]:
        """See `ModelHandle.checkpoint_flags`."""
        return self.whole.checkpoint_flags()

    def describe(self) -> dict[str, Any]:
        """See `ModelHandle.describe`."""
        mine = {"slug": self.slug, "pretrained": self.pretrained, "dimensions": self.dimensions}
        return {**self.whole.describe(), **mine}
