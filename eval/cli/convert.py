"""`clipeval convert`: a set's own files, as its makers publish them, into a folder that tasks read."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from clipeval.configs.errors import ClipevalError


def add_convert(commands: Any) -> None:
    """Adds `convert` and the sets that it knows to the command line."""
    text = "lay a set's own files out as tasks read them: SugarCrepe, Winoground"
    sets = commands.add_parser("convert", help=text, description=text).add_subparsers(
        required=True, metavar="SET", help="sugar_crepe or winoground, each with its own --help"
    )
    crepe = sets.add_parser(
        "sugar_crepe", help="COCO's val2017 images and SugarCrepe's JSON files, all parts over one folder"
    )
    crepe.add_argument("--images", type=Path, required=True, metavar="DIR", help="COCO's val2017 folder")
    crepe.add_argument(
        "--json", type=Path, required=True, metavar="DIR", help="the folder of add_att.json and the others"
    )
    crepe.set_defaults(command=_sugar_crepe, overrides=False)
    pairs = sets.add_parser("winoground", help="the rows of facebook/winoground")
    pairs.add_argument(
        "--rows", type=Path, required=True, metavar="PATH", help="a parquet or Arrow file, or a folder of them"
    )
    pairs.set_defaults(command=_winoground, overrides=False)
    for sub, name in ((crepe, "wds_sugar_crepe"), (pairs, "wds_winoground")):
        sub.add_argument("--out", type=Path, required=True, metavar="DIR", help=f"the folder to make: data.root/{name}")


def _sugar_crepe(arguments: argparse.Namespace, rest: list[str]) -> int:
    for folder in (arguments.images, arguments.json):
        _require(
            folder,
            "folder: --images names COCO's val2017 folder, --json the one of SugarCrepe's files (add_att.json and others).",
        )
    from clipeval.download.selection import convert_sugar_crepe

    return _say(arguments.out, convert_sugar_crepe(arguments.images, arguments.json, arguments.out))


def _winoground(arguments: argparse.Namespace, rest: list[str]) -> int:
    _require(arguments.rows, "file or folder: --rows names a parquet or Arrow file, or a folder of them.")
    from clipeval.download.selection import convert_winoground

    return _say(arguments.out, convert_winoground(arguments.rows, arguments.out))


def _require(path: Path, expected: str) -> None:
    """ClipevalError where there is no such file or folder, before what reads it is imported, which takes seconds."""
    if not path.exists():
        raise ClipevalError(f"{path} is no {expected}")


def _say(folder: Path, lock: Any) -> int:
    questions = [name for name in lock.files if name.endswith(".jsonl")]
    print(
        f"{folder}: {lock.form}, {len(questions)} sets of questions, {len(lock.files)} files, digest {lock.digest[:12]}"
    )
    return 0
