"""Words of the command line that name a run, which may be kept at an address, and those that name a place of this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipeval.configs.addresses import is_address, shown


def run_place(word: str) -> str | Path:
    """A run folder, or the address of one; `clipeval.results.mirror.read` makes a folder of either."""
    return word if is_address(word) else Path(word)


def path_here(word: str) -> Path:
    """A path of this machine.

    Raises:
        ArgumentTypeError: it is an address.
    """
    if is_address(word):
        raise argparse.ArgumentTypeError(
            f"{shown(word)}: a path of this machine was expected; copy it to there afterwards"
        )
    return Path(word)
