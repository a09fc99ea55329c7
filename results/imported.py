"""Results that other programs computed, read from their files: clip_benchmark's JSON, DataComp's `eval_results.jsonl`, and
those of `other_forms`.

A result becomes a record that says so: `imported` names the file, its digest and the time, a flag marks it in every table,
its fingerprint is nobody's, and it claims neither samples nor an interval. `clipeval.results.importing` files it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipeval.configs.errors import ClipevalError
from clipeval.results import other_forms, safe_json

CLIP_BENCHMARK, DATACOMP = "clip_benchmark", "DataComp"

FORMS = (
    'a result is an object with "metrics" and either "dataset", "model", "pretrained", "task" (clip_benchmark\'s JSON) '
    'or "key", "dataset" (a line of DataComp\'s eval_results.jsonl); or one of MTEB ("task_name", "scores"), of '
    'lm-evaluation-harness ("results"), of open_clip\'s training (results.jsonl)'
)


@dataclass(frozen=True)
class Result:
    """One result as its file gives it.

    Attributes:
        form: which program's.
        file, line, sha256: where it stood (line from 1; None where the file is one result), and the file's digest.
        dataset: the program's name for the set: `wds/vtab/cifar100`, or DataComp's key.
        name: the name to print, where the file has one.
        model, pretrained: whose result; None where the file does not say.
        task: clip_benchmark's word for the protocol; None in DataComp's files.
        language: of class names or captions.
        metrics: numbers, null where undefined; `main_metric` apart.
        main: DataComp's `main_metric`.
        settings: what stands among the metrics and is no number.
    """

    form: str
    file: Path
    line: int | None
    sha256: str
    dataset: str
    name: str | None
    model: str | None
    pretrained: str | None
    task: str | None
    language: str
    metrics: Mapping[str, float | None]
    main: float | None
    settings: Mapping[str, Any]

    @property
    def location(self) -> str:
        """For people: `results.jsonl, line 3`."""
        return str(self.file) if self.line is None else f"{self.file}, line {self.line}"


def read_results(paths: Sequence[Path]) -> list[Result]:
    """Every result in some files; of a folder, in its `*.json` and `*.jsonl`, by name.

    Raises:
        ClipevalError: a file is missing, is neither program's, or a result lacks something; it is named, with the line.
    """
    results: list[Result] = []
    for path in paths:
        if path.is_dir():
            files = sorted(child for child in path.iterdir() if child.suffix in (".json", ".jsonl"))
            if not files:
                raise ClipevalError(f"{path} holds no *.json and no *.jsonl: name the files to import")
        else:
            files = [path]
        for file in files:
            results += _read(file)
    return results


def _read(file: Path) -> Iterator[Result]:
    try:
        content = safe_json.read_bytes(file)
    except FileNotFoundError:
        raise ClipevalError(f"{file} does not exist: name the files to import") from None
    except ValueError as problem:
        raise ClipevalError(f"{file} cannot be imported: {problem}") from None
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        text = content.decode()
    except UnicodeDecodeError as problem:
        raise ClipevalError(f"{file} is not UTF-8 text ({problem}): {FORMS}") from None
    parts: list[tuple[int | None, str]] = [(None, text)]
    if file.suffix == ".jsonl":
        parts = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not text.strip():
        raise ClipevalError(f"{file} is empty: {FORMS}")
    epochs = [
        (line, "-zeroshot-val-top1" in part)
        for line, part in parts
        if line is not None and '"epoch"' in part and ("-zeroshot-val-top1" in part or '"clip_val_loss"' in part)
    ]
    # A line an epoch: the last one that has a zero-shot accuracy, if any has, stands for the training.
    chosen = max(epochs, key=lambda item: (item[1], item[0] or 0), default=(None, False))[0]
    for line, part in parts:
        if line != chosen and line in [number for number, _ in epochs]:
            continue
        location = str(file) if line is None else f"{file}, line {line}"
        try:
            data = safe_json.parse(part)
        except ValueError as problem:
            raise ClipevalError(f"{location}: it is not JSON ({problem}); {FORMS}") from None
        if other_forms.form_of(data):
            yield from _others(data, location, file, line, sha256, len(epochs))
        elif not other_forms.is_about_a_model(data) and (line is None or not _is_skipped(data)):
            yield _result(data, location, file, line, sha256)


def _others(data: Any, location: str, file: Path, line: int | None, sha256: str, epochs: int) -> Iterator[Result]:
    """The results of an object that one of `other_forms` wrote."""
    try:
        for fields in other_forms.read(data, file):
            metrics = {str(name): value for name, value in fields.pop("metrics").items()}
            numbers = {name: value for name, value in metrics.items() if value is None or _is_number(value)}
            settings = {**fields.pop("settings"), **{k: v for k, v in metrics.items() if k not in numbers}}
            if epochs > 1:
                settings["other epochs left out"] = epochs - 1
            main = fields.pop("main")
            yield Result(
                **fields,
                file=file,
                line=line,
                sha256=sha256,
                pretrained=None,
                task=None,
                metrics={name: _finite(value) for name, value in numbers.items()},
                main=_finite(main) if _is_number(main) else None,
                settings={name: value for name, value in settings.items() if value is not None},
            )
    except ValueError as problem:
        raise ClipevalError(f"{location}: {problem}; {FORMS}") from None


def _is_skipped(data: Any) -> bool:
    """Whether a line says that clipeval skipped a task (`clipeval.results.datacomp_lines.skipped_results`): it holds no result."""
    return isinstance(data, dict) and "skipped" in data and data.get("metrics") == {"main_metric": None}


def _result(data: Any, location: str, file: Path, line: int | None, sha256: str) -> Result:
    if not isinstance(data, dict) or not isinstance(data.get("metrics"), dict):
        raise ClipevalError(f"{location}: it holds no result; {FORMS}")
    theirs = "key" in data
    wanted = ("key", "dataset") if theirs else ("dataset", "model", "pretrained", "task")
    for key in wanted:
        if not isinstance(data.get(key), str) or (not data[key] and key != "pretrained"):
            raise ClipevalError(f"{location}: {key} is {json.dumps(data.get(key))}, and text was expected; {FORMS}")
    metrics = dict(data["metrics"])
    main = metrics.pop("main_metric", None)
    numbers = {name: value for name, value in metrics.items() if value is None or _is_number(value)}
    return Result(
        form=DATACOMP if theirs else CLIP_BENCHMARK,
        file=file,
        line=line,
        sha256=sha256,
        dataset=data["key"] if theirs else data["dataset"],
        name=data["dataset"] if theirs else None,
        model=_text(data.get("model")),
        pretrained=_text(data.get("pretrained")),
        task=None if theirs else data["task"],
        language=_text(data.get("language")) or "en",
        metrics={name: _finite(value) for name, value in numbers.items()},
        main=_finite(main) if _is_number(main) else None,
        settings={name: value for name, value in metrics.items() if name not in numbers},
    )


def _is_number(value: Any) -> bool:
    """Whether JSON's value is a number that a float can hold."""
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) <= 2**1000
    return isinstance(value, float)


def _finite(value: float | None) -> float | None:
    """Python writes NaN into JSON; here it is null, as in every record."""
    return None if value is None or not math.isfinite(value) else float(value)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
