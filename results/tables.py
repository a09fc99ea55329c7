"""`clipeval report`: run folders in, one of the formats out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group

from clipeval.configs.errors import ClipevalError, nearest
from clipeval.configs.files import write_atomically
from clipeval.results import against as beside
from clipeval.results import (
    against_block,
    block,
    exchange,
    model_card,
    render_csv,
    render_json,
    render_latex,
    render_markdown,
    render_terminal,
    runs,
    sheet,
)

if TYPE_CHECKING:  # templates and images, which the other formats do not wait for
    from clipeval.results.page.mistakes import Pictures

FOLDERS = ("clip_benchmark", "mteb")
"""The formats that are a file for each task, and so need a folder."""

OF_ONE = ("model-card", "model-index", "eval_results", "every_eval_ever")
"""The formats that speak of one model."""

FORMATS = ("table", "csv", "md", "latex", "html", "jsonl", "clip_benchmark", "model-card")
"""The formats for people, and those of clip_benchmark, DataComp and model cards."""

EXCHANGE = ("mteb", "model-index", "eval_results", "every_eval_ever")
"""The formats in which results are handed to other collections of them (`exchange`)."""

WITH_AGAINST = ("table", "csv", "md", "html")
"""The formats that can show a comparison."""


def report(
    paths: Sequence[str | Path],
    format: str = "table",
    against: str | None = None,
    *,
    width: int | None = None,
    colour: bool = False,
    pictures: Pictures | None = None,
) -> str:
    """The report of one or more run folders, as text in `format`.

    Args:
        paths: run folders; their order is the columns' order.
        format: one of `FORMATS` or `EXCHANGE`.
        against: `published`, or another run folder, to compare with.
        width: characters of a line, for `table`; default: the terminal's.
        colour: whether `table` holds ANSI colours.
        pictures: where `html` gets its example pictures from.

    Raises:
        ClipevalError: an unknown format, a path that is no run folder, or a format that cannot show what is asked.
    """
    if format not in (*FORMATS, *EXCHANGE):
        raise ClipevalError(nearest("format", format, (*FORMATS, *EXCHANGE)))
    if against is not None and format not in WITH_AGAINST:
        raise ClipevalError(f"--against is shown by {', '.join(WITH_AGAINST)}, not by {format}")
    loaded, comparisons = _load(paths, against, slim=format != "html")
    if format == "csv":
        return render_csv.against(comparisons) if comparisons else render_csv.render(loaded)
    if format == "jsonl":
        return render_json.datacomp(loaded)
    if format in FOLDERS:
        raise ClipevalError(f"--format {format} is a file for each task: name a folder for them with --output")
    if format in OF_ONE:
        if len(loaded) > 1:
            raise ClipevalError(f"--format {format} is about one model, and {len(loaded)} runs were given: name one")
        return _of_one(loaded[0], format)
    if format == "html":
        from clipeval.results.page.page import render

        return render(loaded, comparisons, pictures)
    built = sheet.build(loaded)
    if format == "latex":
        return render_latex.render(built)
    blocks = [against_block.block(item) for item in comparisons]
    if format == "md":
        return "\n".join([render_markdown.render(built), *map(block.markdown, blocks)])
    width = width or render_terminal.terminal_width()
    body = Group(render_terminal.layout(built, width), *(block.terminal(item, width) for item in blocks))
    return render_terminal.to_text(body, width, colour)


def _of_one(run: runs.Run, format: str) -> str:
    """One run in one of the formats of `OF_ONE`."""
    if format == "model-card":
        return model_card.render(run)
    if format == "model-index":
        return exchange.model_index(run)
    return exchange.eval_results(run) if format == "eval_results" else exchange.every_eval_ever(run)


def write_report(
    paths: Sequence[str | Path],
    output: str | Path,
    format: str = "table",
    against: str | None = None,
    *,
    pictures: Pictures | None = None,
) -> list[Path]:
    """Writes the report to a file, or for the formats of `FOLDERS` to a folder. Returns what was written."""
    output = Path(output)
    if format in FOLDERS:
        written = []
        loaded = runs.load(paths, slim=True)
        files = render_json.clip_benchmark(loaded) if format == "clip_benchmark" else exchange.mteb(loaded)
        for name, content in files.items():
            write_atomically(output / name, content)
            written.append(output / name)
        return written
    write_atomically(output, report(paths, format, against, width=100, pictures=pictures).encode())
    return [output]


def print_table(paths: Sequence[str | Path], console: Console | None = None, against: str | None = None) -> None:
    """Prints the report to a terminal, in its width and colours: what `clipeval run` ends with."""
    console = console or Console(highlight=False)
    loaded, comparisons = _load(paths, against, slim=True)
    blocks = [block.terminal(against_block.block(item), console.width) for item in comparisons]
    console.print(Group(render_terminal.layout(sheet.build(loaded), console.width), *blocks))


def _load(
    paths: Sequence[str | Path], against: str | None, slim: bool
) -> tuple[list[runs.Run], list[beside.ReferenceComparison]]:
    """The runs, and each beside what `against` names. All are read together, so that labels tell them apart."""
    if against in (None, "published"):
        loaded = runs.load(paths, slim)
        return loaded, [] if against is None else beside.compare_with(loaded, against)
    loaded = runs.load([*paths, against], slim)
    return loaded[:-1], beside.compare_with(loaded[:-1], against, loaded[-1:])
