"""`clipeval list` and `clipeval show`: what there is to run, and what each of it is."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipeval.configs.errors import ClipevalError, nearest

if TYPE_CHECKING:
    from rich.console import RenderableType

KINDS = {"tasks": "task", "models": "model", "suites": "suite", "prompts": "prompts", "protocols": "protocol"}
"""What `list` lists: the config group of each."""
SHOWN = ("task", "model", "suite")
MODEL_KEYS = ("model.name", "model.pretrained", "model.path")
"""What `show` reads beside a preset: which architecture and weights, where the preset leaves that open."""


def add_list(commands: Any) -> None:
    """Adds `list` and `show` to the command line."""
    text = "tasks, models, suites, prompts or protocols that there are"
    sub = commands.add_parser("list", help=text, description=text)
    sub.add_argument("kind", metavar="|".join(KINDS), help="what to list")
    sub.add_argument("--group", metavar="NAME", help="of tasks, one group's alone: imagenet, vtab, retrieval, …")
    _common(sub)
    sub.set_defaults(command=_list, overrides=True)
    text = "what a task, a model or a suite is, where it comes from, whether it is here, and what was published of it"
    sub = commands.add_parser("show", help=text, description=text)
    sub.add_argument("what", metavar="task=…|model=…|suite=…", help="one of them, by its name in `clipeval list`")
    _common(sub)
    sub.set_defaults(command=_show, overrides=True)


def _common(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--format", choices=("table", "json"), default="table", help="table (the default) or json")
    sub.add_argument("--json", action="store_const", const="json", dest="format", help="the same as --format json")
    sub.add_argument("--config-dir", metavar="DIR", help="a folder of one's own configs")
    sub.epilog = "data.root=… says where data is looked for (default: CLIPEVAL_DATA)."


def _list(arguments: argparse.Namespace, rest: list[str]) -> int:
    from clipeval.configs import catalog

    if arguments.kind not in KINDS:
        raise ClipevalError(nearest("kind", arguments.kind, KINDS))
    if arguments.group is not None and arguments.kind != "tasks":
        raise ClipevalError(f"--group is for tasks: clipeval list tasks --group {arguments.group}")
    root, group = _root(rest), KINDS[arguments.kind]
    rows = [
        _row(group, name, root, arguments.config_dir) for name in catalog.group_options(group, arguments.config_dir)
    ]
    if arguments.group is not None:
        groups = sorted({str(row["group"]) for row in rows})
        if arguments.group not in groups:
            raise ClipevalError(nearest("group of tasks", arguments.group, groups))
        rows = [row for row in rows if row["group"] == arguments.group]
    if arguments.format == "json":
        from clipeval.cli.terminal import print_json

        print_json(rows)
        return 0
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_table(rows, console.width))
    return 0


def _row(group: str, name: str, root: str | None, config_dir: str | None) -> dict[str, Any]:
    from clipeval.cli import facts
    from clipeval.configs import catalog

    if group == "task":
        return facts.task_row(name, root, config_dir)
    what = catalog.describe(group, name, config_dir)
    if group == "suite":
        return {"suite": name, "tasks": len(catalog.suite_tasks(name, config_dir)), "what": what}
    if group == "model":
        content = catalog.content(group, name, config_dir)
        names = {key: facts.given(content.get(key)) for key in ("name", "pretrained")}
        return {"model": name, **names, "what": what}
    return {group: name, "what": what}


def _show(arguments: argparse.Namespace, rest: list[str]) -> int:
    from clipeval.cli import facts

    group, equals, name = arguments.what.partition("=")
    if group not in SHOWN or not equals or not name:
        hint = nearest("kind", group, SHOWN) if equals and group not in SHOWN else "Write one of them with its name."
        raise ClipevalError(f"clipeval show task=NAME, model=NAME or suite=NAME; {arguments.what!r} was given. {hint}")
    of_model = [word for word in rest if group == "model" and word.partition("=")[0] in MODEL_KEYS]
    named = dict(word.removeprefix("model.").split("=", 1) for word in of_model)
    root, config_dir = _root([word for word in rest if word not in of_model]), arguments.config_dir
    reader: dict[str, Callable[[], dict[str, Any]]] = {
        "task": lambda: facts.task_facts(name, root, config_dir),
        "suite": lambda: facts.suite_facts(name, root, config_dir),
        "model": lambda: facts.model_facts(name, config_dir, named),
    }
    shown = reader[group]()
    if group == "task":
        shown["licence"] = facts.licence(shown)
    elif group == "model":
        shown["licence"] = facts.model_licence(shown)
    if arguments.format == "json":
        from clipeval.cli.terminal import print_json

        print_json(shown)
        return 0
    from rich.console import Console

    from clipeval.cli.show import print_facts

    console = Console(highlight=False)
    print_facts(group, shown, root, console)
    if group == "suite":
        console.print(_table(shown["tasks"], console.width))
    return 0


def _root(rest: Sequence[str]) -> str | None:
    """data.root, of the words or of CLIPEVAL_DATA.

    Raises:
        ClipevalError: another word was given.
    """
    import os

    root = os.environ.get("CLIPEVAL_DATA")
    if "://" in (root or ""):  # a run reads sets there; what is here is asked of this machine's disks
        root = None
    for word in rest:
        key, _, value = word.partition("=")
        if key != "data.root":
            raise ClipevalError(f"{word!r} is not read here. Write data.root=FOLDER to say where data lies.")
        root = value
    if root and not Path(root).expanduser().is_dir():
        raise ClipevalError(
            f"data.root={root} is not a folder of this machine: nothing can be looked for there. `clipeval plan` asks an address."
        )
    return root or None


SPARE = ("classes", "group", "name", "pretrained", "protocol", "chance", "here", "metric")
"""What a list leaves out where the terminal is narrow, the first first. JSON has it all."""
_PROSE, _LEAST = "what", 24
"""The column that may wrap, and the characters that it needs."""


def _table(rows: Sequence[Mapping[str, Any]], width: int) -> RenderableType:
    """Rows under their keys, as many columns as fit."""
    from rich.table import Table
    from rich.text import Text

    columns = {name: [cell(name, row[name]) for row in rows] for name in (rows[0] if rows else ())}
    wide = {name: max(len(name), *(map(len, cells))) for name, cells in columns.items()}
    wide.update({_PROSE: _LEAST} if _PROSE in wide else {})
    for name in SPARE:
        if sum(wide.values()) + 2 * len(wide) > width:
            wide.pop(name, None)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in wide:
        number = name in ("samples", "classes", "chance", "tasks")
        table.add_column(
            name, justify="right" if number else "left", overflow="fold", no_wrap=name != _PROSE and wide[name] < width
        )
    for i in range(len(rows)):
        table.add_row(*[Text(columns[name][i]) for name in wide])
    return table


def cell(column: str, value: Any) -> str:
    """A value as a list shows it."""
    if column == "here":
        return "yes" if value else ""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
