"""What an instance holds, weights and everything else, as one digest: a switch that is no weight changes outputs, too.

The walk sees what pickling would see: attributes, containers, closures, bound arguments. It reads no pickle and writes none.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import json
import re
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import nn

from clipeval.models.module_files import is_own
from clipeval.models.own_code import methods, named_file

_UNCOUNTED = frozenset(vars(nn.Module())) - {"_forward_hooks", "_forward_pre_hooks"}
"""The book-keeping of torch modules; their mode (`training`) among it. Hooks change outputs."""

_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})
MANY = 1000
"""Items of a plain container, beyond which none of them is looked at as a file's name."""


class Walk:
    """A digest over values as they are met.

    Attributes:
        modules: names of one's own modules whose classes and functions were met.
        files: {text or path: the existing file that it names}.
    """

    def __init__(self) -> None:
        self._state = hashlib.sha256()
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []
        self._kinds: set[type] = set()
        self.modules: dict[str, None] = {}
        self.files: dict[str, Path] = {}

    @property
    def digest(self) -> str:
        """16 hex digits of what was taken in."""
        return self._state.hexdigest()[:16]

    def add(self, value: Any) -> None:
        """Takes in a value and all that it refers to."""
        if value is None or isinstance(value, bool | int | float | complex | bytes | str | np.generic):
            if isinstance(value, str) and (path := named_file(value)) is not None:
                self.files[value] = path
            self._say(type(value).__name__, repr(value))
            return
        if id(value) in self._seen:
            self._say("again", self._seen[id(value)])
            return
        self._seen[id(value)] = len(self._seen)
        self._alive.append(value)  # so that no other value gets its id
        self._add(value)

    def _say(self, *words: Any) -> None:
        self._state.update(repr(words).encode("utf-8", "surrogatepass"))

    def _in_order(self, values: Iterable[Any]) -> list[Any]:
        """The keys of a mapping or the members of a set, in an order that no run of Python changes."""
        values = list(values)
        if all(map(_is_plain, values)):
            return sorted(values, key=lambda value: (type(value).__name__, repr(value)))
        return sorted(values, key=self._apart)

    def _apart(self, value: Any) -> str:
        """The digest of a value alone, for what has no order."""
        other = Walk()
        other._seen = dict(self._seen)
        other.add(value)
        self._alive += other._alive
        self.modules |= other.modules
        self.files |= other.files
        return other.digest

    def _add(self, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            self._tensor(value)
        elif isinstance(value, np.ndarray):
            self._say("array", value.dtype.str, value.shape)
            self.add(value.tolist()) if value.dtype.hasobject else self._state.update(np.ascontiguousarray(value).data)
        elif isinstance(value, PurePath):
            self.add(str(value))
        elif isinstance(value, Mapping):
            self._kind(type(value))
            self._say("mapping", len(value))
            if len(value) > MANY and all(map(_is_plain, value)) and all(map(_is_plain, value.values())):
                self._say([(key, value[key]) for key in self._in_order(value)])  # a vocabulary
                return
            for key in self._in_order(value):
                self.add(key)
                self.add(value[key])
        elif isinstance(value, set | frozenset):
            self._say("set", len(value))
            for item in self._in_order(value):
                self.add(item)
        elif type(value) in (list, tuple):
            self._say(type(value).__name__, len(value))
            if len(value) > MANY and all(map(_is_plain, value)):
                self._say(value)
                return
            for item in value:
                self.add(item)
        elif isinstance(value, torch.device):
            self._say("device")  # where it runs cannot change what it gives
        elif isinstance(value, torch.dtype | enum.Enum | re.Pattern | torch.memory_format):
            self._say(type(value).__name__, str(value))
        elif isinstance(value, type):
            self._kind(value)
        elif isinstance(value, types.ModuleType):
            self._say("module", value.__name__)
            self._module(value.__name__)
        elif isinstance(value, nn.Module):
            self._torch_module(value)
        else:
            self._other(value)

    def _tensor(self, tensor: torch.Tensor) -> None:
        tensor = tensor.detach()
        self._say("tensor", str(tensor.dtype), tuple(tensor.shape))
        if tensor.is_meta:
            return
        if tensor.is_quantized:
            self._say(str(tensor.qscheme()), tensor.q_scale() if tensor.qscheme() == torch.per_tensor_affine else "")
            tensor = tensor.int_repr()
        tensor = (tensor.to_dense() if tensor.layout != torch.strided else tensor).cpu().contiguous()
        if tensor.numel():
            tensor = tensor.resolve_conj().resolve_neg().reshape(-1)
            self._state.update(tensor.view(torch.uint8).numpy().data)

    def _torch_module(self, module: nn.Module) -> None:
        self._kind(type(module))
        for kind in ("_parameters", "_buffers", "_modules"):
            for name, item in vars(module)[kind].items():  # buffers that no state dict holds, too
                self._say(kind, name)
                self.add(item)
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            self.add(module.get_extra_state())
        for name in ("_forward_pre_hooks", "_forward_hooks"):
            for hook in vars(module)[name].values():
                self._say(name)
                self.add(hook)
        for name, item in sorted(vars(module).items()):
            if name not in _UNCOUNTED and name not in ("_forward_hooks", "_forward_pre_hooks"):
                self._say("attribute", name)
                self.add(item)

    def _other(self, value: Any) -> None:
        kind = type(value)
        if isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.MethodType):
            self._say("method", value.__func__.__qualname__)
            self.add(value.__func__)
            self.add(value.__self__)
        elif isinstance(value, types.BuiltinFunctionType | types.MethodWrapperType):
            self._say("builtin", value.__qualname__)
        elif isinstance(value, functools.partial):
            self._say("partial")
            self.add([value.func, list(value.args), value.keywords])
        elif isinstance(value, property | staticmethod | classmethod):
            self._say(kind.__name__)
            self.add(getattr(value, "fget", None) or getattr(value, "__func__", None))
        elif callable(getattr(value, "to_str", None)) and kind.__module__.startswith("tokenizers"):
            self._say("tokenizers", _tokenizer_text(value.to_str()))
        elif hasattr(value, "backend_tokenizer") and kind.__module__.startswith("transformers"):
            self._transformers_tokenizer(value)
        elif callable(getattr(value, "serialized_model_proto", None)):
            self._say("sentencepiece")
            self._state.update(value.serialized_model_proto())
        elif kind.__name__ == "SimpleTokenizer" and kind.__module__.startswith("open_clip"):
            self._kind(kind)  # but for the words that it remembers
            self.add({name: item for name, item in vars(value).items() if name != "cache"})
        else:
            self._reduced(value)

    def _function(self, function: types.FunctionType) -> None:
        self._say("function", function.__module__, function.__qualname__)
        self._module(function.__module__)
        if not is_own(function.__module__) and function.__closure__ is None:
            return
        self._code(function.__code__)
        self.add([function.__defaults__, function.__kwdefaults__])
        for cell in function.__closure__ or ():
            try:
                self.add(cell.cell_contents)
            except ValueError:
                self._say("an empty cell")
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is not None:
            self.add(wrapped)

    def _code(self, code: types.CodeType) -> None:
        """Where no file holds a function's source, its instructions say what it does."""
        if code.co_filename.startswith("<"):
            constants = [item for item in code.co_consts if not isinstance(item, types.CodeType)]
            self._say("code", code.co_code, repr(constants), code.co_names)

    def _transformers_tokenizer(self, value: Any) -> None:
        self._kind(type(value))
        self._say(_tokenizer_text(value.backend_tokenizer.to_str()))
        names = ("model_max_length", "padding_side", "truncation_side", "pad_token_id", "eos_token_id", "bos_token_id")
        self.add({name: getattr(value, name, None) for name in names})

    def _reduced(self, value: Any) -> None:
        """An object of any class: what pickling would keep of it."""
        self._kind(type(value))
        try:
            reduced = value.__reduce_ex__(2)
        except Exception:  # noqa: BLE001  (a lock, a file, a process: what cannot be pickled is no setting)
            self._attributes(value)
            return
        if isinstance(reduced, str):
            self._say("global", reduced)
            return
        _, arguments, *rest = reduced
        self.add([a for a in arguments if a is not type(value)])
        state, items, pairs = [*rest, None, None, None][:3]
        self.add(state)
        self.add(None if items is None else list(items))
        self.add(None if pairs is None else dict(pairs))

    def _attributes(self, value: Any) -> None:
        for name, item in sorted(getattr(value, "__dict__", {}).items()):
            self._say("attribute", name)
            self.add(item)

    def _kind(self, kind: type) -> None:
        self._say("class", kind.__module__, kind.__qualname__)
        if kind in self._kinds:
            return
        self._kinds.add(kind)
        self.modules |= dict.fromkeys(modules_of(kind))
        for cls in kind.__mro__:
            if is_own(cls.__module__):
                for function in methods(cls):
                    self._code(function.__code__)

    def _module(self, name: str | None) -> None:
        if name and is_own(name):
            self.modules[name] = None


def _is_plain(value: Any) -> bool:
    """Whether `repr` says all of a value, in the same words each time."""
    return type(value) in _PLAIN or (type(value) is tuple and all(map(_is_plain, value)))


def modules_of(kind: type) -> Iterator[str]:
    """One's own modules that a class, its bases and their methods (which may have been put there) come from."""
    for cls in kind.__mro__:
        if is_own(cls.__module__) or (cls.__module__ not in sys.modules and any(methods(cls))):
            yield cls.__module__
        if cls.__module__ != "builtins":
            names = dict.fromkeys(f.__module__ for f in methods(cls) if f.__module__)
            yield from (name for name in names if is_own(name))


def _tokenizer_text(text: str) -> str:
    """A tokenizer's JSON without how the last texts were padded and cut, which each call sets anew."""
    content = json.loads(text)
    return json.dumps({k: v for k, v in content.items() if k not in ("padding", "truncation")}, sort_keys=True)
