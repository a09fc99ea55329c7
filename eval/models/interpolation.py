"""Weights between two checkpoints of one architecture, as WiSE-FT (Wortsman et al. 2022, arXiv:2109.01903) has them.

(1 - alpha) x pretrained + alpha x fine-tuned, over every parameter and buffer, the logit scale too. At 0 and 1 nothing is
computed: the weights of the two ends are loaded as they are, and give their very numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from clipeval.configs.errors import ClipevalError


def load_between(
    model: nn.Module,
    alpha: float,
    first: Callable[[nn.Module], tuple[str, ...]],
    second: Callable[[nn.Module], tuple[str, ...]],
) -> tuple[str, ...]:
    """Loads weights between two checkpoints.

    Args:
        model: of the architecture of both.
        alpha: 0 to 1; 0 is the first.
        first, second: load a checkpoint into the model and return its flags.

    Returns:
        The flags of what was loaded.

    Raises:
        ClipevalError: one of them does not load, or see `mix`.
    """
    if alpha == 0:
        return first(model)
    if alpha == 1:
        return second(model)
    flags = first(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags += second(model)
    mix(before, model, alpha)
    return tuple(dict.fromkeys(flags))


@torch.no_grad()
def mix(first: Mapping[str, torch.Tensor], model: nn.Module, alpha: float) -> None:
    """Makes a model's weights (1 - alpha) x `first` + alpha x its own.

    Raises:
        ClipevalError: they have other names or shapes, or other whole numbers (a table of indices) than the model's.
    """
    own = model.state_dict()
    for name in dict.fromkeys([*own, *first]):
        if name not in own or name not in first or own[name].shape != first[name].shape:
            raise ClipevalError(
                f"model.interpolate: the two models differ in {name!r}, {_shape(first, name)} in the first and "
                f"{_shape(own, name)} in the second: there is nothing between two architectures"
            )
        if own[name].is_floating_point():
            own[name].copy_((1 - alpha) * first[name] + alpha * own[name])
        elif not torch.equal(own[name], first[name]) and not name.endswith("num_batches_tracked"):
            raise ClipevalError(
                f"model.interpolate: the two models differ in {name!r}, which holds whole numbers: there is nothing between them"
            )


def _shape(weights: Mapping[str, torch.Tensor], name: str) -> str:
    return str(list(weights[name].shape)) if name in weights else "not there"
