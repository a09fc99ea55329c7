"""Zero-shot heads as files: kept by one run (`head.save=FOLDER`), used by another in place of prompts (`head.load=[…]`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from clipeval.configs.errors import ClipevalError
from clipeval.configs.files import write_atomically
from clipeval.models import ModelHandle
from clipeval.models.unsound import first_unsound
from clipeval.results import safe_json
from clipeval.tasks.base import Samples
from clipeval.tasks.zero_shot import mean_head

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class LoadedHead:
    """Class vectors from files.

    Attributes:
        weight: float32 [C, D], unit vectors; of several files their mean.
        name: for records.
        digest: sha256 of the vectors.
        flags: what a reader of the scores must know.
    """

    weight: torch.Tensor
    name: str
    digest: str
    flags: tuple[str, ...]


def head_path(folder: str | Path, task: str) -> Path:
    """Where the head of a task lies in a folder of heads."""
    return Path(folder).expanduser() / f"{task}{SUFFIX}"


def save_head(path: Path, weight: torch.Tensor, classnames: Sequence[str], about: Mapping[str, Any]) -> None:
    """Writes a head, whole or not at all.

    Args:
        path: the file.
        weight: float32 [C, D].
        classnames: C names, which a run that loads it is checked against.
        about: the text tower's digest (`text`), the model, the prompts, flags of prompts that were cut (`cut`),
            and where the class names are a translation the key of the set (`translated`).
    """
    metadata = {"classnames": json.dumps(list(classnames)), "about": json.dumps(dict(about), sort_keys=True)}
    write_atomically(path, save({"weight": weight.float().contiguous()}, metadata=metadata))


def load_heads(
    paths: Sequence[str], task: str, samples: Mapping[str, Samples], handle: ModelHandle, of: str | None = None
) -> LoadedHead:
    """The head of a task from files, or from folders that hold one for each task.

    Args:
        of: the key of the set, whatever the language: a head of its classes in another language (`translated`) will do.

    Raises:
        ClipevalError: a file is missing or damaged, or speaks of other classes.
    """
    classnames = list(samples["test"].classnames)
    heads, names, others = [], [], []
    for given in paths:
        path = Path(given).expanduser()
        path = head_path(path, task) if path.is_dir() else path
        weight, its_names, about = _read(path)
        translated = about.get("translated") == of is not None and len(its_names) == len(classnames)
        if its_names != classnames and not translated:
            at = next((i for i, (a, b) in enumerate(zip(its_names, classnames, strict=False)) if a != b), None)
            how = (
                f"{len(its_names)} where the set has {len(classnames)}"
                if at is None
                else f"{its_names[at]!r} for {classnames[at]!r}"
            )
            raise ClipevalError(
                f"{path}: its classes are not those of {task} ({how}). Choose the head of this very task."
            )
        if found := first_unsound(weight):
            name, what = classnames[found[0]], found[1]
            raise ClipevalError(f"{path}: the class vector of {name!r} is {what}. Make the head again with head.save.")
        heads.append(weight)
        names.append(_prompts_name(about, path))
        others += [f"the head {path.name}: {flag}" for flag in about.get("cut") or ()]
        if about.get("text") != handle.text_digest:
            others.append(f"the head {path.name} was made by another text tower ({about.get('model')})")
    if len({weight.shape for weight in heads}) > 1:
        raise ClipevalError(
            f"head.load: the heads of {task} have widths {[h.shape[1] for h in heads]}; they cannot be averaged."
        )
    weight = mean_head(heads) if len(heads) > 1 else heads[0]
    digest = hashlib.sha256(weight.numpy().tobytes()).hexdigest()
    return LoadedHead(weight, f"head of {' + '.join(names)}", digest, tuple(others))


def _prompts_name(about: Mapping[str, Any], path: Path) -> str:
    prompts = about.get("prompts")
    return str(prompts.get("name", path.stem)) if isinstance(prompts, dict) else path.stem


def _read(path: Path) -> tuple[torch.Tensor, list[str], dict[str, Any]]:
    if not path.is_file():
        raise ClipevalError(
            f"head.load: {path} does not exist. Make it with head.save=FOLDER, in a run of the same task."
        )
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            names, about = safe_json.parse(metadata["classnames"]), safe_json.parse(metadata["about"])
            weight = file.get_tensor("weight").float()
    except (SafetensorError, KeyError, ValueError) as problem:
        raise ClipevalError(f"{path} is no head that head.save wrote ({problem}).") from None
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names) and isinstance(about, dict)):
        raise ClipevalError(f"{path} is no head that head.save wrote (its metadata names no classes).")
    if weight.shape[:-1] != (len(names),) or not weight.isfinite().all():
        raise ClipevalError(
            f"{path} is no head that head.save wrote (finite vectors for {len(names)} classes were expected, and its weight is "
            f"{list(weight.shape)})."
        )
    return weight, names, about
