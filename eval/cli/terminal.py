"""What is printed, on any terminal: without UTF-8, without colour, in a log, for a program."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

PLAIN = {
    "–": "-",
    "—": "-",
    "…": "...",
    "±": "+/-",
    "×": "x",
    "→": "->",
    "•": "*",
    "≥": ">=",
    "≤": "<=",
    "−": "-",
    "’": "'",
}
"""What stands for the signs that clipeval prints, where an encoding lacks them."""
_ERRORS = "clipeval.plain"


def any_encoding(*streams: Any) -> None:
    """Makes streams that cannot hold every character print the nearest that they can, in place of an error."""
    codecs.register_error(_ERRORS, _plain)
    for stream in streams:
        if hasattr(stream, "reconfigure"):  # a stream that a test or a notebook put there may lack it
            stream.reconfigure(errors=_ERRORS)


def _plain(problem: UnicodeError) -> tuple[str, int]:
    if not isinstance(problem, UnicodeEncodeError):
        raise problem
    signs = problem.object[problem.start : problem.end]
    return "".join(_sign(sign) for sign in signs), problem.end


def _sign(sign: str) -> str:
    letters = PLAIN.get(sign) or unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
    return letters or "?"


def progress_console(quiet: bool = False) -> Console:
    """Where progress and remarks go: standard error; nowhere with `--quiet`."""
    from rich.console import Console

    return Console(stderr=True, quiet=quiet)


def print_json(value: Any) -> None:
    """A value on standard output, as JSON that any reader takes: NaN is null."""
    from clipeval.results.json_io import dumps

    print(dumps(value).decode(), end="")


def print_results(folders: Sequence[Path], as_json: bool) -> None:
    """What a run ends with: its table, or the table's rows as `{"runs": [{"folder": …, "tasks": [{…}, …]}, …]}`."""
    if not as_json:
        from clipeval.results.tables import print_table

        print_table(folders)
        return
    from clipeval.results.runs import load, long_rows

    runs = load(folders, slim=True)
    rows = long_rows(runs)
    print_json(
        {"runs": [{"folder": r.folder.place, "label": r.label, "tasks": t} for r, t in zip(runs, rows, strict=True)]}
    )
