"""`clipeval plan` in the terminal: what would run, what is done, what is missing, the estimated cost."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from clipeval.configs.errors import EXIT_ERROR, EXIT_SKIPPED
from clipeval.engine.evaluation import Evaluation
from clipeval.engine.features import FeatureStores
from clipeval.engine.plan import Plan, PlannedTask
from clipeval.engine.runner import text_parts
from clipeval.stores.embeddings import TextStore
from clipeval.stores.pixels import free_bytes

MANY_IMAGES = 500_000
"""Embeddings whose size in memory is worth a word: 1 GB and more."""
WIDTHS = (512, 1024)
WORDS = {"done": "done", "stale": "again", "todo": "to do"}


def print_plan(evaluation: Evaluation, console: Console) -> int:
    """Prints the plan.

    Returns:
        0 when every task can run, 3 when all can but those that would be skipped, 1 when anything else is missing.
    """
    plan = evaluation.plan()
    options = evaluation.options()
    console.print(f"model  {evaluation.handle.name}", highlight=False, markup=False)
    console.print(f"pixels {evaluation.handle.preprocess.describe()}", highlight=False, markup=False)
    console.print(f"out    {evaluation.folder.place}", highlight=False, markup=False)
    for flag in evaluation.handle.flags:
        console.print(f"(!) {flag}", highlight=False, markup=False)
    table = Table(box=None, header_style="bold")
    for column in ("task", "images", "to embed", "prompts", "state", "why"):
        table.add_column(column, overflow="fold")  # a path that is cut is of no use
    seen: set[str] = set()
    images = 0
    for planned in plan.tasks:
        done = planned.state == "done" or planned.derived is not None
        left = 0 if done else _left(planned, evaluation.stores, seen)
        images += left
        total = sum(len(split.images) for split in planned.splits.values())
        made = [f"made of the predictions of {planned.derived.task}"] if planned.derived is not None else []
        why = "; ".join((*planned.why, *made, *planned.flags))
        table.add_row(planned.id, f"{total:,}", f"{left:,}", f"{len(set(planned.texts)):,}", WORDS[planned.state], why)
    for name, problem in plan.problems.items():
        table.add_row(name, "", "", "", "[red]missing[/red]", problem)
    for name, why in plan.skipped.items():
        table.add_row(name, "", "", "", "[yellow]skipped[/yellow]", why)
    console.print(table)
    prompts = 0
    for output in {planned.task.text_output for planned in plan.open}:
        texts = TextStore(evaluation.stores.root, text_parts(evaluation.handle, options, output))
        asked = [p for p in plan.open if p.derived is None and p.task.text_output == output]
        prompts += len(texts.missing(text for planned in asked for text in planned.texts))
    console.print(_summary(plan, images, prompts, _speed(evaluation, plan)), highlight=False)
    if options.pixels is not None:
        needed = options.pixel_growth(plan.open, evaluation.handle.preprocess, evaluation.stores)
        console.print(
            f"cache.pixels: {decimal(needed)} of resized pixels to keep; the disk of {options.pixels} has room for "
            f"{decimal(free_bytes(options.pixels))}.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if said := _memory(plan):
        console.print(said, markup=False, highlight=False, soft_wrap=True)
    if plan.skipped:
        count = len(plan.tasks) + len(plan.problems) + len(plan.skipped)
        console.print(
            f"{len(plan.tasks)} of {count} tasks; the others are skipped (data.on_missing=skip).", highlight=False
        )
    return EXIT_ERROR if plan.problems or not plan.tasks else EXIT_SKIPPED if plan.skipped else 0


def _left(planned: PlannedTask, stores: FeatureStores, seen: set[str]) -> int:
    """Images that no earlier task of the plan embeds and no cache holds."""
    count = 0
    for spec in planned.features.values():
        if spec.key not in seen:
            seen.add(spec.key)
            count += len(stores.of(spec).missing)
    return count


def _memory(plan: Plan) -> str:
    """What the embeddings of the largest task will take of the host's memory, which holds them all while it is scored; empty
    where that is little."""
    counts = {
        planned.id: sum(len(spec.images) for spec in planned.features.values())
        for planned in plan.open
        if planned.derived is None
    }
    task = max(counts, key=lambda name: counts[name], default="")
    if not task or counts[task] < MANY_IMAGES:
        return ""
    sizes = " and ".join(f"{decimal(4 * width * counts[task])} where they have {width:,} numbers" for width in WIDTHS)
    return f"memory: the {counts[task]:,} embeddings of {task} are scored at once, {sizes}, beside the model and the decoders."


def _speed(evaluation: Evaluation, plan: Plan) -> float | None:
    """Images a second of this folder's own records, which ran on this machine's like; None before the first."""
    return _rate(planned for planned in plan.tasks if planned.record is not None)


def _rate(planned_tasks: Iterable[PlannedTask]) -> float | None:
    images = seconds = 0.0
    for planned in planned_tasks:
        assert planned.record is not None
        images += planned.record.samples or 0
        seconds += planned.record.timings.get("embed_s", 0.0)
    return images / seconds if seconds > 1 else None


def _summary(plan: Plan, images: int, prompts: int, rate: float | None) -> str:
    done = sum(planned.state == "done" for planned in plan.tasks)
    text = f"{len(plan.tasks) + len(plan.problems)} tasks: {done} done, {len(plan.open)} to compute, {len(plan.problems)} missing. "
    text += f"To embed: {images:,} images and {prompts:,} prompts"
    return text + (f", about {images / rate / 60:.1f} min at {rate:,.0f} images/s." if rate and images else ".")
