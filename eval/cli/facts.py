"""What is known of a task, a model or a suite without running anything: its config, what is on this machine, what was published."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clipeval.cli import published
from clipeval.configs import catalog
from clipeval.configs.errors import ClipevalError
from clipeval.configs.resolvers import bundled

Facts = dict[str, Any]
NO_LICENCE = "the set's page says under which terms it may be used, and whether one has to ask"
BUNDLED_LICENCE = "comes with clipeval; eval/bundled/LICENSES has its terms"


def task_facts(task: str, root: str | None = None, config_dir: str | None = None) -> Facts:
    """What a task asks, of which data, where that comes from and whether it is here.

    Args:
        task: an option of the group `task`.
        root: data.root; None: not known, so that nothing can be here but bundled sets.
        config_dir: the user's config folder.

    Raises:
        ClipevalError: there is no such task, with the nearest names.
    """
    content = catalog.content("task", task, config_dir)
    data = content.get("data") or {}
    copies = list(_copies(task, content, root))
    return {
        "task": task,
        "name": content.get("name"),
        "what": catalog.describe("task", task, config_dir) or content.get("name"),
        "key": content.get("key"),
        "group": content.get("group"),
        "protocol": protocol_of(content),
        "metric": content.get("metric"),
        "chance": content.get("chance"),
        "samples": data.get("samples"),
        "classes": data.get("classes"),
        "splits": list(content.get("splits") or []),
        "languages": list(data.get("languages") or []),
        "notes": list(content.get("notes") or []),
        "sources": copies,
        "here": any(copy["here"] for copy in copies),
        "licence": BUNDLED_LICENCE if _is_bundled(data) else NO_LICENCE if copies else None,
        "published": published.of_task(str(content.get("key"))),
        "suites": [
            suite for suite in catalog.group_options("suite", config_dir) if task in _members(suite, config_dir)
        ],
    }


def licence(facts: Facts) -> str | None:
    """A task's licence and gating as the hub's page of its first copy says them, now or when it was last asked."""
    hub = next((copy["hub"] for copy in facts["sources"] if copy["hub"]), None)
    if facts["licence"] != NO_LICENCE or hub is None:
        return facts["licence"]  # type: ignore[no-any-return]
    from clipeval.configs.hub_terms import known  # with the hub's client

    return known(hub) or f"{NO_LICENCE} (the hub was not to be reached)"


def model_licence(facts: Facts) -> str | None:
    """A model's licence: its preset's, or what the hub's page of its weights says now or said; None of a model without any."""
    about = facts["about"]
    place = facts["weights"] or facts["path"] or about.get("source") or ""
    repo = None if Path(place).exists() else re.match(r"(?:https://huggingface\.co/)?([\w.-]+/[\w.-]+)$", place)
    if about.get("licence") or not (about or repo):
        return about.get("licence")  # type: ignore[no-any-return]
    from clipeval.configs.hub_terms import known

    said = known(repo[1], "model") if repo else None
    return said or "see the page of its weights"


def task_row(task: str, root: str | None, config_dir: str | None = None) -> Facts:
    """The part of `task_facts` that stands in a list."""
    content = catalog.content("task", task, config_dir)
    data = content.get("data") or {}
    return {
        "task": task,
        "name": content.get("name"),
        "group": content.get("group"),
        "protocol": protocol_of(content),
        "metric": content.get("metric"),
        "chance": content.get("chance"),
        "samples": data.get("samples"),
        "classes": data.get("classes"),
        "here": any(copy["here"] for copy in _copies(task, content, root)),
    }


def protocol_of(content: Mapping[str, Any]) -> str:
    """The protocol's name: of clipeval's own the base that names the class (`_linear_probe.yaml`), else the class's."""
    target = str(content.get("_target_"))
    name = target.rpartition(".")[2]
    own = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() if target.startswith("clipeval.tasks.") else name
    return catalog.protocols().get(target) or own


def suite_facts(suite: str, root: str | None = None, config_dir: str | None = None) -> Facts:
    """What a suite asks.

    Raises:
        ClipevalError: there is no such suite, with the nearest names.
    """
    members = _members(suite, config_dir)
    rows = [{**task_row(option, root, config_dir), "task": name} for name, option in members.items()]
    counts = [row["samples"] for row in rows if row["samples"]]
    return {
        "suite": suite,
        "what": catalog.describe("suite", suite, config_dir),
        "tasks": rows,
        "samples": sum(counts),
        "here": sum(row["here"] for row in rows),
    }


def model_facts(model: str, config_dir: str | None = None, named: Mapping[str, str] | None = None) -> Facts:
    """What a model preset names: architecture, weights, size, what it was trained on, published scores.

    Args:
        model: an option of the group `model`.
        config_dir: the user's config folder.
        named: values of `name`, `pretrained` and `path` in place of the preset's.

    Raises:
        ClipevalError: there is no such preset, with the nearest names.
    """
    from clipeval.cli import open_clip_files

    content = catalog.content("model", model, config_dir)
    for key, value in (named or {}).items():
        if key not in content:
            raise ClipevalError(f"model={model} has no key {key}; leave out model.{key}={value}")
        content = {**content, key: value}
    name, tag = given(content.get("name")) or given(content.get("path")), given(content.get("pretrained"))
    row = published.of_model(name, tag) if name else None
    files = open_clip_files.weights(name, tag) if name and tag else None
    profile = published.profile(name) if name else {}
    return {
        "model": " ".join([model, *(f"model.{key}={value}" for key, value in (named or {}).items())]),
        "what": catalog.describe("model", model, config_dir),
        "name": name,
        "pretrained": tag,
        "path": given(content.get("path")),
        "about": content.get("about") or {},
        "image_size": profile.get("image_size") or open_clip_files.image_size(str(name)),
        "parameters_m": (row or {}).get("params (M)") or profile.get("mparams"),
        "gflops": (row or {}).get("FLOPs (B)") or profile.get("gflops"),
        "weights": None if files is None else files.describe(),
        "here": _model_is_here(content, files),
        "open": [key for key, value in content.items() if value == "???"],
        "published": row,
    }


def given(value: Any) -> str | None:
    """A preset's value; None for what the user is to give, and for what follows from that."""
    return None if value is None or value == "???" or "${" in str(value) else str(value)


def _model_is_here(content: Mapping[str, Any], files: Any) -> bool | None:
    """None where that depends on what the user names."""
    name = str(content.get("name"))
    if "${bundled:" in name:
        return True
    return None if files is None else files.here()


def _members(suite: str, config_dir: str | None) -> dict[str, str]:
    return catalog.suite_tasks(suite, config_dir)


def _is_bundled(data: Mapping[str, Any]) -> bool:
    return "${bundled:" in str(data.get("root"))


def _copies(task: str, content: Mapping[str, Any], root: str | None) -> Iterator[Facts]:
    """Where a task's data can come from: source, folder, repository, its page, whether it is here and how large."""
    data = content.get("data") or {}
    if _is_bundled(data):
        yield _copy("bundled", str(data.get("folder")), None, bundled("data"), content)
        return
    own_root = data.get("root") or root
    sources = catalog.config()["data"]["sources"]
    for source, copy in (data.get("copies") or {}).items():
        own = {"name": copy} if isinstance(copy, str) else copy
        pattern = sources[source]
        name = str(own["name"]).replace("/", "-")
        folder = own.get("folder") or pattern["folder"].replace("{name}", name)
        hub = pattern["hub"] and pattern["hub"].replace("{name}", name).replace("{folder}", folder)
        yield _copy(source, folder, own.get("hub") or hub, own_root, content)
    if not data.get("copies") and (data.get("folder") or data.get("hub")):
        hub = data.get("hub")
        folder = data.get("folder") or str(hub).replace("/", "--")
        copy = _copy("own", folder, hub, own_root, content)
        yield copy if hub else {**copy, "page": data.get("page")}


def _copy(source: str, folder: str, hub: str | None, root: str | None, content: Mapping[str, Any]) -> Facts:
    place = Path(root).expanduser() / folder if root else None
    here = place is not None and place.is_dir()
    return {
        "source": source,
        "folder": folder,
        "hub": hub,
        "page": f"https://huggingface.co/datasets/{hub}" if hub else None,
        "here": here,
        "path": str(place) if here else None,
        "bytes": size_of(place) if here and place is not None else None,
        "splits_here": [name for name in content.get("splits") or [] if here and place and (place / name).is_dir()],
    }


def size_of(folder: Path) -> int:
    """Bytes of a folder's files, links followed to files but not to folders."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
