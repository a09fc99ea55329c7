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


def print_facts(group: str, found: Mapping[str, Any], root: str | None, console: Console) -> None:
    """Prints facts of `clipeval.cli.facts`. Addresses and paths stay whole, however narrow the terminal is."""
    from rich.text import Text

    lines = list({"task": _task, "model": _model, "suite": _suite}[group](found, root))
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


def _task(found: Mapping[str, Any], root: str | None) -> Iterator[Line]:
    yield "task", str(found["task"])
    yield "name", str(found["name"])
    if found["what"] != found["name"]:
        yield "what", str(found["what"])
    yield "protocol", str(found["protocol"])
    yield "metric", str(found["metric"] or "none: reported, and in no average")
    yield "chance", "–" if found["chance"] is None else f"{found['chance']:.4g}"
    yield "samples", _count(found["samples"]) + (f" in {_count(found['classes'])} classes" if found["classes"] else "")
    yield "splits", ", ".join(found["splits"])
    if found["languages"]:
        yield "languages", ", ".join(map(str, found["languages"]))
    yield "suites", ", ".join(found["suites"]) or "none"
    for copy in found["sources"]:
        yield "data", " ".join(filter(None, (copy["source"], copy["page"] or copy["folder"])))
        yield "", _place(copy, root)
    if not found["sources"]:
        yield "data", "your own: task.data.path=PATH"
    if found["licence"]:
        yield "licence", str(found["licence"])
    for note in found["notes"]:
        yield "note", str(note)
    if not found["published"]:
        yield "published", "no score that clipeval knows"
    for each in found["published"]:
        best = each["best"]
        yield "published", f"{each['source']}: {each['metric']} of {each['models']} models"
        yield "", f"best {best['value']:.4f} ({best['model']} {best['pretrained']}), median {each['median']:.4f}"


def _place(copy: Mapping[str, Any], root: str | None) -> str:
    if copy["here"]:
        return f"here: {copy['path']}, {decimal(copy['bytes'])}"
    location = f"{root}/{copy['folder']}" if root else f"data.root/{copy['folder']}, and data.root is not set"
    return f"not here: {location}"


def _model(found: Mapping[str, Any], root: str | None) -> Iterator[Line]:
    yield "model", str(found["model"])
    yield "what", str(found["what"])
    if found["name"]:
        yield "name", str(found["name"])
    if found["pretrained"]:
        yield "weights", str(found["pretrained"]) + (f"  {found['weights']}" if found["weights"] else "")
    if found["open"]:
        yield "to be given", " ".join(f"model.{key}=…" for key in found["open"])
    yield "image size", f"{found['image_size']:.0f} pixels" if found["image_size"] else "not known before it is loaded"
    if found["parameters_m"]:
        yield "parameters", f"{found['parameters_m']:.1f} million"
    if found["gflops"]:
        yield "compute", f"{found['gflops']:.1f} GFLOPs for an image and a text"
    if found["here"] is not None:
        yield "here", "yes" if found["here"] else f"no: clipeval download model={found['model']} suite=none fetches it"
    published = found["published"]
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


def _suite(found: Mapping[str, Any], root: str | None) -> Iterator[Line]:
    yield "suite", str(found["suite"])
    yield "what", str(found["what"])
    yield (
        "tasks",
        f"{len(found['tasks'])}, of which {found['here']} are here" + ("" if root else " (data.root is not set)"),
    )
    yield "samples", f"{found['samples']:,}"


def _count(value: Any) -> str:
    return "not known" if value is None else f"{value:,}"
