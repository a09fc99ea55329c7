"""Configs that lie beside a checkpoint: they choose among classes that are installed, and bring no code of their own.

transformers runs Python files of a repository where a config's `auto_map` names them and `trust_remote_code` is on, and asks
at the terminal where it is neither on nor off. Here it is off, whatever a config says, and nobody is asked; the user alone turns it
on (`model.trust_remote_code=true`, see `clipeval.models.remote_code`), or wraps the model in a class (`model=custom`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipeval.configs.errors import ClipevalError
from clipeval.results import safe_json
from clipeval.results.trust import mappings

_ATTENTION = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
"""Keys under which transformers finds a repository with an attention kernel, which it downloads and runs."""


def refuse_code(config: Mapping[str, Any], path: Path | str) -> None:
    """Refuses a config that asks for code from elsewhere.

    Args:
        config: the config's content.
        path: where it stands, for the error.

    Raises:
        ClipevalError: it names the file, the key and the cure.
    """
    for location, node in mappings(config):
        at = f"{location}." if location else ""
        if node.get("trust_remote_code"):
            _refuse(path, f"{at}trust_remote_code={node['trust_remote_code']}")
        for key in _ATTENTION:
            if isinstance(node.get(key), str) and "/" in node[key]:
                _refuse(path, f"{at}{key}={node[key]}")


def refuse_unknown_type(path: Path, can_be_asked: bool = False) -> None:
    """Refuses a transformers config.json whose architecture is a Python file beside it.

    Args:
        path: the config.
        can_be_asked: whether `model.trust_remote_code=true` would run that file.

    Raises:
        ClipevalError: as `refuse_code`; or it is not JSON.
    """
    try:
        config = safe_json.read(path)
    except (OSError, ValueError) as problem:
        raise ClipevalError(f"{path} cannot be read ({problem})") from None
    if not isinstance(config, dict):
        raise ClipevalError(f"{path} holds a {type(config).__name__}, and an object was expected")
    refuse_code(config, path)
    if not config.get("auto_map"):
        return
    from transformers import CONFIG_MAPPING  # after seconds, which most configs need not wait for

    if config.get("model_type") not in CONFIG_MAPPING:
        what = f"auto_map={str(config['auto_map'])[:200]} for a model_type={config.get('model_type')}"
        if not can_be_asked:
            _refuse(path, what)
        raise ClipevalError(
            f"{path} asks for code that comes with the checkpoint, which is not run unasked ({what}). Read it, and say "
            "model.trust_remote_code=true; or wrap the model in a class of your own (model=custom model._target_=MODULE.CLASS)."
        )


def _refuse(path: Path | str, what: str) -> None:
    raise ClipevalError(
        f"{path} asks for code that comes with the checkpoint, which is never run ({what}). Take that key out if the model does "
        "not need it; else wrap the model in a class of your own (model=custom model._target_=MODULE.CLASS)."
    )
