"""What the YAML files may ask for in `${…}`, beyond OmegaConf's own."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from omegaconf import ListConfig, OmegaConf

import clipeval
from clipeval.configs.naming import CHECKPOINT_SUFFIXES, PATH_START, slug_of, value_name


def bundled(name: str) -> str:
    """`${bundled:data}`: the folder of that name among the files that come with the package."""
    return str(Path(str(clipeval.__file__)).resolve().parent / "bundled" / name)


def slug(*parts: str | None) -> str:
    """`${slug:${.name},${.pretrained}}`: a folder name, the same for the same parts and another for others.

    A file counts by its stem and by where it lies, so that two checkpoints of one name do not share a run folder.
    """
    names = []
    for part in parts:
        text = "" if part is None else str(part)
        scheme, _, rest = text.rpartition(":")
        if rest.startswith("//"):  # an address, which lies nowhere on this machine
            text = value_name(text.partition("?")[0]) + ("-" + value_name(text)[-8:] if "?" in text else "")
        elif scheme == "local-dir" or PATH_START.search(text) or text.endswith(CHECKPOINT_SUFFIXES):
            path = Path(rest if scheme == "local-dir" else text).expanduser().absolute()
            name = path.stem if path.suffix in CHECKPOINT_SUFFIXES else path.name
            text = f"{name}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        names.append(text)
    return slug_of(*names)


def user_cache() -> str:
    """`${user_cache:}`: CLIPEVAL_CACHE, or `clipeval` below the user's cache folder. An empty variable is an unset one."""
    own = os.environ.get("CLIPEVAL_CACHE")
    if own:
        return own
    return str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clipeval")


def either(first: Any, second: Any) -> Any:
    """`${either:${prompts},simple}`: the first unless it is null."""
    return second if first is None else first


def word_if(switch: Any, word: str) -> str | None:
    """`${word_if:${.ema},ema}`: a word where a switch is true, else nothing."""
    return word if switch is True else None


def tagged(word: str, value: Any) -> str | None:
    """`${tagged:size,${.image_size}}`: `size-336`; a path by its last part and its digest; nothing where the value is null."""
    if value is None:
        return None
    values = value if isinstance(value, list | tuple | ListConfig) else [value]
    return f"{word}-{'x'.join(value_name(v) if isinstance(v, str) else f'{v:g}' for v in values)}"


def file_name(path: str) -> str:
    """`${file_name:${.path}}`: a path's last part."""
    return Path(path).expanduser().absolute().name


def register() -> None:
    """Makes the resolvers known to OmegaConf. Again is harmless."""
    for resolver in (bundled, slug, user_cache, either, word_if, tagged, file_name):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
