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


CLIPS = (80, 32000, "bert-base-uncased", "last")
"""Context length, vocabulary, tokenizer and pooling that CLIPS and OpenVision have, and no other model of open_clip's."""


def tokenizer_flags(text: Mapping[str, Any]) -> list[str]:
    """What to say where open_clip would read texts otherwise than the model's own code does, without a word.

    CLIPS and OpenVision put a text between two tokens of their own and a class token at the end, which the tower pools: open_clip
    does so where `tokenizer_mode` says it (open_clip's pull request 1081), and the authors' own repositories had no such word.
    """
    shape = tuple(text.get(key) for key in ("context_length", "vocab_size", "hf_tokenizer_name", "pool_type"))
    if shape != CLIPS or text.get("tokenizer_mode"):
        return []
    return [
        "a CLIPS or OpenVision model whose text_cfg has no tokenizer_mode: open_clip reads its texts otherwise than in training, "
        'and no score says so; take a repository with "tokenizer_mode": "clips" (model=openvision_base_16_384), or write it into '
        "open_clip_config.json, with bos_token [unused0] and eos_token [unused1] in tokenizer_config.json"
    ]


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
