"""`clipeval leaderboard`: the published models and one's own runs in one table or page."""

from __future__ import annotations

import argparse
from typing import Any

from clipeval.cli.places import path_here
from clipeval.configs.errors import ClipevalError, nearest

FORMATS = ("table", "md", "csv", "html")

COLUMNS = ("score", "params", "gflops", "robustness", "date", "model")
"""What `--sort` takes besides tasks."""


def add_leaderboard(commands: Any) -> None:
    """Adds the subcommand."""
    text = "the published models and your runs in one sorted table, or a page with filters (--output FILE.html)"
    sub = commands.add_parser("leaderboard", help=text, description=text)
    sub.add_argument("words", nargs="*", metavar="RUN|suite=NAME", help="run folders, and the suite (datacomp)")
    sub.add_argument("--max-params", type=float, metavar="M", help="models of at most so many million parameters")
    sub.add_argument(
        "--max-gflops", type=float, metavar="N", help="… of at most so many GFLOPs for an image and a text"
    )
    sub.add_argument("--data", metavar="NAME", help="… trained on these data, by their name or a part of the tag")
    sub.add_argument("--since", metavar="DATE", help="… published since then, such as 2024-01-01")
    sub.add_argument("--sort", default="score", metavar="COLUMN", help=f"{', '.join(COLUMNS)}, or a task (score)")
    sub.add_argument("--top", type=int, metavar="N", help="rows to show (table: 25)")
    sub.add_argument("--like", metavar="MODEL", help="name the models that are most like this one, task by task")
    sub.add_argument(
        "--format", choices=FORMATS, help="table, md, csv or html; by the name of --output where it is given"
    )
    sub.add_argument("--output", type=path_here, metavar="FILE", help="a file in place of the terminal")
    sub.set_defaults(command=_leaderboard, overrides=False)


def _leaderboard(arguments: argparse.Namespace, rest: list[str]) -> int:
    from clipeval.results import leaderboard_table
    from clipeval.results.leaderboard import Filters, leaderboard

    suites = [word.partition("=")[2] for word in arguments.words if word.startswith("suite=")]
    paths = [word for word in arguments.words if not word.startswith("suite=")]
    if len(suites) > 1:
        raise ClipevalError(f"one suite at a time: {', '.join(suites)}")
    runs: list[Any] = []
    if paths:
        from clipeval.results.runs import load

        runs = load(paths, slim=True)
    filters = Filters(arguments.max_params, arguments.max_gflops, arguments.data, _day(arguments.since))
    board = leaderboard(suites[0] if suites else "datacomp", runs, filters)
    suffix = {".md": "md", ".csv": "csv", ".html": "html"}.get(
        arguments.output.suffix if arguments.output else "", "table"
    )
    format = arguments.format or suffix
    how = {"top": arguments.top, "sort": _column(arguments.sort, board), "like": arguments.like}
    if format == "table" and arguments.output is None:
        from rich.console import Console

        from clipeval.results.block import terminal

        console = Console(highlight=False)
        how["top"] = 25 if arguments.top is None else arguments.top
        console.print(terminal(leaderboard_table.build(board, **how), console.width))
        return 0
    if format == "html":
        from clipeval.results.page.leaderboard import render

        text = render(board, arguments.like)
    elif format == "csv":
        text = leaderboard_table.csv(board)
    elif format == "md":
        text = leaderboard_table.markdown(board, **how)
    else:
        from clipeval.results.block import terminal
        from clipeval.results.render_terminal import to_text

        text = to_text(terminal(leaderboard_table.build(board, **how), 100), 100, False)
    if arguments.output is None:
        print(text)
    else:
        from clipeval.configs.files import write_atomically

        write_atomically(arguments.output, text.encode())
        print(arguments.output)
    return 0


def _column(name: str, board: Any) -> str:
    """The column that `--sort` names: one of `COLUMNS`, a task's key, or its last part."""
    if name in COLUMNS or name in board.tasks:
        return name
    keys = [key for key in board.tasks if name in (key.rpartition("/")[2], board.tasks[key])]
    if len(keys) != 1:
        raise ClipevalError(nearest("column", name, [*COLUMNS, *board.tasks]))
    return str(keys[0])


def _day(text: str | None) -> str | None:
    from datetime import date

    try:
        return None if text is None else date.fromisoformat(text).isoformat()
    except ValueError:
        raise ClipevalError(f"--since {text}: a day was expected, such as 2024-01-01") from None
