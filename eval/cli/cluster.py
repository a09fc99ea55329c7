"""`clipeval submit`, `status` and `watch`, and what `clipeval run` does with shares and several checkpoints."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipeval.cli.places import path_here, run_place
from clipeval.configs.errors import ClipevalError

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.console import Console

    from clipeval.engine.runner import RunSummary
    from clipeval.stores.embeddings import ChunkRange

CONFIG_DIR = {"metavar": "DIR", "help": "a folder of one's own configs, such as DIR/task/mine.yaml"}

SINK: dict[str, Any] = {
    "action": "append",
    "default": [],
    "metavar": "KIND=WHERE",
    "help": "also tell it the scores: tensorboard=FOLDER, wandb=PROJECT, mlflow=EXPERIMENT or trackio=PROJECT; may be given again",
}


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
    run.add_argument("--sink", **SINK)


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
    status.add_argument(
        "runs", nargs="+", type=run_place, metavar="RUN", help="run folders, or their addresses (s3://…)"
    )
    status.set_defaults(command=_status, overrides=False)
    text = "evaluate each new checkpoint of a training run as it appears, and keep a curve of every metric"
    watch = commands.add_parser("watch", help=text, description=text)
    watch.add_argument("folder", type=path_here, metavar="FOLDER", help="where the checkpoints appear")
    watch.add_argument("--config-dir", **CONFIG_DIR)
    watch.add_argument("--curve", type=path_here, metavar="FILE", help="the CSV; default runs/<folder>.curve.csv")
    watch.add_argument("--every", type=float, default=30.0, metavar="SECONDS", help="between two looks")
    watch.add_argument("--once", action="store_true", help="end after the checkpoints that are there")
    watch.add_argument("--sink", **SINK)
    watch.set_defaults(command=_watch, overrides=True)


def share_parts(config: DictConfig, share: str) -> dict[str, ChunkRange | None]:
    """{task: the part of it} that the process which was given `--share` does of a config."""
    from clipeval.cluster.shares import config_costs, parse_share, partition

    index, count = parse_share(share)
    return {unit.task: unit.part for unit in partition(config_costs(config), count)[index]}


def check_sinks(arguments: argparse.Namespace) -> None:
    """ClipevalError where `clipeval run --sink …` cannot be done; before anything is computed."""
    from clipeval.results.sinks import check

    check(arguments.sink)
    if arguments.share or arguments.multirun:
        raise ClipevalError(
            "--sink is told of whole runs, not with --share or -m: leave it out, and give it to `clipeval run` of each run's own "
            "words afterwards, which computes nothing anew"
        )


def tell_sinks(sinks: Sequence[str], folders: Sequence[Path]) -> None:
    """Tells them of finished runs."""
    if sinks:
        from clipeval.results.sinks import tell

        for folder in folders:
            tell(sinks, folder)


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
    from clipeval.results.mirror import read

    return print_status([read(run) for run in arguments.runs], Console())


def _watch(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from rich.console import Console

    from clipeval.cluster.watch import watch

    console, how = Console(stderr=True), {"curve": arguments.curve, "every": arguments.every, "once": arguments.once}
    how["sinks"] = arguments.sink
    return watch(arguments.folder, overrides, arguments.config_dir, console, **how)
