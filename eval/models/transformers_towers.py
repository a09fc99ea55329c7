"""The two towers and the tokenizer of a transformers model, under open_clip's method names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clipeval.configs.errors import ClipevalError
from clipeval.models.text_clean import CANONICALIZE, LOWER, NONE, WHITESPACE, clean_function


@dataclass(frozen=True)
class Kind:
    """What there is to know of a `model_type`.

    Attributes:
        model: the class in transformers.
        clean: the clean-up that its models were trained with.
        masked: whether its text tower has to be told which tokens are padding. CLIP's is causal and pools the end token;
            SigLIP's was trained to see its padding.
        resizes: whether its image tower takes `interpolate_pos_encoding`.
    """

    model: str
    clean: str = NONE
    masked: bool = True
    resizes: bool = True


KINDS: Mapping[str, Kind] = {
    "clip": Kind("CLIPModel", LOWER, masked=False),
    "siglip": Kind("SiglipModel", CANONICALIZE, masked=False),
    "metaclip_2": Kind("MetaClip2Model", WHITESPACE, masked=False),
    "clipseg": Kind("CLIPSegModel", LOWER, masked=False),
    "altclip": Kind("AltCLIPModel"),
    "chinese_clip": Kind("ChineseCLIPModel"),
    "align": Kind("AlignModel", resizes=False),
    "blip": Kind("BlipForImageTextRetrieval"),
}
"""The types whose towers take plain images and tokens. A type that is not here is tried by its own methods
(`get_image_features`, `get_text_features`). SigLIP 2 of a fixed resolution is of type siglip."""
PROJECTED = ("clip", "metaclip_2", "clipseg", "altclip", "chinese_clip", "align")
"""Types whose config says the length of an embedding, `projection_dim`."""
REFUSED = {
    "siglip2": "a SigLIP 2 NaFlex model, whose images are patches of any aspect: use one of a fixed resolution, such as "
    "google/siglip2-base-patch16-224",
    "clip_vision_model": "an image tower alone",
    "clip_text_model": "a text tower alone",
    "siglip_vision_model": "an image tower alone",
    "siglip_text_model": "a text tower alone",
}
"""Types that cannot be scored, and why."""


def kind_of(model_type: str, tokenizer_class: str | None) -> Kind:
    """Of a type; `clean` is OpenAI's where the tokenizer is OpenAI's: another one has a clean-up of its own."""
    kind = KINDS.get(model_type, Kind("AutoModel"))
    openai = (tokenizer_class or "").startswith("CLIPTokenizer")
    return Kind(kind.model, NONE, kind.masked, kind.resizes) if kind.clean == LOWER and not openai else kind


class Towers(nn.Module):
    """A transformers model under open_clip's method names.

    Args:
        model: gives `get_image_features` and `get_text_features`, or is a BLIP with its contrastive projections.
        padding: the token that a masked text tower is not to see; None: it takes no mask.
        resized: whether the positional embedding of the image tower is to be interpolated.
    """

    def __init__(self, model: Any, padding: int | None, resized: bool = False):
        super().__init__()
        self.model, self._padding = model, padding
        self._images = {"interpolate_pos_encoding": True} if resized else {}

    @property
    def logit_scale(self) -> Any:
        return getattr(self.model, "logit_scale", None)

    @property
    def logit_bias(self) -> Any:
        return getattr(self.model, "logit_bias", None)

    def encode_image(self, images: torch.Tensor) -> Any:
        if hasattr(self.model, "vision_proj"):
            return self.model.vision_proj(self.model.vision_model(pixel_values=images, **self._images)[0][:, 0])
        return self.model.get_image_features(pixel_values=images, **self._images)

    def encode_text(self, tokens: torch.Tensor) -> Any:
        mask = {} if self._padding is None else {"attention_mask": (tokens != self._padding).long()}
        if hasattr(self.model, "text_proj"):
            return self.model.text_proj(self.model.text_encoder(input_ids=tokens, **mask)[0][:, 0])
        return self.model.get_text_features(input_ids=tokens, **mask)


def padding_of(tokenizer: Any) -> int | None:
    """The padding token of a tokenizer, where it stands for nothing else."""
    inner = tokenizer.inner
    others = {inner.eos_token_id, inner.bos_token_id, inner.sep_token_id, inner.cls_token_id}
    return None if inner.pad_token_id in others else inner.pad_token_id


class HubTokenizer:
    """A transformers tokenizer that pads to the tower's context, at the end, as every text tower of `KINDS` was trained.

    Args:
        folder: where its files are.
        context: tokens of a text.
        policy: of `clipeval.models.text_clean`.
        at_end: whether padding goes to the end, whatever the tokenizer's config says; else its own side.
        trust: whether the folder's own code may be run.
    """

    def __init__(self, folder: Path, context: int, policy: str, at_end: bool = True, trust: bool = False):
        from transformers import AutoTokenizer

        self.inner: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust)
        if at_end:
            self.inner.padding_side = "right"
        self.context, self.policy = context, policy

    @classmethod
    def of(cls, inner: Any, context: int, policy: str) -> HubTokenizer:
        """Around a transformers tokenizer that is loaded, which from now on pads at the end."""
        made = cls.__new__(cls)
        made.inner, made.context, made.policy = inner, context, policy
        inner.padding_side = "right"
        return made

    @property
    def clean_fn(self) -> Callable[[str], str]:
        return clean_function(self.policy)

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        clean = self.clean_fn
        tokens: torch.Tensor = self.inner(
            [clean(text) for text in texts],
            padding="max_length",
            truncation=True,
            max_length=self.context,
            return_tensors="pt",
        )["input_ids"]
        return tokens

    def whole_length(self, text: str) -> int:
        """Tokens of a text that is not cut, special ones included."""
        return len(self.inner(self.clean_fn(text), truncation=False)["input_ids"])


def check_features(model: Any, path: str) -> None:
    """ClipevalError unless a model embeds images and texts apart."""
    lacking = [name for name in ("get_image_features", "get_text_features") if not callable(getattr(model, name, None))]
    if lacking and not (hasattr(model, "vision_proj") and hasattr(model, "text_proj")):
        name = model.__name__ if isinstance(model, type) else type(model).__name__
        raise ClipevalError(
            f"model.path={path} is a {name}, which has no {' and no '.join(lacking)}: it does not embed images and "
            "texts apart. Wrap it in a class (model=custom)."
        )
