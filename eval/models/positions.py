"""Whether a checkpoint's positional embeddings fit the architecture, or open_clip has to interpolate them when it loads them.

It does so without a word: a tower trained at 224 pixels then sees 336, and scores otherwise than at either size. Told from
the shapes in the file, which are read without its weights, so that it is known of cached embeddings, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isqrt
from pathlib import Path
from typing import Any

import torch

from clipeval.configs.errors import ClipevalError

_NAME = "positional_embedding"


def interpolated(path: Path, architecture: Mapping[str, Any]) -> list[str]:
    """A flag for each positional embedding that is not of the architecture's size.

    Args:
        path: an open_clip checkpoint.
        architecture: `vision_cfg` and `text_cfg`, as open_clip's configs have them.
    """
    found = []
    for name, shape in shapes(path).items():
        if not name.endswith(_NAME) or len(shape) != 2:
            continue
        prefix = name.removesuffix(_NAME)
        if prefix.endswith("visual."):
            wanted = _grid(architecture.get("vision_cfg") or {})
            given = isqrt(shape[0] - 1), isqrt(shape[0] - 1)
            if wanted is not None and shape[0] != wanted[0] * wanted[1] + 1:
                found.append(of_images(given, wanted))
        elif "visual." not in prefix and "decoder" not in prefix:
            length = _length(architecture)
            if length is not None and shape[0] != length:
                found.append(of_texts(shape[0], length))
    return list(dict.fromkeys(found))


def of_images(given: tuple[int, int], wanted: tuple[int, int]) -> str:
    """The flag of an image tower, from patches by patches to patches by patches."""
    return (
        f"the image tower's positional embedding was interpolated from {given[0]}x{given[1]} to {wanted[0]}x{wanted[1]} "
        "patches: the checkpoint was trained at another image size than model.name has"
    )


def of_texts(given: int, wanted: int) -> str:
    """The flag of a text tower, from tokens to tokens."""
    return (
        f"the text tower's positional embedding was interpolated from {given} to {wanted} tokens: the checkpoint was trained "
        "with another context length than model.name has"
    )


def patches_flags(size: int | tuple[int, int], patch: Any) -> list[str]:
    """What to say of an image size that is asked for where patches do not divide it.

    Raises:
        ClipevalError: it is smaller than a patch.
    """
    if not isinstance(patch, int):  # a tower that is not known to have patches
        return []
    sides = _pair(size)
    if min(sides) < patch:
        raise ClipevalError(
            f"model.image_size={min(sides)} is less than a patch of this image tower, which has {patch} pixels"
        )
    rest = [side % patch for side in sides if side % patch]
    if not rest:
        return []
    lower = sides[0] // patch * patch
    return [
        f"model.image_size={sides[0]} is no multiple of the patches, of {patch} pixels: the last {rest[0]} rows or columns "
        f"of each image are not seen; {lower} or {lower + patch} is"
    ]


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the tensors in a checkpoint, nested ones with their path; empty where it cannot be read.

    Whoever loads the file says what is wrong with it.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        try:
            content = torch.load(path, map_location="meta", weights_only=True, mmap=True)
        except RuntimeError:  # torch's old format cannot be mapped
            content = torch.load(path, map_location="meta", weights_only=True)
    except Exception:  # noqa: BLE001  (safetensors, zip and pickle each have errors of their own)
        return {}
    return dict(_tensors(content, ""))


def _tensors(content: Any, prefix: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, torch.Tensor):
            yield f"{prefix}{key}", tuple(value.shape)
        elif isinstance(value, Mapping) and str(key) not in ("optimizer", "scaler"):
            yield from _tensors(value, f"{prefix}{key}.")


def _grid(vision: Mapping[str, Any]) -> tuple[int, int] | None:
    """Patches of open_clip's own vision transformer; None for other towers, whose embeddings it does not interpolate."""
    if vision.get("timm_model_name") or isinstance(vision.get("layers"), list | tuple):
        return None
    (height, width), (high, wide) = _pair(vision.get("image_size", 224)), _pair(vision.get("patch_size") or 16)
    return height // high, width // wide


def _length(architecture: Mapping[str, Any]) -> int | None:
    """Positions of open_clip's own text transformer; None for a tower of Hugging Face's."""
    text = architecture.get("text_cfg") or {}
    if text.get("hf_model_name"):
        return None
    # A class token that the tower appends (CoCa) has a position of its own.
    return int(text.get("context_length", 77)) + int(bool(text.get("embed_cls")))


def _pair(size: Any) -> tuple[int, int]:
    return (int(size[0]), int(size[1])) if isinstance(size, list | tuple) else (int(size), int(size))
