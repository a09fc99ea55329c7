"""Texts that are longer than a model's context, and so are cut before it reads them.

Counted by the tokenizer alone, without the model, so that it is known of embeddings from the cache, too. What open_clip and
transformers use is asked for a text's whole length. Of any other tokenizer only its rows of tokens are known: a text is cut
if it leaves no padding, and its parts, each by itself, come to more tokens than a row has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from clipeval.models.texts import Tokenizer, tokenise
from clipeval.preprocess.late import loaded

SHOWN = 60
"""Characters of a text that a flag shows."""


class Cuts:
    """Which texts a tokenizer cuts; it remembers what it has looked at."""

    def __init__(self, tokenizer: Tokenizer):
        self._known: dict[str, bool] = {}
        self._limit, self._count = _counter(tokenizer)
        self._rows = None if self._count is not None else _Rows(tokenizer)

    @property
    def context(self) -> int:
        """The tokens that the model reads of a text, special ones included."""
        return self._limit if self._rows is None else self._rows.width

    def of(self, texts: Sequence[str]) -> list[str]:
        """The distinct texts among these that are cut, in their order."""
        distinct = list(dict.fromkeys(texts))
        new = [text for text in distinct if text not in self._known]
        if self._rows is not None:
            self._known.update(zip(new, self._rows.cut(new), strict=True))
        elif self._count is not None:
            for text in new:
                # No tokenizer makes more tokens of plain ASCII than it has characters, special ones at both ends aside.
                short = text.isascii() and len(text) + 3 <= self._limit
                self._known[text] = not short and self._count(text) > self._limit
        return [text for text in distinct if self._known[text]]

    def described(self, note: str, texts: Sequence[str]) -> str:
        """A note in which `share_cut` and `mean_tokens` are followed by their values.

        share_cut is the share of the texts that are cut, mean_tokens their mean length in tokens, uncut and with special ones.
        """
        if not texts:
            return note
        cut = set(self.of(texts))
        share, lengths = sum(text in cut for text in texts) / len(texts), [self.length(text) for text in texts]
        note = note.replace("share_cut", f"share_cut ({share:.1%})")
        return note.replace(
            "mean_tokens", f"mean_tokens ({sum(lengths) / len(lengths):.1f}; the model reads {self.context})"
        )

    def length(self, text: str) -> int:
        """How many tokens a text has, uncut and with special ones; of a tokenizer that only gives rows, as its parts come to."""
        return (
            self._count(text) if self._count is not None else self._rows.length(text) if self._rows is not None else 0
        )

    def flags(self, texts: Sequence[str]) -> list[str]:
        """A flag if some are cut."""
        cut = self.of(texts)
        if not cut:
            return []
        first = cut[0] if len(cut[0]) <= SHOWN else cut[0][:SHOWN] + "…"
        return [
            f"{len(cut):,} of {len(set(texts)):,} texts are cut: they are longer than the {self.context} tokens that the model "
            f"reads, such as {first!r}"
        ]


def _counter(tokenizer: Any) -> tuple[int, Callable[[str], int] | None]:
    """A row's length, and what gives the tokens of a text, uncut and with special ones; None if it cannot be asked."""
    if isinstance(tokenizer, loaded("open_clip.tokenizer", "SimpleTokenizer")):
        simple = tokenizer
        return int(simple.context_length or 0), lambda text: len(simple.encode(text)) + 2
    if isinstance(tokenizer, loaded("open_clip.tokenizer", "HFTokenizer")):
        inner, special = tokenizer.tokenizer, 3 if tokenizer.tokenizer_mode == "clips" else 0
        clean = tokenizer.clean_fn
        return int(
            tokenizer.context_length or 0
        ), lambda text: len(inner(clean(text), add_special_tokens=not special, truncation=False).input_ids) + special
    whole = getattr(tokenizer, "whole_length", None)
    if callable(whole):
        return int(tokenizer.context), whole
    return 0, None


class _Rows:
    """A tokenizer of which nothing is known but what it gives."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        one, two = tokenise(tokenizer, ["a"])[0], tokenise(tokenizer, ["a a"])[0]
        self.width = len(one)
        values, counts = torch.unique(one, return_counts=True)
        self._pad = int(values[counts.argmax()]) if int(counts.max()) > 1 else int(one[-1])
        self._special = max(0, 2 * self._length(one) - self._length(two))

    def cut(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text is cut."""
        if not texts:
            return []
        full = (tokenise(self._tokenizer, texts) != self._pad).all(dim=1).tolist()
        return [
            is_full and self._special + self._content(text) > self.width
            for text, is_full in zip(texts, full, strict=True)
        ]

    def length(self, text: str) -> int:
        """Tokens of a text, special ones included."""
        return self._special + self._content(text)

    def _length(self, row: torch.Tensor) -> int:
        return int((row != self._pad).sum())

    def _content(self, text: str) -> int:
        """Tokens of a text, special ones left out, in parts that each fit in a row; more than a row where one does not."""
        length = self._length(tokenise(self._tokenizer, [text])[0])
        if length < self.width:
            return max(0, length - self._special)
        words = text.split()
        if len(words) < 2:
            return self.width + 1
        middle = len(words) // 2
        return self._content(" ".join(words[:middle])) + self._content(" ".join(words[middle:]))
