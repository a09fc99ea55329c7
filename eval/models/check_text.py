"""Tokens against the text tower that reads them: vocabulary, context, end token, padding, letters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from clipeval.models.doubt import Doubt
from clipeval.models.encoder import Encoder
from clipeval.models.texts import Tokenizer, tokenise

_PLAIN = ("a photo of a dog", "two red birds", "a picture of the sea and a house")
_CLIP_ROWS = 49408
"""Tokens of OpenAI's vocabulary, whose last two begin and end a text."""
SMALL = 0.85
"""A tokenizer with fewer tokens than this share of the text tower's rows is another model's; CLIPA's has 0.95."""


def text_doubts(encoder: Encoder) -> Iterator[Doubt | str]:
    """See `clipeval.models.check.check`."""
    tokenizer, model = encoder.given_tokenizer, encoder.model
    tokens = tokenise(tokenizer, _PLAIN)
    rows, positions, size = _rows(model), _positions(model), _vocabulary(tokenizer)
    yield f"{tokens.shape[1]} tokens of a text" + (f", {size:,} in the vocabulary" if size else "")
    largest = int(tokens.max())
    if rows is not None and largest >= rows:
        yield Doubt(
            f"the tokenizer gives token {largest:,}, and the text tower has {rows:,} rows",
            "it would read beyond its table",
            "take the tokenizer that the model was trained with",
        )
        raise IndexError(f"token {largest:,} of {rows:,}")
    if rows is not None and size is not None and (size > rows or size < SMALL * rows):
        yield Doubt(
            f"the tokenizer knows {size:,} tokens, and the text tower {rows:,}",
            "tokens of another vocabulary mean nothing to it",
            "take the tokenizer that the model was trained with",
        )
    if positions is not None and tokens.shape[1] < positions:
        yield Doubt(
            f"texts are cut after {tokens.shape[1]} tokens, and the text tower has positions for {positions}",
            "longer texts lose their end, and a tower that pools the last position (SigLIP) reads another one than in training",
            f"leave model.context_length out, or have the tokenizer pad to {positions}",
        )
    if bool((tokens[:, 0] == tokens[:, 1]).all()) and bool((tokens[:, -1] != tokens[:, 0]).all()):
        yield Doubt(
            "the tokenizer pads at the beginning",
            "every token stands at another position than in training",
            'write "padding_side": "right" into tokenizer_config.json',
        )
    if rows == _CLIP_ROWS and size in (None, rows) and not bool((tokens[:, 0] == rows - 2).all()):
        yield Doubt(
            f"texts do not begin with the start token, {rows - 2:,}",
            "every token stands at another position than in training",
            "take the tokenizer that the model was trained with",
        )
    yield from _end_token(model, tokens)
    yield from _letters(tokenizer)


def _end_token(model: Any, tokens: torch.Tensor) -> Iterator[Doubt]:
    """A tower that pools the highest token, or a given one, has to find it at the end of each text."""
    tower = model if hasattr(model, "text_pool_type") else getattr(model, "text", None)
    pool = getattr(tower, "text_pool_type", None) or getattr(tower, "pool_type", None)
    end = getattr(tower, "text_eos_id", None) or getattr(tower, "eos_id", None)
    config: Any = getattr(getattr(getattr(model, "model", None), "config", None), "text_config", None)
    if getattr(config, "model_type", None) in ("clip_text_model", "clipseg_text_model"):
        end = config.eos_token_id
        pool = "argmax" if end == 2 else "eos"  # transformers reads 2 as "the highest"
    padding = int(tokens[0, -1])
    last = torch.tensor(
        [int((row != padding).nonzero().max()) if bool((row != padding).any()) else 0 for row in tokens]
    )
    if pool == "argmax":
        # Where the end token is the padding too, the first of them is found, behind the last token that is not.
        place = tokens.argmax(dim=1)
        wrong = bool(((place != last) & (place != last + 1)).any())
        if wrong:
            yield Doubt(
                "the text tower pools the highest token of a text, and this tokenizer's end token is not the highest",
                "an embedding then is that of some word",
                "take the tokenizer that the model was trained with",
            )
    elif pool == "eos" and end is not None and not bool((tokens == int(end)).any(dim=1).all()):
        yield Doubt(
            f"the text tower pools the token {end}, and the tokenizer does not end texts with it",
            "an embedding then is that of the first token",
            "take the tokenizer that the model was trained with, or put the end token's number right in the config",
        )


def _letters(tokenizer: Tokenizer) -> Iterator[Doubt]:
    """Unknown tokens in plain English, or in its capitals alone."""
    inner: Any = getattr(tokenizer, "inner", None) or getattr(tokenizer, "tokenizer", None)
    unknown = getattr(inner, "unk_token_id", None)
    special = {getattr(inner, f"{name}_token_id", None) for name in ("eos", "bos", "pad")}
    if unknown is None or unknown in special:
        return
    small, large = (
        (tokenise(tokenizer, [t(text) for text in _PLAIN]) == unknown).sum() for t in (str.lower, str.upper)
    )
    if int(small) > 0:
        yield Doubt(
            f"the tokenizer does not know {int(small)} parts of {len(_PLAIN)} plain English texts",
            "what it does not know is lost to the model",
            "see whether its vocabulary is the model's; of a model for another language, this says nothing",
        )
    elif int(large) > 0:
        yield Doubt(
            "the tokenizer knows no capital letters",
            "words with one are lost to the model",
            "model.text_clean=lower, if the model was trained on texts in lower case",
        )


def _rows(model: Any) -> int | None:
    """Rows of the text tower's table of tokens."""
    if not isinstance(model, nn.Module):
        return None
    tables = [
        module.num_embeddings
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        and not {"visual", "vision_model"} & set(name.split("."))
        and "position" not in name.rpartition(".")[2]
    ]
    return max(tables, default=None)


def _positions(model: Any) -> int | None:
    """Positions of a text tower that is of one length; None where it takes any."""
    tower = model if hasattr(model, "token_embedding") else getattr(model, "text", None)
    table = getattr(tower, "positional_embedding", None)
    if isinstance(table, torch.Tensor) and table.ndim == 2:
        return len(table) - int(getattr(tower, "cls_emb", None) is not None)
    config: Any = getattr(getattr(getattr(model, "model", None), "config", None), "text_config", None)
    if getattr(config, "model_type", None) in ("clip_text_model", "siglip_text_model", "metaclip_2_text_model"):
        return int(config.max_position_embeddings)
    return None


def _vocabulary(tokenizer: Any) -> int | None:
    """Tokens that a tokenizer knows."""
    inner = getattr(tokenizer, "inner", None) or getattr(tokenizer, "tokenizer", None)
    for holder in (inner, tokenizer):
        if holder is not None and hasattr(holder, "__len__"):
            return len(holder)
        size = getattr(holder, "vocab_size", None)
        if isinstance(size, int):
            return size
    return None
