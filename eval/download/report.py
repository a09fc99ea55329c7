"""What a download did, a row a set."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from clipeval.configs.errors import ClipevalError

STYLES = {"failed": "bold red", "fetched": "green", "converted": "green"}


@dataclass(frozen=True)
class Row:
    """What became of one data set, or of the model.

    Attributes:
        name: the tasks that use it, joined by commas; `model` for the weights.
        location: its folder.
        status: fetched | converted | reused | local | failed; of a dry run also to fetch | to convert.
        files, size: how many files it has, and their bytes.
        transferred: bytes that came over the network, or would.
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
            for status in ("fetched", "converted", "to fetch", "to convert", "reused", "local")
        }
        parts = [f"{count} {status}" for status, count in counts.items() if count]
        parts += [f"{len(self.failures)} failed"] if self.failures else []
        to_do = any(row.status.startswith("to ") for row in self.rows)
        return f"{', '.join(parts) or 'nothing to do'}; {decimal(self.transferred)} {'to transfer' if to_do else 'transferred'}"

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
            size, transferred = (decimal(n) if n else "" for n in (row.size, row.transferred))
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
