"""Zero-shot heads: class names and templates to prompts, prompt embeddings to class vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:  # whose templates are of the type below
    from clipeval.tasks.base import Samples

Templates = Sequence[str] | Mapping[str, Sequence[str]]
"""Prompt templates, `{c}` standing for the class name; or, for class-specific prompts, {class name: prompts}."""


@dataclass(frozen=True)
class Pooling:
    """How a class's prompts become its vector.

    Attributes:
        weights: of each template, or {class name: of each of its prompts}; None: all alike.
        cosines: whether the score of a class is the mean of its prompts' cosines, as DCLIP and WaffleCLIP have it: then the mean
            of the prompts' vectors is not normalised again.
    """

    weights: tuple[float, ...] | Mapping[str, tuple[float, ...]] | None = None
    cosines: bool = False

    def of_classes(self, classnames: Sequence[str], counts: Sequence[int]) -> list[float] | None:
        """The weight of every prompt, class by class.

        Raises:
            ValueError: a class has another number of them than of prompts, or they are negative or sum to 0.
        """
        if self.weights is None:
            return None
        found: list[float] = []
        for name, count in zip(classnames, counts, strict=True):
            own = self.weights[name] if isinstance(self.weights, Mapping) else self.weights
            if len(own) != count or min(own) < 0 or not sum(own) > 0:
                raise ValueError(
                    f"the {count} prompts of {name!r} need a weight each, none negative and not all 0; got {list(own)}"
                )
            found += [weight / sum(own) for weight in own]
        return found


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


def zero_shot_classifier(
    texts: torch.Tensor, counts: Sequence[int], weights: Sequence[float] | None = None, normalise: bool = True
) -> torch.Tensor:
    """Class vectors: L2-normalise every prompt, take the mean of each class, L2-normalise it.

    As open_clip's and clip_benchmark's `zero_shot_classifier`.

    Args:
        texts: float32 [T, D], the prompts' embeddings, class by class.
        counts: the prompts of each of C classes; their sum is T.
        weights: T of them, those of a class of sum 1; None: a plain mean.
        normalise: False: the mean stays as it is, so that its product with an image is the mean of the prompts' cosines.

    Returns:
        float32 [C, D].
    """
    if len(texts) != sum(counts):
        raise ValueError(f"{sum(counts)} prompts were asked for, but there are {len(texts)} embeddings")
    texts = F.normalize(texts.float(), dim=-1)
    if weights is not None:
        weighted = texts * torch.tensor(weights, dtype=torch.float32, device=texts.device)[:, None]
        means = torch.stack([part.sum(dim=0) for part in torch.split(weighted, list(counts))])
    elif len(set(counts)) == 1:
        means = texts.view(len(counts), counts[0], -1).mean(dim=1)
    else:
        means = torch.stack([part.mean(dim=0) for part in torch.split(texts, list(counts))])
    return torch.div(means, means.norm(dim=-1, keepdim=True)) if normalise else means


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
        counts, pooling = prompt_counts(samples.classnames, samples.templates), samples.pooling
        return zero_shot_classifier(
            texts, counts, pooling.of_classes(samples.classnames, counts), normalise=not pooling.cosines
        )
    if len(given) != len(samples.classnames):
        raise ValueError(f"the given head has {len(given)} classes, and the set has {len(samples.classnames)}")
    return given


def mean_head(heads: Sequence[torch.Tensor]) -> torch.Tensor:
    """The mean of several heads float32 [C, D], each of unit vectors, normalised again."""
    return F.normalize(torch.stack([F.normalize(one.float(), dim=-1) for one in heads]).mean(dim=0), dim=-1)
