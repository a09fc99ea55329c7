"""The registry of published results: one tidy table, of which a reader loads only the rows that it asks for.

| column | what it holds |
|---|---|
| source | the name of a source, see `sources()` and the page `<source>.md` in this folder |
| model, pretrained | open_clip's name and tag; for weights without a tag, `hf-hub:ORG/REPO` |
| key | the task's key, as records hold it (`vtab/pets`, `crossmodal3600/de`); `…/avg` is an average that the source prints |
| metric, value | the metric by clipeval's name, and its value as a proportion |
| digits | how many decimals of `value` were printed; 17 for a float that was written out in full |
| recipe | how the source computed it: the name of a recipe in `RECIPES` |
| date, file | when the source's file last changed, and which file it is |

`scripts/published_registry.py` makes the table from the sources' own files. Values of a run never come from here: published
values are shown beside a run's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path(__file__).parent

COLUMNS = ("source", "model", "pretrained", "key", "metric", "value", "digits", "recipe", "date", "file")

FULL = 17
"""`digits` of a value that was written as a float, unrounded."""

RECIPES: Mapping[str, str] = {
    "datacomp": "images in fp32, texts, retrieval and WinoGAViL under automatic mixed precision (runtime.precision=datacomp)",
    "autocast": "images and texts under automatic mixed precision",
    "fp32": "images and texts in fp32",
    "unknown": "its precision is not stated",
}
"""How the sources computed their values, as far as they say."""


@dataclass(frozen=True)
class Source:
    """Who published something.

    Attributes:
        name: as the registry's column `source` has it; `<name>.md` in this folder is its page.
        title: to print.
        url: where its files lie.
        recipe: a key of `RECIPES`.
        licence: of the values.
        prompts: the prompts that were used, in words; empty where they are DataComp's.
    """

    name: str
    title: str
    url: str
    recipe: str
    licence: str
    prompts: str = ""


@cache
def sources() -> tuple[Source, ...]:
    """Every source, in the order in which tables name them."""
    content = yaml.safe_load((FOLDER / "sources.yaml").read_text(encoding="utf-8"))
    return tuple(Source(name, **about) for name, about in content.items())


def source(name: str) -> Source:
    """A source by its name. Raises KeyError."""
    return {each.name: each for each in sources()}[name]


def rows(
    models: Collection[tuple[str, str]] | None = None,
    keys: Collection[str] | None = None,
    sources: Collection[str] | None = None,
) -> pd.DataFrame:
    """The rows of some models, tasks and sources; None stands for all.

    Args:
        models: (model, pretrained) as the registry names them; `rows_of_model` finds those of a model by any of its names.
        keys: tasks' keys.
        sources: names of sources.

    Returns:
        The columns of `COLUMNS`, texts as objects, in the registry's order.
    """
    import pyarrow.parquet as pq

    wanted: list[tuple[str, str, Any]] = []
    if models is not None:
        wanted.append(("model", "in", {name for name, _ in models}))
    for column, values in (("key", keys), ("source", sources)):
        if values is not None:
            wanted.append((column, "in", set(values)))
    if any(not values for _, _, values in wanted):  # Arrow finds no type for an empty set
        wanted = [("model", "in", {""})]
    table: pd.DataFrame = pq.read_table(FOLDER / "registry.parquet", filters=wanted or None).to_pandas(
        strings_to_categorical=False, ignore_metadata=True
    )
    texts = {name: "object" for name in COLUMNS if name not in ("value", "digits")}
    table = table.astype(texts)
    if models is not None:
        pairs = zip(table["model"], table["pretrained"], strict=True)
        table = table[np.array([pair in models for pair in pairs], dtype=bool)].reset_index(drop=True)
    return table


def rows_of_model(
    name: str | None, pretrained: str | None = None, *, hub: str | None = None, weights: str | None = None
) -> pd.DataFrame:
    """What was published of a model, whatever it is called.

    Args:
        name: open_clip's name, a place on the Hub (`openai/clip-vit-base-patch32`), or the name of a transformers checkpoint's
            folder (`clip-vit-base-patch32`).
        pretrained: open_clip's tag, or `hf-hub:ORG/REPO`.
        hub: its place on the Hub, where another name than these two says it.
        weights: the digest of its weights, as a run's `model.weights` has it.

    Returns:
        As `rows`, and the column `remark`: in what the published model differs from this one; empty where it does not.
        No row where nothing was published, or the model is not known by any of its names.
    """
    from clipeval.results.published.names import published_names

    names = published_names(name, pretrained, hub=hub, weights=weights)
    place = {(item.model, item.pretrained): index for index, item in enumerate(names)}
    table = rows(models=set(place))
    table["place"] = [place[pair] for pair in zip(table["model"], table["pretrained"], strict=True)]
    # A source may have the model by two of its names: the nearest one is meant.
    table = table[table["place"] == table.groupby("source")["place"].transform("min")]
    table["remark"] = [names[index].remark for index in table.pop("place")]
    return table.reset_index(drop=True)


def rows_of_task(key: str, metric: str | None = None) -> pd.DataFrame:
    """What was published of a task: every model's rows, as `rows`, of one metric or of all."""
    table = rows(keys=[key])
    return table if metric is None else table[table["metric"] == metric].reset_index(drop=True)
