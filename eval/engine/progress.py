"""How far a run is: a bar for prompts, a bar for images, and a line for each finished task."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

from clipeval.results.records import Record

QUIET_SECONDS = 30.0
"""Where no terminal shows a bar (a Slurm log), a line is printed this often."""


class Progress:
    """Shows bars on a terminal, and a line now and then elsewhere.

    Args:
        console: where to; its stream decides whether bars can be drawn.
        total: how many tasks the run has, those done before included.
        done: how many are done already.
    """

    def __init__(self, console: Console, total: int = 0, done: int = 0) -> None:
        self.console, self.total, self.finished = console, total, done

    @contextmanager
    def bar(self, name: str, total: int, unit: str) -> Iterator[RichBar | LineBar]:
        """A bar of `total` things; nothing at all where there is nothing to do."""
        if total and self.console.is_terminal:
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                _Rate(unit),
                TimeRemainingColumn(),
                TextColumn("{task.fields[what]}"),
            )
            with RichProgress(*columns, console=self.console, transient=True) as rich:
                yield RichBar(rich, name, total)
        else:
            yield LineBar(self.console, name, total, unit)

    def done(self, record: Record) -> None:
        """Says that a task is finished, and what it scored."""
        self.finished += 1
        score = f"{record.metric} {record.value:.4f}" if record.metric and record.value is not None else "recorded"
        flag = "  (!) " + "; ".join(f[:120] for f in record.flags) if record.flags else ""
        self.console.print(
            f"[{self.finished}/{self.total}] {record.name}: {score}{flag}", markup=False, highlight=False
        )


class RichBar:
    """A bar that counts up, on a terminal."""

    def __init__(self, progress: RichProgress, name: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=total, what="")

    def advance(self, count: int, task: str = "") -> None:
        """Counts `count` more, of the given task."""
        self._progress.update(self._task, advance=count, what=task)


class LineBar:
    """The same as a line now and then."""

    def __init__(self, console: Console, name: str, total: int, unit: str) -> None:
        self._console, self._name, self._total, self._unit = console, name, total, unit
        self._count = 0
        self._start = self._said = time.monotonic()

    def advance(self, count: int, task: str = "") -> None:
        """Counts `count` more, of the given task."""
        self._count += count
        now = time.monotonic()
        if now - self._said < QUIET_SECONDS:
            return
        self._said = now
        rate = self._count / (now - self._start)
        left = (self._total - self._count) / rate if rate else float("inf")
        line = f"{self._name}: {self._count:,}/{self._total:,}, {rate:,.0f} {self._unit}/s, {left:,.0f} s left"
        self._console.print(f"{line}  {task}", markup=False, highlight=False)


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} {self._unit}/s" if speed else "")
