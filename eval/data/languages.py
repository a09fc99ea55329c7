"""Class names and templates in other languages, as clip_benchmark packages them."""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from clipeval.configs.errors import ClipevalError, nearest
from clipeval.data.split import Split, split_digest
from clipeval.data.subset import take
from clipeval.tasks.base import Samples

BABEL = "babel_imagenet"
"""The set whose languages name some of ImageNet's classes each (Geigle et al. 2023)."""


def translate(split: Split, language: str, key: str) -> Split:
    """A split whose classes are asked for in another language.

    Args:
        split: with labels.
        language: as clip_benchmark names it: en, cn, jp, it, ar; of Babel-ImageNet DE, FR and so on.
        key: the task's key, SET/LANGUAGE; SET is the name in clip_benchmark's files.

    Returns:
        The same images; those whose class has no name in the language are left out.

    Raises:
        ClipevalError: there are no class names of this set in this language, or another number than the set's.
    """
    name = key.removesuffix(f"/{language}").rsplit("/", 1)[-1]
    samples = split.samples
    if name == BABEL:
        places, classnames, templates = _babel(language)
        if max(places) >= len(samples.classnames):
            raise ClipevalError(
                f"{key}: Babel-ImageNet speaks of ImageNet's 1,000 classes; here are {len(samples.classnames)}."
            )
        samples = _only(samples, places)
    else:
        classnames = _packaged(f"{language}_classnames.json", name)
        templates = _packaged(f"{language}_zeroshot_classification_templates.json", name)
        if len(classnames) != len(samples.classnames):
            raise ClipevalError(
                f"{key}: clip_benchmark names {len(classnames)} classes in {language!r}, and the set has {len(samples.classnames)}."
            )
    samples = dataclasses.replace(samples, classnames=classnames, templates=templates)
    return dataclasses.replace(split, samples=samples, digest=split_digest(split.images, samples))


def _babel(language: str) -> tuple[list[int], list[str], list[str]]:
    """Places among ImageNet's classes, names, templates."""
    names, templates = read_packaged("babel_imagenet.json"), read_packaged("nllb_dist13b_prompts.json")
    if language not in names or language not in templates:
        raise ClipevalError(f"Babel-ImageNet: {nearest('language', language, [n for n in names if n in templates])}")
    places, classnames = names[language]
    return places, classnames, [template.replace("{}", "{c}") for template in templates[language]]


def _only(samples: Samples, places: list[int]) -> Samples:
    """The samples of some classes, which are numbered anew."""
    assert samples.labels is not None
    number = np.full(len(samples.classnames), -1)
    number[places] = np.arange(len(places))
    labels = number[samples.labels]
    kept = np.flatnonzero(labels >= 0)
    if not len(kept):
        raise ClipevalError("no image is of a class that has a name in this language.")
    return dataclasses.replace(take(samples, kept), labels=labels[kept])


def _packaged(file: str, name: str) -> list[str]:
    try:
        sets = read_packaged(file)
    except FileNotFoundError:
        raise ClipevalError(
            f"clip_benchmark packages no {file}; languages of class names are en, cn, jp, it, ar."
        ) from None
    if name not in sets:
        raise ClipevalError(f"clip_benchmark's {file} speaks of {', '.join(sets)}, and not of {name}.")
    return list(sets[name])


@cache
def read_packaged(file: str) -> Mapping[str, Any]:
    """A JSON file among clip_benchmark's sets."""
    path = importlib.resources.files("clip_benchmark").joinpath("datasets", file)
    content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
