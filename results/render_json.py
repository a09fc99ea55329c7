"""The report in the forms that other tools read: DataComp's JSON lines, clip_benchmark's files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from clipeval.configs.errors import ClipevalError
from clipeval.results.datacomp_lines import eval_results, skipped_results
from clipeval.results.json_io import dumps, to_jsonable
from clipeval.results.records import Record
from clipeval.results.runs import Run, tasks

CLIP_BENCHMARK_TASKS = {
    "classification": "zeroshot_classification",
    "attributes": "zeroshot_classification",
    "multilabel": "zeroshot_classification",
    "retrieval": "zeroshot_retrieval",
    "selection": "image_caption_selection",
    "linear_probe": "linear_probe",
}
"""clip_benchmark's names for protocols; another protocol keeps its own."""


def _records(run: Run) -> list[Record]:
    return [run.records[task] for task in tasks([run]) if task in run.records]


def _names(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Model and weights of each run; its label, where several runs have the same model or its name is a place on a disk."""
    names = [(str(run.model.get("name") or run.label), str(run.model.get("pretrained") or "")) for run in runs]
    return [
        (run.label, "") if names.count(name) > 1 or name[0].startswith("local-dir:") else name
        for run, name in zip(runs, names, strict=True)
    ]


def datacomp(runs: Sequence[Run]) -> str:
    """DataComp's `eval_results.jsonl`: a line a task. Of several runs, each line names its model as well."""
    lines: list[dict[str, Any]] = []
    for run, (model, pretrained) in zip(runs, _names(runs), strict=True):
        skipped = {task: run.planned[task] for task in tasks([run]) if task in run.skipped}
        unscored = skipped_results(skipped, run.skipped, len(run.records), len(run.planned))
        for line in [*eval_results(_records(run)), *unscored]:
            if len(runs) > 1:
                line = {"model": model, "pretrained": pretrained, **line}
            lines.append(line)
    return "".join(json.dumps(line) + "\n" for line in lines)


def clip_benchmark(runs: Sequence[Run]) -> dict[str, bytes]:
    """{file name: content}: a file for each run and task, as `clip_benchmark eval` writes them and `build` reads them.

    Raises:
        ClipevalError: two records have one name.
    """
    files = {}
    for run, (model, pretrained) in zip(runs, _names(runs), strict=True):
        for record in _records(run):
            protocol = record.protocol.partition("/")[0]
            imported = record.imported or {}
            key, language = _key_and_language(run, record)
            content = {
                "dataset": imported.get("dataset") or f"wds/{key}",
                "model": model,
                "pretrained": pretrained,
                "task": imported.get("task") or CLIP_BENCHMARK_TASKS.get(protocol, protocol),
                "metrics": to_jsonable({**record.metrics, **(imported.get("settings") or {})}),
                "language": imported.get("language") or language,
                # A column of the table that `build` makes, where any of the files has it.
                **({"imported": imported["form"]} if imported else {}),
            }
            parts = [content["dataset"].removeprefix("wds/"), pretrained, model, content["language"], content["task"]]
            if _file_name(parts) in files:  # its names do not tell shots, seeds or two runs of one model apart
                parts += [run.folder.path.absolute().name, record.task]
            if _file_name(parts) in files:
                raise ClipevalError(
                    f"two of these records would both be {_file_name(parts)}: write the runs to folders of their own"
                )
            files[_file_name(parts)] = dumps(content)
    return files


def _file_name(parts: Sequence[object]) -> str:
    return "_".join(str(part).replace("/", "_") for part in parts) + ".json"


def _key_and_language(run: Run, record: Record) -> tuple[str, str]:
    """The key as it was before `protocol=` and `language=` made a variant of it (`clipeval.configs.variants`), and the language."""
    node = ((run.info.get("config") or {}).get("tasks") or {}).get(record.task) or {}
    language = (node.get("data") or {}).get("language")
    key = record.key.removesuffix(f"/{language}") if language else record.key
    if record.protocol in ("linear_probe", "captioning"):
        key = re.sub(r"/(lp-[^/]*|captioning)$", "", key)
    return key, language or "en"
