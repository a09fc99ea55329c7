"""The report in the forms in which results are exchanged: the Hub's `.eval_results`, model-index, Every Eval Ever, MTEB's JSON."""

from __future__ import annotations

import calendar
import time
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from clipeval.configs.errors import ClipevalError
from clipeval.configs.resolvers import slug
from clipeval.results import model_card, published
from clipeval.results.json_io import dumps
from clipeval.results.other_forms import MTEB_KEYS
from clipeval.results.records import Record
from clipeval.results.runs import Run, tasks
from clipeval.results.sheet import warnings

SCHEMA_VERSION = "0.3.0"
"""Of Every Eval Ever's `eval.schema.json`."""


def eval_results(run: Run) -> str:
    """A file for a model repository's folder `.eval_results/`: YAML that huggingface_hub has made and read again.

    Each entry names a data set of the Hub; a task whose data are not there is named in a comment, with the reason.

    Raises:
        ClipevalError: no task has a score and a data set on the Hub.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml, parse_eval_result_entries

    entries, left = [], []
    for record in _scored(run):
        data = _data(run, record)
        if not data.get("hub"):
            left.append(record.name)
            continue
        notes = f"zero-shot {record.metric}, a proportion"
        if record.interval:
            notes += (
                f", 95% interval {record.interval[0]:.4f} to {record.interval[1]:.4f} over {record.samples} samples"
            )
        entries.append(
            EvalResultEntry(
                dataset_id=str(data["hub"]),
                task_id=record.task,
                value=round(float(record.value or 0.0), 6),
                dataset_revision=data.get("revision"),
                date=record.created or None,
                notes="; ".join([notes, *record.flags]),
            )
        )
    if not entries:
        raise ClipevalError(
            f"{run.folder.place} has no score on a data set of the Hub, which --format eval_results must name: {', '.join(left)}"
        )
    content = eval_result_entries_to_yaml(entries)
    assert parse_eval_result_entries(content) == entries
    comments = [f"# left out, for no data set of the Hub is named: {', '.join(left)}\n"] if left else []
    return _comments(run) + "".join(comments) + str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def model_index(run: Run) -> str:
    """The metadata `model-index` alone, as YAML, for the head of a README that exists. Raises as `model_card.render` does."""
    from huggingface_hub import ModelCard

    data: dict[str, Any] = ModelCard(model_card.render(run)).data.to_dict()  # type: ignore[no-untyped-call]
    return _comments(run) + str(
        yaml.safe_dump({"model-index": data["model-index"]}, sort_keys=False, allow_unicode=True)
    )


def every_eval_ever(run: Run) -> str:
    """One evaluation as Every Eval Ever's JSON: the main metric of each task, with its interval.

    Raises:
        ClipevalError: nothing was recorded yet.
    """
    records = _scored(run)
    if not records:
        raise ClipevalError(f"{run.folder.place} holds no score yet: run a task with a main metric")
    imported = [record for record in records if record.imported is not None]
    created = max((record.created for record in records), default="") or "1970-01-01T00:00:00Z"
    # The time of the newest record, so that writing twice gives the same file.
    stamp = str(calendar.timegm(time.strptime(created, "%Y-%m-%dT%H:%M:%SZ")))
    identity = _model_id(run)
    code = run.info.get("code") or {}
    details = {"pretrained": run.model.get("pretrained"), "weights_digest": run.model.get("weights")}
    content = {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": f"clipeval/{identity}/{stamp}",
        "evaluation_timestamp": created,
        "retrieved_timestamp": stamp,
        "source_metadata": {
            "source_name": "clipeval" if not imported else f"clipeval, imported from {imported[0].imported['form']}",  # type: ignore[index]
            "source_type": "evaluation_run" if not imported else "documentation",
            "source_organization_name": "unknown",
            "evaluator_relationship": "other",
            # What a table says above its rows: tasks that are missing or were skipped, warnings that all of them share.
            "additional_details": {f"warning {n}": text for n, text in enumerate(warnings([run]), start=1)},
        },
        "eval_library": {
            "name": "clipeval",
            "version": str(code.get("version") or "unknown"),
            "additional_details": _texts({"commit": code.get("commit"), "dirty": code.get("dirty")}),
        },
        "model_info": {
            "name": run.label,
            "id": identity,
            "additional_details": {
                "deployment_type": "self_deployed" if not imported else "unknown",
                "model_availability": "unknown",
                **_texts(details),
            },
        },
        "evaluation_results": [_evaluation(run, record) for record in records],
    }
    return dumps(content).decode()


def mteb(runs: Sequence[Run]) -> dict[str, bytes]:
    """{path: content}: `results/MODEL/REVISION/TASK.json` of each run, as MTEB's result cache has them, and `model_meta.json`.

    A task that MTEB asks in the same way has MTEB's name; others have their own, which MTEB has no task for.
    """
    names = {key: name for name, key in MTEB_KEYS.items()}
    files: dict[str, bytes] = {}
    for run in runs:
        identity, revision = _model_id(run), str(run.model.get("weights") or "unknown")
        folder = f"results/{slug(identity.replace('/', '__'))}/{slug(revision)}"
        if f"{folder}/model_meta.json" in files:
            raise ClipevalError(f"two of these runs are of {identity}: write them to folders of their own")
        files[f"{folder}/model_meta.json"] = dumps(
            {"name": identity, "revision": revision, "n_parameters": _parameters(run)}
        )
        for record in _scored(run):
            data = _data(run, record)
            language = str(data.get("language") or "en")
            scores = {
                **{_theirs(record, name): value for name, value in record.metrics.items() if value is not None},
                "main_score": record.value,
                "hf_subset": "default",
                "languages": ["eng-Latn" if language == "en" else language],
            }
            name = names.get(record.key, slug(record.key.replace("/", "-")))
            files[f"{folder}/{name}.json"] = dumps(
                {
                    "task_name": name,
                    "dataset_revision": str(data.get("revision") or record.fingerprint.data),
                    "mteb_version": None,
                    "evaluation_time": sum(record.timings.values()) or None,
                    "kg_co2_emissions": None,
                    "scores": {"test": [scores]},
                }
            )
    return files


def _comments(run: Run) -> str:
    """What a table says above its rows, as YAML's comments."""
    return "".join(f"# ! {line}\n" for text in warnings([run]) for line in text.splitlines())


def _theirs(record: Record, metric: str) -> str:
    return "accuracy" if metric == "acc" and record.key in MTEB_KEYS.values() else metric


def _parameters(run: Run) -> int | None:
    return int(float(run.model["params_m"]) * 1e6) if run.model.get("params_m") else None


def _scored(run: Run) -> list[Record]:
    """The records with a main metric, in the report's order."""
    return [run.records[task] for task in tasks([run]) if task in run.records and run.records[task].value is not None]


def _data(run: Run, record: Record) -> Mapping[str, Any]:
    node = ((run.info.get("config") or {}).get("tasks") or {}).get(record.task) or {}
    data: Mapping[str, Any] = node.get("data") or {}
    return data


def _model_id(run: Run) -> str:
    """The model as `ORG/NAME`: its place on the Hub, else open_clip's name and tag under `open_clip/`; one's own under `local/`."""
    name, pretrained = str(run.model.get("name") or run.label), str(run.model.get("pretrained") or "")
    if published.has_own_weights(run.model):
        return f"local/{slug(str(run.model.get('slug') or name))}"
    if run.model.get("hub"):
        return str(run.model["hub"])
    for text in (pretrained, name):
        if text.startswith("hf-hub:"):
            return text.removeprefix("hf-hub:")
    if name.count("/") == 1 and not name.startswith(("/", ".")):
        return name
    return (
        f"open_clip/{run.model.get('slug') or slug(name)}"
        if pretrained
        else f"local/{run.model.get('slug') or slug(name)}"
    )


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Every Eval Ever's details: texts alone, and none that is not known."""
    return {name: str(value) for name, value in values.items() if value is not None}


def _evaluation(run: Run, record: Record) -> dict[str, Any]:
    data = _data(run, record)
    source: dict[str, Any] = {"dataset_name": record.name, "source_type": "other"}
    if data.get("hub"):
        source = {
            "dataset_name": record.name,
            "source_type": "hf_dataset",
            "hf_repo": str(data["hub"]),
            "hf_split": "test",
        }
        if record.samples is not None:
            source["samples_number"] = record.samples
    source["additional_details"] = _texts(
        {"key": record.key, "revision": data.get("revision"), "digest": record.fingerprint.data}
    )
    score: dict[str, Any] = {"score": float(record.value or 0.0)}
    if record.interval is not None:
        uncertainty: dict[str, Any] = {
            "confidence_interval": {"lower": record.interval[0], "upper": record.interval[1], "confidence_level": 0.95}
        }
        if record.samples is not None:
            uncertainty["num_samples"] = record.samples
        score["uncertainty"] = uncertainty
    if record.flags:
        score["details"] = {"warnings": "; ".join(record.flags)}
    protocol = record.protocol.partition("/")[0]
    return {
        "evaluation_result_id": f"{record.task}/{record.metric}",
        "evaluation_name": record.name,
        "source_data": source,
        "evaluation_timestamp": record.created,
        "metric_config": {
            "evaluation_description": f"zero-shot {protocol}" if protocol != "linear_probe" else "linear probe",
            "metric_id": str(record.metric),
            "metric_unit": "proportion",
            "lower_is_better": False,
            "score_type": "continuous",
            "min_score": 0.0,
            "max_score": "Infinity" if protocol == "captioning" else 1.0,
        },
        "score_details": score,
        "generation_config": {
            "additional_details": _texts(
                {
                    "precision": record.fingerprint.precision,
                    "preprocess": record.fingerprint.preprocess,
                    "prompts": record.prompts.get("name"),
                    "protocol": record.fingerprint.protocol,
                }
            )
        },
    }
