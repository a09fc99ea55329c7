"""What a model's weights say of where they come from: layers that were never trained, an activation that is not theirs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from clipeval.models.doubt import Doubt
from clipeval.models.encoder import Encoder

FEW = 4
"""Normalisation layers that a tower needs for its look to say anything."""


def _quick(module: nn.Module) -> bool | None:
    """Whether a module is QuickGELU; None: it is neither that nor an exact GELU."""
    name = type(module).__name__
    if name in ("QuickGELU", "QuickGELUActivation"):
        return True
    return False if name in ("GELU", "GELUActivation") and getattr(module, "approximate", "none") == "none" else None


@contextmanager
def other_activation(model: Any) -> Iterator[tuple[str, str] | None]:
    """QuickGELU in place of every exact GELU of a model, or the other way; afterwards, and after an error, as it was.

    Gives their names, the model's own first; None where a model has both or neither, and nothing was changed.
    """
    if not isinstance(model, nn.Module):
        yield None
        return
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if _quick(child) is not None
    ]
    kinds = {_quick(child) for _, _, child in places}
    if len(kinds) != 1:
        yield None
        return
    quick = kinds.pop()
    try:
        for parent, name, _ in places:
            setattr(parent, name, nn.GELU() if quick else _QuickGELU())
        yield ("QuickGELU", "GELU") if quick else ("GELU", "QuickGELU")
    finally:
        for parent, name, child in places:
            setattr(parent, name, child)


class _QuickGELU(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


def untrained(encoder: Encoder) -> Iterator[Doubt | str]:
    """Doubts the towers of which normalisation layers are as they are made: training moves every one of them."""
    model = encoder.model
    if not isinstance(model, nn.Module):
        return
    towers: dict[str, list[bool]] = {"image": [], "text": []}
    for name, module in model.named_modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if "Norm" not in type(module).__name__ or not isinstance(weight, torch.Tensor) or weight.ndim != 1:
            continue
        fresh = bool((weight == 1).all()) and (not isinstance(bias, torch.Tensor) or bool((bias == 0).all()))
        is_image = any(part in ("visual", "vision_model", "image") for part in name.split("."))
        towers["image" if is_image else "text"].append(fresh)
    for tower, fresh_layers in towers.items():
        if len(fresh_layers) >= FEW and sum(fresh_layers) >= len(fresh_layers) / 4:
            yield Doubt(
                f"{sum(fresh_layers)} of {len(fresh_layers)} normalisation layers of the {tower} tower are as they were made",
                "training moves them: these weights were not loaded, or not trained",
                "see which keys of the checkpoint were read (strict=True), and that it is the trained one",
            )
