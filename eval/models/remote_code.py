"""Python files that come with a transformers checkpoint: run only where the user says so (`model.trust_remote_code=true`).

They are part of the model: other code beside the same weights is another fingerprint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from clipeval.models import hub_cache

SAID = (
    "runs code that comes with the checkpoint ({names}), as model.trust_remote_code=true says: clipeval cannot vouch for what "
    "it does"
)


def modules_of(config: Mapping[str, Any]) -> Iterator[tuple[str | None, str]]:
    """(repository, file) of the modules that a config's auto_map names; None for the checkpoint's own."""
    mapped = config.get("auto_map")
    for value in mapped.values() if isinstance(mapped, Mapping) else ():
        for name in value if isinstance(value, list | tuple) else [value]:
            if isinstance(name, str) and "." in name:
                repository, _, rest = name.rpartition("--")
                yield repository or None, f"{rest.rpartition('.')[0]}.py"


def code_files(folder: Path, config: Mapping[str, Any]) -> list[Path]:
    """The Python files that loading may run, of those on this machine."""
    found = dict.fromkeys(sorted(folder.glob("*.py")))
    for repository, name in modules_of(config):
        if repository is not None and (path := hub_cache.cached(repository, name)) is not None:
            found.update(dict.fromkeys(sorted(path.parent.glob("*.py"))))
    return list(found)


def missing_code(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """The modules that a config names and that are not on this machine."""
    return [
        name if repository is None else f"{repository}/{name}"
        for repository, name in dict.fromkeys(modules_of(config))
        if not ((folder / name).is_file() if repository is None else hub_cache.cached(repository, name))
    ]


def fetch_code(config: Mapping[str, Any], fetch: Callable[[str | None, str], Path | None]) -> None:
    """Fetches the modules that a config names, and those that they import from beside them.

    Args:
        config: the model's config.json.
        fetch: fetches one file; its arguments are as `modules_of` gives them.
    """
    from transformers.dynamic_module_utils import get_relative_imports

    waiting, seen = list(modules_of(config)), set[tuple[str | None, str]]()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        if (path := fetch(*one)) is not None:
            waiting += [(one[0], f"{module}.py") for module in get_relative_imports(path)]
