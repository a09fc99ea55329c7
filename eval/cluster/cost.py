"""What a model costs an image, so that shares of several models can be made equal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DECODE = 0.3
"""Decoding, resizing and moving an image, in units of a ViT-B-32's pass over it."""
REFERENCE = 12 * 12 * 768**2 * 50
"""Multiplications of a ViT-B-32 at 224 pixels: 12 layers of 12 width² at 50 tokens."""


def model_cost(architecture: Mapping[str, Any] | None) -> float:
    """An image's cost by a model, relative to ViT-B-32's 1.3; that of ViT-B-32 where the architecture says too little.

    Args:
        architecture: open_clip's `model_cfg`; None for a model of another kind.

    >>> round(model_cost(open_clip.get_model_config("ViT-B-32")) / model_cost(open_clip.get_model_config("ViT-B-16")), 1)
    0.3
    """
    vision = (architecture or {}).get("vision_cfg") or {}
    layers, width = vision.get("layers"), vision.get("width", 768)
    patch, size = vision.get("patch_size", 16), vision.get("image_size", 224)
    if not isinstance(layers, int) or not isinstance(width, int) or not isinstance(patch, int) or patch < 1:
        return DECODE + 1.0
    side = (size[0] if isinstance(size, list | tuple) else size) // patch
    return DECODE + float(12 * layers * width**2 * (side * side + 1)) / REFERENCE
