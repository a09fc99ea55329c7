"""A smaller table with a verdict above it: a comparison with what was published, or with another run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from clipeval.results import render_markdown

Severity = Literal["good", "bad", "plain", "faint"]

STYLES: dict[Severity, str] = {"good": "green", "bad": "bold red", "plain": "", "faint": "dim"}


@dataclass(frozen=True)
class SummaryTable:
    """Title, verdict, rows of text; how good each row is; remarks below."""

    title: str
    headline: str
    tone: Severity
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    tones: tuple[Severity, ...]
    remarks: tuple[str, ...] = ()
    left: int = 1
    """How many of the first columns are text, set left; the last is a verdict, set left too."""
    optional: tuple[int, ...] = ()
    """The columns that a terminal too narrow for all of them does without."""


NAMES = 18
"""Characters that the first column keeps at the least, its names broken over lines."""


def terminal(block: SummaryTable, width: int) -> RenderableType:
    """For a rich console of `width` columns."""
    table = Table(box=SIMPLE_HEAD, pad_edge=True, padding=(0, 1, 0, 0), header_style="dim")
    columns = _fitting(block, width)
    for index in columns:
        text = index < block.left or index == len(block.header) - 1
        table.add_column(block.header[index], justify="left" if text else "right", no_wrap=index > 0, overflow="fold")
    for row, tone in zip(block.rows, block.tones, strict=True):
        table.add_row(*[Text(row[index], style=STYLES[tone]) for index in columns])
    head = Text(block.title, style="bold")
    lines: list[RenderableType] = [Padding(head, (1, 1, 0, 1))]
    lines.append(Padding(Text(block.headline, style=f"bold {STYLES[block.tone]}"), (0, 1)))
    if block.rows:
        lines.append(table)
        if left_out := [name for index, name in enumerate(block.header) if index not in columns]:
            lines.append(Padding(Text(f"Left out for want of width: {', '.join(left_out)}.", style="dim"), (0, 1)))
    lines += [Padding(Text(remark, style="dim"), (0, 1)) for remark in block.remarks]
    return Group(*lines)


def _fitting(block: SummaryTable, width: int) -> list[int]:
    """The columns to show: all, or those that are not optional."""
    wide = [max(map(len, cells)) for cells in zip(block.header, *block.rows, strict=True)]
    needed = sum(wide[1:]) + min(wide[0], NAMES) + 2 * len(wide) + 1
    return [index for index in range(len(wide)) if needed <= width or index not in block.optional]


def markdown(block: SummaryTable) -> str:
    """For a Markdown file."""
    escape = render_markdown.escape
    parts = [f"### {escape(block.title)}\n", f"**{escape(block.headline)}**\n"]
    if block.rows:
        rows = [
            [f"**{escape(cell)}**" if tone == "bad" and cell else escape(cell) for cell in row]
            for row, tone in zip(block.rows, block.tones, strict=True)
        ]
        parts.append(render_markdown.table([escape(name) for name in block.header], rows, block.left))
    parts += [f"{escape(remark)}  " for remark in block.remarks]
    return "\n".join(parts) + "\n"


def join(blocks: Sequence[SummaryTable]) -> str:
    """Several blocks as Markdown."""
    return "\n".join(markdown(block) for block in blocks)
