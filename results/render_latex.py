"""The report as a LaTeX table, with booktabs and nothing else, ready to paste."""

from __future__ import annotations

from clipeval.results import formatting
from clipeval.results.sheet import ReportTable, TableCell, TableRow

SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "–": "--",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
}


def escape(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(SPECIAL.get(character, character) for character in text).replace("\n", " ")


def render(sheet: ReportTable) -> str:
    """The table environment: caption, label, tabular, remarks. One run with every column, several side by side."""
    several = len(sheet.runs) > 1
    header, body = _several(sheet) if several else _single(sheet)
    caption = "Zero-shot results. " if several else f"Zero-shot results of {escape(sheet.runs[0])}. "
    lines = [
        "% needs \\usepackage{booktabs}",
        *[f"% WARNING {line}" for text in sheet.warnings for line in text.splitlines()],
        "\\begin{table}[tp]",
        "\\centering",
        "\\small",
        f"\\caption{{{caption}{escape(_legend(sheet))}}}",
        "\\label{tab:clipeval}",
        f"\\begin{{tabular}}{{l{'r' * (len(header[-1]) - 1)}}}",
        "\\toprule",
        *[" & ".join(line) + " \\\\" for line in header],
        "\\midrule",
        *body,
        "\\bottomrule",
        "\\end{tabular}",
    ]
    remarks = [escape(text) for text in formatting.details(sheet)]
    remarks += [f"\\textbf{{Warning:}} {escape(text)}" for text in sheet.warnings]
    remarks += [
        f"$^{{{note.number}}}$ {'Warning: ' if note.flag else ''}{escape(note.text)}" for note in sheet.footnotes
    ]
    if remarks:
        lines += ["\\par\\medskip", "\\begin{minipage}{\\linewidth}\\footnotesize\\raggedright"]
        lines += [remark + "\\\\" for remark in remarks[:-1]] + [remarks[-1]]
        lines += ["\\end{minipage}"]
    return "\n".join([*lines, "\\end{table}", ""])


def _legend(sheet: ReportTable) -> str:
    return formatting.legend(sheet).replace(" *: the best.", " Bold: the best.")


def _label(row: TableRow, sheet: ReportTable) -> str:
    text = escape(formatting.row_label(row, several=len(sheet.runs) > 1))
    if row.kind in ("task", "single") and any(cell.flagged for cell in row.cells):
        text += " !"
    if row.marks:
        text += f"$^{{{','.join(map(str, row.marks))}}}$"
    if row.kind in ("task", "single"):
        return f"\\quad {text}" if row.kind == "task" and sheet.grouped else text
    return f"\\textit{{{text}}}"


def _rules(sheet: ReportTable, lines: list[str]) -> list[str]:
    """A rule above the averages, a little air above each group."""
    rules: list[str] = []
    before = None
    for row, line in zip(sheet.rows, lines, strict=True):
        if row.kind == "average":
            rules.append("\\midrule")
        elif before is not None and (row.kind == "group" or (row.kind == "single" and before == "task")):
            rules.append("\\addlinespace")
        rules.append(line)
        before = row.kind
    return rules


def _single(sheet: ReportTable) -> tuple[list[list[str]], list[str]]:
    lines = []
    for row in sheet.rows:
        cell = row.cells[0]
        if cell.absent:
            shown = [f"\\textit{{{cell.absent}}}", "", "", ""]
        elif cell.value is None:
            shown = [escape(formatting.DASH), "", "", escape(formatting.count(cell.samples))]
        else:
            shown = [
                formatting.score(cell.value),
                escape(formatting.interval(cell.interval)),
                escape(formatting.score(cell.corrected)).replace("-0", "$-$0"),
                formatting.count(cell.samples).replace(",", "{,}"),
            ]
        lines.append(" & ".join([_label(row, sheet), *shown]) + " \\\\")
    header = [["Task", "Score", "95\\% interval", "Corrected", "Samples"]]
    return header, _rules(sheet, lines)


def _several(sheet: ReportTable) -> tuple[list[list[str]], list[str]]:
    lines = [
        " & ".join([_label(row, sheet), *[_beside(cell, row) for cell in row.cells]]) + " \\\\" for row in sheet.rows
    ]
    # The model stands above its weights: three long names in one line would not fit a page.
    names = [name.split(" ", 1) for name in sheet.runs]
    top = ["", *[escape(name[0]) for name in names]]
    below = ["Task", *[escape(name[1]) if len(name) > 1 else "" for name in names]]
    return [top, below], _rules(sheet, lines)


def _beside(cell: TableCell, row: TableRow) -> str:
    if cell.absent:
        return "" if cell.absent == "not planned" else f"\\textit{{{cell.absent}}}"
    score = formatting.score(cell.value) if cell.value is not None else escape(formatting.DASH)
    text = f"\\textbf{{{score}}}" if cell.best else score
    if cell.interval is not None:
        text += f" {{\\scriptsize {escape(formatting.margin(cell))}}}"
    if cell.partial:
        text += f" {{\\scriptsize ({escape(formatting.tally(cell))})}}"
    return text
