"""Reading a checkpoint with suspicion: no code is run, nothing is left unloaded, no weight is NaN."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path

import torch
from torch import nn

from configs.errors import ClipevalError

SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".ckpt")


def load_into(model: nn.Module, path: Path) -> None:
    """Load open_clip weights, strictly.

    Args:
        model: an open_clip model of the right architecture.
        path: .safetensors, or a pickle that torch can read with weights_only=True: a state dict, or a training
            checkpoint with one under `state_dict`.

    Raises:
        ClipevalError: the file holds code, is truncated or of another architecture, or has weights that are not finite.
    """
    import open_clip.factory

    if not path.is_file():
        raise ClipevalError(f"the checkpoint {path} is not there")
    if path.suffix == ".npz":
        raise ClipevalError(f"{path} is a big_vision checkpoint; convert it to .safetensors first")
    try:
        open_clip.factory.load_checkpoint(model, str(path), strict=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ClipevalError(_refused(path, error)) from None
    except RuntimeError as error:
        if _is_torchscript(path):
            raise ClipevalError(
                f"{path} is a TorchScript archive, which holds code, and is refused;"
                " save its state_dict() to a .safetensors file and give that"
            ) from None
        raise ClipevalError(_mismatch(path, error)) from None
    except (OSError, EOFError, KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise ClipevalError(f"{path} is no checkpoint that can be read: {_line(error)}") from None
    except Exception as error:  # safetensors' own error derives from Exception alone
        if type(error).__module__.startswith("safetensors"):
            raise ClipevalError(f"{path} is truncated or no safetensors file: {_line(error)}") from None
        raise
    check_finite(model, str(path))


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


def check_finite(model: nn.Module, where: str) -> None:
    """ClipevalError that names the first weights which hold NaN or infinity."""
    for name, tensor in model.state_dict().items():
        # The sum says it twenty times as fast, unless it overflows: then each weight is looked at.
        if tensor.is_floating_point() and not (tensor.sum().isfinite() or torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            raise ClipevalError(
                f"{where}: {count} of the weights in {name!r} are NaN or infinite; the training diverged"
            )


def _refused(path: Path, error: Exception) -> str:
    text = str(error)
    found = re.search(r"Unsupported (?:global|class|operand).*?:? (?:GLOBAL )?([\w.]+)", text)
    if "weights_only" in text.lower() or "Unsupported" in text:
        what = f" ({found.group(1)})" if found else ""
        return (
            f"{path} holds more than weights{what}; unpickling it could run code, so it is refused."
            " Save the state_dict() alone, best as .safetensors, and give that"
        )
    return f"{path} is no checkpoint that can be read: {_line(error)}"


def _mismatch(path: Path, error: RuntimeError) -> str:
    """load_state_dict's page of keys, as one sentence."""
    text = str(error)
    if "PytorchStreamReader" in text or "central directory" in text or "unexpected eof" in text.lower():
        return f"{path} is truncated or damaged: {_line(error)}"
    parts = []
    for label, title in (("missing", "Missing key"), ("unexpected", "Unexpected key")):
        listed = re.search(rf"{title}\(s\) in state_dict: (.*?)\. *(?:\n|$)", text)
        if listed:
            keys = re.findall(r'"([^"]+)"', listed.group(1))
            parts.append(f"{len(keys)} {label} (such as {keys[0]!r})")
    sizes = re.findall(r"size mismatch for (\S+): .*?(torch\.Size\(\[[^]]*\]\)).*?(torch\.Size\(\[[^]]*\]\))", text)
    if sizes:
        name, given, wanted = sizes[0]
        parts.append(
            f"{len(sizes)} of another shape (such as {name!r}: {given[11:-1]} in the file, {wanted[11:-1]} in the model)"
        )
    if not parts:
        return f"{path} cannot be loaded: {_line(error)}"
    return f"{path} is of another architecture than model.name says: weights {'; '.join(parts)}"


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.split("/")[-1] == "constants.pkl" for name in archive.namelist())


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]
