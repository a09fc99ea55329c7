"""Hydra's and OmegaConf's exceptions as one sentence that names the nearest thing that would have worked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from clipeval.configs.catalog import GROUPS, unknown
from clipeval.configs.errors import closest, nearest
from clipeval.configs.schema import no_value

Recompose = Callable[[Sequence[str]], DictConfig]


def explain(
    problem: Exception, overrides: Sequence[str], recompose: Recompose, files: Callable[[str], Sequence[str]]
) -> str:
    """One line for the user.

    Args:
        problem: what Hydra, OmegaConf or YAML raised.
        overrides: the user's words.
        recompose: composes some of those words again, to find out which keys there are.
        files: the names of a group's files, bases included.
    """
    text = str(problem)
    if isinstance(problem, OverrideParseException):
        reason = text.removeprefix(f"Error parsing override '{problem.override}'").strip().splitlines()[0]
        return (
            f"{problem.override!r} is not an override ({reason}). Write key=value, +key=value or ~key, and quote a value "
            f"that holds one of ,=[]{{}} or a letter beyond ASCII: \"key='a=b'\"."
        )
    if isinstance(problem, MissingConfigException) and problem.missing_cfg_file:
        return _missing(problem, files)
    if found := re.match(r"Could not override '([^']+)'", text):
        if "@" in found[1]:
            return _no_default(found[1])
        config = _without_values(overrides, recompose)
        return unknown_key(_within(found[1], overrides, config), config)
    if found := re.match(r"Could not delete(?: from config\.)? '([^']+)'", text):
        return unknown_key(found[1].removeprefix("task@"), _without_values(overrides, recompose))
    if found := re.match(r"Could not append to config\. An item is already at '([^']+)'", text):
        return f"+{found[1]}: it is there already. To change it, leave out the plus: {found[1]}=…"
    if found := re.match(r"Error merging override \+{0,2}([^=]+)=(\[.*)", text):
        return no_value(found[1], found[2])
    if found := re.match(r"Ambiguous value for argument '([^']+)'", text):
        key = found[1].partition("=")[0]
        return f"{found[1]!r} holds several values. For a run of each add -m; for a list write '{key}=[…]'."
    if text.startswith("Config group override must be"):
        return _bad_choice(overrides)
    if found := re.match(r"Multiple values for (\S+)\. To override", text):
        return f"+{found[1]}=…: the config chooses one already; to change its choice leave out the plus: {found[1]}=…"
    if found := re.search(r"config group '([^']+)' does not exist", text):
        return nearest("config group", found[1], GROUPS)
    return " ".join(text.split())


def _missing(problem: MissingConfigException, files: Callable[[str], Sequence[str]]) -> str:
    group, _, name = str(problem.missing_cfg_file).rpartition("/")
    options = files(group)
    parent = re.match(r"In '([^']+)'", str(problem))
    inherits = parent is not None and parent[1] != "config" and not parent[1].startswith("suite/")
    location = f"{parent[1]}.yaml: " if inherits and parent else ""
    if not group:
        return f"{location}Unknown config group or file {name!r}."
    if group.startswith("model/") and not location:
        return unknown("model", f"{group.removeprefix('model/')}/{name}", options)
    text = location + unknown(group, name, options if inherits else [o for o in options if not o.startswith("_")])
    return text if location else f"{text}. Your own: --config-dir=DIR with DIR/{group}/{name}.yaml"


def _within(key: str, overrides: Sequence[str], config: DictConfig) -> str:
    """Of keys given in braces (`head={save: x, b: 1}`), the first that there is not; else the key itself."""
    node = OmegaConf.select(config, key)
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        value = override.value()
        if override.key_or_group == key and isinstance(value, dict) and isinstance(node, DictConfig):
            return next((f"{key}.{name}" for name in value if name not in node), key)
    return key


def _no_default(key: str) -> str:
    group, _, package = key.partition("@")
    if group == "prompts":
        return f"{key}=… is not how a task gets its prompts; write {package}=NAME."
    return f"{key}=… changes a choice that the config does not make; to add it write +{key}=…"


def _bad_choice(overrides: Sequence[str]) -> str:
    parser = OverridesParser.create()
    for word in overrides:
        override = parser.parse_override(word)
        key = override.key_or_group
        if not isinstance(override.value(), (str, list)) and (not key or "." not in key):
            if not key:
                break
            null = f", or ~{key} for none" if override.value() is None else ""
            return f"{word!r}: {key}= takes the name of one of its configs{null}."
    return f"{' '.join(overrides)!r}: a config group takes the name of one of its configs."


def unknown_key(key: str, config: DictConfig) -> str:
    """What to say of a key that a config does not have."""
    known: Any = config
    path = key.split(".")
    if path[0] == "hydra":  # a launcher's own, of which the config knows what the launcher declares
        return f"Unknown key {key!r} of Hydra or its launcher. If the launcher reads it all the same, write +{key}=…"
    while path and isinstance(known, DictConfig) and path[0] in known:
        known = known._get_node(path.pop(0))
    if not path:
        return f"~{key}: it is null already."
    before = key.removesuffix(".".join(path))
    if not isinstance(known, DictConfig):
        return f"Unknown key {key!r}. {before.rstrip('.')} is a value and holds no keys."
    if before == "tasks.":
        return nearest("task of this run", path[0], [str(name) for name in known])
    siblings = [f"{before}{name!s}" for name in known if name != "hydra"]
    leaf = path[-1]
    elsewhere = [k for k in _keys(config) if k.rpartition(".")[2] == leaf and not k.startswith(("tasks.", "hydra."))]
    if elsewhere and not closest(key, siblings):
        return f"Unknown key {key!r}. Did you mean: {', '.join(elsewhere[:3])}?"
    return nearest("key", f"{before}{path[0]}", siblings)


def _without_values(overrides: Sequence[str], recompose: Recompose) -> DictConfig:
    """The config with the user's choices of groups, and without the values among which the wrong one is."""
    choices = [w for w in overrides if re.match(rf"\+{{0,2}}({'|'.join(GROUPS)})(@[^=]*)?=", w)]
    try:
        return recompose(choices)
    except (HydraException, OmegaConfBaseException, ValueError):
        return recompose([])


def _keys(config: DictConfig, before: str = "") -> Iterator[str]:
    for name in config:
        key = f"{before}{name!s}"
        yield key
        node = config._get_node(name)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            yield from _keys(node, f"{key}.")
