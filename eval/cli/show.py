"""`clipeval show` in the terminal: a line for each thing that is known."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal

if TYPE_CHECKING:
    from rich.console import Console

Line = tuple[str, str]


SHOWN = ("imagenet1k", "imagenetv2", "imagenet-a", "imagenet-r")
"""Keys of the tasks whose published scores are printed; `--format json` has all."""


def print_facts(group: str, facts: Mapping[str, Any], root: str | None, console: Console) -> None:
    """Prints facts of `clipeval.cli.facts`. Addresses and paths stay whole, however narrow the terminal is."""
    from rich.text import Text

    lines = list({"task": _task, "model": _model, "suite": _suite}[group](facts, root))
    indent = max(len(name) for name, _ in lines) + 2
    for name, text in lines:
        wrapped = textwrap.wrap(
            text, max(console.width - indent, 20), break_long_words=False, break_on_hyphens=False
        ) or [""]
        for i, part in enumerate(wrapped):
            console.print(
                Text((name if i == 0 else "").ljust(indent), style="bold") + Text(part, style="not bold"),
                soft_wrap=True,
            )


def _task(facts: Mapping[str, Any], root: str | None) -> Iterator[Line]:
    yield "task", str(facts["task"])
    yield "name", str(facts["name"])
    if facts["what"] != facts["name"]:
        yield "what", str(facts["what"])
    yield "protocol", str(facts["protocol"])
    yield "metric", str(facts["metric"] or "none: reported, and in no average")
    yield "chance", "–" if facts["chance"] is None else f"{facts['chance']:.4g}"
    yield "samples", _count(facts["samples"]) + (f" in {_count(facts['classes'])} classes" if facts["classes"] else "")
    yield "splits", ", ".join(facts["splits"])
    if facts["languages"]:
        yield "languages", ", ".join(map(str, facts["languages"]))
    yield "suites", ", ".join(facts["suites"]) or "none"
    for copy in facts["sources"]:
        yield "data", " ".join(filter(None, (copy["source"], copy["page"] or copy["folder"])))
        yield "", _place(copy, root)
    if not facts["sources"]:
        yield "data", "your own: task.data.path=PATH"
    if facts["licence"]:
        yield "licence", str(facts["licence"])
    for note in facts["notes"]:
        yield "note", str(note)
    if not facts["published"]:
        yield "published", "no score that clipeval knows"
    for each in facts["published"]:
        best = each["best"]
        yield "published", f"{each['source']}: {each['metric']} of {each['models']} models"
        yield "", f"best {best['value']:.4f} ({best['model']} {best['pretrained']}), median {each['median']:.4f}"


def _place(copy: Mapping[str, Any], root: str | None) -> str:
    if copy["here"]:
        return f"here: {copy['path']}, {decimal(copy['bytes'])}"
    location = f"{root}/{copy['folder']}" if root else f"data.root/{copy['folder']}, and data.root is not set"
    return f"not here: {location}"


def _model(facts: Mapping[str, Any], root: str | None) -> Iterator[Line]:
    yield "model", str(facts["model"])
    yield "what", str(facts["what"])
    if facts["name"]:
        yield "name", str(facts["name"])
    if facts["pretrained"]:
        yield "weights", str(facts["pretrained"]) + (f"  {facts['weights']}" if facts["weights"] else "")
    about = facts["about"]
    if facts["path"] or ("source" in about and not facts["weights"]):
        yield "weights", about.get("source") or str(facts["path"])
    if "data" in about:
        yield "trained on", about["data"]
    if facts["licence"]:
        yield "licence", facts["licence"]
    if facts["open"]:
        yield "to be given", " ".join(f"model.{key}=…" for key in facts["open"])
    yield "image size", f"{facts['image_size']:.0f} pixels" if facts["image_size"] else "not known before it is loaded"
    if facts["parameters_m"]:
        yield "parameters", f"{facts['parameters_m']:.1f} million"
    if facts["gflops"]:
        yield "compute", f"{facts['gflops']:.1f} GFLOPs for an image and a text"
    if facts["here"] is not None:
        yield "here", "yes" if facts["here"] else f"no: clipeval download model={facts['model']} suite=none fetches it"
    published = facts["published"]
    if published is None:
        yield "published", "no score that clipeval knows"
        return
    if "average" in published:
        average, place = published["average"], f"{published['rank']} of {published['models']}"
        yield "published", f"average over DataComp's 38 sets {average:.4f}, place {place} in open_clip's table"
    for each in published["sources"]:
        shown = [f"{key} {value:.4f}" for key in SHOWN for value in list(each["scores"].get(key, {}).values())[:1]]
        yield (
            "published",
            ": ".join([f"{each['source']}, {each['values']} values", *([", ".join(shown)] if shown else [])]),
        )
        if each["remark"]:
            yield "", each["remark"]
    yield "", "each task beside a run of yours: clipeval report RUN --against published"


def _suite(facts: Mapping[str, Any], root: str | None) -> Iterator[Line]:
    yield "suite", str(facts["suite"])
    yield "what", str(facts["what"])
    yield (
        "tasks",
        f"{len(facts['tasks'])}, of which {facts['here']} are here" + ("" if root else " (data.root is not set)"),
    )
    yield "samples", f"{facts['samples']:,}"


def _count(value: Any) -> str:
    return "not known" if value is None else f"{value:,}"
