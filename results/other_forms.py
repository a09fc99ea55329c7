"""Results of MTEB, of programs that write as lm-evaluation-harness does, and of open_clip's trainer, as `imported.Result`s."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MTEB, LM_EVAL, OPEN_CLIP = "MTEB", "lm-evaluation-harness", "open_clip's training"

MTEB_KEYS: Mapping[str, str] = {
    "AROCocoOrder": "aro/coco_order",
    "AROFlickrOrder": "aro/flickr_order",
    "AROVisualAttribution": "aro/visual_attribution",
    "AROVisualRelation": "aro/visual_relation",
    "SugarCrepe": "sugar_crepe/all",
    "Winoground": "winoground",
}
"""{MTEB's task: our key}, where both ask the same. Its zero-shot tasks have other prompts, and rows of their own."""

MTEB_METRICS = {"accuracy": "acc"}
"""MTEB's names of metrics of those tasks that are not ours."""

SUBSETS = ("default", "en", "eng")

TRAINED = re.compile(r"(imagenet|imagenetv2)-zeroshot-val-top([15])")
"""open_clip's trainer: `imagenet-zeroshot-val-top1`."""

DIRECTIONS = {"image_to_text": "text_retrieval", "text_to_image": "image_retrieval"}

Fields = dict[str, Any]
"""What a reader knows of a result: the fields of `imported.Result` that do not say where it stood."""


def form_of(data: Any) -> str | None:
    """Which of these programs wrote an object; None where none of them did."""
    if not isinstance(data, dict):
        return None
    if isinstance(data.get("scores"), dict) and isinstance(data.get("task_name"), str):
        return MTEB
    if isinstance(data.get("results"), dict) and all(isinstance(item, dict) for item in data["results"].values()):
        return LM_EVAL
    if any(TRAINED.fullmatch(str(name)) for name in data) or {"epoch", "clip_val_loss"} <= data.keys():
        return OPEN_CLIP
    return None


def is_about_a_model(data: Any) -> bool:
    """Whether an object is MTEB's `model_meta.json`, which stands among its results and is none."""
    return isinstance(data, dict) and {"name", "revision", "n_parameters"} <= data.keys()


def read(data: Mapping[str, Any], file: Path) -> Iterator[Fields]:
    """The results that an object of one of these programs holds.

    Raises:
        ValueError: something that its format requires is missing; it is named.
    """
    readers = {MTEB: _mteb, LM_EVAL: _lm_eval, OPEN_CLIP: _open_clip}
    form = form_of(data)
    assert form is not None
    return readers[form](data, file)


def _mteb(data: Mapping[str, Any], file: Path) -> Iterator[Fields]:
    """One task: an entry for each split and subset. The model is the folder's name, `results/ORG__NAME/REVISION/TASK.json`."""
    name = str(data["task_name"])
    splits = data["scores"]
    split = "test" if "test" in splits else next(iter(splits), None)
    if split is None or not isinstance(splits[split], list) or not splits[split]:
        raise ValueError("scores holds no split with results")
    owner = file.absolute().parent.parent.name
    for entry in splits[split]:
        if not isinstance(entry, dict) or "main_score" not in entry:
            raise ValueError(f"scores.{split} has an entry without main_score")
        metrics = {k: v for k, v in entry.items() if k not in ("hf_subset", "languages", "mteb_version")}
        main = metrics.pop("main_score")
        key = MTEB_KEYS.get(name, f"mteb/{name}")
        if name not in MTEB_KEYS:
            metrics = {k.replace("cv_recall_at_", "hit_rate_at_"): v for k, v in metrics.items()}  # its older name
        else:
            metrics = {MTEB_METRICS.get(k, k): v for k, v in metrics.items()}
            if name != "Winoground":  # of one image with several captions these two are always 0
                metrics = {"text_acc": metrics.get("text_acc")}
        subset = str(entry.get("hf_subset", "default"))
        yield {
            "form": MTEB,
            "dataset": key,
            "name": name,
            "model": owner.replace("__", "/") if "__" in owner else None,
            "language": "en" if subset in SUBSETS else subset,
            "metrics": metrics,
            "main": main,
            "settings": {
                "mteb_version": data.get("mteb_version"),
                "dataset_revision": data.get("dataset_revision"),
                "split": split,
            },
        }


def _lm_eval(data: Mapping[str, Any], file: Path) -> Iterator[Fields]:
    """`{"results": {task: {"acc,none": …, "acc_stderr,none": …}}}`, a filter's name after the comma."""
    config = data.get("config") or {}
    arguments = config.get("model_args") if isinstance(config, dict) else None
    if isinstance(arguments, str):
        arguments = dict(part.partition("=")[::2] for part in arguments.split(","))
    told = (arguments or {}).get("pretrained") if isinstance(arguments, dict) else None
    model = data.get("model_name") or told
    for task, values in data["results"].items():
        metrics: dict[str, Any] = {}
        settings: dict[str, Any] = {}
        for label, value in values.items():
            name, _, choice = str(label).partition(",")
            location = settings if name.endswith("_stderr") or name in ("alias", "name", "sample_len") else metrics
            location[name if choice in ("", "none") else f"{name}@{choice}"] = value
        yield {
            "form": LM_EVAL,
            "dataset": str(task),
            "name": str(values.get("alias") or task).strip(" -"),
            "model": str(model) if model else None,
            "language": "en",
            "metrics": metrics,
            "main": None,
            "settings": settings,
        }


def _open_clip(data: Mapping[str, Any], file: Path) -> Iterator[Fields]:
    """One epoch's line of `results.jsonl`: zero-shot accuracies by set, and the validation's retrieval and losses."""
    epoch = data.get("epoch")
    sets: dict[str, dict[str, Any]] = {}
    rest: dict[str, Any] = {}
    for name, value in data.items():
        match = TRAINED.fullmatch(str(name))
        way = re.fullmatch(r"(image_to_text|text_to_image)_R@(\d+)", str(name))
        if match:
            key = {"imagenet": "imagenet1k", "imagenetv2": "imagenetv2"}[match[1]]
            sets.setdefault(key, {})[f"acc{match[2]}"] = value
        elif way:
            rest[f"{DIRECTIONS[way[1]]}_recall@{way[2]}"] = value
        elif name not in ("epoch", "num_samples"):
            rest[str(name)] = value
    about = {"form": OPEN_CLIP, "model": None, "language": "en", "main": None}
    settings = {"epoch": epoch, "num_samples": data.get("num_samples")}
    for key, metrics in sets.items():
        yield {**about, "dataset": key, "name": None, "metrics": metrics, "settings": settings}
    if rest:
        named = "open_clip_validation"
        yield {**about, "dataset": named, "name": "open_clip's validation data", "metrics": rest, "settings": settings}
