"""The report as a Markdown table (GitHub's kind)."""

from __future__ import annotations

from collections.abc import Sequence

from clipeval.results import formatting
from clipeval.results.sheet import ReportTable, TableCell, TableRow


def render(sheet: ReportTable) -> str:
    """The report as Markdown: one run with every column, several runs side by side."""
    several = len(sheet.runs) > 1
    parts = [f"> **Warning** {escape(text)}\n" for text in sheet.warnings]
    if not several:
        parts.append(f"### {escape(sheet.runs[0])}\n" + (f"\n{escape(sheet.details[0])}\n" if sheet.details[0] else ""))
    parts.append(_several(sheet) if several else _single(sheet))
    notes = [f"[{n.number}] {'**Warning:** ' if n.flag else ''}{escape(n.text)}" for n in sheet.footnotes]
    about = [escape(text) for text in formatting.details(sheet)]
    parts.append("  \n".join([*about, *notes, escape(formatting.legend(sheet))]) + "\n")
    return "\n".join(parts)


def escape(text: str) -> str:
    """Text as Markdown shows it unchanged, in a table's cell too."""
    for character in "\\|*_`<[]":
        text = text.replace(character, "\\" + character)
    return text.replace("\n", " ")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table whose first `left` columns are set left and the others right."""
    rule = [":--"] * left + ["--:"] * (len(header) - left)
    return "".join(f"| {' | '.join(line)} |\n" for line in [header, rule, *rows])


def _label(row: TableRow, several: bool) -> str:
    text = escape(formatting.row_label(row, several))
    if row.kind != "task":
        text = f"**{text}**"
    if row.kind in ("task", "single") and any(cell.flagged for cell in row.cells):
        text += " **!**"
    return text + (f" <sup>{','.join(map(str, row.marks))}</sup>" if row.marks else "")


def _single(sheet: ReportTable) -> str:
    rows = []
    for row in sheet.rows:
        cell = row.cells[0]
        if cell.absent:
            values = [f"**{cell.absent}**", "", "", "", ""]
        else:
            score = formatting.score(cell.value)
            values = [
                score if row.kind == "task" else f"**{score}**",
                formatting.interval(cell.interval) if cell.value is not None else "",
                formatting.score(cell.corrected) if cell.value is not None else "",
                formatting.count(cell.samples),
                escape(row.metric),
            ]
        rows.append([_label(row, several=False), *values])
    return table(["Task", "Score", "95% interval", "Corrected", "Samples", "Metric"], rows)


def _several(sheet: ReportTable) -> str:
    rows = [[_label(row, several=True), *[_beside(cell, row) for cell in row.cells]] for row in sheet.rows]
    return table(["Task", *map(escape, sheet.runs)], rows)


def _beside(cell: TableCell, row: TableRow) -> str:
    if cell.absent:
        return "" if cell.absent == "not planned" else f"**{cell.absent}**"
    score = formatting.score(cell.value)
    text = f"**{score}**\\*" if cell.best else score
    text += f" {formatting.margin(cell)}".rstrip()
    if row.kind in ("average", "common") or cell.partial:
        text += f" ({formatting.tally(cell)})"
    return text
