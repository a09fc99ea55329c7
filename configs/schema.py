"""Which keys a composed config may have, and what each may hold."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from clipeval.configs.addresses import is_address
from clipeval.configs.addresses import shown as address_shown
from clipeval.configs.data_keys import DATA
from clipeval.configs.errors import ClipevalError, nearest
from clipeval.configs.values import BOOL, COUNT_OR_NULL, TEXT, TEXT_OR_NULL, Value, shown

if TYPE_CHECKING:
    from omegaconf import DictConfig


ID = r"[A-Za-z0-9_][A-Za-z0-9._-]*"

CONFIG: dict[str, dict[str, Value]] = {
    "data": {
        "root": TEXT_OR_NULL,
        "strict": BOOL,
        "on_error": Value(str, choices=("fail", "skip")),
        "on_missing": Value(str, choices=("fail", "skip")),
        "sep": TEXT_OR_NULL,
        "encoding": TEXT_OR_NULL,
        "max_pixels": Value(int, null=True, least=1),
        "max_text_chunk": Value(int, null=True, least=1),
        "limit": Value(int, null=True, least=1),
        "source": TEXT_OR_NULL,
        "sources": Value(object, hint="sources, each with folder and hub"),
    },
    "cache": {"root": TEXT, "features": BOOL, "pixels": BOOL},
    "head": {"save": TEXT_OR_NULL, "load": Value(list)},
    "probe": {
        "shots": Value(object, null=True, hint="a whole number of at least 1, or a list of such"),
        "seeds": Value(object, hint="a list of whole numbers"),
        "solver": Value(str, choices=("adamw", "lbfgs")),
        "strength": Value(float, null=True, least=0),
        "splits": Value(list),
        "val_share": Value(float, least=0, most=1),
        "epochs": Value(int, least=1),
        "rate": Value(float, least=0),
        "batch_size": Value(int, least=1),
        "neighbours": Value(int, least=1),
    },
    "runtime": {
        "device": Value(str, pattern=r"auto|cpu|mps|cuda(:\d+)?", hint="auto, cpu, cuda, cuda:N or mps"),
        "devices": Value(int, least=1),
        "precision": Value(str, choices=("fp32", "bf16", "fp16", "datacomp", "datacomp_tf32")),
        "batch_size": Value(int, null=True, least=1),
        "workers": Value(int, null=True, least=0),
        "preprocess": Value(str, choices=("exact", "fast", "nvjpeg")),
        "resize": Value(str, choices=("auto", "workers", "device")),
        "compile": BOOL,
        "deterministic": BOOL,
    },
    "slurm": {
        "array": Value(int, least=1),
        "parallel": Value(int, null=True, least=1),
        "partition": TEXT_OR_NULL,
        "time": Value(int, least=1),
        "cpus": Value(int, least=1),
        "gpus": Value(int, least=0),
        "mem": TEXT_OR_NULL,
        "requeues": Value(int, least=0),
        "signal": Value(int, least=1),
        "setup": Value(list),
        "extra": Value(object, hint="options of sbatch and their values"),
        "logs": TEXT,
    },
}
TEXT_CLEAN = ("canonicalize", "lower", "whitespace", "none")
"""What is done to a text before the tokenizer reads it; see `clipeval.models.text_clean`."""
MOST_PIXELS = 4096
"""Of a side of a model's image: far beyond any model, and what a mistyped number would ask of the memory."""
PIXELS = {
    "size": Value(object, null=True, hint="a whole number of pixels, or [height, width]"),
    "mean": Value(object, null=True, hint="a number, or three, one a channel"),
    "std": Value(object, null=True, hint="a number above 0, or three, one a channel"),
    "interpolation": Value(str, null=True, choices=("bicubic", "bilinear")),
    "resize_mode": Value(str, null=True, choices=("shortest", "longest", "squash")),
    "fill_color": Value(int, null=True, least=0, most=255),
}
"""`model.preprocess`: what takes the place of the model's own description of its images."""
TOP = {"out": TEXT, "resume": Value(str, choices=("recompute", "refuse"))}
MODEL = {
    "_target_": TEXT,
    "name": TEXT,
    "pretrained": TEXT_OR_NULL,
    "config_dir": TEXT_OR_NULL,
    "strict_quickgelu": BOOL,
    "preprocess": Value(object, null=True, hint="{mean: …, std: …}, as in open_clip's preprocess_cfg"),
    "text_clean": Value(str, null=True, choices=TEXT_CLEAN),
    "context_length": Value(int, null=True, least=1),
    "image_size": PIXELS["size"],
    "ema": BOOL,
    "trust_remote_code": BOOL,
    "state_dict": TEXT_OR_NULL,
    "adapter": TEXT_OR_NULL,
    "interpolate": TEXT_OR_NULL,
    "alpha": Value(object, null=True, hint="a number from 0 to 1, or a list of such"),
    "dimensions": Value(object, null=True, hint="a whole number of at least 1, or a list of such"),
    "slug": Value(str, pattern=ID, hint="a name of letters, digits, dots, dashes and underscores"),
    "path": TEXT,
    "about": Value(object, null=True, hint="notes on a preset: source, data, licence"),
}
TASK = {
    "_target_": TEXT,
    "key": TEXT,
    "name": TEXT,
    "metric": TEXT_OR_NULL,
    "chance": Value(float, null=True, least=0, most=1),
    "group": TEXT,
    "splits": Value(list),
    "ties": Value(str, choices=("first", "reference")),
    "notes": Value(list),
}
PROMPTS = {
    "name": TEXT,
    "templates": Value(list),
    "path": TEXT,
    "source": TEXT,
    "descriptors": TEXT,
    "waffle": Value(int, least=1),
    "seed": Value(int, least=0),
    "words": TEXT,
    "aggregate": Value(str, choices=("vectors", "cosines")),
}


WRITTEN = ("cache.root", "head.save", "slurm.logs")
"""Folders of this machine that are written to."""


def check(config: DictConfig) -> None:
    """Checks a resolved config.

    Raises:
        ClipevalError: a key that nothing reads, with the nearest that something does; a value that its key cannot hold.
    """
    from omegaconf import OmegaConf  # shell completion reads the choices above, and need not wait for these

    from clipeval.configs.task_classes import task_class

    values = _mapping("config", OmegaConf.to_container(config, resolve=True))
    _keys("", values, [*CONFIG, *TOP, "model", "tasks", "task", "prompts", "prompt_sets", "protocol", "language"])
    for section, known in CONFIG.items():
        _section(section, values.get(section), known)
        for key in known:
            if key not in values[section]:
                raise ClipevalError(
                    f"{section}.{key} was taken out (~{section}.{key}), and every run needs one. Leave it in."
                )
    for key, rule in TOP.items():
        rule.check(key, values.get(key))
    for key in WRITTEN:
        _local(key, OmegaConf.select(config, key))
    _out(values["out"])
    _model(values.get("model"))
    _prompts("prompts", values.get("prompts"))
    for name, task in _mapping("tasks", values.get("tasks")).items():
        if not re.fullmatch(ID, name):
            raise ClipevalError(
                f"tasks.{name}: a task's name becomes a file's; use letters, digits, dots, dashes, underscores."
            )
        _task(f"tasks.{name}", task)
    # Last, for a task's class may bring torch with it, which a wrong word need not wait for.
    for name, task in values["tasks"].items():
        _keys(
            f"tasks.{name}.",
            task,
            [*TASK, *task_class(task["_target_"], f"tasks.{name}").fields, "data", "outside", "prompts"],
        )


def _local(key: str, value: object) -> None:
    if value == "":
        raise ClipevalError(
            f"{key}= is empty: a folder was expected. Leave the word out, or write {key}=. for this one."
        )
    if is_address(value):
        place = address_shown(str(value))
        raise ClipevalError(
            f"{key}={place}: a folder of this machine was expected, for files are replaced there while a run goes on. Name one, "
            f"as {key}=FOLDER, and copy it to {place.partition('://')[0]}:// afterwards; or mount the storage as a folder. Data "
            "are read from there by data.root, and results are kept there by out."
        )


def _out(value: str) -> None:
    """An address is written to, and stands in every record."""
    if not value:
        raise ClipevalError(
            "out= is empty: a folder or an address was expected. Leave the word out, or write out=. for this one."
        )
    if cut := re.match(r"(s3|gs|gcs|hf|az|abfs):/(?!/)", value):
        raise ClipevalError(
            f"out={value}: a slash is missing. pathlib takes one from an address; give it as text, {cut[1]}://…"
        )
    if not is_address(value):
        return
    parts, place = urlsplit(value), address_shown(value)
    if parts.scheme.lower() in ("http", "https"):
        raise ClipevalError(
            f"out={place}: the web is read, and not written to. Name a folder, or a storage's own address, such as s3://bucket/run."
        )
    if parts.password or parts.query or parts.fragment:
        what = "a password" if parts.password else "a ? or #"
        raise ClipevalError(
            f"out={place} holds {what}, and an address stands in every record: leave it out. Storage is logged in to by its own "
            "variables, such as AWS_PROFILE, or by fsspec's, FSSPEC_PROTOCOL_OPTION."
        )


_OWN_ARGUMENTS = (
    *("path", "config_dir", "text_clean", "context_length", "image_size"),
    *("adapter", "interpolate", "alpha", "dimensions", "trust_remote_code"),
)
"""Of a class of the user's own, these are its arguments, which only the class knows."""


def pixels(value: object, location: str = "model.preprocess") -> dict[str, Any]:
    """What a `model.preprocess` says of images, its nulls left out.

    Raises:
        ClipevalError: a key that is none, with the nearest; a value that its key cannot hold.
    """
    given = {key: item for key, item in _mapping(location, value).items() if key not in PIXELS or item is not None}
    _keys(f"{location}.", given, PIXELS)
    for key, item in given.items():
        rule = PIXELS[key]
        if key == "size":
            _size(f"{location}.size", item)
        elif key in ("mean", "std"):
            channels = item if isinstance(item, list | tuple) and len(item) == 3 else [item]
            low = 0 if key == "std" else -math.inf
            if not all(Value(float)._is_kind(v) and math.isfinite(v) and v > low for v in channels):
                raise ClipevalError(f"{location}.{key}={shown(item)}: {rule.expected} was expected.")
        else:
            rule.check(f"{location}.{key}", item)
    return given


def _size(location: str, value: object) -> None:
    sides: list[Any] = list(value) if isinstance(value, list | tuple) and len(value) == 2 else [value]
    if not all(Value(int)._is_kind(side) and 1 <= side <= MOST_PIXELS for side in sides):
        raise ClipevalError(
            f"{location}={shown(value)}: {PIXELS['size'].expected} was expected, each up to {MOST_PIXELS}."
        )


def _model(value: object) -> None:
    model = _mapping("model", value)
    own = not str(model.get("_target_", "clipeval.models.")).startswith("clipeval.models.")
    if not own:
        _keys("model.", model, MODEL)
    for key, rule in MODEL.items():
        if key in model and not (own and key in _OWN_ARGUMENTS):
            rule.check(f"model.{key}", model[key])
    if not own and model.get("preprocess") is not None:
        pixels(model["preprocess"])
    if not own and model.get("image_size") is not None:
        _size("model.image_size", model["image_size"])
    if not own:
        _several("model.alpha", model.get("alpha"), MODEL["alpha"], Value(float, least=0, most=1))
        _several("model.dimensions", model.get("dimensions"), MODEL["dimensions"], Value(int, least=1))
    if "_target_" not in model and model.get("pretrained") is None and ":" not in str(model.get("name")):
        raise ClipevalError(
            f"model.pretrained must be set: a tag of {model.get('name')}, a checkpoint file, or hf-hub:ORG/REPO."
        )


def _several(key: str, given: object, rule: Value, one: Value) -> None:
    """One value or a list of values, each of which is a model of its own."""
    values = given if isinstance(given, list) else [given]
    if given is None:
        return
    try:
        for value in values:
            one.check(key, value)
    except ClipevalError:
        values = []
    if not values or len(set(values)) < len(values):
        raise ClipevalError(f"{key}={shown(given)}: {rule.expected} was expected, each once.")


def _task(location: str, value: object) -> None:
    if value is None:
        raise ClipevalError(f"{location}=null: to leave a task out, write ~{location}.")
    task = _mapping(location, value)
    if "_target_" not in task:
        raise ClipevalError(
            f"{location} has no _target_, the class of its protocol. Inherit one: `defaults: [_classification]`."
        )
    for key, rule in TASK.items():
        if key in task or key in ("key", "name"):
            rule.check(f"{location}.{key}", task.get(key))
    _section(f"{location}.data", task.get("data"), DATA)
    if task.get("outside") is not None:
        _section(f"{location}.outside", task["outside"], DATA)
    names = task["data"].get("classnames")
    named = isinstance(names, dict) and all(isinstance(name, str) for name in names.values())
    if not (names is None or isinstance(names, str) or named or Value(list)._is_kind(names)):
        raise ClipevalError(f"{location}.data.classnames={shown(names)}: {DATA['classnames'].expected} was expected.")
    _pairs(f"{location}.data", task["data"])
    if not (task["data"].get("folder") or task["data"].get("path") or task["data"].get("hub")):
        raise ClipevalError(
            f"{location}.data names no images: set task.data.path=PATH ({location}.data.path=PATH in a suite)."
        )
    _prompts(f"{location}.prompts", task.get("prompts"))


def _pairs(location: str, data: Mapping[str, Any]) -> None:
    """What `clipeval.data.pairs` reads of `data`."""
    captions, correct = data.get("captions"), data.get("correct")
    numbers = correct if isinstance(correct, list) else [correct]
    wrong = {
        "captions": not (captions is None or isinstance(captions, str) or Value(list)._is_kind(captions)),
        "correct": not (correct is None or isinstance(correct, str) or all(COUNT_OR_NULL._is_kind(n) for n in numbers)),
        "sets": not _is_mapping_of(data.get("sets"), str),
        "where": not _is_mapping_of(data.get("where"), list),
        "gallery": not _is_mapping_of(data.get("gallery"), str | None),
        "box": len(data.get("box") or ()) not in (0, 4),
    }
    hints = {"box": "four columns, left, top, width and height, were"}
    for key in (key for key, is_wrong in wrong.items() if is_wrong):
        raise ClipevalError(
            f"{location}.{key}={shown(data[key])}: {hints.get(key, DATA[key].expected + ' was')} expected."
        )


def _is_mapping_of(value: object, kind: Any) -> bool:
    return value is None or (isinstance(value, dict) and all(isinstance(item, kind) for item in value.values()))


def _prompts(location: str, value: object) -> None:
    if value is None:
        return
    prompts = _mapping(location, value)
    _keys(f"{location}.", prompts, PROMPTS)
    TEXT.check(f"{location}.name", prompts.get("name"))
    for key, item in prompts.items():
        if item is not None:
            PROMPTS[key].check(f"{location}.{key}", item)
    given = [key for key in ("templates", "path", "source", "descriptors", "waffle") if prompts.get(key)]
    if len(given) > 1:
        raise ClipevalError(f"{location} has both {given[0]} and {given[1]}; give one.")


def _section(location: str, value: object, known: Mapping[str, Value]) -> None:
    section = _mapping(location, value)
    _keys(f"{location}.", section, known)
    for key, item in section.items():
        if known[key].kind is not object:
            known[key].check(f"{location}.{key}", item)


def _keys(before: str, given: Mapping[str, Any], known: Mapping[str, Any] | list[str]) -> None:
    for key in given:
        if key not in known:
            raise ClipevalError(nearest("key", f"{before}{key}", [f"{before}{name}" for name in dict.fromkeys(known)]))


def _mapping(location: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ClipevalError(no_value(location, shown(value)))
    return {str(key): item for key, item in value.items()}


def no_value(key: str, given: str) -> str:
    """What to say of a value in the place of a group of keys."""
    if key == "tasks":
        return (
            f"tasks={given}: tasks.NAME holds what a task of this run is; to choose what is run, write task=NAME, "
            "'task=[NAME,NAME]' or suite=NAME, and to leave one out ~tasks.NAME."
        )
    return f"{key}={given}: keys of its own were expected ({key}.KEY=…), not a value."
