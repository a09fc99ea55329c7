"""The parts of the reference that are made of the code: `<!-- made: NAME -->` in a page stands for what `MADE[NAME]` writes.

mkdocs calls `on_page_markdown`; tests/test_docs.py holds that every config key has a meaning.
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clipeval.cli.main import _parser
from clipeval.configs import schema
from clipeval.configs.data_keys import DATA
from clipeval.configs.values import Value
from clipeval.results import records

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
DEFAULTS = {"runtime": CONFIGS / "runtime" / "default.yaml", "slurm": CONFIGS / "slurm" / "default.yaml"}
"""Sections with a file of their own; the others stand in config.yaml."""


def on_startup(**_: Any) -> None:
    """mkdocs, before any plugin: the package as it is imported, for mkdocstrings, which reads folders (and follows no links) and
    leaves out those that are not there when it is set up."""
    package = ROOT / "build" / "package" / "clipeval"
    shutil.rmtree(package, ignore_errors=True)
    for source, place in (("eval", "."), ("configs", "configs"), ("results", "results"), ("tasks", "tasks")):
        for path in (ROOT / source).rglob("*.py"):
            copy = package / place / path.relative_to(ROOT / source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs: what stands for a marker is put in its place."""
    return re.sub(r"<!-- made: (\w+) -->", lambda found: MADE[found[1]](), markdown)


def commented(path: Path, section: str | None = None) -> dict[str, tuple[str, str]]:
    """{key: (its default as it is written, what the comment beside it says)} of a YAML file, or of one of its sections."""
    found: dict[str, tuple[str, str]] = {}
    within, depth = section is None, "" if section is None else "  "
    last = ""
    for line in path.read_text("utf-8").splitlines():
        if section is not None and re.match(r"[\w]", line):
            within = line.startswith(f"{section}:")
            continue
        if not within:
            continue
        if entry := re.match(rf"{depth}(\w+):(.*?)(?: # (.*))?$", line):
            last = entry[1]
            found[last] = entry[2].strip(), entry[3] or ""
        elif last and found[last][1] and (more := re.match(r"\s*# (.*)$", line)):
            found[last] = found[last][0], f"{found[last][1]} {more[1]}"
    return found


def attribute_docs(path: Path, name: str) -> dict[str, str]:
    """{attribute of a class: the docstring below it}."""
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ClassDef) and node.name == name:
            for before, after in zip(node.body, node.body[1:], strict=False):
                is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and is_text:
                    found[before.target.id] = " ".join(str(after.value.value).split())  # type: ignore[attr-defined]
    return found


def config_keys() -> Iterator[tuple[str, list[tuple[str, Value, str, str]]]]:
    """(section, [(key, what it may hold, default, meaning)]), in the order of the schema."""
    top = commented(CONFIGS / "config.yaml")
    yield "", [(key, value, *top[key]) for key, value in schema.TOP.items()]
    for section, keys in schema.CONFIG.items():
        known = commented(DEFAULTS[section]) if section in DEFAULTS else commented(CONFIGS / "config.yaml", section)
        yield section, [(f"{section}.{key}", value, *known[key]) for key, value in keys.items()]
    model = {
        **commented(CONFIGS / "model" / "hf_transformers.yaml"),
        **commented(CONFIGS / "model" / "_as_trained.yaml"),
    }
    model.update(commented(CONFIGS / "model" / "_changed.yaml"))
    model.update(commented(CONFIGS / "model" / "_open_clip.yaml"))
    model.update(commented(CONFIGS / "model" / "_preset.yaml"))
    model["strict_quickgelu"] = commented(CONFIGS / "model" / "_open_clip.yaml")["strict_quickgelu"]
    model["_target_"] = (
        "clipeval's open_clip class",
        "the class of the model: `model=hf_transformers` and `model=custom` set it",
    )
    model["slug"] = ("", "names the run folder")
    model["preprocess"] = ("null", "what takes the place of the model's own description of its images; see below")
    model["about"] = ("null", "notes on a preset, which `clipeval show` prints: source, data, licence")
    yield "model", [(f"model.{key}", value, *model[key]) for key, value in schema.MODEL.items()]
    pixels = {
        "size": "pixels of a side of the model's image, or `[height, width]`",
        "mean": "what is subtracted of each channel, of values from 0 to 1",
        "std": "what each channel is divided by after that",
        "interpolation": "the filter that resizes",
        "resize_mode": "which side meets the size: the shortest (and a centre crop), the longest (and a border), or both (squash)",
        "fill_color": "the border's grey, from 0 to 255",
    }
    yield (
        "model.preprocess",
        [(f"model.preprocess.{key}", value, "null", pixels[key]) for key, value in schema.PIXELS.items()],
    )
    task = commented(CONFIGS / "task" / "_task.yaml")
    said = attribute_docs(ROOT / "tasks" / "base.py", "Task")
    said["_target_"] = "the class of its protocol, which a base such as `_classification` sets"
    said["notes"] = "footnotes about the set itself, shown below every table"
    yield (
        "task",
        [(f"tasks.NAME.{key}", value, task[key][0], task[key][1] or said[key]) for key, value in schema.TASK.items()],
    )
    data, about = (
        commented(CONFIGS / "task" / "_task.yaml", "data"),
        attribute_docs(ROOT / "eval" / "data" / "config.py", "DataConfig"),
    )
    yield (
        "task.data",
        [(f"tasks.NAME.data.{key}", value, data.get(key, ("null", ""))[0], about[key]) for key, value in DATA.items()],
    )


TITLES: Mapping[str, tuple[str, str]] = {
    "": ("Of the whole run", ""),
    "data": ("data", "For all tasks; `tasks.NAME.data.…` is for one."),
    "cache": ("cache", ""),
    "head": ("head", "Zero-shot heads: the class vectors that prompts make."),
    "probe": ("probe", "Of `protocol=linear_probe`."),
    "runtime": ("runtime", "Only `precision` and `preprocess` can change a score; `deterministic` changes last bits."),
    "slurm": ("slurm", "Of `clipeval submit`."),
    "model": ("model", "Of open_clip's models, and of transformers' where a key has a meaning there."),
    "model.preprocess": (
        "model.preprocess",
        "What takes the place of the model's own description of images; every record flags it.",
    ),
    "task": (
        "A task",
        "`task.…` with `task=NAME`, `tasks.NAME.…` in a suite. A protocol's class may have more fields.",
    ),
    "task.data": ("A task's data", ""),
}


def config_reference() -> str:
    """A table for each section of the config."""
    parts = []
    for section, keys in config_keys():
        title, about = TITLES[section]
        rows = [
            f"| `{key}` | {_type(value)} | {_code(default)} | {_cell(meaning)} |"
            for key, value, default, meaning in keys
        ]
        parts += [f"## {title}\n", f"{about}\n", "| key | type | default | meaning |", "|---|---|---|---|", *rows, ""]
    return "\n".join(parts)


def _type(value: Value) -> str:
    if value.kind is object and not value.hint:
        return "any"
    return _cell(value.expected)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("{", "&#123;").strip()


def _code(text: str) -> str:
    text = text.strip()
    return (
        f"`{text}`".replace("|", "\\|") if text and len(text) < 60 else ("" if not text else "made of the other keys")
    )


def command_reference() -> str:
    """Usage, options and what each is, of every subcommand."""
    parts = []
    (commands,) = [a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction)]
    for name, sub in commands.choices.items():
        parts += [f"## clipeval {name}\n", f"{_cell(_sentence(sub.description or ''))}\n"]
        sub.prog = f"clipeval {name}"
        usage = " ".join(sub.format_usage().removeprefix("usage: ").split())
        more = " [OVERRIDE …]" if sub.get_default("overrides") else ""
        parts += ["```text", usage + more, "```\n"]
        rows = []
        for action in sub._actions:
            if action.dest != "help" and action.help is not argparse.SUPPRESS:
                shown = ", ".join(action.option_strings) or str(action.metavar or action.dest)
                takes = f" {action.metavar}" if action.option_strings and isinstance(action.metavar, str) else ""
                said = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
                rows.append(f"| `{shown}{takes}` | {_cell(said)} |")
        if rows:
            parts += ["| word | meaning |", "|---|---|", *rows, ""]
        if sub.epilog:
            parts.append(f"{_cell(sub.epilog)}\n")
    return "\n".join(parts)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def record_reference() -> str:
    """The table of the record's fields, as its module has it."""
    lines = (records.__doc__ or "").splitlines()
    return "\n".join(line for line in lines if line.startswith("|"))


MADE = {"config": config_reference, "commands": command_reference, "record": record_reference}
