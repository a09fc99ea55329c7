"""Zero-shot heads: class names and templates to prompts, prompt embeddings to class vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:  # whose templates are of the type below
    from clipeval.tasks.base import Samples

Templates = Sequence[str] | Mapping[str, Sequence[str]]
"""Prompt templates, `{c}` standing for the class name; or, for class-specific prompts, {class name: prompts}."""


def class_prompts(classnames: Sequence[str], templates: Templates) -> list[list[str]]:
    """The prompts of each class, in the classes' order.

    `{c}` alone is special in a template; any other brace is text. Class-specific prompts may hold `{c}` too.

    Raises:
        ValueError: there is no class or no template, no template says where the class name goes (every class would ask the
            same), or a class has no prompts of its own.
    """
    if not classnames:
        raise ValueError("there are no class names; give one for each label, in the labels' order")
    if isinstance(templates, str):
        raise ValueError(f"templates must be a list of strings; got one string, {templates!r}")
    if isinstance(templates, Mapping):
        missing = [name for name in dict.fromkeys(classnames) if not templates.get(name)]
        if missing:
            shown = ", ".join(repr(name) for name in missing[:5]) + (", …" if len(missing) > 5 else "")
            raise ValueError(
                f"{len(missing)} of {len(set(classnames))} classes have no prompts: {shown}; "
                "add a list of prompts under each one's exact name"
            )
        strings = [name for name in dict.fromkeys(classnames) if isinstance(templates[name], str)]
        if strings:
            raise ValueError(f"the prompts of {strings[0]!r} must be a list of strings; got one string")
        return [[prompt.replace("{c}", name) for prompt in templates[name]] for name in classnames]
    if not templates:
        raise ValueError("there are no templates; give at least one, such as 'a photo of a {c}.'")
    if len(set(classnames)) > 1 and not any("{c}" in template for template in templates):
        raise ValueError(
            f"no template holds {{c}}, the place of the class name, so all classes would have one prompt: {templates[0]!r}"
        )
    return [[template.replace("{c}", name) for template in templates] for name in classnames]


def prompts(classnames: Sequence[str], templates: Templates) -> list[str]:
    """Every prompt, class by class: the rows that `head` expects."""
    return [prompt for group in class_prompts(classnames, templates) for prompt in group]


def prompt_counts(classnames: Sequence[str], templates: Templates) -> list[int]:
    """How many prompts each class has."""
    if isinstance(templates, Mapping):
        return [len(templates[name]) for name in classnames]
    return [len(templates)] * len(classnames)


def zero_shot_classifier(texts: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """Class vectors: L2-normalise every prompt, take the mean of each class, L2-normalise it.

    As open_clip's and clip_benchmark's `zero_shot_classifier`.

    Args:
        texts: float32 [T, D], the prompts' embeddings, class by class.
        counts: the prompts of each of C classes; their sum is T.

    Returns:
        float32 [C, D].
    """
    if len(texts) != sum(counts):
        raise ValueError(f"{sum(counts)} prompts were asked for, but there are {len(texts)} embeddings")
    texts = F.normalize(texts.float(), dim=-1)
    if len(set(counts)) == 1:
        means = texts.view(len(counts), counts[0], -1).mean(dim=1)
    else:
        means = torch.stack([part.mean(dim=0) for part in torch.split(texts, list(counts))])
    return torch.div(means, means.norm(dim=-1, keepdim=True))


def head_texts(samples: Samples) -> list[str]:
    """The prompts of a split's head, class by class; none where its class vectors are given."""
    return prompts(samples.classnames, samples.templates) if samples.head is None else []


def classifier_weights(texts: torch.Tensor, samples: Samples) -> torch.Tensor:
    """float32 [C, D]: the class vectors that a split gives, else what the embeddings of `head_texts` make.

    Raises:
        ValueError: there is not one for each class.
    """
    given = samples.head
    if given is None:
        return zero_shot_classifier(texts, prompt_counts(samples.classnames, samples.templates))
    if len(given) != len(samples.classnames):
        raise ValueError(f"the given head has {len(given)} classes, and the set has {len(samples.classnames)}")
    return given


def mean_head(heads: Sequence[torch.Tensor]) -> torch.Tensor:
    """The mean of several heads float32 [C, D], each of unit vectors, normalised again."""
    return F.normalize(torch.stack([F.normalize(one.float(), dim=-1) for one in heads]).mean(dim=0), dim=-1)
