"""`clipeval cache`: what embeddings and pixels are kept, how much room they take, and how to make some."""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import Any

from clipeval.configs.errors import ClipevalError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def add_cache(commands: Any) -> None:
    """Adds the subcommand to the command line."""
    text = "list the embeddings and pixels that are kept, or remove those that were longest not used"
    sub = commands.add_parser("cache", help=text, description=text)
    sub.add_argument("action", nargs="?", choices=("list", "prune"), default="list", help="list (the default) or prune")
    sub.add_argument("--keep", metavar="SIZE", help="with prune: how much may stay, such as 10GB; 0 removes everything")
    sub.add_argument("--root", type=Path, metavar="FOLDER", help="cache.root (default: CLIPEVAL_CACHE or the user's)")
    sub.set_defaults(command=_cache, overrides=False)


def _cache(arguments: argparse.Namespace, rest: list[str]) -> int:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from clipeval.configs.resolvers import user_cache
    from clipeval.engine.store import human_size, list_entries, prune

    root = (arguments.root or Path(user_cache())).expanduser()
    console = Console(highlight=False)
    if (arguments.action == "prune") != (arguments.keep is not None):
        raise ClipevalError("prune needs --keep SIZE, such as `clipeval cache prune --keep 10GB`; list takes none.")
    if arguments.action == "prune":
        removed = prune(root, parse_size(arguments.keep))
        freed, left = sum(entry.bytes for entry in removed), sum(entry.bytes for entry in list_entries(root))
        console.print(
            f"{root}: {len(removed)} removed, {human_size(freed)} freed, {human_size(left)} kept",
            markup=False,
            soft_wrap=True,
        )
        return 0
    entries = list_entries(root)
    table = Table("kind", "of", "size", "last used", "precision", "entry", box=None, header_style="bold")
    table.columns[1].overflow, table.columns[2].justify = "fold", "right"
    for entry in reversed(entries):
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        label, precision = (escape(str(entry.parts.get(name, ""))) for name in ("label", "precision"))
        table.add_row(entry.kind, label, human_size(entry.bytes), used, precision, entry.key[:12])
    if entries:
        console.print(table)
    console.print(
        f"{root}: {len(entries)} entries, {human_size(sum(entry.bytes for entry in entries))}",
        markup=False,
        soft_wrap=True,
    )
    return 0


def parse_size(text: str) -> int:
    """Bytes, from `10GB`, `500 MB`, `1.5G` or `0`.

    Raises:
        ClipevalError: it is none of these.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)B?\s*", text, re.IGNORECASE)
    if not found:
        raise ClipevalError(f"--keep {text}: expected a size such as 10GB, 500MB or 0.")
    return int(float(found[1]) * _UNITS[found[2].upper()])
