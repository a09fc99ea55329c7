"""Loading a checkpoint with suspicion: no code is run, nothing is left unloaded, no weight is NaN, no guess goes unsaid."""

from __future__ import annotations

from math import isqrt
from pathlib import Path
from typing import Any

import torch
from open_clip.model import resize_pos_embed, resize_text_pos_embed
from torch import nn

from clipeval.configs.errors import ClipevalError
from clipeval.models.checkpoint_file import is_torchscript, read_checkpoint
from clipeval.models.positions import of_images, of_texts
from clipeval.models.state_dicts import Choice, choose


def load_into(model: nn.Module, path: Path, *, ema: bool = False, name: str | None = None) -> tuple[str, ...]:
    """Load open_clip weights, strictly.

    Args:
        model: an open_clip model of the right architecture.
        path: .safetensors, the index of several of them, a pickle that torch can read with weights_only=True, or a TorchScript
            archive. The state dict may lie below other names; see `clipeval.models.state_dicts`.
        ema: whether to load the averaged weights beside (or in place of) the plain ones.
        name: which state dict, where several fit.

    Returns:
        What a reader of the scores must know: which of several state dicts these are, what was left out or resized.

    Raises:
        ClipevalError: the file holds code, is truncated or of another architecture, has weights that are not finite, or several
            state dicts of the model.
    """
    choice = _choose(model, path, ema, name)
    flags = (*choice.flags, *_resize(choice.found.weights, model))
    try:
        model.load_state_dict(choice.found.weights, strict=True)
    except RuntimeError as error:  # a sparse or quantised tensor, say
        raise ClipevalError(f"{path} cannot be loaded: {str(error).splitlines()[-1].strip()[:300]}") from None
    check_finite(model, str(path))
    return flags


def flags_of(model: nn.Module, path: Path, *, ema: bool = False, name: str | None = None) -> tuple[str, ...]:
    """What `load_into` would return, with no weights loaded into the model."""
    choice = _choose(model, path, ema, name)
    return (*choice.flags, *_resize(dict(choice.found.weights), model))


def _choose(model: nn.Module, path: Path, ema: bool, name: str | None) -> Choice:
    content = read_checkpoint(path)
    try:
        return choose(content, model, path, ema=ema, name=name)
    except ClipevalError as problem:
        if is_torchscript(path):
            raise ClipevalError(f"{problem} (of this TorchScript archive the tensors are read, and no code)") from None
        raise


def _resize(weights: dict[str, Any], model: Any) -> list[str]:
    """Tables of positions to the model's lengths, as open_clip does on loading; says which."""
    before = {name: tensor.shape[0] for name, tensor in weights.items() if name.endswith("positional_embedding")}
    resize_pos_embed(weights, model)
    if before.keys() & {"positional_embedding", "text.positional_embedding"}:
        resize_text_pos_embed(weights, model)
    changed = {name: length for name, length in before.items() if weights[name].shape[0] != length}
    return [
        of_images((isqrt(length - 1), isqrt(length - 1)), tuple(model.visual.grid_size))
        if name.startswith("visual.")
        else of_texts(length, weights[name].shape[0])
        for name, length in changed.items()
    ]


def load_text_into(model: nn.Module, path: Path) -> bool:
    """Load all weights but those of the image tower, which goes: it then raises if it is called.

    Only a .safetensors file that holds the very names and shapes of the model is read so.

    Returns:
        False where the file is another, and nothing was loaded; `load_into` then loads it, or says what is wrong with it.
    """
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        return False
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            if shapes != {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}:
                return False
            text = {name: file.get_tensor(name) for name in shapes if not name.startswith("visual.")}
    except (OSError, SafetensorError):
        return False
    model.visual = _NotLoaded()
    model.load_state_dict(text, strict=True)
    check_finite(model, str(path))
    return True


class _NotLoaded(nn.Module):
    def forward(self, *given: object) -> torch.Tensor:
        raise RuntimeError("the image tower was not loaded: this run has texts only")


def check_finite(model: nn.Module, location: str) -> None:
    """ClipevalError that names the first weights which hold NaN or infinity."""
    for name, tensor in model.state_dict().items():
        # The sum says it twenty times as fast, unless it overflows: then each weight is looked at.
        if tensor.is_floating_point() and not (tensor.sum().isfinite() or torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            raise ClipevalError(
                f"{location}: {count} of the weights in {name!r} are NaN or infinite; the training diverged"
            )
