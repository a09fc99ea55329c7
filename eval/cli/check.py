"""`clipeval check`: what is doubtful about a model, before hours are spent on its numbers."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipeval.configs.errors import EXIT_ERROR, ClipevalError


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`check`."""
    text = "look for what would make a model's numbers wrong: tokenizer, preprocessing, activation, weights"
    sub = commands.add_parser("check", help=text, description=text)
    sub.add_argument("--config-dir", metavar="DIR", help="a folder of one's own configs, such as DIR/model/mine.yaml")
    sub.set_defaults(command=check_model, overrides=True)
    sub.epilog = "Further words are Hydra overrides: model=… model.pretrained=… runtime.device=…"


def check_model(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Prints a line for each doubt.

    Returns:
        The exit status: 0 where there is none, 1 where there is one.

    Raises:
        ClipevalError: the model is not on this machine, or cannot be loaded.
    """
    from rich.console import Console

    from clipeval.configs.compose import compose

    config = compose(overrides, arguments.config_dir)
    from clipeval.models import pick_device, resolve
    from clipeval.models.check import check

    console = Console(stderr=True)
    handle = resolve(config.model, Path(config.cache.root).expanduser())
    if handle.missing:
        raise ClipevalError(handle.missing)
    with (
        console.status(f"loading {handle.name} …"),
        handle.load(str(pick_device(config.runtime.device)), config.runtime.precision) as encoder,
    ):
        checks = check(encoder)
    doubts = dict.fromkeys((*handle.flags, *handle.checkpoint_flags(), *checks.doubts))
    out = Console(soft_wrap=True)
    out.print(f"{handle.name}: {handle.preprocess.describe()}", markup=False, highlight=False)
    clean = f"texts: {handle.text_clean}" if handle.text_clean else "texts: as the model's own tokenizer takes them"
    for line in (clean, *checks.facts):
        out.print(f"  {line}", markup=False, highlight=False)
    for line in doubts:
        out.print(f"(!) {line}", markup=False, highlight=False)
    if not doubts:
        out.print("nothing is doubtful", markup=False, highlight=False)
    return EXIT_ERROR if doubts else 0
