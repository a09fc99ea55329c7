"""`clipeval report`: run folders in, one of the formats out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group

from clipeval.configs.errors import ClipevalError, nearest
from clipeval.results import against as beside
from clipeval.results import (
    against_block,
    block,
    model_card,
    render_csv,
    render_json,
    render_latex,
    render_markdown,
    render_terminal,
    runs,
    sheet,
)
from clipeval.results.files import write_atomically

if TYPE_CHECKING:  # templates and images, which the other formats do not wait for
    from clipeval.results.page.mistakes import Pictures

FORMATS = ("table", "csv", "md", "latex", "html", "jsonl", "clip_benchmark", "model-card")

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
        format: one of `FORMATS`.
        against: `published`, or another run folder, to compare with.
        width: characters of a line, for `table`; default: the terminal's.
        colour: whether `table` holds ANSI colours.
        pictures: where `html` gets its example pictures from.

    Raises:
        ClipevalError: an unknown format, a path that is no run folder, or a format that cannot show what is asked.
    """
    if format not in FORMATS:
        raise ClipevalError(nearest("format", format, FORMATS))
    if against is not None and format not in WITH_AGAINST:
        raise ClipevalError(f"--against is shown by {', '.join(WITH_AGAINST)}, not by {format}")
    loaded, found = _load(paths, against, slim=format != "html")
    if format == "csv":
        return render_csv.against(found) if found else render_csv.render(loaded)
    if format == "jsonl":
        return render_json.datacomp(loaded)
    if format == "clip_benchmark":
        raise ClipevalError("clip_benchmark's `build` reads a file for each task: name a folder for them with --output")
    if format == "model-card":
        if len(loaded) > 1:
            raise ClipevalError(f"a model card is about one model, and {len(loaded)} runs were given: name one")
        return model_card.render(loaded[0])
    if format == "html":
        from clipeval.results.page.page import render

        return render(loaded, found, pictures)
    built = sheet.build(loaded)
    if format == "latex":
        return render_latex.render(built)
    blocks = [against_block.block(item) for item in found]
    if format == "md":
        return "\n".join([render_markdown.render(built), *map(block.markdown, blocks)])
    width = width or render_terminal.terminal_width()
    body = Group(render_terminal.layout(built, width), *(block.terminal(item, width) for item in blocks))
    return render_terminal.to_text(body, width, colour)


def write_report(
    paths: Sequence[str | Path],
    output: str | Path,
    format: str = "table",
    against: str | None = None,
    *,
    pictures: Pictures | None = None,
) -> list[Path]:
    """Writes the report to a file, or for `clip_benchmark` to a folder. Returns what was written."""
    output = Path(output)
    if format == "clip_benchmark":
        written = []
        for name, content in render_json.clip_benchmark(runs.load(paths, slim=True)).items():
            write_atomically(output / name, content)
            written.append(output / name)
        return written
    write_atomically(output, report(paths, format, against, width=100, pictures=pictures).encode())
    return [output]


def print_table(paths: Sequence[str | Path], console: Console | None = None, against: str | None = None) -> None:
    """Prints the report to a terminal, in its width and colours: what `clipeval run` ends with."""
    console = console or Console(highlight=False)
    loaded, found = _load(paths, against, slim=True)
    blocks = [block.terminal(against_block.block(item), console.width) for item in found]
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
