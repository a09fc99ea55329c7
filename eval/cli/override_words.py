"""Which Hydra overrides a half typed word can become: groups and their options, keys and their values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clipeval.configs import catalog
from clipeval.configs.data_keys import DATA
from clipeval.configs.errors import ClipevalError
from clipeval.configs.schema import CONFIG, TASK, TOP
from clipeval.configs.values import Value

SECTIONS = ("data", "cache", "head", "probe", "runtime", "slurm")
DEVICES = ("auto", "cpu", "cuda", "mps")


def override_words(typed: str, before: Sequence[str] = ()) -> Iterator[str]:
    """Every word that `typed` may become, and some that it may not.

    Args:
        typed: the word, such as `mod`, `model=vit`, `tasks.mn`, `~tasks.`, `+task@tasks.mine=`.
        before: the words before it, of which model=, suite= and task= decide which keys there are.
    """
    chosen = {group: name for group, _, name in (word.partition("=") for word in before)}
    config_dir = next((before[i + 1] for i, word in enumerate(before[:-1]) if word == "--config-dir"), None)
    try:
        yield from _words(typed, chosen, config_dir)
    except ClipevalError:  # a name that does not exist yet: there is nothing to offer for it
        return


def _words(typed: str, chosen: Mapping[str, str], config_dir: str | None) -> Iterator[str]:
    sign = typed[:1] if typed[:1] in ("+", "~") else ""
    key, equals, value = typed.removeprefix(sign).partition("=")
    if equals:
        yield from (f"{sign}{key}={value_text}" for value_text in _values(key, value, chosen, config_dir))
        return
    if sign == "~":
        yield from (f"~tasks.{name}" for name in _tasks(chosen, config_dir))
        return
    if sign == "+":
        yield "+task@tasks."
        return
    yield from (f"{group}=" for group in catalog.GROUPS)
    yield from ("out=", "resume=", "language=")
    yield from _keys(key, chosen, config_dir)


def _keys(key: str, chosen: Mapping[str, str], config_dir: str | None) -> Iterator[str]:
    """Keys below the section that is typed; before its dot, the sections alone."""
    section, dot, _ = key.partition(".")
    if not dot:
        yield from (f"{name}." for name in (*SECTIONS, "model", "tasks", "task"))
        return
    if section in SECTIONS:
        yield from _flat(section, _section(section))
    elif section == "model":
        yield from _flat("model", catalog.content("model", chosen.get("model", "quickstart"), config_dir))
    elif section == "task" and chosen.get("task"):
        yield from _flat("task", catalog.content("task", chosen["task"], config_dir))
    elif section == "tasks":
        tasks, name = _tasks(chosen, config_dir), key.split(".")[1]
        if name in tasks and key.count(".") > 1:
            yield from _flat(f"tasks.{name}", catalog.content("task", tasks[name], config_dir))
        else:
            yield from (f"tasks.{task}." for task in tasks)


def _section(name: str) -> dict[str, Any]:
    if name in ("runtime", "slurm"):
        return catalog.content(name, "default")
    value = catalog.config()[name]
    assert isinstance(value, dict)
    return value


def _flat(before: str, values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(f"{before}.{key}", value)
        elif key != "_target_":
            yield f"{before}.{key}="


def _tasks(chosen: Mapping[str, str], config_dir: str | None) -> dict[str, str]:
    """{name: option} of the run's tasks."""
    return catalog.suite_tasks(chosen.get("suite", "quickstart"), config_dir)


def _values(key: str, value: str, chosen: Mapping[str, str], config_dir: str | None) -> Iterator[str]:
    group = "task" if key.startswith("task@") else "prompts" if key.endswith(".prompts") else key
    if group in catalog.GROUPS:
        before, comma, _ = value.rpartition(",")  # a sweep: model=a,b
        yield from (f"{before}{comma}{name}" for name in catalog.group_options(group, config_dir))
    elif (rule := _rule(key)) is not None and rule.choices:
        yield from rule.choices
    elif key == "runtime.device":
        yield from DEVICES
    elif key == "data.source":
        yield from catalog.config()["data"]["sources"]
    elif key == "language" and chosen.get("task"):
        data = catalog.content("task", chosen["task"], config_dir).get("data") or {}
        yield from ("all", *map(str, data.get("languages") or ()))
    elif isinstance(_current(key, chosen, config_dir), bool):
        yield from ("true", "false")


def _rule(key: str) -> Value | None:
    """What the schema says of a key; None where it says nothing."""
    section, _, name = key.partition(".")
    if section in ("task", "tasks"):
        name = name if section == "task" else name.partition(".")[2]
        return DATA.get(name.removeprefix("data.")) if name.startswith("data.") else TASK.get(name)
    return CONFIG[section].get(name) if section in CONFIG else TOP.get(key)


def _current(key: str, chosen: Mapping[str, str], config_dir: str | None) -> Any:
    """The value that a key has by itself; None where there is none."""
    section, *parts = key.split(".")
    if section in SECTIONS:
        value: Any = _section(section)
    elif section == "model":
        value = catalog.content("model", chosen.get("model", "quickstart"), config_dir)
    elif section == "task" and chosen.get("task"):
        value = catalog.content("task", chosen["task"], config_dir)
    elif section == "tasks" and parts and parts[0] in (tasks := _tasks(chosen, config_dir)):
        value = catalog.content("task", tasks[parts.pop(0)], config_dir)
    else:
        return None
    for part in parts:
        value = value.get(part) if isinstance(value, dict) else None
    return value
