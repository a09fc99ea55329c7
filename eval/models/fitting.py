"""Which of open_clip's architectures some weights are of, told from their shapes: what a checkpoint of another one is told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch

_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.")
MOST = 4
"""Names that an error offers."""


def architectures_that_fit(weights: Mapping[str, torch.Tensor]) -> list[str]:
    """The names, in open_clip's registry, of architectures with the shapes of some weights.

    Args:
        weights: a state dict of open_clip's own vision and text transformers, under their names; of other towers nothing is told.
    """
    import open_clip

    own = _of_weights({name.removeprefix("text."): tensor for name, tensor in weights.items()})
    if own is None:
        return []
    found = []
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        if config is not None and _of_config(config) == own:
            found.append(name)
    return sorted(found, key=len)[:MOST]


def _of_weights(weights: Mapping[str, torch.Tensor]) -> dict[str, int] | None:
    """The sizes that weights say; None where they are of other towers."""
    names = ("visual.conv1.weight", "visual.positional_embedding", "positional_embedding", "token_embedding.weight")
    conv, grid, places, words = (weights.get(name) for name in names)
    projection = weights.get("text_projection", weights.get("text_projection.weight"))
    if conv is None or conv.ndim != 4 or grid is None or places is None or words is None or projection is None:
        return None
    blocks = [(bool(match[1]), int(match[2])) for name in weights if (match := _BLOCK.match(name))]
    counts = {side: 1 + max((n for visual, n in blocks if visual == side), default=-1) for side in (True, False)}
    patches = isqrt(grid.shape[0])  # and a class token, in most
    linear = "text_projection.weight" in weights
    return {
        "embed_dim": projection.shape[0 if linear else 1],
        "vision width": conv.shape[0],
        "patch": conv.shape[-1],
        "patches": patches,
        "vision layers": counts[True],
        "text width": words.shape[1],
        "text layers": counts[False],
        "words": words.shape[0],
        "tokens": places.shape[0],
    }


def _of_config(config: Mapping[str, Any]) -> dict[str, int] | None:
    vision, text = config["vision_cfg"], config["text_cfg"]
    layers, patch, size = vision.get("layers", 12), vision.get("patch_size", 16), vision.get("image_size", 224)
    if (
        vision.get("timm_model_name")
        or text.get("hf_model_name")
        or not (isinstance(layers, int) and isinstance(patch, int))
    ):
        return None
    return {
        "embed_dim": config["embed_dim"],
        "vision width": vision.get("width", 768),
        "patch": patch,
        "patches": (size if isinstance(size, int) else size[0]) // patch,
        "vision layers": layers,
        "text width": text.get("width", 512),
        "text layers": text.get("layers", 12),
        "words": text.get("vocab_size", 49408),
        "tokens": text.get("context_length", 77) + int(bool(text.get("embed_cls"))),
    }
