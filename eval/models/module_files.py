"""Where a module's source is, found without importing it, and whether it is one's own."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import sysconfig
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

PRODUCT = ("clipeval", "clipeval.configs", "clipeval.results", "clipeval.tasks")
"""The packages of clipeval, whose folders lie side by side in a clone.

Records of another version of it are refused, and each protocol has a version of its own.
"""


def is_own(module: str) -> bool:
    """Whether a module is neither Python's, nor installed, nor clipeval's. What has no file is one's own: a notebook's cell."""
    if module in sys.builtin_module_names or module.partition(".")[0] in sys.stdlib_module_names:
        return module == "__main__"
    spec = spec_of(module)
    path = None if spec is None else origin_of(spec)
    if path is not None:
        return is_own_file(path)
    return module in sys.modules and (spec is None or not spec.submodule_search_locations)


def spec_of(name: str) -> ModuleSpec | None:
    """Where a module is, found without importing anything."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        spec = getattr(loaded, "__spec__", None)
        if isinstance(spec, ModuleSpec):
            return spec
        file = getattr(loaded, "__file__", None)  # a script has a file and no spec
        return importlib.util.spec_from_file_location(name, file) if isinstance(file, str) else None
    parent, _, _ = name.rpartition(".")
    try:
        if not parent:
            return importlib.util.find_spec(name)
        above = spec_of(parent)
        places = None if above is None else above.submodule_search_locations
        return None if places is None else _below(name, list(places))
    except (ImportError, ValueError, AttributeError):
        return None


def _below(name: str, places: list[str]) -> ModuleSpec | None:
    try:
        return PathFinder.find_spec(name, places)
    except KeyError:  # a folder without __init__.py in one that is not loaded
        spec = ModuleSpec(name, None, is_package=True)
        folders = [Path(place, name.rpartition(".")[2]) for place in places]
        spec.submodule_search_locations = [str(folder) for folder in folders if folder.is_dir()]
        return spec


def origin_of(spec: ModuleSpec) -> Path | None:
    return Path(spec.origin).resolve() if spec.has_location and spec.origin else None


def content_of(spec: ModuleSpec, path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:  # in a zip, which its loader reads
        return _of_loader(spec)


def _of_loader(spec: ModuleSpec) -> bytes | None:
    get_data = getattr(spec.loader, "get_data", None)
    try:
        return None if get_data is None else bytes(get_data(str(spec.origin)))
    except OSError:
        return None


@lru_cache(maxsize=1)
def _installed() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple({Path(sysconfig.get_paths()[name]).resolve() for name in names})


def is_product(path: Path) -> bool:
    return any(path.is_relative_to(folder) for folder in _product())


@lru_cache(maxsize=1)
def _product() -> tuple[Path, ...]:
    found = [place for name in PRODUCT for place in importlib.import_module(name).__path__]
    return tuple(Path(place).resolve() for place in found)


@lru_cache(maxsize=4096)
def is_own_file(path: Path) -> bool:
    if {"site-packages", "dist-packages"} & set(path.parts) or is_product(path):
        return False
    return not any(path.is_relative_to(folder) for folder in _installed())
