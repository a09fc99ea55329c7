"""Puts the page together: one file with its data, styles, scripts and pictures inside."""

from __future__ import annotations

import base64
import gzip
import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from clipeval.results import against_block, formatting, sheet
from clipeval.results.against import ReferenceComparison
from clipeval.results.figures import for_page
from clipeval.results.page.charts import charts, colour
from clipeval.results.page.mistakes import Pictures, mistakes
from clipeval.results.records import Record
from clipeval.results.runs import Run, group_name, tasks

HERE = Path(__file__).parent


def render(runs: Sequence[Run], against: Sequence[ReferenceComparison] = (), pictures: Pictures | None = None) -> str:
    """The page.

    Args:
        runs: those to show side by side.
        against: comparisons to show with them.
        pictures: where example mistakes get their pictures; without it, they are listed by key.
    """
    built = sheet.build(runs)
    drawn = charts(runs)
    details = [_task(task, spec, runs, pictures) for task, spec in tasks(runs).items()]
    details = [task for task in details if task["runs"]]
    return fill(
        "template.html",
        title=" · ".join(run.label for run in runs) if len(runs) < 4 else f"{len(runs)} runs",
        sheet=built,
        runs=runs,
        colours=[colour(index) for index in range(len(runs))],
        averages=[row for row in built.rows if row.kind in ("average", "common", "group")],
        overall=next((row for row in built.rows if row.kind == "average"), built.rows[0]),
        rows=[(row, _group_of(row.task, runs)) for row in built.rows if row.kind in ("task", "single")],
        row_label=formatting.row_label,
        blocks=[against_block.block(item) for item in against],
        charts=[(chart, Markup(for_page(chart))) for chart in drawn],
        details=details,
        provenance=[_provenance(run) for run in runs],
        css=asset("page.css"),
        script=asset("page.js"),
    )


def fill(template: str, script: Markup, **fields: Any) -> str:
    """One of the pages, with what all of them hold: DataTables, and the filters that write numbers.

    Args:
        template: its file in this folder.
        script: its own, which may call `library` of libraries.js.
        fields: what the template asks for.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        score=formatting.score,
        interval=formatting.interval,
        margin=formatting.margin,
        count_samples=formatting.count,
        tally=formatting.tally,
        number=_number,
    )
    return environment.get_template(template).render(
        script=asset("libraries.js") + script,
        tables_css=library("itables", "html/dt_bundle.css"),
        tables_js=packed(library("itables", "html/dt_bundle.js")),
        **fields,
    )


def _number(value: float | None) -> str:
    """A metric's value; counts and weight decays keep the digits that they have."""
    if value is not None and (value == int(value) and abs(value) > 1):
        return formatting.count(int(value))
    return formatting.score(value)


def asset(name: str) -> Markup:
    """A file of this folder, to stand in a page as it is."""
    return Markup((HERE / name).read_text(encoding="utf-8"))


@cache
def library(package: str, path: str) -> Markup:
    """A file that a library ships, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"--format html needs the package {package}: pip install {package}")
    return Markup((Path(spec.origin).parent / path).read_text(encoding="utf-8"))


def safe_json(text: str) -> str:
    """JSON that cannot end the script element which it stands in."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def packed(text: str) -> str:
    """A script as text that a page can hold: gzip, in base64. The browser unpacks it; the same script gives the same text."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode("ascii")


def _group_of(task: str, runs: Sequence[Run]) -> str:
    return next(name for name, members in sheet.groups(runs).items() if task in members)


def _task(task: str, spec: Any, runs: Sequence[Run], pictures: Pictures | None) -> dict[str, Any]:
    """What the page says about one task, run by run."""
    parts = []
    for index, run in enumerate(runs):
        record = run.records.get(task)
        if record is not None:
            wrong = mistakes(run, record, pictures)
            parts.append(
                {
                    "label": run.label,
                    "colour": colour(index),
                    "record": record,
                    "metrics": [(name, value, record.intervals.get(name)) for name, value in record.metrics.items()],
                    "mistakes": wrong,
                    "facts": _facts(record),
                }
            )
    name = str(spec.get("name") or task)
    return {"task": task, "name": name, "group": group_name(str(spec.get("group"))), "runs": parts}


def _facts(record: Record) -> list[tuple[str, str]]:
    """Where a task's numbers come from, in pairs of words."""
    prompts = record.prompts
    if record.imported is not None:
        whence = {"form": "Imported from", "file": "File", "line": "Line", "sha256": "SHA-256", "at": "Imported at"}
        told = [(word, record.imported.get(name)) for name, word in whence.items()]
        return [(word, str(value)) for word, value in told if value is not None]
    facts = [
        ("Protocol", record.fingerprint.protocol),
        ("Samples", formatting.count(record.samples)),
        ("Classes", formatting.count(record.classes)),
        (
            "Prompts",
            ", ".join(str(part) for part in (prompts.get("name"), _templates(prompts.get("templates"))) if part),
        ),
        ("Precision", sheet.short_precision(record.fingerprint.precision)),
        ("Preprocessing", record.fingerprint.preprocess),
        ("Data digest", record.fingerprint.data[:16]),
        ("Seconds", ", ".join(f"{name.removesuffix('_s')} {value:.1f}" for name, value in record.timings.items())),
        ("Made", record.created),
    ]
    return [(name, value) for name, value in facts if value]


def _templates(number: Any) -> str:
    return f"{number} template{'s' if number != 1 else ''}" if isinstance(number, int) else ""


def _provenance(run: Run) -> tuple[str, list[tuple[str, str]]]:
    info, model = run.info, run.model
    code, hardware = info.get("code") or {}, info.get("hardware") or {}
    changed = {True: " with changes that were not committed", False: "", None: ""}[code.get("dirty")]
    machine = [
        hardware.get("cpu"),
        f"{hardware['cores']} cores" if hardware.get("cores") else None,
        f"{hardware['memory_gib']} GiB" if hardware.get("memory_gib") else None,
        *(hardware.get("gpus") or []),
    ]
    pairs = [
        ("Folder", run.folder.place),
        ("Architecture", str(model.get("name") or "")),
        ("Weights", str(model.get("pretrained") or "")),
        ("Weights' digest", str(model.get("weights") or "")),
        ("Parameters", f"{float(model['params_m']):.1f} M" if model.get("params_m") else ""),
        ("clipeval", f"{code.get('version') or ''} {str(code.get('commit') or '')[:12]}{changed}".strip()),
        ("Machine", ", ".join(str(part) for part in machine if part)),
        ("Python", f"{info.get('python') or ''} on {info['os']}" if info.get("os") else ""),
        ("Packages", ", ".join(f"{name} {version}" for name, version in (info.get("packages") or {}).items())),
        ("Started", str(info.get("created") or "")),
    ]
    return run.label, [(name, value) for name, value in pairs if value]
