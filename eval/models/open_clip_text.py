"""The text side of an open_clip model: which tokenizer, what it does to a text first, and the digest of both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import open_clip
from open_clip.tokenizer import HFTokenizer, default_bpe

from clipeval.configs.errors import ClipevalError
from clipeval.models import hub_cache
from clipeval.models.handle import digest_files
from clipeval.models.text_clean import CANONICALIZE, LOWER, WHITESPACE, clean_function, is_siglip_tokenizer
from clipeval.models.texts import Tokenizer


def own_policy(text: Mapping[str, Any]) -> str:
    """The clean-up that an architecture's `text_cfg` was trained with.

    One that names SigLIP's tokenizer and no clean-up was exported by an open_clip that did not know of it yet.
    """
    stated = (text.get("tokenizer_kwargs") or {}).get("clean")
    if stated:
        return str(stated)
    named = text.get("hf_tokenizer_name")
    return (CANONICALIZE if is_siglip_tokenizer(named) else WHITESPACE) if named else LOWER


def settings_digest(text: Mapping[str, Any], policy: str, source: str | None, cache: Path) -> str:
    """16 hex digits of a tokenizer's files and settings; equal to those of before where the clean-up is open_clip's.

    Args:
        text: the architecture's `text_cfg`.
        policy: the clean-up.
        source: the folder or repository of a Hugging Face tokenizer; None: open_clip's own.
        cache: where digests of files are remembered.

    Raises:
        ClipevalError: the tokenizer's files are not on this machine.
    """
    settings = {key: text.get(key) for key in ("context_length", "tokenizer_kwargs", "tokenizer_mode")}
    if policy != _open_clips(text):
        settings["tokenizer_kwargs"] = {**(settings["tokenizer_kwargs"] or {}), "clean": policy}
    if source is None:
        return digest_files([Path(default_bpe())], cache, settings)
    files = hub_cache.tokenizer_files(source)
    if not files:
        raise ClipevalError(f"there are no tokenizer files in {source}")
    return digest_files(files, cache, settings)


def is_open_clips(text: Mapping[str, Any], policy: str) -> bool:
    """Whether a clean-up is what open_clip itself does to the texts of this architecture."""
    return policy == _open_clips(text)


def _open_clips(text: Mapping[str, Any]) -> str:
    stated = (text.get("tokenizer_kwargs") or {}).get("clean")
    return str(stated) if stated else WHITESPACE if text.get("hf_tokenizer_name") else LOWER


def build_tokenizer(text: Mapping[str, Any], policy: str, source: str | None, name: str) -> Tokenizer:
    """The tokenizer that open_clip would choose, from the very files that `settings_digest` has read.

    Args:
        text, policy, source: as of `settings_digest`.
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
            built: Any = open_clip.SimpleTokenizer(context_length=context, **options)
        else:
            built = HFTokenizer(folder, context_length=context, tokenizer_mode=mode, trust_remote_code=False, **options)
    except (OSError, ValueError, TypeError, ImportError) as error:
        where = "" if folder is None else f" in {folder}"
        raise ClipevalError(f"the tokenizer of {name}{where} cannot be read: {error}") from error
    built.clean_fn = clean_function(policy)
    return cast(Tokenizer, built)
