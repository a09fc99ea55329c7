"""From a model, by any of its names, to the names under which its results were published.

Two things make this more than a look-up. A model has many names: open_clip's name and tag, a place on the Hub, a transformers
checkpoint, a file of weights. And the name of a published row need not say what was run: until its release 3, open_clip loaded
the tag `openai` with QuickGELU whatever the architecture's name, and the row `ViT-B-16 dfn2b` was made without it though the
weights were trained with it.
"""

from __future__ import annotations

import csv
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

QUICKGELU = "-quickgelu"

HUB, LOCAL = "hf-hub:", "local-dir:"

_MARKED = re.compile(r"-[0-9a-f]{8}(?=$|__)", re.ASCII)

OTHER_SIZES: Mapping[tuple[str, str], tuple[str, str]] = {
    ("ViT-SO400M-14-SigLIP-378", "webli"): ("ViT-SO400M-14-SigLIP-384", "webli"),
}
"""Names of open_clip's for the same weights at another image size."""


@dataclass(frozen=True)
class PublishedName:
    """A name in the registry.

    Attributes:
        model, pretrained: as the registry has them.
        remark: in what the published model differs from the one that was asked for; empty where it does not.
    """

    model: str
    pretrained: str
    remark: str = ""


def published_names(
    name: str | None, pretrained: str | None = None, *, hub: str | None = None, weights: str | None = None
) -> list[PublishedName]:
    """The names under which a model's results may have been published, the nearest first.

    Args:
        name: open_clip's name, a place on the Hub, or the name of a transformers checkpoint's folder.
        pretrained: open_clip's tag, or `hf-hub:ORG/REPO`.
        hub: its place on the Hub, where another name than these two says it.
        weights: the digest of its weights, as a run's `model.weights` has it.

    Returns:
        Names to look up; whether anything was published under one of them is the registry's to say. Empty where nothing
        that was given names a model.
    """
    pair = canonical_name(name, pretrained, hub=hub, weights=weights)
    if pair is None:
        return []
    model, tag = pair
    base = model.removesuffix(QUICKGELU)
    names = [PublishedName(model, tag, _remark(model, model, tag))]
    other = base if model != base else base + QUICKGELU
    names.append(PublishedName(other, tag, _remark(model, other, tag)))
    if pair in OTHER_SIZES:
        names.append(
            PublishedName(*OTHER_SIZES[pair], "the published row is of the same weights at another image size")
        )
    # What was run with the same activation comes first, then what has the same name.
    return sorted(names, key=lambda item: bool(item.remark))


def canonical_name(
    name: str | None, pretrained: str | None = None, *, hub: str | None = None, weights: str | None = None
) -> tuple[str, str] | None:
    """open_clip's name and tag of a model, by any of its names; None where they do not name one.

    A name and tag of open_clip's are taken at their word: they say with which activation the model is run, which its weights
    do not. Arguments as for `published_names`.
    """
    name = (name or "").removeprefix(HUB).strip("/")
    tag = (pretrained or "").removeprefix("./")
    if name and tag and "/" not in tag and not tag.endswith(WEIGHTS):
        return name.replace("/", "-"), _clean_tag(tag)
    # Beside other weights, the name of a repository is that of an architecture.
    for place in (hub, tag) if tag else (hub, name):
        place = (place or "").removeprefix(HUB).strip("/")
        if place in _aliases()["hub"]:
            return _aliases()["hub"][place]
    if tag.startswith(HUB):
        return name, tag
    if weights in _aliases()["weights"]:
        return _aliases()["weights"][str(weights)]
    if not tag:
        return _leaves().get(Path(name).name.lower())
    return None


def of_record(model: Mapping[str, Any]) -> dict[str, Any]:
    """What names the model of a run or record, as keyword arguments of `published_names`.

    A name that was given to weights of one's own (a folder that is called like a checkpoint of the Hub, a model in memory) says
    nothing of them: then their digest alone counts.
    """
    weights = model.get("weights")
    if has_own_weights(model):
        return {"name": None, "pretrained": None, "hub": None, "weights": weights}
    return {
        "name": model.get("name"),
        "pretrained": model.get("pretrained"),
        "hub": model.get("hub"),
        "weights": weights,
    }


def has_own_weights(model: Mapping[str, Any]) -> bool:
    """Whether the `model` of a run or record says that its weights are a file's, a folder's or an object's in memory."""
    if model.get("own_weights"):
        return True
    name, tag = str(model.get("name") or ""), str(model.get("pretrained") or "")
    if name.startswith(LOCAL) or (os.sep in tag and not tag.startswith(HUB)) or tag.endswith(WEIGHTS):
        return True
    # Records of earlier versions do not say so: the slug of what is read from a file ends with a mark of where it lies, and that of
    # a model in memory is its name, where one of the Hub's begins with who published it.
    slug = str(model.get("slug") or "")
    in_memory = bool(name) and bool(model.get("weights")) and not tag and slug == name
    return "hub" not in model and (in_memory or _MARKED.search(slug) is not None)


def namesake(model: Mapping[str, Any]) -> str:
    """The published model that a run's own weights are called like and are not known to be; empty where there is none."""
    if not has_own_weights(model) or canonical_name(**of_record(model)) is not None:
        return ""
    name, _, tag = str(model.get("name") or "").removeprefix(LOCAL).rstrip("/").partition(" ")
    pair = canonical_name(name, str(model.get("pretrained") or "") or tag or None)
    return " ".join(pair or ())


def needs_quickgelu(model: str, pretrained: str) -> bool:
    """Whether the weights of a tag were trained with QuickGELU, whatever the architecture's name."""
    return f"{model.removesuffix(QUICKGELU)} {pretrained}" in _aliases()["quickgelu"]


WEIGHTS = (".pt", ".pth", ".bin", ".safetensors", ".ckpt", ".json")


def ran_with_quickgelu(model: str, pretrained: str) -> bool:
    """Whether a published row of this name was computed with QuickGELU."""
    return model.endswith(QUICKGELU) or pretrained == "openai"


def _remark(asked: str, published: str, tag: str) -> str:
    """In what the published row of a name differs from the model that was asked for."""
    quick = asked.endswith(QUICKGELU)
    if quick == ran_with_quickgelu(published, tag):
        return ""
    needed = needs_quickgelu(asked, tag)
    if quick:
        expected = ", which these weights were trained with: expect other, mostly higher, scores" if needed else ""
        return f"the published row {published} {tag} was made without QuickGELU{expected}"
    cure = f": these weights were trained with it, so run model.name={asked}{QUICKGELU}" if needed else ""
    return f"the published row {published} {tag} was made with QuickGELU, and {asked} has none{cure}"


def _clean_tag(tag: str) -> str:
    """As open_clip reads a tag: in lower case, with underscores."""
    return tag.lower().replace("-", "_")


@cache
def _aliases() -> Mapping[str, Mapping[str, tuple[str, str]]]:
    """{kind: {alias: (model, pretrained)}}; the kinds are hub, quickgelu and weights."""
    aliases: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
    with open(Path(__file__).with_name("names.csv"), newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            aliases[row["kind"]][row["alias"]] = row["model"], row["pretrained"]
    return aliases


@cache
def _leaves() -> Mapping[str, tuple[str, str]]:
    """{the last part of a place on the Hub, in lower case: (model, pretrained)}, of those that one place alone has."""
    leaves: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for alias, pair in _aliases()["hub"].items():
        leaves[alias.rpartition("/")[2].lower()].add(pair)
    return {leaf: next(iter(pairs)) for leaf, pairs in leaves.items() if len(pairs) == 1}
