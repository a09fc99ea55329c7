"""One task, asked in several ways: by another protocol (`protocol=linear_probe`), in other languages (`language=[de,fr]`), with
other prompts (`prompts=[simple,cupl]`).

Each way is a task of its own, with its own name and record. What they share, the images, is embedded once.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from clipeval.configs.errors import ClipevalError, nearest
from clipeval.configs.ood import each_outside
from clipeval.configs.task_classes import task_class

_OF = "variant of"
"""A key of a task while variants are made of it: the task's name."""
Tasks = dict[str, dict[str, Any]]


def expand(config: DictConfig) -> dict[str, str]:
    """Puts the variants in the place of a resolved config's tasks.

    Returns:
        {a variant: the task that it was made of}, which is what `~tasks.NAME` leaves out.

    Raises:
        ClipevalError: a task cannot be asked in that way, or has no such language.
    """
    content: Any = OmegaConf.to_container(config, resolve=True)
    tasks, protocol = content.get("tasks"), content.get("protocol")
    if not isinstance(tasks, dict) or not all(isinstance(node, dict) and "_target_" in node for node in tasks.values()):
        return {}  # clipeval.configs.schema says what is wrong
    if not isinstance(protocol, dict):
        raise ClipevalError(f"protocol={protocol}: leave it out, or name one of configs/protocol/.")
    nodes: Tasks = {str(name): {**node, _OF: str(name)} for name, node in each_outside(tasks).items()}
    if protocol.get("of"):
        nodes = _by_protocol(nodes, protocol, content)
    if content.get("language") is not None:
        nodes = _in_languages(nodes, content["language"])
    if content.get("prompt_sets") is not None:
        nodes = _with_prompts(nodes, content["prompt_sets"])
    origin = {name: node.pop(_OF) for name, node in nodes.items()}
    if nodes != tasks:
        config.tasks = nodes
    return origin


def _by_protocol(nodes: Tasks, protocol: Mapping[str, Any], content: Mapping[str, Any]) -> Tasks:
    """Every task as another protocol asks it, in the terms of configs/protocol/."""
    others = [
        name for name, node in nodes.items() if node["_target_"] not in (protocol["of"], protocol["task"]["_target_"])
    ]
    if others:
        raise ClipevalError(
            f"protocol={protocol['name']} takes the place of {protocol['of']}, and {', '.join(others)} "
            f"ask otherwise. Leave them out: {' '.join(f'~tasks.{name}' for name in others)}"
        )
    settings = dict(content.get(protocol["takes"]) or {})
    values = settings.get(protocol["each"])
    found: Tasks = {}
    for name, node in nodes.items():
        if node["_target_"] == protocol["task"]["_target_"]:
            found[name] = node  # asks in this way by itself
            continue
        for value in values if isinstance(values, list) else [values]:
            made = _made(node, protocol, {**settings, **({protocol["each"]: value} if protocol["each"] else {})})
            ids, labels = [protocol["id"]], [node["name"], protocol["label"]]
            if value is not None:
                ids.append(str(value))
                labels.append(protocol["each_label"].format(value))
            made["key"], made["name"] = f"{node['key']}/{'-'.join(ids)}", ", ".join(labels)
            found["-".join([name, *ids])] = made
    return found


def _made(node: Mapping[str, Any], protocol: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    known = {*task_class(protocol["task"]["_target_"], "protocol.task").fields, "data", "notes", "prompts", _OF}
    metric = protocol["metrics"].get(node.get("metric"), protocol["metric"])
    kept = {key: copy.deepcopy(value) for key, value in node.items() if key in known}
    return {**kept, "metric": metric, **protocol["task"], **settings}


def _in_languages(nodes: Tasks, wanted: object) -> Tasks:
    found: Tasks = {}
    several = {name for name, node in nodes.items() if (node.get("data") or {}).get("languages")}
    for name, node in nodes.items():
        if wanted == "all" and several and name not in several:  # a set of one language has been asked in all of them
            found[name] = node
            continue
        for language in _languages(name, node, wanted):
            made = copy.deepcopy(node)
            made["data"]["language"] = language
            made["key"], made["name"] = f"{node['key']}/{language}", f"{node['name']}, {language}"
            made["group"] = f"{node['name']} by language"
            found[f"{name}-{language}"] = made
    return found


def _with_prompts(nodes: Tasks, sets: Mapping[str, Any]) -> Tasks:
    """Every classification once with each prompt set."""
    others = [name for name, node in nodes.items() if not task_class(node["_target_"]).asks_with_prompts]
    if others:
        raise ClipevalError(
            f"prompts=[…] asks about class names in several ways, and {', '.join(others)} ask otherwise. Leave them out: "
            f"{' '.join(f'~tasks.{name}' for name in others)}"
        )
    found: Tasks = {}
    for name, node in nodes.items():
        for prompts, content in sets.items():
            made = {**copy.deepcopy(node), "prompts": copy.deepcopy(content)}
            made["key"], made["name"] = f"{node['key']}/{prompts}", f"{node['name']}, {prompts}"
            made["group"] = f"{node['name']} by prompts"
            found[f"{name}-{prompts}"] = made
    return found


def _languages(name: str, node: Mapping[str, Any], wanted: object) -> Iterator[str]:
    known = (node.get("data") or {}).get("languages") or []
    if not known:
        raise ClipevalError(
            f"language={wanted}: {name} is in one language only. Leave it out (~tasks.{name}), or list what its captions are in "
            f"as tasks.{name}.data.languages."
        )
    given = wanted if isinstance(wanted, list) else [wanted]
    for language in known if given == ["all"] else given:
        if str(language) not in map(str, known):
            raise ClipevalError(f"{name}: {nearest('language', language, known)}")
        yield str(language)
