"""`clipeval submit`, `status` and `watch`, and what `clipeval run` does with shares and several checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.console import Console

    from clipeval.engine.runner import RunSummary
    from clipeval.engine.store import ChunkRange

CONFIG_DIR = {"metavar": "DIR", "help": "a folder of one's own configs, such as DIR/task/mine.yaml"}


def add_run_options(run: argparse.ArgumentParser) -> None:
    """What `clipeval run` takes besides overrides."""
    run.add_argument(
        "--share",
        metavar="I/N|slurm",
        help="do one of N equal shares of the run, I from 0 to N-1; slurm: this array job's own",
    )
    run.add_argument(
        "-m", "--multirun", action="store_true", help="Hydra's sweep: every combination of model=a,b suite=c,d"
    )


def add_commands(commands: argparse._SubParsersAction[Any]) -> None:
    """`submit`, `status` and `watch`."""
    text = "a Slurm array over the same words as run, submitted and left; model=a,b,c takes several models"
    submit = commands.add_parser("submit", help=text, description=text)
    submit.add_argument("--config-dir", **CONFIG_DIR)
    submit.epilog = (
        "slurm.array=16 slurm.partition=… slurm.time=MINUTES slurm.cpus=… slurm.gpus=… '+slurm.extra.account=…'"
    )
    submit.set_defaults(command=_submit, overrides=True)
    text = "which tasks of a run folder are done, running, waiting, failed or missing; status 0 when all are done"
    status = commands.add_parser("status", help=text, description=text)
    status.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    status.set_defaults(command=_status, overrides=False)
    text = "evaluate each new checkpoint of a training run as it appears, and keep a curve of every metric"
    watch = commands.add_parser("watch", help=text, description=text)
    watch.add_argument("folder", type=Path, metavar="FOLDER", help="where the checkpoints appear")
    watch.add_argument("--config-dir", **CONFIG_DIR)
    watch.add_argument("--curve", type=Path, metavar="FILE", help="the CSV; default runs/<folder>.curve.csv")
    watch.add_argument("--every", type=float, default=30.0, metavar="SECONDS", help="between two looks")
    watch.add_argument("--once", action="store_true", help="end after the checkpoints that are there")
    sink = "also tell it: tensorboard=FOLDER, wandb=PROJECT or mlflow=EXPERIMENT; may be given again"
    watch.add_argument("--sink", action="append", default=[], metavar="KIND=WHERE", help=sink)
    watch.set_defaults(command=_watch, overrides=True)


def share_parts(config: DictConfig, share: str) -> dict[str, ChunkRange | None]:
    """{task: the part of it} that the process which was given `--share` does of a config."""
    from clipeval.cluster.shares import config_costs, parse_share, partition

    index, count = parse_share(share)
    return {unit.task: unit.part for unit in partition(config_costs(config), count)[index]}


def say_pending(summary: RunSummary, console: Console) -> None:
    """Says which tasks wait for other processes' parts."""
    for task in summary.pending:
        console.print(f"{task}: this part is embedded; who embeds the last one scores it", highlight=False)


def _submit(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from rich.console import Console

    from clipeval.cluster.submit import submit

    return submit(overrides, arguments.config_dir, Console(stderr=True))


def _status(arguments: argparse.Namespace, rest: list[str]) -> int:
    from rich.console import Console

    from clipeval.cluster.status import print_status

    return print_status(arguments.runs, Console())


def _watch(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from rich.console import Console

    from clipeval.cluster.watch import watch

    console, how = Console(stderr=True), {"curve": arguments.curve, "every": arguments.every, "once": arguments.once}
    how["sinks"] = arguments.sink
    return watch(arguments.folder, overrides, arguments.config_dir, console, **how)
