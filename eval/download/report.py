"""What a download did, a row a set, and the display while it lasts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from clipeval.configs.errors import ClipevalError
from clipeval.download.problems import readable

STYLES = {"failed": "bold red", "fetched": "green", "converted": "green"}


@dataclass(frozen=True)
class Row:
    """What became of one data set, or of the model.

    Attributes:
        name: the tasks that use it, joined by commas; `model` for the weights.
        location: its folder.
        status: fetched | converted | reused | local | failed.
        files, size: how many files it has, and their bytes.
        transferred: bytes that came over the network.
        note: what else is to be said; for a failure its sentence.
    """

    name: str
    location: str
    status: str
    files: int = 0
    size: int = 0
    transferred: int = 0
    note: str = ""


@dataclass
class Report:
    """The rows of a download, in the tasks' order."""

    rows: list[Row] = field(default_factory=list)

    @property
    def failures(self) -> list[Row]:
        """The rows that did not succeed."""
        return [row for row in self.rows if row.status == "failed"]

    @property
    def transferred(self) -> int:
        """Bytes that came over the network, the model's aside."""
        return sum(row.transferred for row in self.rows)

    def summary(self) -> str:
        """One line: how many sets were fetched, converted, reused, and the bytes."""
        counts = {
            status: sum(row.status == status for row in self.rows)
            for status in ("fetched", "converted", "reused", "local")
        }
        parts = [f"{count} {status}" for status, count in counts.items() if count]
        parts += [f"{len(self.failures)} failed"] if self.failures else []
        return f"{', '.join(parts) or 'nothing to do'}; {readable(self.transferred)} transferred"

    def table(self) -> Table:
        """The rows for a terminal."""
        table = Table(title=self.summary(), title_justify="left")
        for column, justify in (
            ("set", "left"),
            ("status", "left"),
            ("files", "right"),
            ("size", "right"),
            ("fetched", "right"),
        ):
            table.add_column(column, justify=justify, no_wrap=column != "set")  # type: ignore[arg-type]
        table.add_column("note", overflow="fold")
        for row in self.rows:
            size, transferred = (readable(n) if n else "" for n in (row.size, row.transferred))
            style = STYLES.get(row.status)
            cells = (row.name, row.status, str(row.files or ""), size, transferred, row.note)
            table.add_row(*map(Text, cells), style=style)  # Text: a bracket in a message is no markup
        return table


class DownloadError(ClipevalError):
    """Some sets could not be fetched; the others were. `report` says what became of each."""

    def __init__(self, report: Report) -> None:
        self.report = report
        failures = report.failures
        if len(failures) == 1:
            message = failures[0].note
        else:
            lines = "".join(f"\n  {row.name}: {row.note}" for row in failures)
            message = f"{len(failures)} of {len(report.rows)} could not be fetched:{lines}"
        super().__init__(message)


class Display:
    """Bars for each set and for all bytes, thread-safe, silent where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._all: TaskID | None = None
        self._lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Shows the bars while the block runs."""
        with self._progress:
            yield

    def set_total(self, size: int) -> None:
        """Says how many bytes there are in all."""
        if size:
            self._all = self._progress.add_task("all", total=size)

    def add(self, name: str, size: int) -> TaskID:
        """A bar for one set."""
        return self._progress.add_task(name, total=size, visible=False)

    def advance(self, bar: TaskID, size: int) -> None:
        """`size` more bytes of a set; negative where some have to be fetched again."""
        with self._lock:
            self._progress.update(bar, advance=size, visible=True)  # a bar of its own only once bytes come
            if self._all is not None:
                self._progress.advance(self._all, size)

    def finish(self, bar: TaskID) -> None:
        """Takes a finished set's bar away."""
        self._progress.remove_task(bar)

    def say(self, text: str) -> None:
        """A line above the bars."""
        if not self._progress.disable:
            self._progress.console.print(text, markup=False, highlight=False)


def location_name(folder: Path) -> str:
    """A folder's name for a bar or a row."""
    return folder.name or str(folder)
