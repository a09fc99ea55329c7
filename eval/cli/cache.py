"""`clipeval cache`: what embeddings, pixels and staged runs are kept, how much room they take, and how to make some."""

from __future__ import annotations

import argparse
import re
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipeval.configs.errors import ClipevalError
from clipeval.results import safe_json

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def add_cache(commands: Any) -> None:
    """Adds the subcommand to the command line."""
    text = "list the embeddings, pixels, copied sets and staged runs that are kept, or remove those that were longest not used"
    sub = commands.add_parser("cache", help=text, description=text)
    sub.add_argument("action", nargs="?", choices=("list", "prune"), default="list", help="list (the default) or prune")
    sub.add_argument("--keep", metavar="SIZE", help="with prune: how much may stay, such as 10GB; 0 removes everything")
    sub.add_argument("--root", type=Path, metavar="FOLDER", help="cache.root (default: CLIPEVAL_CACHE or the user's)")
    sub.set_defaults(command=_cache, overrides=False)


def _cache(arguments: argparse.Namespace, rest: list[str]) -> int:
    from rich.console import Console
    from rich.filesize import decimal
    from rich.markup import escape
    from rich.table import Table

    from clipeval.configs.resolvers import user_cache

    root = (arguments.root or Path(user_cache())).expanduser()
    console = Console(highlight=False)
    if (arguments.action == "prune") != (arguments.keep is not None):
        raise ClipevalError("prune needs --keep SIZE, such as `clipeval cache prune --keep 10GB`; list takes none.")
    if arguments.action == "prune":
        removed = prune(root, parse_size(arguments.keep))
        freed, left = sum(entry.bytes for entry in removed), sum(entry.bytes for entry in list_entries(root))
        console.print(
            f"{root}: {len(removed)} removed, {decimal(freed)} freed, {decimal(left)} kept",
            markup=False,
            soft_wrap=True,
        )
        for entry in filter(holds_unsent, list_entries(root)):
            said = f"{entry.parts['label']} lacks results that are kept in {entry.path}: the command that computed them sends them"
            console.print(said, markup=False, soft_wrap=True)
        return 0
    entries = list_entries(root)
    table = Table("kind", "of", "size", "last used", "precision", "entry", box=None, header_style="bold")
    table.columns[1].overflow, table.columns[2].justify = "fold", "right"
    for entry in reversed(entries):
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        label, precision = (escape(str(entry.parts.get(name, ""))) for name in ("label", "precision"))
        table.add_row(entry.kind, label, decimal(entry.bytes), used, precision, entry.key[:12])
    if entries:
        console.print(table)
    console.print(
        f"{root}: {len(entries)} entries, {decimal(sum(entry.bytes for entry in entries))}",
        markup=False,
        soft_wrap=True,
    )
    return 0


@dataclass(frozen=True)
class CacheEntry:
    """One store on disk, as `clipeval cache` lists it."""

    kind: str
    key: str
    path: Path
    bytes: int
    used: float
    parts: Mapping[str, Any]


def list_entries(root: Path) -> list[CacheEntry]:
    """Every store under `root`, the least recently used first."""
    from clipeval.results.mirror import ADDRESS

    entries = []
    for kind in ("images", "texts", "pixels"):
        for folder in sorted((root / kind).glob("*")):
            files = [f for f in folder.iterdir() if f.is_file()]
            if not files:
                continue
            label = folder / "parts.json"
            parts = _parts(label)
            size, used = sum(f.stat().st_size for f in files), max(f.stat().st_mtime for f in files)
            entries.append(CacheEntry(kind, folder.name, folder, size, used, parts))
    for folder in sorted((root / "sets").glob("*")):  # copies of sets that lie elsewhere
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        names = ", ".join(sorted(path.name for path in folder.iterdir()))
        entries.append(CacheEntry("set", folder.name, folder, size, folder.stat().st_mtime, {"label": names}))
    for folder in sorted((root / "runs").glob("*")):  # runs that are kept at addresses
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        with suppress(OSError):
            address = (folder / ADDRESS).read_text("utf-8")
            entries.append(CacheEntry("run", folder.name, folder, size, folder.stat().st_mtime, {"label": address}))
    return sorted(entries, key=lambda entry: entry.used)


def holds_unsent(entry: CacheEntry) -> bool:
    """Whether it is a run of which something is not at its address yet."""
    from clipeval.results.mirror import unsent

    return entry.kind == "run" and any(unsent(folder) for folder in entry.path.glob("[!.]*"))


def _parts(label: Path) -> dict[str, Any]:
    """What a store's label says; nothing where there is none, or it is none that this program wrote."""
    try:
        label_parts = safe_json.read(label)
    except (OSError, ValueError):
        return {}
    return label_parts if isinstance(label_parts, dict) else {}


def prune(root: Path, keep_bytes: int) -> list[CacheEntry]:
    """Removes the least recently used stores until `keep_bytes` are left; gives what it removed. What was not sent yet stays."""
    entries = [entry for entry in list_entries(root) if not holds_unsent(entry)]
    total, removed = sum(entry.bytes for entry in entries), []
    for entry in entries:
        if total <= keep_bytes:
            break
        shutil.rmtree(entry.path)
        total -= entry.bytes
        removed.append(entry)
    return removed


def parse_size(text: str) -> int:
    """Bytes, from `10GB`, `500 MB`, `1.5G` or `0`.

    Raises:
        ClipevalError: it is none of these.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)B?\s*", text, re.IGNORECASE)
    if not match:
        raise ClipevalError(f"--keep {text}: expected a size such as 10GB, 500MB or 0.")
    return int(float(match[1]) * _UNITS[match[2].upper()])
