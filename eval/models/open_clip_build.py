"""Models and tokenizers of open_clip, made without its network and without its guesses. Imports open_clip, which takes seconds."""

from __future__ import annotations

import copy
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import open_clip
import torch
from open_clip.tokenizer import HFTokenizer
from torch import nn
from torch.overrides import TorchFunctionMode

from clipeval.configs.errors import ClipevalError
from clipeval.models import hub_cache
from clipeval.models.no_code import refuse_unknown_type
from clipeval.models.text_clean import clean_function
from clipeval.models.texts import Tokenizer


def build(architecture: Mapping[str, Any], name: str, blank: bool) -> nn.Module:
    """The architecture with random weights, the same each time; or with no weights to speak of, for a checkpoint.

    It goes through a `local-dir:` folder that holds the config alone, the one way that open_clip offers to build a
    model from an architecture without looking for weights.

    Args:
        architecture: open_clip's `model_cfg`.
        name: what the model is called in errors.
        blank: whether the weights are left as they come.

    Raises:
        ClipevalError: open_clip cannot build it.
    """
    drawing = _Undrawn() if blank else nullcontext()
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]), _quiet(), drawing:
        torch.default_generator.manual_seed(0)
        model_cfg = copy.deepcopy(dict(architecture))
        tower = model_cfg["text_cfg"].get("hf_model_name")
        if tower and not Path(tower).is_dir() and (config := hub_cache.cached(tower, "config.json")) is not None:
            model_cfg["text_cfg"]["hf_model_name"] = str(config.parent)  # so that no network is asked
        if tower:  # open_clip does not tell transformers that no code may be run
            refuse_unknown_type(Path(model_cfg["text_cfg"]["hf_model_name"], "config.json"))
        Path(folder, "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg}), "utf-8")
        try:
            model: nn.Module = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
        except (RuntimeError, TypeError, ValueError, KeyError, AssertionError, OSError) as error:
            raise ClipevalError(f"open_clip cannot build {name}: {error}") from error
    return model


def build_tokenizer(text: Mapping[str, Any], policy: str, source: str | None, name: str) -> Tokenizer:
    """The tokenizer that open_clip would choose, from the very files that its digest is of.

    Args:
        text: the architecture's `text_cfg`.
        policy: the clean-up.
        source: the folder or repository of a Hugging Face tokenizer; None: open_clip's own.
        name: the model's, for errors.

    Raises:
        ClipevalError: its files cannot be read, or its settings are none.
    """
    context, options = text.get("context_length", 77), dict(text.get("tokenizer_kwargs") or {})
    for key in ("trust_remote_code", "clean"):
        options.pop(key, None)
    folder = None if source is None else str(hub_cache.tokenizer_files(source)[0].parent)
    mode = text.get("tokenizer_mode")
    try:
        if folder is None:
            built: Any = _bpe(context) if not options else open_clip.SimpleTokenizer(context_length=context, **options)
        else:
            built = HFTokenizer(folder, context_length=context, tokenizer_mode=mode, trust_remote_code=False, **options)
    except (OSError, ValueError, TypeError, ImportError) as error:
        location = "" if folder is None else f" in {folder}"
        raise ClipevalError(f"the tokenizer of {name}{location} cannot be read: {error}") from error
    built.clean_fn = clean_function(policy)
    return cast(Tokenizer, built)


def _bpe(context: int) -> open_clip.SimpleTokenizer:
    """open_clip's own tokenizer: its vocabulary, which nobody changes, is read once for all models of a process."""
    made = copy.copy(_vocabulary())
    made.context_length, made.cache = context, dict(made.cache)
    return made


@lru_cache(maxsize=1)
def _vocabulary() -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer()


class _Undrawn(TorchFunctionMode):
    """Draws no random numbers for weights that a checkpoint replaces, every one: of a model's load, a third of the time."""

    _METHODS = (torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.erfinv_)
    _FUNCTIONS = (nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_, nn.init.kaiming_uniform_)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in self._METHODS or func in self._FUNCTIONS:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


@contextmanager
def _quiet() -> Iterator[None]:
    """open_clip warns that no weights were loaded; they come afterwards, strictly."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
