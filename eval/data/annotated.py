"""What files beside a set say of its images and classes: further labels, factors, a hierarchy."""

from __future__ import annotations

import dataclasses
import lzma
from pathlib import Path

import numpy as np
import pandas as pd

from clipeval.configs.errors import ClipevalError
from clipeval.data.config import DataConfig
from clipeval.data.imagenet import hierarchy_edges, read_annotations, validation_names, wnids_of
from clipeval.data.labels import installed
from clipeval.data.remote import below
from clipeval.data.split import Split, split_digest
from clipeval.tasks.base import Samples
from clipeval.tasks.relabelled import ACCEPTED
from clipeval.tasks.tree import Tree


def annotate(split: Split, config: DataConfig, root: str | None, cache: Path) -> Split:
    """A split with what `data.annotations` and `data.hierarchy` say; the very split where they name nothing.

    `cache` is `cache.root`, where files of a `root` that lies elsewhere are copied to.

    Raises:
        ClipevalError: a file is missing or damaged, or speaks of other images or classes.
    """
    samples = split.samples
    if config.annotations is not None:
        samples = _with_annotations(samples, config, root, cache)
    if config.hierarchy is not None:
        samples = dataclasses.replace(samples, tree=_tree(samples, config, root, cache))
    return (
        split
        if samples is split.samples
        else dataclasses.replace(split, samples=samples, digest=split_digest(split.images, samples))
    )


def find_file(name: str, root: str | None, cache: Path) -> Path:
    """A file or folder beside the sets: below `data.root`, where it is named in full, or ReaL's labels as timm packages them.

    Raises:
        ClipevalError: it is in none of these places.
    """
    tried = [*([below(root, name, cache)] if root else []), Path(name).expanduser()]
    tried.append(installed("timm") / "data" / "_info" / name)
    found = next((path for path in tried if path.exists()), None)
    if found is None:
        raise ClipevalError(f"{tried[0]} is missing; the task's file in configs/task/ says where it is had.")
    return found


def _with_annotations(samples: Samples, config: DataConfig, root: str | None, cache: Path) -> Samples:
    assert config.annotations is not None
    if samples.labels is None:
        raise ClipevalError(f"data.annotations={config.annotations}: the set has no labels that it could be about.")
    order = None
    if config.order is not None:
        order = below(root, config.order, cache)
    names = validation_names(samples.keys, samples.labels.tolist(), order)
    said = read_annotations(
        find_file(config.annotations, root, cache),
        find_file(config.exclude, root, cache) if config.exclude else None,
    )
    columns = list(dict.fromkeys(name for row in said.values() for name in row))
    known = [said.get(name, {}) for name in names]
    if not any(known):
        raise ClipevalError(
            f"data.annotations={config.annotations} speaks of none of the {len(names):,} images, such as {names[0]}."
        )
    table = pd.DataFrame(
        {column: [row.get(column, "" if column == ACCEPTED else np.nan) for row in known] for column in columns}
    )
    return dataclasses.replace(samples, metadata=pd.concat([samples.metadata.reset_index(drop=True), table], axis=1))


def _tree(samples: Samples, config: DataConfig, root: str | None, cache: Path) -> Tree:
    path = find_file(str(config.hierarchy), root, cache)
    parent = hierarchy_edges(path)
    nodes = wnids_of(samples.classnames, config.classnames if isinstance(config.classnames, dict) else None)
    paths = []
    for node in nodes:
        if node not in parent:
            raise ClipevalError(f"{path} has no class {node!r}.")
        up = [node]
        while up[-1] in parent:
            up.append(parent[up[-1]])
            if len(up) > len(parent) + 1:
                raise ClipevalError(f"{path}: {node} lies below itself.")
        paths.append(up[::-1])
    inner = set(parent.values())
    if wrong := next((node for node in nodes if node in inner), None):
        raise ClipevalError(f"{path}: the class {wrong} has others below it.")
    if len({way[0] for way in paths}) > 1:
        raise ClipevalError(f"{path}: its classes have several roots: {', '.join(sorted({way[0] for way in paths}))}.")
    return Tree(paths, _heights(parent, config, root, cache))


def _heights(parent: dict[str, str], config: DataConfig, root: str | None, cache: Path) -> dict[str, float]:
    """How far up each node is: the longest way down to a class; or as `data.heights` says, the distances of nodes by their lines
    `node node distance`, a node's from its child being its own height."""
    heights: dict[str, float] = dict.fromkeys(set(parent) - set(parent.values()), 0.0)
    if config.heights is not None:
        path = find_file(config.heights, root, cache)
        with lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                parts = line.split()
                if len(parts) != 3:
                    raise ClipevalError(
                        f"{path}, line {number}: two nodes and their distance were expected; got {line.strip()!r}."
                    )
                for node, child in ((parts[0], parts[1]), (parts[1], parts[0])):
                    if parent.get(child) == node:
                        heights[node] = float(parts[2])
        if missing := sorted({*parent.values()} - heights.keys()):
            raise ClipevalError(f"{path} does not say how far {missing[0]} is from what lies below it.")
        return heights
    open_ = set(parent.values())
    while open_:
        below: dict[str, list[str]] = {}
        for child, node in parent.items():
            below.setdefault(node, []).append(child)
        ready = [node for node in open_ if all(child in heights for child in below[node])]
        if not ready:
            raise ClipevalError(f"{config.hierarchy}: nodes lie below themselves: {', '.join(sorted(open_)[:3])}.")
        heights.update((node, 1.0 + max(heights[child] for child in below[node])) for node in ready)
        open_ -= set(ready)
    return heights
