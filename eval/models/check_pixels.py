"""Pixels against the image tower: normalisation, channels, size, and the model's own description of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from clipeval.models.doubt import Doubt
from clipeval.models.encoder import Encoder
from clipeval.preprocess.transforms import CustomTransform, Preprocess, Transform, from_open_clip

CONSTANTS = {
    "OpenAI's": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "SigLIP's": ((0.5,) * 3, (0.5,) * 3),
}
"""Mean and standard deviation that models are trained with. ImageNet's give nearly OpenAI's pixels."""
FARTHEST = 4.0
"""Normalised pixels lie between -3 and 3."""


def constants_doubts(encoder: Encoder) -> Iterator[Doubt | str]:
    """The preprocessing against what the model in memory says of itself, and against what its family was trained with."""
    seen = encoder.preprocess
    if isinstance(seen, CustomTransform):
        return
    for mean, std in zip(seen.mean, seen.std, strict=True):
        if not (0 <= mean <= 1 and 0.05 <= std <= 1):
            yield Doubt(
                f"pixels are normalised with mean {seen.mean} and std {seen.std}",
                "pixels lie between 0 and 1 before that, and their mean and deviation do, too",
                "divide them by 255 where they are those of 0 to 255",
            )
            break
    if (known := _turned(seen)) is not None:
        yield Doubt(
            f"pixels are normalised with mean {seen.mean} and std {seen.std}, which are {known[0]}",
            "no model was trained so",
            f"model.preprocess={{mean: {_short(known[1])}, std: {_short(known[2])}}}",
        )
    size = _tower_size(encoder.model)
    if size is not None and size != seen.size and _has_positions(encoder.model):
        yield Doubt(
            f"images are made {seen.size[0]}x{seen.size[1]}, and the image tower's positions are for {size[0]}x{size[1]}",
            "its positional embedding does not fit",
            f"model.image_size={seen.size[0]} resizes it, or leave model.preprocess.size out",
        )
    visual = getattr(encoder.model, "visual", None)
    stated = getattr(visual, "preprocess_cfg", None)
    if stated:
        own = from_open_clip({**stated, "size": seen.size})
        different = [
            key for key in ("mean", "std", "interpolation", "resize_mode") if getattr(own, key) != getattr(seen, key)
        ]
        if different and not _default_of_open_clip(own):
            yield Doubt(
                f"the transform has {', '.join(f'{key} {getattr(seen, key)}' for key in different)}, and the model's own "
                f"preprocess_cfg {', '.join(f'{key} {getattr(own, key)}' for key in different)}",
                "other pixels than it was trained with cost points",
                "take the transform that create_model_and_transforms gives with the model",
            )
    if _is_siglip(encoder.model) and (seen.mean, seen.std) != ((0.5,) * 3, (0.5,) * 3):
        yield Doubt(
            f"a SigLIP sees pixels normalised with mean {seen.mean} and std {seen.std}",
            "those of its kind were trained with 0.5 and 0.5",
            "model.preprocess={mean: 0.5, std: 0.5} unless yours was trained otherwise",
        )


def _turned(seen: Preprocess) -> tuple[str, tuple[float, ...], tuple[float, ...]] | None:
    """Known constants with mean and deviation in each other's place, or the channels in the other order: what they are, and
    how they are right."""
    for whose, (mean, std) in CONSTANTS.items():
        if mean == std:
            continue
        wrong = {
            f"{whose} with mean and std in each other's place": (std, mean),
            f"{whose} in the order blue, green, red": (mean[::-1], std[::-1]),
        }
        for what, constants in wrong.items():
            if torch.allclose(torch.tensor([seen.mean, seen.std]), torch.tensor(constants), atol=1e-4):
                return what, mean, std
    return None


def pixel_doubts(pixels: torch.Tensor) -> Iterator[Doubt]:
    """Doubts what a transform of one's own makes of pictures; what is normalised here has its constants looked at.

    Args:
        pixels: [N, 3, h, w], as the transform gives them.
    """
    if not pixels.is_floating_point():
        return
    low, high = float(pixels.min()), float(pixels.max())
    if max(-low, high) > FARTHEST:
        yield Doubt(
            f"the transform gives pixels from {low:.3g} to {high:.3g}",
            "models are trained with numbers between -3 and 3",
            "see that it divides by 255, and normalises once",
        )


def other_pixels(transform: Transform, pixels: torch.Tensor) -> Iterator[tuple[str, str, torch.Tensor]]:
    """The same pictures as other models see them: (in which way, the cure, pixels that are normalised).

    Args:
        transform: the model's own.
        pixels: [N, 3, h, w], as it gives them.
    """
    own = transform.normalise(pixels)
    yield (
        "with red and blue exchanged",
        "see in which order the transform, or the model, takes the channels",
        own.flip(1),
    )
    if isinstance(transform, CustomTransform):
        middle, spread = (torch.tensor(constants).view(3, 1, 1) for constants in CONSTANTS["OpenAI's"])
        if float(pixels.min()) > -0.1 and float(pixels.max()) < 1.1:
            yield (
                "once they are normalised, by OpenAI's mean and std",
                "see that the transform normalises",
                (own - middle) / spread,
            )
        else:
            yield "between 0 and 1, not normalised", "see whether the model normalises once more", own * spread + middle
        return
    given = torch.tensor([transform.mean, transform.std])
    for how, (mean, std) in {**CONSTANTS, "between 0 and 1": ((0.0,) * 3, (1.0,) * 3)}.items():
        if how == "ImageNet's" or torch.allclose(given, torch.tensor([mean, std]), atol=0.06):
            continue
        yield (
            f"normalised with mean {_short(mean)} and std {_short(std)} ({how}) than with {_short(transform.mean)} and "
            f"{_short(transform.std)}",
            f"model.preprocess={{mean: {_short(mean)}, std: {_short(std)}}}, if it was trained so",
            replace(transform, mean=mean, std=std).normalise(pixels),
        )


def _short(values: tuple[float, ...]) -> str:
    """As a config has them: one number where all three are alike."""
    return f"{values[0]:g}" if len(set(values)) == 1 else f"[{', '.join(f'{value:.9g}' for value in values)}]"


def _default_of_open_clip(own: Preprocess) -> bool:
    """Whether a description is what open_clip fills in where nothing is known: it contradicts nothing."""
    return own == from_open_clip({"size": own.size})


def _tower_size(model: Any) -> tuple[int, int] | None:
    size = getattr(getattr(model, "visual", None), "image_size", None)
    if size is None:  # a model of transformers
        config = getattr(getattr(getattr(model, "model", None), "config", None), "vision_config", None)
        size = getattr(config, "image_size", None)
    try:
        return None if size is None else from_open_clip({"size": size}).size
    except (TypeError, ValueError):
        return None


def _has_positions(model: Any) -> bool:
    """Whether the image tower has a table of positions, which fits one size."""
    if getattr(model, "_images", None):  # it interpolates them as it goes
        return False
    tower = getattr(model, "visual", None) or getattr(getattr(model, "model", None), "vision_model", None)
    names = [name for name, _ in tower.named_parameters()] if isinstance(tower, nn.Module) else []
    return any("pos" in name.rpartition(".")[2] or "position" in name for name in names)


def _is_siglip(model: Any) -> bool:
    """Whether a model is judged by a sigmoid, as SigLIP is."""
    return getattr(model, "logit_bias", None) is not None and _text_pools_last(model)


def _text_pools_last(model: Any) -> bool:
    tower = getattr(model, "text", None)
    config = getattr(getattr(model, "model", None), "config", None)
    return getattr(tower, "pool_type", None) == "last" or getattr(config, "model_type", None) == "siglip"
