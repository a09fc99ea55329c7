"""A model card's evaluation: Markdown, and the `model-index` metadata that the Hugging Face Hub shows beside a model."""

from __future__ import annotations

import re
from typing import Any

from clipeval.configs.errors import ClipevalError
from clipeval.results import render_markdown, sheet
from clipeval.results.records import Record
from clipeval.results.runs import Run, tasks

TASK_TYPES = {
    "classification": ("zero-shot-image-classification", "Zero-Shot Image Classification"),
    "attributes": ("zero-shot-image-classification", "Zero-Shot Image Classification"),
    "multilabel": ("zero-shot-image-classification", "Zero-Shot Image Classification"),
    "linear_probe": ("image-classification", "Linear Probe"),
    "retrieval": ("image-text-retrieval", "Image-Text Retrieval"),
    "association": ("image-text-retrieval", "Image-Text Association"),
    "captioning": ("image-to-text", "Image Captioning"),
    "selection": ("image-text-retrieval", "Caption Selection"),
}
"""The Hub's task for a protocol."""

METRIC_TYPES = {"acc1": "accuracy", "mean_per_class_recall": "recall", "F1-macro_all": "f1"}
"""The Hub's names for metrics; another keeps its own."""


def render(run: Run) -> str:
    """A model card: metadata and an evaluation section, which ModelCard of huggingface_hub reads.

    Raises:
        ClipevalError: nothing was recorded yet.
    """
    from huggingface_hub import ModelCardData

    results = [_result(run, run.records[task]) for task in tasks([run]) if _counts(run, task)]
    if not results:
        raise ClipevalError(
            f"{run.folder.place} holds no score that a model card could show: run a task with a main metric"
        )
    data = ModelCardData(
        model_name=run.label.replace(" ", "-"),
        eval_results=results,
        tags=["clip", "clipeval"],
        pipeline_tag="zero-shot-image-classification",
    )
    return f"---\n{data.to_yaml()}\n---\n\n{section(run)}"


def section(run: Run) -> str:
    """The Markdown alone, to put into a card that exists."""
    table = render_markdown.render(sheet.build([run]))
    # The card is about one model; its name is the card's own heading.
    table = re.sub(r"^### .*\n\n?", "", table, count=1, flags=re.MULTILINE)
    code = run.info.get("code") or {}
    version = " ".join(
        str(part) for part in ("clipeval", code.get("version"), str(code.get("commit") or "")[:8]) if part
    )
    return f"## Evaluation\n\nMeasured with {version}: zero-shot, every score with its 95% interval over samples.\n\n{table}"


def _counts(run: Run, task: str) -> bool:
    return task in run.records and run.records[task].value is not None


def _result(run: Run, record: Record) -> Any:
    from huggingface_hub import EvalResult

    protocol = record.protocol.partition("/")[0]
    kind, kind_name = TASK_TYPES.get(protocol, ("zero-shot-image-classification", protocol))
    config = ((run.info.get("config") or {}).get("tasks") or {}).get(record.task) or {}
    data = config.get("data") or {}
    metric = str(record.metric)
    arguments: dict[str, Any] = {} if record.samples is None else {"samples": record.samples}
    if record.interval:
        arguments["interval_95"] = [round(end, 6) for end in record.interval]
    if record.flags:
        arguments["flags"] = list(record.flags)
    return EvalResult(
        task_type=kind,
        task_name=kind_name,
        # A key such as vtab/pets would be taken for a data set of a user called vtab.
        dataset_type=str(data.get("hub") or record.key.replace("/", "-")),
        dataset_name=record.name,
        dataset_split="test",
        dataset_revision=data.get("revision"),
        metric_type=METRIC_TYPES.get(metric, metric),
        metric_name=metric,
        metric_value=round(float(record.value or 0.0), 6),
        metric_args=arguments,
    )
