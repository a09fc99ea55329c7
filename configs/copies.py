"""Whose copy of a set a task reads: `data.source` chooses among its `data.copies`.

    copies: {datacomp: vtab/caltech101, clip_benchmark: vtab/caltech101}

A copy is the set's name in a collection, from which its folder and its repository follow as `data.sources` says ({name} is that
name with - for /), or a mapping of the keys of `data` that are special to it, beside `name`:
`{name: winoground, hub: facebook/winoground}`. A copy that lacks splits which its collection has otherwise says those it has:
`{name: sun397, splits: [test]}`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from clipeval.configs.data_keys import DATA
from clipeval.configs.errors import ClipevalError, nearest


def choose_copies(config: DictConfig, origin: Mapping[str, str] | None = None) -> None:
    """Puts the chosen copy's folder, repository and so on into each task's `data`, in place of `copies`.

    What the task's `data` already says stands. With `data.source=null` a task takes the first copy, in the order of
    `data.sources`, that has its splits (a probe's train); tasks without copies (one's own data) have nothing to choose.

    Args:
        config: resolved, its variants made.
        origin: {a variant: the task that it was made of}, as `~tasks.NAME` calls it.

    Raises:
        ClipevalError: the source is unknown, lacks some of the sets (all are named), or a copy is not of the form above.
    """
    sources = _sources(config.data.get("sources"))
    source = config.data.get("source")
    if source is not None and source not in sources:
        raise ClipevalError(nearest("data.source", source, sources))
    lacking: dict[str, list[str]] = {}
    parts = [(name, node, part) for name, node in (config.get("tasks") or {}).items() for part in ("data", "outside")]
    for name, node, part in parts:
        data = node.get(part) if isinstance(node, DictConfig) else None
        if not isinstance(data, DictConfig) or "copies" not in data:
            continue
        copies = OmegaConf.to_container(data, resolve=True)["copies"] or {}  # type: ignore[index, call-overload]
        del data["copies"]
        location = f"tasks.{name}.{part}.copies"
        if not isinstance(copies, dict):
            raise ClipevalError(f"{location}={copies!r}: a source's name and the set's name there were expected.")
        for unknown in (key for key in copies if key not in sources):
            raise ClipevalError(f"{location}: {nearest('source', unknown, sources)}")
        chosen = _first(copies, sources, node.get("splits") or ()) if source is None else source
        if chosen is not None and chosen in copies:
            _fill(data, _copy(copies[chosen], sources[chosen], f"{location}.{chosen}"))
            wanted = node.get("splits") or ()
            if not _has(copies, sources, chosen, wanted) and data.get("elsewhere") is None:
                data["task"] = (origin or {}).get(str(name), str(name))
                data["elsewhere"] = [key for key in sources if key in copies and _has(copies, sources, key, wanted)]
        elif copies and not (data.get("folder") or data.get("path")):
            lacking[(origin or {}).get(str(name), str(name))] = list(copies)
    if lacking:
        elsewhere = [key for key in sources if any(key in has for has in lacking.values())]
        raise ClipevalError(
            f"data.source={source} has no copy of {', '.join(lacking)} ({' and '.join(elsewhere)}: yes). Leave out what it lacks "
            f"(~tasks.{next(iter(lacking))}), or say data.source=null, which takes the first copy that a set has."
        )


def _first(copies: Mapping[str, Any], sources: Mapping[str, Any], splits: Collection[str]) -> str | None:
    """The first copy with all of the splits; where none has them, the first: what is missing is said when it is opened."""
    there = [key for key in sources if key in copies]
    whole = [key for key in there if _has(copies, sources, key, splits)]
    return next(iter([*whole, *there]), None)


def _has(copies: Mapping[str, Any], sources: Mapping[str, Any], source: str, splits: Collection[str]) -> bool:
    """Whether a source's copy is known to have some splits."""
    own = copies[source].get("splits") if isinstance(copies[source], Mapping) else None
    return set(splits) <= set(own or sources[source].get("splits") or splits)


def _sources(value: Any) -> dict[str, Mapping[str, Any]]:
    sources: Any = OmegaConf.to_container(value, resolve=True) if isinstance(value, DictConfig) else value
    if not isinstance(sources, dict) or not all(_is_source(source) for source in sources.values()):
        raise ClipevalError(
            f"data.sources={sources!r}: for each source its folder and hub were expected, texts with {{name}} in them (and its "
            "splits, if not all sets have all)."
        )
    return {str(name): source for name, source in sources.items()}


def _is_source(value: Any) -> bool:
    if not isinstance(value, dict) or not {"folder", "hub"} <= set(value) <= {"folder", "hub", "splits"}:
        return False
    texts = isinstance(value["folder"], str) and isinstance(value["hub"], (str, type(None)))
    return texts and isinstance(value.get("splits"), (list, type(None)))


def _copy(value: Any, source: Mapping[str, Any], location: str) -> dict[str, Any]:
    """The keys of `data` that a copy stands for."""
    own = {"name": value} if isinstance(value, str) else value
    if not isinstance(own, dict) or not isinstance(own.get("name"), str):
        raise ClipevalError(f"{location}={value!r}: the set's name there was expected, or keys with `name` among them.")
    for key in own:
        if key not in ("name", "splits", *DATA):
            known = [f"{location}.{known}" for known in ("name", "splits", *DATA)]
            raise ClipevalError(nearest("key", f"{location}.{key}", known))
    folder = own.get("folder") or _insert(source["folder"], name=own["name"].replace("/", "-"))
    hub = source["hub"] and _insert(source["hub"], name=own["name"].replace("/", "-"), folder=folder)
    return {"folder": folder, "hub": hub, **{key: item for key, item in own.items() if key not in ("name", "splits")}}


def _insert(pattern: str, **words: str) -> str:
    for word, text in words.items():
        pattern = pattern.replace(f"{{{word}}}", text)
    return pattern


def _fill(data: DictConfig, copy: Mapping[str, Any]) -> None:
    for key, value in copy.items():
        if data.get(key) is None:
            data[key] = value
