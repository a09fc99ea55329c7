"""What a model costs an image, so that shares of several models can be made equal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipeval.results import safe_json

DECODE = 0.3
"""Decoding, resizing and moving an image, in units of a ViT-B-32's pass over it."""
REFERENCE = 12 * 12 * 768**2 * 50
"""Multiplications of a ViT-B-32 at 224 pixels: 12 layers of 12 width² at 50 tokens."""


def model_cost(name: str | None, config_dir: str | None = None) -> float:
    """An image's cost by a model, relative to ViT-B-32's 1.3; that of ViT-B-32 where the architecture says too little.

    >>> round(model_cost("ViT-B-32") / model_cost("ViT-B-16"), 1)
    0.3
    """
    vision = (_architecture(name or "", config_dir) or {}).get("vision_cfg") or {}
    layers, width = vision.get("layers"), vision.get("width", 768)
    patch, size = vision.get("patch_size", 16), vision.get("image_size", 224)
    if not isinstance(layers, int) or not isinstance(width, int) or not isinstance(patch, int) or patch < 1:
        return DECODE + 1.0
    side = (size[0] if isinstance(size, list | tuple) else size) // patch
    return DECODE + float(12 * layers * width**2 * (side * side + 1)) / REFERENCE


def _architecture(name: str, config_dir: str | None) -> Mapping[str, Any] | None:
    import open_clip

    if name.startswith("local-dir:"):
        path = Path(name.removeprefix("local-dir:")).expanduser() / "open_clip_config.json"
    elif config_dir and (Path(config_dir).expanduser() / f"{name}.json").is_file():
        path = Path(config_dir).expanduser() / f"{name}.json"
    else:
        found: Mapping[str, Any] | None = open_clip.get_model_config(name) if name in open_clip.list_models() else None
        return found
    try:
        content = safe_json.read(path)
    except (OSError, ValueError):
        return None  # the model's own reader will say so
    inner = content.get("model_cfg", content) if isinstance(content, dict) else None
    return inner if isinstance(inner, dict) else None
