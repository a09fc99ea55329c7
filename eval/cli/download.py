"""`clipeval download`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from clipeval.configs.errors import ClipevalError


def add_download(commands: Any) -> None:
    """Adds `download` to the commands. What it needs is imported when it is called."""
    text = "fetch a suite's data and a model's weights, verify and convert them; later runs need no network"
    sub = commands.add_parser("download", help=text, description=text)
    sub.add_argument("--config-dir", metavar="DIR", help="a folder of one's own configs")
    sub.add_argument("--verify", action="store_true", help="also hash what is there already; damaged files come again")
    sub.add_argument(
        "--dry-run", action="store_true", help="fetch nothing: say what would be, its size, licence and gating"
    )
    sub.add_argument("--workers", type=int, default=8, help="files fetched at once (8)")
    sub.add_argument("--no-model", action="store_true", help="leave the model's weights alone")
    sub.set_defaults(command=_download, overrides=True)


def _download(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from rich.console import Console

    from clipeval.configs.compose import compose

    config, console = compose(overrides, arguments.config_dir), Console(stderr=True)
    from clipeval.configs.addresses import is_address, shown

    if is_address(config.data.root):
        raise ClipevalError(
            f"data.root={shown(config.data.root)}: sets are fetched to a folder of this machine, so name one and copy it to there; "
            "sets that lie there already need no download: `clipeval run` reads them where they are."
        )
    from clipeval.data.config import data_config  # with torch, for which a wrong word need not wait
    from clipeval.download import DownloadError, download
    from clipeval.models import resolve

    handle = None if arguments.no_model else resolve(config.model, Path(config.cache.root).expanduser())
    root = config.data.root
    sets = {str(name): data_config(node, config.data) for name, node in config.tasks.items()}
    splits = {str(name): list(node.splits) for name, node in config.tasks.items()}
    for name, node in config.tasks.items():
        if node.get("outside") is not None:
            sets[f"{name} (outside)"] = data_config(node, config.data, "outside")
            splits[f"{name} (outside)"] = list(node.splits)
    try:
        report = download(
            sets,
            None if root is None else Path(root).expanduser(),
            handle,
            workers=arguments.workers,
            verify=arguments.verify,
            dry_run=arguments.dry_run,
            splits=splits,
            console=console,
        )
    except DownloadError as problem:
        console.print(problem.report.table())
        raise
    console.print(report.table())
    console.print(report.summary(), highlight=False)
    return 0
