"""The report in a terminal, with rich."""

from __future__ import annotations

import io
import os
import shutil

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from clipeval.results import formatting
from clipeval.results.sheet import ReportTable, TableCell, TableRow

STYLES = {"group": "bold", "task": "", "single": "bold", "average": "bold green", "common": "bold green"}


def render(sheet: ReportTable, width: int | None = None, colour: bool = False) -> str:
    """The report as text of at most `width` columns (default: the terminal's), with ANSI colours if asked."""
    return to_text(layout(sheet, width or terminal_width()), width, colour)


def terminal_width() -> int:
    """The terminal's width; 100 where there is none."""
    return shutil.get_terminal_size((100, 24)).columns


def to_text(body: RenderableType, width: int | None, colour: bool) -> str:
    """Anything that rich draws, as a string."""
    sink = io.StringIO()
    console = Console(
        file=sink,
        width=width or terminal_width(),
        force_terminal=colour,
        no_color=not colour,
        color_system="standard" if colour else None,
        highlight=False,
        legacy_windows=False,
        force_jupyter=False,  # there rich would show it at once, beside what this returns
        _environ={} if colour else {**os.environ, "TERM": "dumb"},
    )
    console.print(body)
    # rich pads each line to the width; files and diffs are better off without.
    return "\n".join(line.rstrip() for line in sink.getvalue().splitlines()) + "\n"


def layout(sheet: ReportTable, width: int) -> Group:
    """The report's parts, to be printed by a rich console."""
    parts: list[RenderableType] = []
    parts += [warning(text) for text in sheet.warnings]
    if len(sheet.runs) == 1:
        title = Text(sheet.runs[0], style="bold")
        if sheet.details[0]:
            title.append(f"  {sheet.details[0]}", style="dim not bold")
        parts += [Padding(title, (1, 1, 0, 1)), _single(sheet, width)]
    else:
        per_table = _fitting(sheet, width)
        for start in range(0, len(sheet.runs), per_table):
            parts.append(_several(sheet, slice(start, start + per_table)))
    parts += _below(sheet)
    return Group(*parts)


def warning(text: str) -> RenderableType:
    """A line that cannot be overlooked."""
    return Padding(Text(f"! {text}", style="bold yellow"), (0, 1))


def _label(row: TableRow, several: bool) -> Text:
    style = STYLES[row.kind]
    text = Text(formatting.row_label(row, several), style=style)
    if any(cell.flagged for cell in row.cells) and row.kind in ("task", "single"):
        text.append(" !", style="bold yellow")
    if row.marks:
        text.append(" [" + ",".join(map(str, row.marks)) + "]", style="dim not bold")
    return text


def _indented(row: TableRow, sheet: ReportTable) -> RenderableType:
    """A row's name, a task's set in below its group, its second line too where it needs one."""
    label = _label(row, several=len(sheet.runs) > 1)
    return Padding(label, (0, 0, 0, INDENT)) if row.kind == "task" and sheet.grouped else label


INDENT = 2


def _single(sheet: ReportTable, width: int) -> Table:
    """One run: score, interval, corrected score, samples, and the metric's name where there is room."""
    table = Table(box=SIMPLE_HEAD, pad_edge=True, padding=(0, 1), header_style="dim")
    table.add_column("Task", no_wrap=False, ratio=None)
    for name in ("Score", "95% interval", "Corrected", "Samples"):
        table.add_column(name, justify="right", no_wrap=True)
    roomy = width >= 96
    if roomy:
        table.add_column("Metric", style="dim", no_wrap=True)
    before = None
    for row in sheet.rows:
        if before is not None and row.kind in ("group", "single", "average", "common") and before != row.kind:
            table.add_section() if row.kind == "average" else table.add_row()
        cell, style = row.cells[0], STYLES[row.kind]
        if cell.absent:
            shown = [Text(cell.absent, style="bold yellow"), Text(""), Text(""), Text("")]
        else:
            shown = [
                Text(formatting.score(cell.value), style=style or "bold"),
                Text(formatting.interval(cell.interval) if cell.value is not None else "", style="not bold"),
                Text(formatting.score(cell.corrected) if cell.value is not None else "", style="not bold"),
                Text(formatting.count(cell.samples), style="dim not bold"),
            ]
        table.add_row(_indented(row, sheet), *shown, *([Text(row.metric)] if roomy else []))
        before = row.kind
    return table


def _fitting(sheet: ReportTable, width: int) -> int:
    """How many runs stand side by side: those whose columns fit, at least one."""
    names = INDENT + max(len(_label(row, several=True).plain) for row in sheet.rows)
    return max(1, (width - names - 4) // (_column(sheet) + 2))


def _column(sheet: ReportTable) -> int:
    """Characters of a run's column: a score with its margin and mark, and most names unbroken."""
    return min(max(15, *(len(word) for name in sheet.runs for word in name.split(" "))), 22)


def _several(sheet: ReportTable, which: slice) -> Table:
    """Runs side by side: score and half of its interval, the best marked."""
    table = Table(box=SIMPLE_HEAD, pad_edge=True, padding=(0, 1), header_style="bold")
    table.add_column("Task", no_wrap=True)
    for name in sheet.runs[which]:
        # A name breaks where its words end, so the model stands above its weights.
        table.add_column("\n".join(name.split(" ")), justify="right", width=_column(sheet), overflow="fold")
    before = None
    for row in sheet.rows:
        if before is not None and row.kind in ("group", "single", "average") and before != row.kind:
            table.add_section() if row.kind == "average" else table.add_row()
        table.add_row(_indented(row, sheet), *[_beside(cell, row) for cell in row.cells[which]])
        before = row.kind
    return table


def _beside(cell: TableCell, row: TableRow) -> Text:
    if cell.absent:
        return Text(cell.absent if cell.absent != "not planned" else "", style="yellow")
    text = Text()
    text.append("*" if cell.best else " ", style="bold green")
    text.append(formatting.score(cell.value), style=("bold green" if cell.best else STYLES[row.kind]))
    text.append(f" {formatting.margin(cell):<6}", style="dim not bold")
    if row.kind in ("average", "common") and cell.of:
        text.append(f"\n{formatting.tally(cell)}", style="bold yellow" if cell.partial else "dim not bold")
    elif cell.partial:
        text.append(f"\n{formatting.tally(cell)}", style="yellow")
    return text


def _below(sheet: ReportTable) -> list[RenderableType]:
    lines = [Text(text, style="dim") for text in formatting.details(sheet)]
    for note in sheet.footnotes:
        text = Text(f"[{note.number}] ", style="dim")
        text.append(("! " if note.flag else "") + note.text, style="yellow" if note.flag else "dim")
        lines.append(text)
    lines.append(Text(formatting.legend(sheet), style="dim"))
    return [Padding(Group(*lines), (0, 1))]
