"""open_clip in half of its time: torch's compiler and wandb are imported when someone uses them, not before.

Three modules among the thousands that `import open_clip` brings ask for what a run does not use; on two cores it took 7.0 s with
that and 3.2 without. `postpone` has these three, once they are imported, find something to stand for it:

- `torchvision.ops.roi_align` takes a function of `torch._dynamo`, the compiler, 2.5 s.
- `timm.layers.typing` takes `torch.compiler.disable`, with which towers are marked: the compiler again. For its own functions torch
  has the same mark that brings the compiler with the first call.
- `timm.utils.summary` imports wandb where there is one, 1 s.

And `import torch` of the command line in 2.1 s in place of 3.0: `postpone_meta_kernels` has it without the shapes of operators
on the device "meta", which a plan does not need.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"
_META_KERNELS = "torch._meta_registrations"
_BEHIND_META_KERNELS = {"torch._decomp", "torch._prims", "torch._refs"}
"""What the kernels import in an order of theirs; who asks for one of these first gets an error of circular imports."""
_NEED_META_KERNELS = ["open_clip", "transformers", "torchvision"]
_NEED_META_KERNELS += ["torch._dynamo", "torch._inductor", "torch._subclasses.fake_tensor", "torch.onnx"]
_KNOWN_TORCH = "2.15."
"""The version whose imports are known; others are imported as they are."""
_postponed = _lacks_meta_kernels = False


class _Later(ModuleType):
    """Stands for a module; what is asked of it comes from the module itself."""

    lacks: tuple[str, ...] = ("__file__",)
    """What Python asks of modules unbidden: inspect each one for its file, `from … import` for the path of a package."""

    def __init__(self, name: str, spec: ModuleSpec | None = None) -> None:
        super().__init__(name)
        self.__spec__ = spec

    def __getattr__(self, attribute: str) -> Any:
        if attribute in self.lacks:
            raise AttributeError(attribute)
        self._leave()
        return getattr(importlib.import_module(self.__name__), attribute)

    def _leave(self) -> None:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        sys.modules[self.__name__] = self
        try:
            yield
        finally:
            self._leave()


class _CompilerUtils(_Later):
    """`torch._dynamo.utils`, whose function that torchvision takes by its name brings the compiler with the first call."""

    lacks = ("__file__", "__path__")

    def is_compile_supported(self, device_type: Any) -> Any:
        return importlib.import_module(self.__name__).is_compile_supported(device_type)


def _compiler_asked() -> AbstractContextManager[None]:
    return nullcontext() if _COMPILER in sys.modules else _CompilerUtils(f"{_COMPILER}.utils").in_place()


def _compiler_marks() -> AbstractContextManager[None]:
    import torch

    quick = getattr(getattr(torch, "_compile", None), "_disable_dynamo", None)
    return nullcontext() if _COMPILER in sys.modules or quick is None else _marked_by(quick)


@contextmanager
def _marked_by(quick: Callable[..., Any]) -> Iterator[None]:
    """Has `torch.compiler.disable` mark functions as torch marks its own."""
    import torch

    disable: Callable[..., Any] = torch.compiler.disable

    @functools.wraps(disable)
    def mark(fn: Callable[..., Any] | None = None, recursive: bool = True, **others: Any) -> Any:
        return disable(fn, recursive, **others) if others else quick(fn, recursive)

    torch.compiler.disable = mark
    try:
        yield
    finally:
        torch.compiler.disable = disable


def _wandb() -> AbstractContextManager[None]:
    spec = None if "wandb" in sys.modules else find_spec("wandb")
    return nullcontext() if spec is None else _Later("wandb", spec).in_place()


def _meta_kernels_at_hand() -> AbstractContextManager[None]:
    need_meta_kernels()
    return nullcontext()


@contextmanager
def _without_meta_kernels() -> Iterator[None]:
    global _lacks_meta_kernels
    with _Later(_META_KERNELS).in_place():
        yield
    _lacks_meta_kernels = True
    import torch

    try:  # what is left out makes generators, too
        from torch._custom_class_base import CustomClassBaseMeta

        torch._C._set_generator_metaclass(CustomClassBaseMeta)
        torch.Generator()
    except (ImportError, AttributeError, RuntimeError):
        need_meta_kernels()


_WHILE: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "torchvision.ops.roi_align": _compiler_asked,
    "timm.layers.typing": _compiler_marks,
    "timm.utils.summary": _wandb,
    **dict.fromkeys(_NEED_META_KERNELS, _meta_kernels_at_hand),
}


class _Finder:
    """Finds the modules of `_WHILE` as the other finders do, and has them executed with what stands for the rest in place."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        behind = _postponed and name in _BEHIND_META_KERNELS
        if behind:
            need_meta_kernels()  # which may import this very module
        elif name not in _WHILE:
            return None
        specs = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            (_once if behind else _in_place)(spec.loader, name)
        return spec


def _in_place(loader: Any, name: str) -> None:
    """Has a module executed with what stands for the rest in place."""
    execute, place = loader.exec_module, _WHILE[name]

    def exec_module(module: ModuleType) -> None:
        with place():
            execute(module)

    loader.exec_module = exec_module


def _once(loader: Any, name: str) -> None:
    """Has a module made once, though its import began a second time before the first one ended."""
    execute = loader.exec_module
    executed: list[ModuleType] = []

    def exec_module(module: ModuleType) -> None:
        if not executed:
            executed.append(module)
            execute(module)

    loader.create_module, loader.exec_module = (lambda spec: sys.modules.get(name)), exec_module


def postpone() -> None:
    """From here on in this process; once is enough."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def postpone_meta_kernels() -> None:
    """Has the `import torch` to come leave out what `need_meta_kernels` brings: of a command, which knows when it computes."""
    global _postponed
    if "torch" not in sys.modules and _version("torch").startswith(_KNOWN_TORCH):
        _postponed = True
        postpone()
        _WHILE["torch"] = _without_meta_kernels


def need_meta_kernels() -> None:
    """Before anything is computed, or code of the user's own is run: torch is as it would be without `postpone_meta_kernels`."""
    global _lacks_meta_kernels
    _WHILE.pop("torch", None)
    if _lacks_meta_kernels:
        _lacks_meta_kernels = False
        importlib.import_module(_META_KERNELS)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
