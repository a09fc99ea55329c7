"""Reading a torchvision pipeline: which `Preprocess` it equals, if any."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from clipeval.preprocess.late import loaded
from clipeval.preprocess.transforms import CustomTransform, Preprocess, Transform, from_open_clip


def read_transform(transform: Callable[[Image.Image], Any], digest: str) -> Transform:
    """A `Preprocess` equal to a torchvision pipeline, if there is one; else the pipeline itself as an `CustomTransform`.

    What the steps look like only suggests an answer; it is taken if it gives the transform's own values, bit for bit, on
    probe images of several modes and shapes.
    """
    if isinstance(transform, Preprocess | CustomTransform):
        return transform
    guess = _guess(transform)
    if isinstance(guess, str):
        return CustomTransform(transform, digest, guess)
    for image in _probes():
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        expected = transform(image)
        got = guess.normalise(guess.pixels(buffer.getvalue(), "as_decoded")[None])[0]
        if not isinstance(expected, torch.Tensor) or expected.shape != got.shape or not torch.equal(expected, got):
            return CustomTransform(transform, digest, f"it differs from {guess.describe()} on a {image.mode} image")
    return guess


def _guess(transform: Callable[[Image.Image], Any]) -> Preprocess | str:
    """What a Compose of Resize, CenterCrop, …, Normalize seems to be; or, in words, why it is none."""
    if not isinstance(transform, loaded("torchvision.transforms", "Compose")):
        return f"{type(transform).__name__} is not a torchvision Compose"
    steps = {type(step).__name__: step for step in transform.transforms}
    resize, normalise = steps.get("Resize", steps.get("ResizeKeepRatio")), steps.get("Normalize")
    crop = steps.get("CenterCrop", steps.get("CenterCropOrPad"))
    if resize is None or normalise is None:
        return "its steps include no Resize or no Normalize"
    if crop is None:
        mode, size = "squash", resize.size
    else:
        mode, size = "longest" if getattr(resize, "longest", 0) else "shortest", crop.size
    try:
        return from_open_clip(
            {
                "size": size if isinstance(size, int) else tuple(size),
                "mean": tuple(normalise.mean),
                "std": tuple(normalise.std),
                "interpolation": str(getattr(resize.interpolation, "value", resize.interpolation)),
                "resize_mode": mode,
                "fill_color": getattr(crop, "fill", 0),
            }
        )
    except (TypeError, ValueError) as error:
        return str(error)


def _probes() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    rgb, rgba = (Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)) for shape in ((97, 131, 3), (120, 80, 4)))
    return [rgb, rgb.resize((40, 300)), rgb.convert("P"), rgb.convert("L"), rgba]
