"""From the words of a command line to one checked config.

    config = compose(["suite=imagenet", "model=vit_b_32_openai", "data.root=/data"])

Hydra composes, then `finish` makes one place of what can be said in several, and `clipeval.configs.schema` checks every key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from clipeval.configs import value_words
from clipeval.configs.catalog import CONFIG_DIR, GROUPS, files, group_options, option_file
from clipeval.configs.copies import choose_copies
from clipeval.configs.errors import ClipevalError, nearest
from clipeval.configs.group_lists import spell_group_lists
from clipeval.configs.old_names import renamed
from clipeval.configs.ood import spell as spell_ood
from clipeval.configs.quick_merges import quick_merges
from clipeval.configs.remembered import Composed, Memory
from clipeval.configs.resolvers import register
from clipeval.configs.schema import CONFIG, check, no_value
from clipeval.configs.values import shown
from clipeval.configs.variants import expand

CONFIG_NAME = "config"
VERSION_BASE = "1.3"
register()


def compose(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> DictConfig:
    """Composes the config of a run.

    Args:
        overrides: Hydra's words: `suite=vtab`, `~tasks.sun397`, `tasks.mnist.metric=acc5`, `+task@tasks.mine=mine`.
        config_dir: the user's own config folder, as `--config-dir`: DIR/task/mine.yaml and so on.

    Returns:
        Resolved, every key known and of its type, in struct mode. All tasks are in `tasks`; `task` is null.

    Raises:
        ClipevalError: one sentence that says which word is wrong, what there is, and the nearest to it.
    """
    overrides = spell_group_lists(spell_ood(overrides))
    searchpath = _searchpath(config_dir)
    words, values = value_words.split(overrides)
    memory = Memory(words, config_dir)
    composed = memory.recall()
    if composed is None:
        composed = _composed(words, overrides, searchpath, config_dir)
        memory.note(composed)
    if (key := value_words.unknown(composed[0], values)) is not None:
        from clipeval.configs.explain import unknown_key

        raise ClipevalError(unknown_key(key, OmegaConf.create(composed[0])))
    if not value_words.put(composed[0], values):
        composed = _composed(overrides, overrides, searchpath, config_dir)
    return _finish(*composed, config_dir)


def finish(config: DictConfig, choices: Mapping[str, Any], config_dir: str | Path | None = None) -> DictConfig:
    """What `compose` does after Hydra; a function under `hydra.main` calls it with `HydraConfig.get().runtime.choices`.

    A single `task` takes the suite's place, names of prompt sets become the sets, interpolations are resolved, each set's copy
    is chosen, keys are checked.

    Raises:
        ClipevalError: a value is missing, unknown or of another type than its key wants.
    """
    content = OmegaConf.to_container(config, resolve=False)
    assert isinstance(content, dict)
    return _finish({str(key): value for key, value in content.items()}, choices, config_dir)


def _finish(content: dict[str, Any], choices: Mapping[str, Any], config_dir: str | Path | None) -> DictConfig:
    content = renamed(content)
    if content.get("task") is not None:  # the suite that it replaces is not to be filled in
        content["tasks"] = {}
    for group in ("tasks", "model", *CONFIG):
        given = content.get(group)
        if given is not None and not isinstance(given, dict):
            raise ClipevalError(no_value(group, shown(given)))
        if given is None and group != "tasks":  # of which `check` says what is wrong
            raise ClipevalError(
                f"{group} is no group of keys, and every run needs them; leave out ~{group}, and write {group}.KEY=…"
            )
    missing = list(_open(content))
    if missing:
        raise ClipevalError(f"{', '.join(missing)} must be set: add {' '.join(f'{key}=…' for key in missing)}.")
    config = OmegaConf.create(content)
    try:
        _one_place(config, choices)
        _name_prompts(config, config_dir)
        _several_prompts(config, config_dir)
        OmegaConf.resolve(config)
        origin = expand(config)
    except OmegaConfBaseException as problem:
        raise ClipevalError(f"the config cannot be resolved: {' '.join(str(problem).split())}") from None
    choose_copies(config, origin)
    check(config)
    OmegaConf.set_struct(config, True)
    return config


def override(key: str, value: object) -> str:
    """`key=value` as a word for `compose`, whatever the text holds: spaces, commas, quotes, equals signs.

    >>> override("data.root", "/data/a=b, c")
    "data.root='/data/a=b, c'"
    """
    if isinstance(value, (str, Path)):
        return f"{key}={_quoted(str(value))}"
    return f"{key}={'null' if value is None else value}"


def task_ids(config: DictConfig) -> list[str]:
    """The names of a composed config's tasks, in order; also those of their records."""
    return [str(name) for name in config.tasks]


def _quoted(text: str) -> str:
    """A text in Hydra's quotes, where backslashes count double before a quote and at the end."""
    inner = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", inner) + "'"


def _composed(
    words: Sequence[str], overrides: Sequence[str], searchpath: Sequence[str], config_dir: str | Path | None
) -> Composed:
    """What Hydra makes of the words; an error speaks of all `overrides`, of which they are.

    Hydra is imported here: where its answer is remembered, nobody waits for it.
    """
    from hydra.errors import HydraException

    from clipeval.configs.explain import explain

    def recompose(words: Sequence[str]) -> DictConfig:
        return _hydra([*words, *searchpath])

    try:
        config = recompose(words)
    except (HydraException, OmegaConfBaseException, ValueError, yaml.YAMLError) as problem:
        raise ClipevalError(explain(problem, overrides, recompose, lambda g: files(g, config_dir))) from None
    except AssertionError:  # Hydra takes a word such as += for a choice without a group
        raise ClipevalError(f"{' '.join(overrides)}: a key is missing; write key=value.") from None
    choices = {str(k): v for k, v in config.hydra.runtime.choices.items()}
    content = OmegaConf.to_container(config, resolve=False)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items() if key != "hydra"}, choices


def _hydra(overrides: Sequence[str]) -> DictConfig:
    from hydra import compose, initialize_config_dir

    from clipeval.configs.quick_choices import quick_choices

    with initialize_config_dir(config_dir=str(CONFIG_DIR), version_base=VERSION_BASE), quick_merges(), quick_choices():
        return compose(CONFIG_NAME, list(overrides), return_hydra_config=True)


def _searchpath(config_dir: str | Path | None) -> list[str]:
    if config_dir is None:
        return []
    folder = Path(config_dir).expanduser().absolute()
    if not folder.is_dir():
        raise ClipevalError(
            f"--config-dir: {folder} is not a folder. It should hold task/, suite/ or model/ with YAML files."
        )
    for group in GROUPS:
        ours = {file.stem for file in (CONFIG_DIR / group).glob("*.yaml")}
        same = sorted(ours & {file.stem for file in (folder / group).glob("*.yaml")})
        if same:
            raise ClipevalError(
                f"--config-dir: {folder / group / same[0]}.yaml has the name of one of clipeval's own, which would be used in "
                f"its place. Give it another name."
            )
    return [f"hydra.searchpath=[{_quoted(f'file://{folder}')}]"]


def _open(content: Any, key: str = "") -> Iterator[str]:
    """The keys whose values are left to the user."""
    if content == "???":
        yield key
    elif isinstance(content, dict):
        for name, item in content.items():
            yield from _open(item, f"{key}.{name}" if key else str(name))


def _one_place(config: DictConfig, choices: Mapping[str, Any]) -> None:
    """Moves `task` into `tasks`, under its file's name or the `id` that it was given."""
    task = config.get("task")
    if isinstance(task, DictConfig):
        config.tasks = {task.get("id") or choices.get("task") or "task": task}
        config.task = None
    if isinstance(config.get("tasks"), DictConfig):
        for node in config.tasks.values():
            if isinstance(node, DictConfig):
                node.pop("id", None)


def _name_prompts(config: DictConfig, config_dir: str | Path | None) -> None:
    """Puts prompt sets in the place of their names: `tasks.mnist.prompts=simple`."""
    tasks = config.tasks if isinstance(config.get("tasks"), DictConfig) else {}
    nodes = [("", config), *((f"tasks.{name!s}.", task) for name, task in tasks.items())]
    nodes += [
        (f"{location}inside.", node.inside)
        for location, node in nodes
        if isinstance(node, DictConfig) and isinstance(node.get("inside"), DictConfig)
    ]
    for location, node in nodes:
        name = node.get("prompts") if isinstance(node, DictConfig) else None
        if isinstance(name, str):
            node.prompts = _prompts(name, f"{location}prompts", config_dir)


def _several_prompts(config: DictConfig, config_dir: str | Path | None) -> None:
    """Puts prompt sets in the place of `prompt_sets`: names, NAME:FILE where a set leaves a file open, or files of one's own."""
    given = config.get("prompt_sets")
    if given is None:
        return
    if not isinstance(given, ListConfig) or not all(isinstance(word, str) and word for word in given) or len(given) < 2:
        raise ClipevalError(
            f"prompts={given}: two prompt sets or more were expected in the list, as in prompts=[openai_imagenet_80,simple]."
        )
    found: dict[str, Any] = {}
    options = group_options("prompts", config_dir)
    for word in map(str, given):
        name, _, path = word.partition(":")
        if name in options:
            content = OmegaConf.to_container(OmegaConf.load(option_file("prompts", name, config_dir)))
            assert isinstance(content, dict)
            gaps = list(_open(content))
            if bool(path) != bool(gaps):
                needs = f"leaves {gaps[0]} open: write {name}:FILE" if gaps else "takes no file"
                raise ClipevalError(f"prompts=[…]: {name} {needs}.")
            found[name if not path else f"{name}-{Path(path).stem}"] = {**content, **dict.fromkeys(gaps, path)}
        elif "/" in word or word.endswith((".txt", ".json")):
            found[Path(word).stem] = {"name": Path(word).stem, "path": word}
        else:
            raise ClipevalError(f"prompts=[…]: {nearest('prompt set', name, options)}")
    if len(found) < len(given):
        raise ClipevalError(
            f"prompts=[{','.join(map(str, given))}]: two of them have one name; each becomes a task of its own."
        )
    config.prompt_sets = found


def _prompts(name: str, key: str, config_dir: str | Path | None) -> dict[str, Any]:
    options = group_options("prompts", config_dir)
    if name not in options:
        raise ClipevalError(f"{key}: {nearest('prompt set', name, options)}")
    content = OmegaConf.to_container(OmegaConf.load(option_file("prompts", name, config_dir)))
    assert isinstance(content, dict)
    gaps = list(_open(content))
    if gaps:
        raise ClipevalError(f"{key}={name} leaves {key}.{gaps[0]} open; write '{key}={{name: {name}, {gaps[0]}: …}}'.")
    return {str(k): v for k, v in content.items()}
