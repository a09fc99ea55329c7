"""From a config's `model:` to a handle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from clipeval.configs.errors import ClipevalError, nearest
from clipeval.configs.old_names import current
from clipeval.models import changes
from clipeval.models.adapters import Adapter
from clipeval.models.custom import UserModel
from clipeval.models.handle import ModelHandle
from clipeval.models.onnx import Onnx
from clipeval.models.open_clip import OpenClip
from clipeval.models.overrides import KEYS, Overrides
from clipeval.models.shortened import Shortened
from clipeval.models.transformers import HuggingFace
from clipeval.results.trust import MODELS

_OPEN_CLIP, _HUGGING_FACE, _ONNX = MODELS
_OPEN_CLIP_KEYS = (
    "name",
    "pretrained",
    "config_dir",
    "slug",
    "strict_quickgelu",
    "ema",
    "state_dict",
    *KEYS,
    *changes.KEYS,
)
_NOTES = "about"
"""Of a preset, what people may want to know of it; nothing is made of it."""


def resolve(cfg_model: Mapping[str, Any], cache_root: Path | str, *, offline: bool = False) -> ModelHandle:
    """The model that a config names. Loads no weights.

    Args:
        cfg_model: `name`, `pretrained`, `config_dir`, `slug`, `strict_quickgelu`, `ema`, `state_dict` for open_clip; or
            `_target_` and the arguments of a class.
        cache_root: where digests of checkpoints are remembered.
        offline: never ask the network, not even for a repository's config.

    Raises:
        ClipevalError: a key, architecture, tag or file that does not exist, with the nearest names.
    """
    plain = OmegaConf.to_container(cfg_model, resolve=True) if isinstance(cfg_model, DictConfig) else cfg_model
    assert isinstance(plain, Mapping)
    values = {str(key): value for key, value in plain.items()}
    values.pop(_NOTES, None)
    if (
        values.get("_target_") in (None, *MODELS)
        and (length := _one("dimensions", values.pop("dimensions", None))) is not None
    ):
        slug = values.pop("slug", None)
        return Shortened(resolve(values, cache_root, offline=offline), int(length), slug)
    target, cache = current(str(values.pop("_target_", None) or _OPEN_CLIP)), Path(cache_root).expanduser()
    if target == _OPEN_CLIP:
        return _open_clip(values, cache, offline)
    if target == _HUGGING_FACE:
        _known(values, ("path", "name", "pretrained", "slug", "trust_remote_code", *KEYS, *changes.KEYS))
        if not values.get("path"):
            raise ClipevalError("model.path is missing: a folder that transformers' save_pretrained wrote, or ORG/NAME")
        asked, changed = _overrides(values), _changes(values, cache)
        return HuggingFace(**values, cache_root=cache, offline=offline, overrides=asked, changes=changed)
    if target == _ONNX:
        _known(values, ("path", "name", "pretrained", "slug", *KEYS))
        if not values.get("path"):
            raise ClipevalError("model.path is missing: a folder that optimum exported, or ORG/NAME")
        asked = _overrides(values)
        return Onnx(**values, cache_root=cache, overrides=asked, offline=offline)
    name, slug = values.pop("name", None), values.pop("slug", None)
    return UserModel(target, values, name=name, slug=slug, cache_root=cache)


def _known(values: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in values:
        if key not in known:
            raise ClipevalError(nearest("key of model", key, list(known)))


def _open_clip(values: dict[str, Any], cache_root: Path, offline: bool) -> ModelHandle:
    _known(values, _OPEN_CLIP_KEYS)
    name = values.pop("name", None)
    if not name:
        raise ClipevalError("model.name is missing: an open_clip architecture, hf-hub:org/repo or local-dir:folder")
    asked, changed = _overrides(values), _changes(values, cache_root)
    given = {key: value for key, value in values.items() if value is not None}
    return OpenClip(str(name), cache_root=cache_root, offline=offline, overrides=asked, changes=changed, **given)


def _overrides(values: dict[str, Any]) -> Overrides:
    """Takes them out of the model's values."""
    return Overrides.of({key: values.pop(key, None) for key in KEYS})


def _changes(values: dict[str, Any], cache_root: Path) -> changes.Changes:
    """Takes them out of the model's values."""
    adapter, other, alpha = (values.pop(key, None) for key in changes.KEYS)
    return changes.Changes(None if adapter is None else Adapter(str(adapter), cache_root), other, _one("alpha", alpha))


def _one(key: str, given: Any) -> Any:
    """The value of a key that may hold several, each of which is a model: here there is one."""
    values = given if isinstance(given, list) else [given]
    if len(values) != 1:
        raise ClipevalError(
            f"model.{key}={given}: these are {len(values)} models, which `clipeval run` evaluates one beside the other; here one "
            "value was expected"
        )
    return values[0]
