"""`clipeval watch FOLDER`: each new checkpoint of a training run is evaluated as it appears; every metric makes a curve.

    clipeval watch logs/run/checkpoints model=open_clip model.name=ViT-B-32 suite=imagenet data.root=…

The curve is a CSV with a row for each checkpoint, task and metric; it is made anew from the records each time, so that
stopping and starting again lose and repeat nothing.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from clipeval.cluster.checkpoint_files import natural
from clipeval.configs.compose import compose, override
from clipeval.configs.errors import ClipevalError
from clipeval.configs.files import write_atomically
from clipeval.configs.naming import CHECKPOINT_SUFFIXES
from clipeval.results.curve import scores_of
from clipeval.results.records import Record
from clipeval.results.runs import load
from clipeval.results.sinks import Sinks, step_of

COLUMNS = ("checkpoint", "step", "task", "metric", "value", "low", "high", "main")


def watch(
    folder: Path,
    overrides: Sequence[str],
    config_dir: str | None,
    console: Console,
    *,
    curve: Path | None = None,
    every: float = 30.0,
    once: bool = False,
    sinks: Sequence[str] = (),
) -> int:
    """Evaluates what is there, then what comes, until it is stopped.

    Args:
        folder: where the training run writes its checkpoints.
        overrides: as of `clipeval run`, less `model.pretrained`.
        config_dir: as `--config-dir`.
        console: for progress and the table.
        curve: the CSV; None: runs/<folder's name>.curve.csv.
        every: seconds between two looks. A file counts once its size has not changed between two of them.
        once: whether to end after what is there.
        sinks: who else is told of each checkpoint: `clipeval.results.sinks`.

    Returns:
        0, or 1 if with `once` a checkpoint failed.
    """
    if not folder.is_dir():
        raise ClipevalError(f"{folder} is not a folder of checkpoints.")
    if any(word.startswith("model.pretrained=") for word in overrides):
        raise ClipevalError("watch takes the weights from its folder; leave model.pretrained= away.")
    compose([*overrides, override("model.pretrained", str(folder))], config_dir)  # a wrong word waits for no checkpoint
    curve = curve or Path("runs") / f"{folder.resolve().parent.name}-{folder.resolve().name}.curve.csv"
    with Sinks(sinks, curve.name.removesuffix(".csv"), curve.with_suffix(".sinks.json")) as told:
        return _watch(folder, overrides, config_dir, console, curve, every, once, told)


def _watch(
    folder: Path,
    overrides: Sequence[str],
    config_dir: str | None,
    console: Console,
    curve: Path,
    every: float,
    once: bool,
    sinks: Sinks,
) -> int:
    runs: dict[Path, Path] = {}
    failed: set[Path] = set()
    sizes = {} if not once else _sizes(folder)
    while True:
        now = _sizes(folder)
        new = [p for p in sorted(now, key=natural) if p not in runs and p not in failed and now[p] == sizes.get(p)]
        sizes = now
        if new:
            folders, broken = _evaluate(new, overrides, config_dir, console)
            runs.update(folders)
            failed |= broken
            write_atomically(curve, curve_csv(runs).encode())
            print_curve(runs, curve, console)
            for number, path in enumerate(sorted(folders, key=natural)):
                step = step_of(path)
                sinks.log(path.name, scores_of(_scored(folders[path])[0]), number if step is None else step)
        if once:
            return 1 if failed else 0
        time.sleep(every)


def curve_csv(runs: dict[Path, Path]) -> str:
    """Every metric of every record: COLUMNS, a row each, checkpoints in order; `main` marks a task's main metric.

    A task that was skipped has one row, of its main metric without a value.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for checkpoint in sorted(runs, key=natural):
        records, skipped = _scored(runs[checkpoint])
        for task, spec in skipped.items():
            writer.writerow([checkpoint.name, step_of(checkpoint), task, spec.get("metric"), None, None, None, 1])
        for record in records:
            for metric, value in record.metrics.items():
                low, high = record.intervals.get(metric) or (None, None)
                main = int(metric == record.metric)
                writer.writerow([checkpoint.name, step_of(checkpoint), record.task, metric, value, low, high, main])
    return buffer.getvalue()


def print_curve(runs: dict[Path, Path], curve: Path, console: Console) -> None:
    """Main metrics, a row for each checkpoint."""
    ordered = sorted(runs, key=natural)
    scores: dict[Path, dict[str, float | None]] = {}
    for path in ordered:
        records, skipped = _scored(runs[path])
        scores[path] = {
            **{r.task: r.value for r in records if r.metric},
            **{t: None for t, s in skipped.items() if s.get("metric")},
        }
    tasks = list(dict.fromkeys(task for values in scores.values() for task in values))
    shown = tasks if len(tasks) <= 6 else []
    table = Table("checkpoint", "average", *shown, box=None, header_style="bold")
    for path in ordered:
        values = [value for value in scores[path].values() if value is not None]
        average = f"{sum(values) / len(values):.4f}" if values else ""
        if len(values) < len(scores[path]):
            average += f" ({len(values)} of {len(scores[path])})"
        shown_scores = ["" if scores[path].get(t) is None else f"{scores[path][t]:.4f}" for t in shown]
        table.add_row(path.name, average, *shown_scores)
    console.print(table)
    console.print(f"{len(ordered)} checkpoints; every metric: {curve}", markup=False, highlight=False)


def _scored(folder: Path) -> tuple[list[Record], dict[str, Mapping[str, Any]]]:
    """The records that stand, and what was planned of the tasks that were skipped."""
    (run,) = load([folder])
    return list(run.records.values()), {task: run.planned[task] for task in run.skipped}


def _sizes(folder: Path) -> dict[Path, int]:
    sizes = {}
    for path in folder.iterdir():
        if path.suffix in CHECKPOINT_SUFFIXES and not path.name.startswith("."):
            try:
                sizes[path] = path.stat().st_size
            except FileNotFoundError:
                continue  # the training run has removed it
    return sizes


def _evaluate(
    paths: Sequence[Path], overrides: Sequence[str], config_dir: str | None, console: Console
) -> tuple[dict[Path, Path], set[Path]]:
    """Run folders of checkpoints, and those that could not be evaluated, which are named and not tried again."""
    from clipeval.cluster.checkpoint_files import words_of
    from clipeval.cluster.checkpoints import run_models

    try:
        return dict(zip(paths, run_models(overrides, config_dir, words_of(paths), console), strict=True)), set()
    except ClipevalError as problem:
        if len(paths) == 1:
            console.print(f"{paths[0].name}: {problem}", markup=False, highlight=False)
            return {}, set(paths)
    done: dict[Path, Path] = {}
    broken: set[Path] = set()
    for path in paths:  # what the others have done stands, and is only looked up
        folders, failed = _evaluate([path], overrides, config_dir, console)
        done.update(folders)
        broken |= failed
    return done, broken
