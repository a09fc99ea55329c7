"""An Apple GPU, simulated on the CPU: no float64, and no operation between its tensors and the CPU's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

MPS = torch.device("mps")


class OnMps(torch.Tensor):
    """What an operation with one of these gives is one of these."""


_ANYWHERE = {"__getitem__", "__setitem__", "copy_", "index_select"}
"""Places may lie on the CPU, and a copy goes from one to the other."""


class AppleGpu(TorchFunctionMode):
    """Within the block, `.to("mps")` and `device="mps"` make tensors that behave as those of Apple's GPUs do."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        tensors = [value for value in _flat([*args, *kwargs.values()]) if isinstance(value, torch.Tensor)]
        mine = any(isinstance(tensor, OnMps) for tensor in tensors)
        if name == "__get__" and func == torch.Tensor.device.__get__:  # type: ignore[attr-defined]
            return MPS if mine else func(*args, **kwargs)
        if name == "numpy" and mine:
            raise TypeError("can't convert mps:0 device type tensor to numpy")
        if name == "cpu" or (name == "to" and _named([*args[1:], *kwargs.values()]) == "cpu"):
            return args[0].as_subclass(torch.Tensor)
        wanted = _named([*args[1:], *kwargs.values()]) == "mps" or mine
        others = [tensor.shape for tensor in tensors if not isinstance(tensor, OnMps) and tensor.ndim]
        if mine and others and name not in _ANYWHERE:
            raise RuntimeError(f"{name}: expected all tensors to be on the same device, mps:0 and cpu")
        given = [None if str(value) == "mps" else value for value in args]
        given = [
            torch.device("cpu") if old is not None and new is None else new
            for old, new in zip(args, given, strict=True)
        ]
        kwargs = {key: torch.device("cpu") if str(value) == "mps" else value for key, value in kwargs.items()}
        result = func(*given, **kwargs)
        return _moved(result, name) if wanted else result


def _named(values: Iterable[Any]) -> str:
    """The device among some arguments."""
    return next((str(value) for value in values if isinstance(value, str | torch.device)), "").split(":")[0]


def _flat(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def _moved(result: Any, name: str) -> Any:
    if isinstance(result, torch.Tensor):
        if result.dtype == torch.float64:
            raise TypeError(f"{name}: the MPS framework doesn't support float64")
        # The very tensor where it is one already: `requires_grad_` gives itself, a leaf.
        return result if isinstance(result, OnMps) else result.as_subclass(OnMps)
    if isinstance(result, list | tuple) and not hasattr(result, "_fields"):
        kind = type(result)
        return kind(_moved(part, name) for part in result) if kind in (list, tuple) else result
    return result
