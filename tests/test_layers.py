"""Data flows one way: a folder of the package imports only what stands below it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"eval": "clipeval", **{name: f"clipeval.{name}" for name in ("tasks", "configs", "results")}}
_UPPER = ["__main__", "cli", "replay", "callbacks", "api", "cluster", "engine", "models", "captioning"]
ORDER = [*_UPPER, "download", "data", "preprocess", "results", "tasks", "configs"]
"""From the top."""
LATER = {"api", "results"}
"""What `from clipeval import NAME` imports when it is asked for."""


def imports() -> Iterator[tuple[str, str, str]]:
    """(part of the package, part that it imports, where) of every import statement that runs."""
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            module = ".".join([package, *path.relative_to(ROOT / folder).with_suffix("").parts])
            tree = ast.parse(path.read_text())
            typing = {
                id(inner)
                for node in ast.walk(tree)
                if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
                for inner in ast.walk(node)
            }
            for node in ast.walk(tree):
                if id(node) in typing:
                    continue
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if names == ["clipeval"] and isinstance(node, ast.ImportFrom):
                    names = [f"clipeval.{alias.name}" for alias in node.names]
                for name in names:
                    if name.startswith("clipeval."):
                        line = node.lineno if isinstance(node, ast.ImportFrom | ast.Import) else 0
                        yield (
                            module.split(".")[1],
                            name.split(".")[1],
                            f"{path.relative_to(ROOT)}:{line} imports {name}",
                        )


def test_no_import_goes_upwards() -> None:
    found = list(imports())
    assert len(found) > 300
    upwards = [
        location
        for part, other, location in found
        if (part != "__init__" and ORDER.index(part) > ORDER.index(other))
        or (part == "__init__" and other not in LATER)
    ]
    assert not upwards, "\n".join(upwards)
