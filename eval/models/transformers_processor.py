"""The image processor of a transformers folder, as open_clip's preprocessing where that says the same."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from PIL import Image

from clipeval.models.handle import digest_of
from clipeval.preprocess.transforms import CustomTransform, Transform, from_open_clip

_INTERPOLATION = {2: "bilinear", 3: "bicubic"}


def versions() -> list[str]:
    """Of the packages that decide which kind of processor there is, and how it sets itself."""
    found = []
    for package in ("torch", "torchvision", "pillow", "numpy"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return found


def pixels_of(processor: Any) -> Transform:
    """An image processor of transformers as a `Preprocess`; one that open_clip cannot express runs as it is."""
    settings = processor.to_dict()
    own = plain(settings)
    if not isinstance(own, str):
        return from_open_clip(own)

    def transform(image: Image.Image) -> torch.Tensor:
        pixels: torch.Tensor = processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"][0]
        return pixels

    return CustomTransform(transform, digest_of(settings), own)


def plain(settings: dict[str, Any]) -> dict[str, Any] | str:
    """An image processor's settings as open_clip's; or, in words, what open_clip's cannot say."""
    size, crop = settings.get("size") or {}, settings.get("crop_size") or {}
    size = {"shortest_edge": size} if isinstance(size, int) else dict(size)
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else dict(crop)
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if not settings.get(step, True):
            return f"its image processor has {step}=False"
    if abs(float(settings.get("rescale_factor") or 1 / 255) * 255 - 1) > 1e-6:
        return "its image processor scales pixels by another factor than 1/255"
    interpolation = _INTERPOLATION.get(int(settings.get("resample") or 0))
    if interpolation is None:
        return f"its image processor resizes with filter {settings.get('resample')}"
    common = {"mean": settings["image_mean"], "std": settings["image_std"], "interpolation": interpolation}
    cropped = bool(settings.get("do_center_crop"))
    if {"height", "width"} <= set(size) and not cropped:
        return {**common, "size": (size["height"], size["width"]), "resize_mode": "squash"}
    edge = size.get("shortest_edge")
    if cropped and edge and crop.get("height") == crop.get("width") == edge:
        return {**common, "size": edge, "resize_mode": "shortest"}
    return f"its image processor resizes to {size} and crops to {crop if cropped else None}"
