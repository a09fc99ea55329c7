"""What can be named on a command line: the options of each config group, read without Hydra and without torch.

`clipeval list`, `show` and shell completion read the YAML files by this module, in milliseconds. What is run is composed by
Hydra (`clipeval.configs.compose`); tests/configs/test_catalog.py holds that both read the same values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from clipeval.configs.errors import SHOWN, ClipevalError, nearest

CONFIG_DIR = Path(__file__).resolve().parent
GROUPS = ("model", "suite", "task", "protocol", "prompts", "runtime", "slurm")
LISTED = ("model", "suite", "task")
"""Groups of more options than an error lists; `clipeval list` does."""
_PLACED = re.compile(r"^/?(?:task@tasks)\.(?P<id>.+)$")


def group_options(group: str, config_dir: str | Path | None = None) -> list[str]:
    """What `group=` may name, the bases that files inherit left out.

    Raises:
        ClipevalError: there is no such group.
    """
    if group not in GROUPS:
        raise ClipevalError(nearest("config group", group, GROUPS))
    return [name for name in files(group, config_dir) if not name.startswith("_")]


def describe(group: str, option: str, config_dir: str | Path | None = None) -> str:
    """The first comment of an option's file; for a task that has none, its name."""
    text = option_file(group, option, config_dir).read_text(encoding="utf-8")
    comment = re.search(r"^# (?!@package)(.*)$", text, re.MULTILINE)
    name = re.search(r"^name: (.*)$", text, re.MULTILINE)
    found = comment if comment and text.startswith("#") else name
    return found[1].strip() if found else ""


def option_file(group: str, option: str, config_dir: str | Path | None = None) -> Path:
    """The YAML file that `group=option` names.

    Raises:
        ClipevalError: there is none.
    """
    for file in (folder / group / f"{option}.yaml" for folder in folders(config_dir)):
        if file.is_file():
            return file
    raise ClipevalError(unknown(group, option, group_options(group, config_dir)))


def unknown(group: str, option: str, options: Iterable[str]) -> str:
    """What to say of an option that a group does not have; of a model, also how one is named that has no preset."""
    if group == "model" and "/" in option:
        return (
            f"{option!r} is no preset of a model. A repository of the hub, or a folder: model=hf_transformers "
            f"model.path={option}, or, where open_clip wrote it, model=open_clip model.name=hf-hub:{option} (or local-dir:FOLDER)"
        )
    names = list(options)
    text = nearest(group, option, names)
    if group in LISTED and len(names) > SHOWN:
        text += f": `clipeval list {group}s`"
    if group != "model":
        return text
    # open_clip spells its architectures with capitals, and no preset has one.
    name = option if option != option.lower() else "ARCHITECTURE"
    return f"{text}. Without a preset: model=open_clip model.name={name} model.pretrained=TAG"


def folders(config_dir: str | Path | None) -> list[Path]:
    """The config folders: clipeval's own, and the user's."""
    return [CONFIG_DIR, *([Path(config_dir).expanduser()] if config_dir else [])]


def files(group: str, config_dir: str | Path | None) -> list[str]:
    """The names of a group's files, bases included."""
    return sorted({file.stem for folder in folders(config_dir) for file in (folder / group).glob("*.yaml")})


def content(group: str, option: str, config_dir: str | Path | None = None) -> dict[str, Any]:
    """The values of an option, those that it inherits by its `defaults` included. Interpolations stay as they are written.

    Raises:
        ClipevalError: it, or one that it inherits from, does not exist, is not YAML, or inherits from itself.
    """
    return _content(group, option, config_dir, ())


def own_content(group: str, option: str, config_dir: str | Path | None = None) -> dict[str, Any]:
    """The values of an option's file itself, its `defaults` among them, as they are written.

    Raises:
        ClipevalError: it does not exist, or is not YAML.
    """
    return _load(option_file(group, option, config_dir))


def config() -> dict[str, Any]:
    """The values of config.yaml, without those of its groups."""
    found = _load(CONFIG_DIR / "config.yaml")
    del found["defaults"]
    return found


@cache
def protocols() -> dict[str, str]:
    """{the class of a protocol: its name}, of the bases of the group `task`: `_linear_probe.yaml` names LinearProbe."""
    named = {name: own_content("task", name).get("_target_") for name in files("task", None) if name[0] == "_"}
    return {str(target): name[1:] for name, target in named.items() if target not in (None, "???")}


def suite_tasks(suite: str, config_dir: str | Path | None = None) -> dict[str, str]:
    """{the task's name in the suite: the option of the group `task`}, in the suite's order.

    Raises:
        ClipevalError: as `content`.
    """
    found: dict[str, str] = {}
    for entry in own_content("suite", suite, config_dir).get("defaults") or []:
        if isinstance(entry, str) and entry != "_self_":  # a suite that continues another one
            found.update(suite_tasks(entry.rpartition("/")[2], config_dir))
        for key, value in entry.items() if isinstance(entry, Mapping) else ():
            placed = _PLACED.match(str(key))
            if placed and value is not None:
                found[placed["id"]] = str(value)
    return found


def comments(group: str | None, option: str) -> dict[str, str]:
    """{dotted key: the remark behind it} of one of clipeval's own files; `group=None`: of config.yaml."""
    path = CONFIG_DIR / "config.yaml" if group is None else option_file(group, option)
    found: dict[str, str] = {}
    open_keys: list[tuple[int, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        match = re.match(r"^(?P<indent> *)(?P<key>[A-Za-z_][\w.]*):(?P<rest>.*)$", line)
        if match is None:
            continue
        open_keys = [(indent, key) for indent, key in open_keys if indent < len(match["indent"])]
        open_keys.append((len(match["indent"]), match["key"]))
        remark = re.search(r"(?:^|\s)# (.*)$", match["rest"])
        if remark:
            found[".".join(key for _, key in open_keys)] = remark[1].strip()
    return found


def _content(group: str, option: str, config_dir: str | Path | None, below: tuple[str, ...]) -> dict[str, Any]:
    if option in below:
        raise ClipevalError(f"{group}/{option} inherits from itself: {' -> '.join((*below, option))}.")
    own = own_content(group, option, config_dir)
    found: dict[str, Any] = {}
    for base in _bases(own.pop("defaults", None) or []):
        _merge(found, _content(group, base, config_dir, (*below, option)))
    return _merge(found, own)


def _bases(defaults: list[Any]) -> Iterator[str]:
    for entry in defaults:
        if isinstance(entry, str) and entry != "_self_":
            yield entry.rpartition("/")[2]


def _load(path: Path) -> dict[str, Any]:
    """A file's mapping, anew for each caller, who may change it."""
    stat = path.stat()
    value = _parse(path, stat.st_mtime_ns, stat.st_size)
    return {key: _copied(item) for key, item in value.items()}


@cache
def _parse(path: Path, changed: int, size: int) -> dict[str, Any]:
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise ClipevalError(f"{path} is not YAML: {' '.join(str(problem).split())}") from None
    if value is not None and not isinstance(value, dict):
        raise ClipevalError(f"{path} holds {type(value).__name__}, and keys with values were expected.")
    return value or {}


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return list(value) if isinstance(value, list) else value


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        elif value != "???" or key not in into:  # as OmegaConf merges: what is left open leaves what there is
            into[key] = value
    return into
