"""The table that a sweep ends with: a row for each run, with the values in which it differs from the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from clipeval.configs.naming import short_keys
from clipeval.results import formatting, runs, sheet
from clipeval.results.mirror import place
from clipeval.results.run_folder import RunFolder

MOST_TASKS = 6
"""Tasks that have a column each; of more, the averages are shown."""


def print_sweep(rows: Sequence[tuple[Mapping[str, str], Path]], console: Console | None = None) -> int:
    """Prints the table.

    Args:
        rows: ({key: value}, run folder) of each run, in order.
        console: where to; None: standard output.

    Returns:
        How many runs have no result.
    """
    console = console or Console(highlight=False)
    done = [folder for _, folder in rows if folder.is_dir() and RunFolder(folder).tasks()]
    built = sheet.build(runs.load(done, slim=True)) if done else sheet.ReportTable((), ())
    tasks = [row for row in built.rows if row.kind in ("task", "single")]
    averages = [row for row in built.rows if row.kind in ("average", "common")]
    groups = [row for row in built.rows if row.kind == "group"] if len(tasks) > MOST_TASKS else []
    shown = [*averages, *groups, *(tasks if len(tasks) <= MOST_TASKS or not averages else [])]
    keys = list(dict.fromkeys(key for values, _ in rows for key in values))
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), header_style="bold")
    for name in short_keys(keys).values():
        table.add_column(name, overflow="fold")
    for row in shown:
        marks = f" [{','.join(map(str, row.marks))}]" if row.marks else ""
        table.add_column(Text(f"{row.label}{marks}"), justify="right", overflow="fold")
    for values, folder in rows:
        number = done.index(folder) if folder in done else None
        cells = [Text(formatting.DASH) if number is None else _cell(row.cells[number]) for row in shown]
        table.add_row(*(values.get(key, "") for key in keys), *cells)
    console.print(table)
    console.print(Padding(Text("The run folder of each row:", style="dim"), (0, 1)))
    for _, folder in rows:  # never wrapped: they are there to be copied
        console.print(Text(f"   {place(folder)}", style="dim"), soft_wrap=True)
    lines = [Text(f"! {text}", style="bold yellow") for text in built.warnings]
    for note in built.footnotes:
        mark = "! " if note.flag else ""
        lines.append(Text(f"[{note.number}] {mark}{note.text}", style="yellow" if note.flag else "dim"))
    if len(tasks) > MOST_TASKS and averages:
        lines.append(Text("Each task: clipeval report RUN FOLDER…", style="dim"))
    missing = len(rows) - len(done)
    if missing:
        lines.append(Text(f"! {missing} of {len(rows)} runs have no result", style="bold yellow"))
    for line in lines:
        console.print(Padding(line, (0, 1)))
    return missing


def _cell(cell: sheet.TableCell) -> Text:
    if cell.absent:
        return Text("" if cell.absent == "not planned" else cell.absent, style="yellow")
    text = Text(formatting.score(cell.value))
    if cell.flagged:
        text.append(" !", style="bold yellow")
    if cell.partial:
        text.append(f"\n{formatting.tally(cell)}", style="bold yellow")
    return text
