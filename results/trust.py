"""What the configs of others may name: the one rule by which a stored config becomes an object, and its one error.

A run folder, a file of results, a head or a checkpoint may come from anybody, and a config in it says which class to call
with which arguments. So of a stored config

- only classes are called, and only trusted ones: the tasks of the package `clipeval.tasks` (and, as a part of a task, what
  `PARTS` lists); of models, the handles that `MODELS` lists; and what the user names with `--trust MODULE[.CLASS]` or whose
  `_target_` stands in a YAML file of the user's own `--config-dir`;
- a name is compared with this list before anything is imported, for an import runs code as well;
- what a trusted name leads to is looked at before it is called: a subclass of `clipeval.tasks.base.Task` where a task was expected;
- Hydra's other keys (`_args_`, `_partial_`, `_recursive_`, `_convert_`) belong to trusted classes of the user's only;
- interpolations are never resolved: `${oc.env:…}` would carry an environment variable into a report. A run is stored resolved.

What the user writes on the command line or in `--config-dir` is the user's own, and `clipeval run` asks none of this.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from clipeval.configs.errors import ClipevalError
from clipeval.configs.old_names import current

TARGET = "_target_"
HYDRA = ("_args_", "_partial_", "_recursive_", "_convert_")
"""Keys that Hydra reads beside `_target_`."""

NOT_TASK = ("data", "outside", "prompts", "notes")
"""The parts of a task's config that are not arguments of its class, and of which nothing is instantiated."""

PARTS = ("clipeval.captioning.scorer.CocoScorer",)
"""Classes of the package that a task's config may hold besides its own."""

MODELS = ("clipeval.models.open_clip.OpenClip", "clipeval.models.transformers.HuggingFace")
"""The handles of models whose checkpoints hold weights and no code: open_clip's and transformers'."""

_TASKS = "clipeval.tasks"
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
_FORM = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)

Nodes = Iterator[tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Trust:
    """What the user vouches for: modules, whose classes are all trusted, and classes, by their full names."""

    names: tuple[str, ...] = ()

    def __contains__(self, target: str) -> bool:
        return any(target == name or target.startswith(f"{name}.") for name in self.names)


NOBODY = Trust()
"""Trust in the package alone."""


def trust(names: Iterable[str] = (), config_dir: str | Path | None = None) -> Trust:
    """What `--trust` and `--config-dir` say.

    Args:
        names: MODULE or MODULE.CLASS.
        config_dir: a folder of the user's own configs; the classes that its YAML files name are trusted.

    Raises:
        ClipevalError: a name has not that form, or the folder or one of its files cannot be read.
    """
    allowed = list(names)
    for name in allowed:
        if not _FORM.fullmatch(name):
            raise ClipevalError(f"--trust {name}: MODULE or MODULE.CLASS was expected, such as my_tasks.MyTask.")
    if config_dir is not None:
        folder = Path(config_dir).expanduser()
        if not folder.is_dir():
            raise ClipevalError(f"--config-dir: {folder} is not a folder.")
        for file in sorted(folder.rglob("*.yaml")):
            try:
                content = yaml.safe_load(file.read_text(encoding="utf-8"))
            except (yaml.YAMLError, UnicodeDecodeError) as problem:
                raise ClipevalError(f"{file} cannot be read as YAML: {' '.join(str(problem).split())}") from None
            named = [str(node[TARGET]) for _, node in mappings(content) if TARGET in node]
            allowed += [name for name in named if _DOTTED.fullmatch(name)]  # not ???, which the command line fills in
    return Trust(tuple(dict.fromkeys(map(current, allowed))))


def check_tasks(nodes: Mapping[str, Any], file: Path, trusted: Trust) -> None:
    """Checks the tasks of a stored config. Imports nothing but trusted modules, and calls nothing.

    Args:
        nodes: {task id: its config}.
        file: where the config stands, for the error.
        trusted: what the user vouches for, besides the package.

    Raises:
        ClipevalError: some task names what is not trusted or is no task; all of them are listed, with the cure.
    """
    problems = [problem for name, node in nodes.items() for problem in _task_problems(f"tasks.{name}", node, trusted)]
    _raise(problems, file)


def check_model(node: Mapping[str, Any], file: Path, trusted: Trust) -> None:
    """Checks the model of a stored config, which `clipeval.models.resolve` would make of it; as `check_tasks`."""
    target = node.get(TARGET)
    if target is None or target in MODELS:  # without one, it is open_clip's
        return
    if not isinstance(target, str) or target not in trusted:
        _raise([_untrusted("model", target)], file)
    elif problem := _is_part(target, trusted):
        _raise([f"model.{TARGET}={target}: {problem}"], file)


def check_plain(content: Any, file: Path) -> None:
    """Refuses a stored config with an interpolation in it.

    Raises:
        ClipevalError: it names the key, the text and the file.
    """
    for key, text in _texts(content):
        if "${" in text:
            raise ClipevalError(
                f"{file}: {key} holds the interpolation {text[:80]!r}. A run stores its config resolved, and those of others are "
                "never resolved here, since they can read this machine's environment: remove it, or ask its author for the value."
            )


def _task_problems(location: str, node: Any, trusted: Trust) -> Iterator[str]:
    if not isinstance(node, Mapping) or TARGET not in node:
        yield f"{location} has no {TARGET}, the class of its protocol"
        return
    for key, inner in mappings({k: v for k, v in node.items() if k not in NOT_TASK}, location):
        target = inner.get(TARGET)
        own = isinstance(target, str) and target in trusted
        extra = [name for name in HYDRA if name in inner]
        if extra and not own:
            yield f"{key}.{extra[0]} is no key of a stored task"
        if TARGET not in inner:
            continue
        outer = key == location
        if not isinstance(target, str) or not (own or (_is_task_module(target) if outer else target in PARTS)):
            yield _untrusted(key, target)
            continue
        problem = _is_task(target) if outer else _is_part(target, trusted)
        if problem:
            yield f"{key}.{TARGET}={target}: {problem}"


def _untrusted(key: str, target: object) -> str:
    return f"{key}.{TARGET}={target if isinstance(target, str) else repr(target)} is not one of clipeval's own"


def _raise(problems: Sequence[str], file: Path) -> None:
    if problems:
        lines = "".join(f"\n  {problem[:300]}" for problem in problems[:20])
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise ClipevalError(
            f"{file} names what is not trusted, and nothing of it was imported or called:{lines}{more}\n"
            "A class of your own, or of somebody whose code you would run, is named with --trust MODULE[.CLASS] or by "
            "--config-dir, the folder of its task's config; it has to be a class, for a task a subclass of "
            "clipeval.tasks.base.Task. See SECURITY.md."
        )


def _is_task_module(target: str) -> bool:
    """Whether a target lies in the package `clipeval.tasks`; its modules are known from the disk, none is imported."""
    module, _, name = target.rpartition(".")
    spec = find_spec(_TASKS)
    assert spec is not None and spec.submodule_search_locations is not None
    known = {
        _TASKS,
        *(f"{_TASKS}.{submodule.name}" for submodule in pkgutil.iter_modules(spec.submodule_search_locations)),
    }
    return bool(_DOTTED.fullmatch(target)) and module in known and not name.startswith("_")


def _is_task(target: str) -> str:
    """What speaks against calling a trusted target for a task; empty where nothing does."""
    target_object = _find(target)
    if isinstance(target_object, str):
        return target_object
    from clipeval.tasks.base import Task  # with torch, which a name that is not trusted need not wait for

    if not issubclass(target_object, Task) or inspect.isabstract(target_object):
        return "a task's class was expected, a subclass of clipeval.tasks.base.Task"
    return ""


def _is_part(target: str, trusted: Trust) -> str:
    """The same for what is no task. A module is trusted for the classes that it defines, not for those that it imports."""
    target_object = _find(target)
    if isinstance(target_object, str):
        return target_object
    if target in (*PARTS, *trusted.names) or f"{target_object.__module__}.{target_object.__qualname__}" in trusted:
        return ""
    return f"its class is {target_object.__module__}.{target_object.__qualname__}, which is trusted only if it is named itself"


def _find(target: str) -> type | str:
    """The class of a trusted target, looked up as Hydra will; or why there is none."""
    module, _, name = target.rpartition(".")
    if not _DOTTED.fullmatch(target):
        return "a class's full name was expected, package.module.Class"
    try:
        value = vars(import_module(module)).get(name)
        seen = _seen_by_hydra(target)
    except ImportError as problem:
        return f"{module!r} cannot be imported ({problem}); put its folder on PYTHONPATH"
    if not isinstance(value, type):
        return f"{module!r} has no class of that name"
    if seen is not value:  # a package with an attribute that hides its own submodule
        return "the name leads to two different objects"
    kind: type = value
    return kind


def _seen_by_hydra(target: str) -> Any:
    """What Hydra's own look-up finds: attributes first, then modules. The module is imported, and so are its parents."""
    parts = target.split(".")
    value: Any = import_module(parts[0])
    for number, part in enumerate(parts[1:], start=2):
        inside = vars(value) if hasattr(value, "__dict__") else {}
        value = inside[part] if part in inside else import_module(".".join(parts[:number]))
    return value


def mappings(content: Any, location: str = "") -> Nodes:
    """Every mapping in a config at any depth, with its key."""
    yield from _walk(content, location, lambda key, value: isinstance(value, Mapping))


def _texts(content: Any) -> Iterator[tuple[str, str]]:
    """Every text in a config at any depth, with its key."""
    yield from _walk(content, "", lambda key, value: isinstance(value, str))


def _walk(content: Any, location: str, wanted: Callable[[str, Any], bool]) -> Iterator[tuple[str, Any]]:
    """What is wanted among a config's parts, outermost first; without recursion, for depth is the author's choice."""
    waiting = [(location, content)]
    while waiting:
        key, value = waiting.pop()
        if wanted(key, value):
            yield key, value
        if isinstance(value, Mapping):
            waiting += [(f"{key}.{name}" if key else str(name), item) for name, item in reversed(list(value.items()))]
        elif isinstance(value, list | tuple):
            waiting += [(f"{key}[{number}]", value[number]) for number in reversed(range(len(value)))]
