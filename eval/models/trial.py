"""Whether a model that is in memory can be run as it is, found out before an image is decoded for it."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from clipeval.configs.errors import ClipevalError, first_line

if TYPE_CHECKING:
    from clipeval.models.encoder import Encoder

_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def device_of(model: Any) -> torch.device | None:
    """Where images and tokens are to go: to the first weights, but for those that hold no numbers; None where there are none."""
    devices = [p.device for p in model.parameters()] if callable(getattr(model, "parameters", None)) else []
    return next((d for d in devices if d.type != "meta"), devices[0] if devices else None)


def check_weights(model: Any, precision: str, name: str) -> None:
    """Sees that weights hold numbers, and numbers that the precision computes with.

    Half-precision weights would make half-precision numbers of a run that is recorded as fp32, or fail at the first layer.

    Args:
        model: if it is no nn.Module, nothing is known of it.
        precision: see `clipeval.models.precision.PRECISIONS`.
        name: of the model, for the error.

    Raises:
        ClipevalError: weights are on the meta device, or of another type than the precision's.
    """
    if not isinstance(model, nn.Module):
        return
    # A logit scale takes no part in embeddings.
    weights = [(key, p) for key, p in model.named_parameters() if p.is_floating_point() and p.numel() > 1]
    # `accelerate` keeps what it has offloaded on the meta device, and brings it when it is needed.
    empty = [key for key, p in weights if p.is_meta] if not _brings_weights(model) else []
    if empty:
        raise ClipevalError(
            f"{name}: {len(empty)} of {len(weights)} weights are on the meta device, which holds no numbers ({empty[0]} first): "
            "load them, by model.load_state_dict(weights, assign=True) say."
        )
    half = _HALVES.get(precision)
    others = [(key, p.dtype) for key, p in weights if p.dtype not in (torch.float32, half)]
    if not others:
        return
    key, dtype = others[0]
    kinds = {kind for _, kind in others}
    fitting = [p for p, kind in _HALVES.items() if kinds == {kind}]
    cure = f"set runtime.precision={fitting[0]}, or give" if fitting else "give"
    raise ClipevalError(
        f"{name}: {len(others)} of {len(weights)} weights are {str(dtype).removeprefix('torch.')} ({key} first), and "
        f"runtime.precision={precision} computes with float32 weights{' or its own' if half else ''}: {cure} a copy in float32, "
        "copy.deepcopy(model).float()."
    )


def try_image(encoder: Encoder) -> None:
    """Runs the image tower on one blank image.

    Raises:
        ClipevalError: it fails.
    """
    pixels = _blank(encoder)
    if pixels is None:
        return
    try:
        with encoder.uncompiled():
            encoder.encode_images(pixels[None])
    except ClipevalError:
        raise
    except Exception as problem:  # code of the user's own may raise anything
        where = traceback.extract_tb(problem.__traceback__)[-1]
        said = first_line(problem, "")
        raise ClipevalError(
            f"encode_image fails on one blank image of {'x'.join(map(str, pixels.shape[1:]))} pixels: {type(problem).__name__}: "
            f"{said} ({where.filename}, line {where.lineno}){placement(encoder.model)}"
        ) from problem


def placement(model: Any) -> str:
    """What to say of a model whose weights are on several devices; nothing of another."""
    if not isinstance(model, nn.Module):
        return ""
    devices = dict.fromkeys(str(p.device) for p in model.parameters())
    if len(devices) < 2:
        return ""
    return (
        f". The weights are on {', '.join(devices)}, and images and tokens are given to {device_of(model)}: move the model to one "
        "device, or let encode_image and encode_text move what they are given"
    )


def _brings_weights(model: nn.Module) -> bool:
    return any(hasattr(part, "_hf_hook") for part in model.modules())


def _blank(encoder: Encoder) -> torch.Tensor | None:
    """One image as the encoder's transform makes it, [3, h, w]; None where it takes no blank one, which is not for us to say."""
    transform = encoder.preprocess
    return None if transform.shape is None else torch.zeros(transform.shape, dtype=transform.dtype)
