"""open_clip's byte-pair tokenizer, with the same answers in a tenth of the time.

SimpleTokenizer repairs each text's encoding with ftfy, then splits it with a regular expression, then joins byte pairs.
A prompt set repeats its words thousands of times, and plain printable ASCII has nothing to repair: so its words, once
split and joined, are remembered. Any other text is repaired and split as open_clip does it, and joined by `join_pairs`:
a language without spaces makes one long word of a text, which SimpleTokenizer joins in quadratic time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clipeval.models.texts import Tokenizer
from clipeval.preprocess.late import loaded

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer


class CachedBpeTokenizer:
    """Tokens as `SimpleTokenizer.__call__` gives them: int64 [T, context], zeros behind the end token.

    A word here is what lies between spaces. No part of SimpleTokenizer's pattern matches a space or looks around itself,
    so the pieces of a text are those of its words.
    """

    def __init__(self, tokenizer: SimpleTokenizer):
        self._tokenizer = tokenizer
        self._words: dict[str, list[int]] = {}
        self._pieces: dict[str, list[int]] = {}

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        context = int(self._tokenizer.context_length)
        tokens = np.zeros((len(texts), context), dtype=np.int64)
        start, end = self._tokenizer.sot_token_id, self._tokenizer.eot_token_id
        for row, text in zip(tokens, texts, strict=True):
            ids = self._encode(text)[: context - 2]
            row[0], row[1 : len(ids) + 1], row[len(ids) + 1] = start, ids, end
        return torch.from_numpy(tokens)

    def _encode(self, text: str) -> list[int]:
        # With an ampersand, it may hold HTML entities; unprintable, line breaks or terminal escapes, which ftfy removes.
        if "&" in text or not (text.isascii() and text.isprintable()):
            return self._encode_any(text)
        ids: list[int] = []
        for word in text.split():
            known = self._words.get(word)
            if known is None:
                known = self._words[word] = self._tokenizer.encode(word)
            ids += known
        return ids

    def _encode_any(self, text: str) -> list[int]:
        ids: list[int] = []
        tokenizer = self._tokenizer
        for piece in tokenizer.pat.findall(tokenizer.clean_fn(text)):
            known = self._pieces.get(piece)
            if known is None:
                token = "".join(tokenizer.byte_encoder[byte] for byte in piece.encode())
                joined = tokenizer.cache.get(token)  # special tokens are there from the beginning
                symbols = join_pairs(token, tokenizer.bpe_ranks) if joined is None else joined.split(" ")
                known = self._pieces[piece] = [tokenizer.encoder[symbol] for symbol in symbols]
            ids += known
        return ids


def join_pairs(token: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """The symbols of a word as `SimpleTokenizer.bpe` joins them, in n log n time.

    Round by round, the pair of least rank is joined wherever it is, from the left.

    Args:
        token: a word, a character for each byte.
        ranks: of the pairs that can be joined; no two have one rank.
    """
    symbols: list[str | None] = [*token[:-1], f"{token[-1]}</w>"]
    count = len(symbols)
    before, after = list(range(-1, count - 1)), list(range(1, count + 1))
    places: dict[int, list[int]] = {}
    open_ranks: list[int] = []

    def note(left: int, right: int) -> None:
        if left < 0 or right >= count:
            return
        rank = ranks.get((symbols[left], symbols[right]))  # type: ignore[arg-type]
        if rank is not None:
            if rank not in places:
                places[rank] = []
                heappush(open_ranks, rank)
            places[rank].append(left)

    for left in range(count - 1):
        note(left, left + 1)
    while open_ranks:
        rank = heappop(open_ranks)
        for left in sorted(places.pop(rank)):
            right = after[left]
            # A neighbour may have been joined meanwhile.
            if symbols[left] is None or right >= count or ranks.get((symbols[left], symbols[right])) != rank:  # type: ignore[arg-type]
                continue
            symbols[left], symbols[right] = f"{symbols[left]}{symbols[right]}", None
            after[left] = after[right]
            if after[left] < count:
                before[after[left]] = left
            note(before[left], left)
            note(left, after[left])
    return [symbol for symbol in symbols if symbol is not None]


def quicken(tokenizer: Tokenizer) -> Tokenizer:
    """A quicker tokenizer that gives the same tokens, where there is one; else the tokenizer itself."""
    known: Any = tokenizer
    if (
        type(known) is loaded("open_clip.tokenizer", "SimpleTokenizer")
        and known.reduction_fn is None
        and known.clean_fn is loaded("open_clip.tokenizer", "get_clean_fn")("lower")
        and int(known.context_length or 0) >= 3
    ):
        return CachedBpeTokenizer(known)
    return tokenizer
