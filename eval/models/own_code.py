"""The code of one's own that a run uses: the source of some modules and of all that they import from outside of installed
packages, as one digest. A model's class, or a task's, that changes beside unchanged weights is another one.

Imports are read from the source, those inside of functions too, so that the answer does not depend on what ran before.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from clipeval.configs.errors import ClipevalError
from clipeval.models.module_files import content_of, is_own, is_own_file, is_product, origin_of, spec_of
from clipeval.preprocess.quick_imports import need_meta_kernels

DYNAMIC = frozenset(
    {"import_module", "__import__", "spec_from_file_location", "SourceFileLoader", "run_path", "run_module", "exec"}
)
"""Calls that may import what no `import` statement names."""
LONGEST_NAME = 1024
"""Characters of a text in the source that may be a file's name."""

_loaded: dict[str, tuple[ModuleType, str]] = {}
"""{module: (the module as it was first seen, sha256 of its source then)}."""


@dataclass
class OwnCode:
    """What was read.

    Attributes:
        sources: {module: sha256 of its source}.
        files: {text in the source: the existing file that it names}.
        problem: why not everything that can run is known; None where it is.
    """

    sources: dict[str, str] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    problem: str | None = None

    @property
    def digest(self) -> str:
        """16 hex digits of all sources."""
        return hashlib.sha256(repr(sorted(self.sources.items())).encode()).hexdigest()[:16]


def own_code(modules: Iterable[str]) -> OwnCode:
    """Reads some modules, and what they import from outside of installed packages, transitively.

    Args:
        modules: names. Of one that is installed, its own source is read, and its distribution's list of files stands for the rest.
    """
    roots = list(dict.fromkeys(modules))
    found, seen, dynamic = OwnCode(), set(roots), False
    open_ = list(roots)
    while open_:
        name = open_.pop()
        tree = _read(name, name in roots, found)
        if tree is not None:
            dynamic = dynamic or any(map(_is_dynamic, ast.walk(tree)))
            package = spec_of(name)
            new = _imports(tree, name, package is not None and package.submodule_search_locations is not None)
            open_ += [other for other in dict.fromkeys(new) if other not in seen]
            seen.update(open_)
        if dynamic and not open_:  # whatever is loaded may be what it imports
            open_ = [other for other in list(sys.modules) if other not in seen and _is_loaded_own(other)]
            seen.update(open_)
    return found


def _read(name: str, is_root: bool, found: OwnCode) -> ast.Module | None:
    """Takes in a module's source; what it consists of, where its imports are to be followed."""
    spec = spec_of(name)
    path = None if spec is None else origin_of(spec)
    if spec is None or path is None:
        is_known = spec is not None and (spec.origin in ("built-in", "frozen") or spec.submodule_search_locations)
        if is_root and not is_known:
            found.problem = _unreadable(name)
        return None
    installed = not is_own_file(path)
    if installed and (not is_root or is_product(path)):
        return None
    content = content_of(spec, path)
    if content is None:
        found.problem = _unreadable(name)
        return None
    found.sources[name] = hashlib.sha256(content).hexdigest()
    if installed:
        found.sources |= _distributions(name.partition(".")[0])
        return None
    if path.suffix != ".py":
        return None  # an extension, or bytecode alone: its bytes say all there is
    if _differs(name, content, path):
        found.problem = f"{path} has changed since this process imported it"
    tree = _parsed(content, path)
    found.files.update(_named_files(tree, path.parent))
    return tree


def forget_changed(target: str) -> None:
    """Has Python import anew what of a class's own code is not what the files now hold.

    Bytecode that Python keeps is told by the second and the size of its source, and may be of another one: it is removed.

    Args:
        target: `package.module.Class`.
    """
    module = target.rpartition(".")[0]
    if module not in sys.modules or not is_own(module):
        return
    names = [name for name in own_code([module]).sources if name in sys.modules and name != "__main__"]
    if any(_has_changed(name) for name in names):
        for name in names:
            _forget_bytecode(sys.modules.pop(name))
            _loaded.pop(name, None)
        importlib.invalidate_caches()


def import_fresh(target: str) -> ModuleType:
    """The module of `package.module.Class`, made of the sources as they are.

    Raises:
        ImportError, ValueError: as `importlib.import_module`.
    """
    need_meta_kernels()
    name = target.rpartition(".")[0]
    forget_changed(target)
    if name not in sys.modules:
        with contextlib.suppress(ClipevalError):  # what is no Python: the import says so
            for own in own_code([name]).sources:
                _forget_older_bytecode(own)
    importlib.import_module(name)
    forget_changed(target)  # where bytecode was stale
    module = importlib.import_module(name)
    own_code([name])  # notes what it was made of
    return module


def _forget_older_bytecode(name: str) -> None:
    """Removes a module's bytecode if its source was written later.

    Python would take it for the source's where both were written within one second and the size is the same.
    """
    spec = spec_of(name)
    path = None if spec is None else origin_of(spec)
    if spec is not None and spec.cached and path is not None and is_own_file(path):
        with contextlib.suppress(OSError):  # there is none, or a folder that cannot be written
            if Path(spec.cached).stat().st_mtime_ns <= path.stat().st_mtime_ns:
                Path(spec.cached).unlink()


def _forget_bytecode(module: ModuleType) -> None:
    cached = getattr(module, "__cached__", None)
    with contextlib.suppress(OSError):  # a folder that cannot be written has none of ours
        Path(cached).unlink(missing_ok=True) if cached else None


def _unreadable(name: str) -> str:
    what = "code typed in a session" if name == "__main__" else f"the module {name}"
    return f"the source of {what} cannot be read"


def _is_loaded_own(name: str) -> bool:
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and file.endswith(".py") and is_own_file(Path(file).resolve())


@lru_cache(maxsize=64)
def _distributions(package: str) -> dict[str, str]:
    """{distribution of a package that is installed: its version, and sha256 of the list of its files, which holds theirs}."""
    found = {}
    for name in metadata.packages_distributions().get(package, ()):
        record = metadata.distribution(name).read_text("RECORD") or ""
        found[f"{name}=={metadata.version(name)}"] = hashlib.sha256(record.encode()).hexdigest()
    return found


def _parsed(content: bytes, path: Path) -> ast.Module:
    try:
        return ast.parse(content, str(path))
    except (SyntaxError, ValueError) as problem:
        raise ClipevalError(f"{path} is no Python that can be read: {problem}") from None


def _imports(tree: ast.Module, name: str, is_package: bool) -> Iterator[str]:
    """Every module that a source may import; some names are of things in modules, and found to be none."""
    package = name if is_package else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            yield from _with_parents(base)
            for alias in node.names:
                if alias.name != "*":
                    yield f"{base}.{alias.name}"
                else:
                    yield from _submodules(base)
        elif isinstance(node, ast.Call) and _is_called(node) in ("import_module", "__import__") and node.args:
            given = node.args[0]
            if isinstance(given, ast.Constant) and isinstance(given.value, str):
                text = given.value
                yield from _with_parents(package + text if text.startswith(".") else text)


def _submodules(base: str) -> Iterator[str]:
    """What `from base import *` may import of a package: `__all__` can name its modules."""
    spec = spec_of(base)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        if is_own_file(Path(place).resolve()):
            yield from (f"{base}.{path.stem}" for path in sorted(Path(place).glob("*.py")) if path.stem != "__init__")


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1) if name)


def _is_called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


def _is_dynamic(node: ast.AST) -> bool:
    """Whether a call imports something whose name is not written there."""
    if not isinstance(node, ast.Call) or _is_called(node) not in DYNAMIC:
        return False
    if _is_called(node) == "exec" and not isinstance(node.func, ast.Name):
        return False
    given = node.args[0] if node.args else None
    return not (isinstance(given, ast.Constant) and _is_called(node) in ("import_module", "__import__"))


def _named_files(tree: ast.Module, folder: Path) -> Iterator[tuple[str, Path]]:
    """Files that texts of a source name, beside the source or in the current folder."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            path = named_file(node.value, (folder, Path()))
            if path is not None:
                yield node.value, path


def named_file(text: str, folders: Iterable[Path] = (Path(),), by_ending: bool = True) -> Path | None:
    """The existing file that a text names.

    Args:
        text: any text.
        folders: where relative names are looked up.
        by_ending: whether it must look like a file's name: with an ending, or a folder before it.
    """
    if not 0 < len(text) <= LONGEST_NAME or "\n" in text or "\0" in text:
        return None
    if by_ending and not (len(text) > 2 and ("/" in text or "." in text[1:-1])):
        return None
    try:
        for folder in folders:
            path = folder / Path(text).expanduser()
            if path.is_file():
                return path.resolve()
    except (OSError, RuntimeError, ValueError):
        return None
    return None


# -- what is loaded against what is on disk -------------------------------------------------------------------------------


def _has_changed(name: str) -> bool:
    spec = spec_of(name)
    path = None if spec is None else origin_of(spec)
    if spec is None or path is None or path.suffix != ".py":
        return False
    content = content_of(spec, path)
    return content is not None and _differs(name, content, path)


def _differs(name: str, content: bytes, path: Path) -> bool:
    """Whether a loaded module was made of another source than the file now holds.

    Python keeps no trace of the source: its sha256 is noted when the module is first seen here, and at that time the functions
    that are loaded are compared with those that the source makes.
    """
    module, now = sys.modules.get(name), hashlib.sha256(content).hexdigest()
    if module is None:
        return False
    known = _loaded.get(name)
    if known is not None and known[0] is module:
        return known[1] != now
    if not _made_of(module, content, path):
        return True
    _loaded[name] = (module, now)
    return False


def _made_of(module: ModuleType, content: bytes, path: Path) -> bool:
    if type(getattr(module, "__loader__", None)) is not SourceFileLoader:
        return True  # such as pytest's, which rewrites what it loads
    try:
        compiled = compile(content, str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    codes = set(_nested(compiled))
    here = [function.__code__ for function in _functions(module)]
    return all(code in codes for code in here if _same_file(code.co_filename, path))


def _same_file(name: str, path: Path) -> bool:
    return name == str(path) or Path(name).resolve() == path


def _nested(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _nested(constant)


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    """A module's own functions and methods."""
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, FunctionType):
            yield value
        elif isinstance(value, type):
            yield from methods(value)


def methods(kind: type) -> Iterator[FunctionType]:
    """The functions in a class's own body, out of what wraps them."""
    for value in list(vars(kind).values()):
        parts: tuple[Any, ...] = (value,)
        if isinstance(value, staticmethod | classmethod):
            parts = (value.__func__,)
        elif isinstance(value, property):
            parts = (value.fget, value.fset)
        yield from (part for part in parts if isinstance(part, FunctionType))
