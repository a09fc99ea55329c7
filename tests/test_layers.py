"""Data flows one way: a folder of the package imports only what stands below it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"eval": "clipeval", **{name: f"clipeval.{name}" for name in ("tasks", "configs", "results")}}
_UPPER = ["__main__", "cli", "replay", "callbacks", "api", "cluster", "engine", "decoding", "models", "captioning"]
ORDER = [*_UPPER, "stores", "download", "data", "preprocess", "results", "tasks", "configs"]
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


def test_the_engine_is_read_in_one_sitting_and_every_file_in_less() -> None:
    lengths = {path: len(path.read_text().splitlines()) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    assert len(lengths) > 200
    assert not {path.name: length for path, length in lengths.items() if length > 400}
    assert sum(length for path, length in lengths.items() if path.parent == ROOT / "eval/engine") <= 2100


def test_the_ways_of_an_image_and_a_prompt_are_named_as_in_the_code() -> None:
    """`clipeval.engine` says which functions they pass: each name is defined in the file that it is said to be in."""
    from clipeval import engine

    ways, wrong, names = (engine.__doc__ or "").partition("An image, ")[2], [], 0
    folders = [ROOT / "eval/engine", *(ROOT / name for name in ("eval", "tasks", "results"))]
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    path = files[0]
    for step in ways.replace("from shard to table cell:", "").replace("A prompt:", "→").split("→"):
        file, _, name = step.strip().rpartition(":")
        path = next(p for p in files if p.match(f"{file}.py")) if file else path
        for part in name.split(".") if "/" not in name and not name.endswith("cell") else ():  # the last two are places
            names += 1
            if not re.search(rf"^ *(def|class) {part}\b", path.read_text(), re.MULTILINE):
                wrong.append(f"{path.relative_to(ROOT)} has no {part}")
    assert names > 40 and not wrong, "\n".join(wrong)
