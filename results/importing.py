"""`clipeval import`: results of other programs into run folders, a folder a model, so that they stand in the same tables."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from clipeval.configs.catalog import group_options, own_content
from clipeval.configs.compose import compose
from clipeval.configs.errors import ClipevalError, closest
from clipeval.configs.resolvers import slug
from clipeval.configs.task_classes import task_class
from clipeval.results import mirror
from clipeval.results.fingerprint import Fingerprint
from clipeval.results.imported import DATACOMP, Result, read_results
from clipeval.results.other_forms import MTEB, OPEN_CLIP
from clipeval.results.records import DamagedRecord, Record
from clipeval.results.render_json import CLIP_BENCHMARK_TASKS
from clipeval.results.run_folder import TASK_FIELDS, RunFolder, now

MAIN = ("acc1", "mean_average_precision", "mean_recall@1", "lp_acc1", "CIDEr", "text_acc")
"""The main metric of a task that no config speaks of: the first of these that it has."""

RECALLS = ("image_retrieval_recall@1", "text_retrieval_recall@1")

NOBODY = "imported"
"""What stands in a fingerprint for everything that only the program which computed the result knew."""


@dataclass
class Imported:
    """What one run folder took in."""

    folder: RunFolder
    model: Mapping[str, Any]
    records: list[Record] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def import_results(
    paths: Sequence[Path], overrides: Sequence[str] = (), config_dir: str | Path | None = None
) -> list[Imported]:
    """Reads files and writes their results as records; a file's own run folder is `runs/<model>-imported`.

    Args:
        paths: files, or folders of them.
        overrides: Hydra's: `out=FOLDER`; `model=…` names the model of files that do not (DataComp's), and overrules those that do.
        config_dir: one's own configs, whose tasks' keys are known as well.

    Raises:
        ClipevalError: nothing is written when a file cannot be read, a model is not named, two results are of one task, or
            a task has a record that was computed.
    """
    config = compose(["suite=none", *overrides], config_dir)
    named = any(word.lstrip("+").startswith("model") for word in overrides)
    out = config.out if any(word.lstrip("+").startswith("out=") for word in overrides) else None
    results = read_results(paths)
    folder = mirror.opened(out, config.cache.root) if out else None
    by_model: dict[str, Imported] = {}
    known = _Tasks(results, config_dir)
    for result in results:
        model = _model(config) if named else _model_of(result)
        at = by_model.setdefault(
            model["slug"], Imported(RunFolder(folder or Path(f"runs/{model['slug']}-imported")), model)
        )
        _add(at, *known.record(result, model), result)
    if out and len(by_model) > 1:
        raise ClipevalError(
            f"out={out} is one run folder, of one model, and these files are of {len(by_model)}: {', '.join(by_model)}; "
            "leave out= away, or import each model's files by themselves"
        )
    for imported in by_model.values():
        _check(imported)
    for imported in by_model.values():
        _write(imported)
    return list(by_model.values())


def _add(at: Imported, record: Record, remarks: Sequence[str], result: Result) -> None:
    before = next((old for old in at.records if old.task == record.task), None)
    if before is None:
        at.records.append(record)
        at.remarks += [f"{record.task}: {remark}" for remark in remarks]
    elif before.metrics != record.metrics:
        assert before.imported is not None
        raise ClipevalError(
            f"{result.location} and {before.imported['file']} are both of {at.model['slug']} on {record.task}, with other "
            "figures: import them into folders of their own with out="
        )


def _check(imported: Imported) -> None:
    """Raises ClipevalError where the folder is another model's, or holds computed records of the same tasks."""
    folder, mine = imported.folder, (imported.model["name"], imported.model["pretrained"])
    records = folder.records(damaged=[])
    about = (folder.run() or {}).get("model") or next((record.model for record in records), None)
    if about and (about.get("name"), about.get("pretrained")) != mine:
        raise ClipevalError(
            f"{folder.place} holds results of {about.get('slug')}, not of {imported.model['slug']}: name another folder with out="
        )
    wanted = {record.task for record in imported.records}
    computed = [record.task for record in records if record.imported is None and record.task in wanted]
    if computed:
        raise ClipevalError(
            f"{folder.place} holds computed records of {', '.join(computed)}, and an imported result never takes the place of "
            "one: import into another folder with out="
        )


def _write(imported: Imported) -> None:
    try:
        before = imported.folder.run() or {}
    except DamagedRecord:
        before = {}
    tasks = {record.task: {name: getattr(record, name) for name in TASK_FIELDS} for record in imported.records}
    # Nothing about this machine or this code: neither had a part in the figures.
    imported.folder.write_run({"model": imported.model, "config": {"tasks": {}}, **before, "tasks": tasks})
    for record in imported.records:
        imported.folder.add_imported(record)
    imported.folder.rebuild_eval_results()


def _model(config: DictConfig) -> dict[str, Any]:
    model = config.model
    return {"slug": model.slug, "name": model.get("name") or model.slug, "pretrained": model.get("pretrained")}


def _model_of(result: Result) -> dict[str, Any]:
    if result.model is None:
        raise ClipevalError(
            f"{result.location} does not say whose result it is: name the model, with model=<preset>, or with "
            "model=open_clip model.name=NAME model.pretrained=TAG"
        )
    return {"slug": slug(result.model, result.pretrained), "name": result.model, "pretrained": result.pretrained}


class _Tasks:
    """The tasks that the configs declare, found by the names that other programs give to their sets."""

    def __init__(self, results: Sequence[Result], config_dir: str | Path | None) -> None:
        self.ids: dict[str, list[str]] = {}
        for task in group_options("task", config_dir):
            node = own_content("task", task, config_dir)
            # A task with `id` is a form for data of one's own.
            if "key" in node and "id" not in node and "_own" not in node.get("defaults", ()):
                self.ids.setdefault(str(node["key"]), []).append(task)
        wanted = dict.fromkeys(task for result in results for task in self.find(result.dataset))
        overrides = [f"+task@tasks.{task}={task}" for task in wanted]
        self.nodes = compose(["suite=none", *overrides], config_dir).tasks

    def find(self, dataset: str) -> list[str]:
        """The tasks of a set, one for each protocol: by its key, else by the one key that ends in its name."""
        key = key_of(dataset)
        if key in self.ids:
            return self.ids[key]
        leaf = key.rpartition("/")[2]
        same = [tasks for known, tasks in self.ids.items() if known.rpartition("/")[2] == leaf]
        return same[0] if len(same) == 1 else []

    def _protocol(self, task: str) -> str:
        return task_class(self.nodes[task]._target_, f"tasks.{task}").protocol

    def record(self, result: Result, model: Mapping[str, Any]) -> tuple[Record, list[str]]:
        """The record of a result, in the row of the task that the configs declare or one of its own; remarks about that."""
        tasks = self.find(result.dataset)
        fields, remarks = self._declared(tasks, result) if tasks else self._own(result)
        metrics = dict(result.metrics)
        if "mean_recall@1" not in metrics and all(metrics.get(name) is not None for name in RECALLS):
            metrics["mean_recall@1"] = sum(metrics[name] or 0.0 for name in RECALLS) / 2
            remarks.append("mean_recall@1 is the mean of the two that its file has")
        metric = fields["metric"]
        left = result.settings.get("other epochs left out")
        if left:
            remarks.append(f"epoch {result.settings.get('epoch')} of the file; {left} others are left out")
        if metric is not None and metric not in metrics:
            remarks.append(f"its file has no {metric}, and has {', '.join(metrics)}")
        elif metric is not None and result.main not in (None, metrics[metric]):
            remarks.append(f"its file's main metric is {result.main}, and is not {metric}")
        record = Record(
            **{**fields, "notes": (*fields.get("notes", ()), *remarks)},
            model=model,
            metrics=metrics,
            intervals={},
            samples=None,
            classes=None,
            fingerprint=Fingerprint(
                **{part.name: NOBODY for part in dataclasses.fields(Fingerprint)}
                | {"data": f"{NOBODY}/{result.sha256}"}
            ),
            flags=(imported_flag(result.form),),
            imported={
                "form": result.form,
                "file": str(result.file.absolute()),
                "line": result.line,
                "sha256": result.sha256,
                "at": now(),
                "dataset": result.dataset,
                "task": result.task,
                "language": result.language,
                "settings": dict(result.settings),
            },
        )
        return record, remarks

    def _declared(self, tasks: Sequence[str], result: Result) -> tuple[dict[str, Any], list[str]]:
        protocols = {task: CLIP_BENCHMARK_TASKS.get(self._protocol(task), self._protocol(task)) for task in tasks}
        task = next((task for task in tasks if protocols[task] == result.task), tasks[0])
        node, protocol = self.nodes[task], self._protocol(task)
        fields: dict[str, Any] = {"task": task, "protocol": protocol, "notes": tuple(node.get("notes") or ())}
        fields |= {name: node.get(name) for name in ("key", "name", "metric", "chance", "group")}
        remarks = []
        if key_of(result.dataset) != node.key:
            remarks.append(f"its file calls the set {result.dataset}; see that it is the same as {node.key}")
        if result.task not in (None, protocols[task]):
            # The same set under another protocol has a row of its own: that of `protocol=`.
            fields |= {"protocol": PROTOCOLS.get(str(result.task), str(result.task)), "metric": _main(result)}
            return _variant(_by_protocol(fields, result), result), remarks
        return _variant(fields, result), remarks

    def _own(self, result: Result) -> tuple[dict[str, Any], list[str]]:
        key = key_of(result.dataset)
        protocol = PROTOCOLS.get(result.task or "", result.task or "unknown")
        fields: dict[str, Any] = {
            "task": slug(key),
            "key": key,
            "name": result.name or key,
            "protocol": protocol,
            "metric": _main(result),
            "chance": None,
            "group": "other",
        }
        if key in KNOWN:
            return _variant({**fields, **KNOWN[key]}, result), []
        close = closest(key, self.ids)
        hint = f"; near it: {', '.join(close)}" if close else ""
        if protocol in VARIANTS:
            fields = _by_protocol(fields, result)
        return _variant(fields, result), [f"no task of clipeval has the key {key}: a row of its own{hint}"]


def key_of(dataset: str) -> str:
    """The key of a set that another program names: without its copy's prefix, and Apple's SugarCrepe by our name."""
    return re.sub(r"^comp/sugarcrepe_", "sugar_crepe/", dataset.removeprefix("wds/"))


def imported_flag(form: str) -> str:
    """The warning of an imported record."""
    return f"imported from {form}'s results and not computed here: no interval is known"


KNOWN: Mapping[str, Mapping[str, str]] = {
    "longclip/sharegpt4v-llava15k": {"name": "ShareGPT4V LLaVA-15k", "protocol": "retrieval", "group": "long_captions"},
}
"""Sets that published files hold and no task of clipeval reads: what to call them."""


PROTOCOLS = {
    "zeroshot_classification": "classification",
    "zeroshot_retrieval": "retrieval",
    "image_caption_selection": "selection",
}
"""Our names for clip_benchmark's protocols; another keeps its own."""


def _main(result: Result) -> str | None:
    """The main metric of a result that no config speaks of; None where DataComp's file says that there is none."""
    if result.form == DATACOMP or (result.form == MTEB and result.main is not None):
        same = [name for name, value in result.metrics.items() if value is not None and value == result.main]
        return same[0] if same else None
    if result.form == OPEN_CLIP:
        return None  # its validation data are one's own
    names = [*result.metrics, *(["mean_recall@1"] if all(name in result.metrics for name in RECALLS) else [])]
    return next((name for name in MAIN if name in names), names[0] if names else None)


VARIANTS = {"linear_probe": ("lp-adamw", "linear probe (adamw)"), "captioning": ("captioning", "captioning")}
"""How `configs/protocol` names a task that is asked in another way; clip_benchmark's probe is the one by AdamW."""


def _by_protocol(fields: Mapping[str, Any], result: Result) -> dict[str, Any]:
    """The task as another protocol asks it, named as `protocol=` names it, so that it stands in the same row."""
    protocol = str(fields["protocol"])
    mark, label = VARIANTS.get(protocol, (protocol, protocol.replace("_", " ")))
    shots = result.metrics.get("fewshot_k") or 0
    if protocol == "linear_probe" and shots > 0:
        mark, label = f"{mark}-{int(shots)}", f"{label}, {int(shots)}-shot"
    return {**_apart(fields, mark, label), "group": protocol}


def _variant(fields: Mapping[str, Any], result: Result) -> dict[str, Any]:
    """The task in the result's language, named as `language=` names it."""
    if result.language == "en":
        return dict(fields)
    word = result.language
    return {**_apart(fields, word, word), "group": f"{fields['name']} by language"}


def _apart(fields: Mapping[str, Any], mark: str, label: str) -> dict[str, Any]:
    """Fields with an id, a key and a name of their own; published figures are of the key without it."""
    return {
        **fields,
        "task": f"{fields['task']}-{mark}",
        "key": f"{fields['key']}/{mark}",
        "name": f"{fields['name']}, {label}",
    }
