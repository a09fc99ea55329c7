"""Where classes stand in a hierarchy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tree:
    """A hierarchy with C classes among its nodes.

    Attributes:
        paths: of each class the nodes from the root down to itself; all begin with the root.
        heights: {node: how far up it is}: of a class 0, of another node more than of any below it.
    """

    paths: Sequence[Sequence[str]]
    heights: Mapping[str, float]
