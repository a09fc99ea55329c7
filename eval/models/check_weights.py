"""What a model's weights say of where they come from: layers that were never trained, an activation that is not theirs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from clipeval.models.doubt import Doubt
from clipeval.models.encoder import Encoder

FEW = 4
"""Normalisation layers that a tower needs for its look to say anything."""
WIDE = 64
"""Rows and columns that a weight matrix needs for their spread to say anything."""
ENOUGH = 512
"""Rows and columns of a large matrix that are looked at."""
LIKE_NOISE = 3.0
"""Standard errors by which the rows or columns of a layer must differ more than those of noise. Each trained one has a matrix
with ten or more."""
_BLOCK = re.compile(r"^(?P<block>.*?(?:^|\.)(?:resblocks|blocks|layers?)\.\d+)\.")
_UNUSED = re.compile(r"token_type|mask_token|lora_")
"""Weights that are zero in sound models: RoBERTa's types of tokens, a mask token of pre-training, an adapter before training."""


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
        towers[_tower(name)].append(fresh)
    for tower, fresh_layers in towers.items():
        if len(fresh_layers) >= FEW and sum(fresh_layers) >= len(fresh_layers) / 4:
            yield Doubt(
                f"{sum(fresh_layers)} of {len(fresh_layers)} normalisation layers of the {tower} tower are as they were made",
                "training moves them: these weights were not loaded, or not trained",
                "see which keys of the checkpoint were read (strict=True), and that it is the trained one",
            )


def _tower(name: str) -> str:
    return "image" if any(part in ("visual", "vision_model", "image") for part in name.split(".")) else "text"


def _matrices(encoder: Encoder) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights that are more than a row of numbers, [rows, columns] each; those on the meta device hold none."""
    if isinstance(encoder.model, nn.Module):
        for name, weight in encoder.model.named_parameters():
            if weight.is_floating_point() and not weight.is_meta and sum(side > 1 for side in weight.shape) > 1:
                yield name, weight.detach().flatten(1)


def empty(encoder: Encoder) -> Iterator[Doubt | str]:
    """Doubts weights that are all zero: training leaves none so."""
    names = [
        name
        for name, weight in _matrices(encoder)
        if not _UNUSED.search(name) and not (bool(weight[0].any()) or bool(weight.any()))
    ]
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield Doubt(
            f"the weights {names[0]}{more} are all zero",
            "what goes through them is lost",
            "see whether the checkpoint holds them so, or lost them when it was converted",
        )


def unlearnt(encoder: Encoder) -> Iterator[Doubt | str]:
    """Doubts layers whose weights look like noise: drawn, and never trained, or in the wrong places.

    In noise the rows of a matrix differ no more in their mean square, or mean, than chance has it, and its columns neither;
    in what was trained some do. A layer is doubted if none of its matrices does.
    """
    most: dict[str, float] = {}
    for name, weight in _matrices(encoder):
        block = _BLOCK.match(name)
        if block is None or min(weight.shape) < WIDE or most.get(block["block"], 0.0) >= LIKE_NOISE:
            continue
        part = weight[:ENOUGH, :ENOUGH].float()
        most[block["block"]] = max(most.get(block["block"], 0.0), _structure(part))
    alike = [block for block, structure in most.items() if structure < LIKE_NOISE]
    if alike:
        yield Doubt(
            f"the weights of {len(alike)} of {len(most)} layers look like noise ({alike[0]} first)",
            "they were not trained, or stand in the wrong places",
            "see which keys of the checkpoint were read, and how it was converted",
        )


def _structure(weight: torch.Tensor) -> float:
    """By how many standard errors the rows or columns of a matrix differ more than those of noise, in mean or mean square.

    Of n rows with m independent numbers each, the variance of their means, times m and over that of the numbers, is 1, with a
    standard error of sqrt(2 / (n - 1)).
    """
    found = []
    for numbers in (weight, weight.square()):
        spread = float(numbers.var())
        for side in (1, 0):
            means = numbers.mean(dim=side)
            ratio = float(means.var()) * numbers.shape[side] / spread if spread else math.inf  # all alike: no noise
            found.append((ratio - 1) / math.sqrt(2 / (len(means) - 1)))
    return max(found)
