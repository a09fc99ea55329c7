"""How a paired comparison is put into words."""

from __future__ import annotations

from clipeval.results import block, formatting, render_terminal
from clipeval.results.block import Severity, SummaryTable
from clipeval.results.compare import Comparison, TaskComparison
from clipeval.results.uncertainty import Interval


def render(comparison: Comparison, format: str = "table", width: int | None = None, colour: bool = False) -> str:
    """The comparison as text: `table`, `md` or `csv`."""
    if format == "csv":
        return str(comparison.table().to_csv(index=False, lineterminator="\n"))
    if format == "md":
        return block.markdown(build(comparison))
    width = width or render_terminal.terminal_width()
    return render_terminal.to_text(block.terminal(build(comparison), width), width, colour)


def build(comparison: Comparison) -> SummaryTable:
    """Title, verdict, a row a task."""
    better = [sum(item.verdict == side for item in comparison.tasks) for side in "AB"]
    undecided = len(comparison.tasks) - sum(better)
    of = f" of {comparison.of}" if comparison.apart else ""
    headline = f"On {len(comparison.tasks)}{of} tasks: B is better on {better[1]}, A on {better[0]}, "
    headline += f"{undecided} cannot be told apart"
    if comparison.difference is not None and comparison.interval is not None and comparison.p is not None:
        headline += f"; on average B - A = {formatting.signed(comparison.difference)} ({span(comparison.interval)})"
    rows = [_row(item) for item in comparison.tasks]
    remarks = [
        "Differences are B - A with 95% intervals, paired by sample. p: McNemar's (mid-p) for accuracies, a paired bootstrap "
        "(marked b) for the others, a plain one (u) where samples differ; adjusted by Holm over the tasks.",
        "B wins, A wins: the samples on which one does better than the other.",
        *(f"{item.name}: {text}" for item in comparison.tasks for text in item.remarks),
        *comparison.remarks,
    ]
    return SummaryTable(
        title=f"A: {comparison.a}   B: {comparison.b}",
        headline=headline,
        tone="plain",
        header=("Task", "A", "B", "B - A", "95% interval", "p", "B wins", "A wins", "Better"),
        rows=tuple(rows),
        tones=tuple(_tone(item) for item in comparison.tasks),
        remarks=tuple(remarks),
        optional=(6, 7),
    )


def span(pair: Interval) -> str:
    """An interval of a difference: `-0.0012 to +0.0034`."""
    return f"{pair[0]:+.4f} to {pair[1]:+.4f}"


def p_value(p: float) -> str:
    """Three digits, or that it is smaller."""
    return "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def _row(item: TaskComparison) -> tuple[str, ...]:
    mark = {"paired bootstrap": "b", "unpaired": "u"}.get(item.test, "")
    return (
        item.name,
        formatting.score(item.a),
        formatting.score(item.b),
        formatting.signed(item.difference),
        span(item.interval) if item.interval else "",
        p_value(item.adjusted) + mark,
        f"{item.wins:,}" if item.paired else "",
        f"{item.losses:,}" if item.paired else "",
        item.verdict,
    )


def _tone(item: TaskComparison) -> Severity:
    return {"B": "good", "A": "bad", "": "plain"}[item.verdict]  # type: ignore[return-value]
