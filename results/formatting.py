"""How numbers are written, the same in every format."""

from __future__ import annotations

from clipeval.results.sheet import ReportTable, TableCell, TableRow
from clipeval.results.uncertainty import Interval

DASH = "–"


def score(value: float | None) -> str:
    """A score as DataComp and open_clip print it: four digits."""
    return DASH if value is None else f"{value:.4f}"


def interval(pair: Interval | None) -> str:
    """`0.7240–0.7318`."""
    return DASH if pair is None else f"{pair[0]:.4f}{DASH}{pair[1]:.4f}"


def margin(cell: TableCell) -> str:
    """Half an interval's width, `±.0039`: what fits beside a score where there are many."""
    if cell.value is None or cell.interval is None:
        return ""
    return f"±{(cell.interval[1] - cell.interval[0]) / 2:.4f}".replace("±0.", "±.")


def signed(value: float | None) -> str:
    """A difference, with its sign."""
    return DASH if value is None else f"{value:+.4f}"


def count(number: int | None) -> str:
    """A number of samples, `50,000`."""
    return "" if number is None else f"{number:,}"


def row_label(row: TableRow, several: bool) -> str:
    """A row's name; for one run's averages also how many tasks they count: `Average over 5 of 38: partial`."""
    if several or row.kind not in ("average", "group", "common"):
        return row.label
    of = row.cells[0].of
    if of is None or of[1] == 0:
        return row.label
    partial = ": partial" if row.cells[0].partial else ""
    if row.kind == "average":
        label, _, suite = row.label.partition(", ")
        return f"{label} over {of[0]} of {of[1]}{f' ({suite})' if suite else ''}{partial}"
    return f"{row.label} ({of[0]} of {of[1]}{partial})" if partial else f"{row.label} ({of[0]})"


def tally(cell: TableCell) -> str:
    """How many tasks an average counts, where runs stand side by side: `38/38`, `5/38 partial`."""
    if cell.of is None or cell.of[1] == 0:
        return ""
    return f"{cell.of[0]}/{cell.of[1]}" + (" partial" if cell.partial else "")


def details(sheet: ReportTable) -> list[str]:
    """Where runs stand side by side, a line for each that says what it was; one run's stand in its heading."""
    if len(sheet.runs) == 1:
        return []
    return [f"{name}: {text}" for name, text in zip(sheet.runs, sheet.details, strict=True) if text]


def legend(sheet: ReportTable) -> str:
    """What the table's numbers and marks mean, in a sentence or two."""
    text = "Scores with 95% intervals over samples."
    if len(sheet.runs) == 1:
        text += " Corrected: 0 is chance, 1 is perfect"
        whole = next((row.cells[0] for row in sheet.rows if row.kind == "average"), TableCell())
        if whole.of and whole.corrected_of < whole.of[0]:
            text += f"; its averages are over the tasks whose chance is known ({whole.corrected_of} in all)"
        text += "."
    else:
        text += " *: the best."
    if any(cell.flagged for row in sheet.rows for cell in row.cells):
        text += " !: see the warnings."
    return text
