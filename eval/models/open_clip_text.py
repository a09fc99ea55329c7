"""The text side of an open_clip model: what is done to a text before it is tokenised, and the digest of that and the tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipeval.models.handle import digest_files
from clipeval.models.text_clean import CANONICALIZE, LOWER, WHITESPACE, is_siglip_tokenizer


def own_policy(text: Mapping[str, Any]) -> str:
    """The clean-up that an architecture's `text_cfg` was trained with.

    One that names SigLIP's tokenizer and no clean-up was exported by an open_clip that did not know of it yet.
    """
    stated = (text.get("tokenizer_kwargs") or {}).get("clean")
    if stated:
        return str(stated)
    named = text.get("hf_tokenizer_name")
    return (CANONICALIZE if is_siglip_tokenizer(named) else WHITESPACE) if named else LOWER


def settings_digest(text: Mapping[str, Any], policy: str, files: Sequence[Path], cache: Path) -> str:
    """16 hex digits of a tokenizer's files and settings; equal to those of before where the clean-up is open_clip's.

    Args:
        text: the architecture's `text_cfg`.
        policy: the clean-up.
        files: the tokenizer's.
        cache: where digests of files are remembered.
    """
    settings = {key: text.get(key) for key in ("context_length", "tokenizer_kwargs", "tokenizer_mode")}
    if policy != _open_clips(text):
        settings["tokenizer_kwargs"] = {**(settings["tokenizer_kwargs"] or {}), "clean": policy}
    return digest_files(files, cache, settings)


def is_open_clips(text: Mapping[str, Any], policy: str) -> bool:
    """Whether a clean-up is what open_clip itself does to the texts of this architecture."""
    return policy == _open_clips(text)


def _open_clips(text: Mapping[str, Any]) -> str:
    stated = (text.get("tokenizer_kwargs") or {}).get("clean")
    return str(stated) if stated else WHITESPACE if text.get("hf_tokenizer_name") else LOWER
