"""Embedding many texts: each distinct text once, sorted by length, in batches of about equal work.

A causal text tower that pools its end token sees nothing after that token, so a batch of short texts need not be padded
to the 77 positions of the context: ViT-B-32's ImageNet prompts have 10 tokens on average. Whether a tower is of that kind
is measured, on probe texts, and not told from its name: SigLIP pools the last, padded, position; CoCa appends a class
token; a tower without a causal mask sees its padding. All of these fail the test and are given their full length.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from clipeval.configs.errors import ClipevalError
from clipeval.models.prefixes import PrefixSharing
from clipeval.models.trial import placement

Tokenizer = Callable[[list[str]], Any]
"""Texts to int64 [T, L]; a mapping with `input_ids`, as Hugging Face's tokenizers give it, will do."""

PROBES = (
    "a",
    "a photo of a cat.",
    "two dogs and a red frisbee on the grass, in the rain; behind them, a white house with 3 windows.",
    "a low resolution photo of the great white shark",
)
TOLERANCE = 2e-6
"""How far a trimmed embedding of unit length may lie from the untrimmed one, in any component: float32's rounding."""
_TOKENISED_AT_ONCE = 4096


def tokenise(tokenizer: Tokenizer, texts: Sequence[str]) -> torch.Tensor:
    """int64 [T, L], on the CPU. ClipevalError if the tokenizer gives anything else."""
    try:
        given = tokenizer(list(texts))
    except (RuntimeError, ValueError, IndexError, KeyError, TypeError) as problem:
        raise ClipevalError(f"the tokenizer refuses {_refused(tokenizer, texts)!r}: {problem}") from problem
    if isinstance(given, Mapping):
        given = given["input_ids"]
    tokens = torch.as_tensor(given)
    if tokens.ndim != 2 or len(tokens) != len(texts) or tokens.is_floating_point():
        raise ClipevalError(
            f"the tokenizer must give integers [{len(texts)}, context length] for {len(texts)} texts,"
            f" got {tokens.dtype} {list(tokens.shape)}"
        )
    return tokens.to("cpu", torch.int64)


@contextmanager
def disable_tokenizer_threads() -> Iterator[None]:
    """Keeps the tokenizers' own threads from being forked into the decoders."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = before or "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]


def _refused(tokenizer: Tokenizer, texts: Sequence[str]) -> str:
    """The first text that a tokenizer fails on by itself; the first of all if it fails on several together only."""
    for text in texts:
        try:
            tokenizer([text])
        except (RuntimeError, ValueError, IndexError, KeyError, TypeError):
            return text
    return texts[0] if texts else ""


class TextEncoder:
    """Texts to embeddings, with a model's own tokenizer and text tower.

    Args:
        encode: int64 tokens [B, L] on `device` to embeddings [B, D], in whatever precision.
        tokenizer: the model's tokenizer, padding to one length.
        module: the module whose positional embedding and causal mask are to be cut to a batch's length; None: never trim.
        device: where `encode` wants its tokens.
    """

    def __init__(
        self,
        encode: Callable[[torch.Tensor], torch.Tensor],
        tokenizer: Tokenizer,
        module: nn.Module | None,
        device: torch.device,
    ):
        self.tokenizer, self.device = tokenizer, device
        self._full, self._module = encode, module
        self._call = _Call(encode, module) if module is not None else None
        self._sliced: dict[int, dict[str, torch.Tensor]] = {}
        self._shared = PrefixSharing.of(module) if module is not None else None
        self.context = int(self.tokens(["a"]).shape[1])
        self.pad = int(self.tokens(["a"])[0, -1])
        self.margin: int | None = None
        """How many padding tokens to keep behind the last token of a batch's longest text; None: do not trim."""

    @property
    def shares(self) -> bool:
        """Whether what texts begin with in common is computed once."""
        return self._shared is not None

    def tokens(self, texts: Sequence[str]) -> torch.Tensor:
        """int64 [T, L], on the CPU. ValueError if the tokenizer gives anything else."""
        return tokenise(self.tokenizer, texts)

    def lengths(self, tokens: torch.Tensor) -> torch.Tensor:
        """int64 [T]: tokens of each text up to the last that is not padding, at least 1."""
        positions = torch.arange(1, tokens.shape[1] + 1)
        return ((tokens != self.pad) * positions).amax(dim=1).clamp_(min=1)

    def test_trimming(self) -> bool:
        """Find out whether texts may be trimmed. Call it while the tower computes in float32."""
        try:
            tokens = self.tokens(PROBES)
        except ClipevalError:  # a tokenizer that refuses long texts; of those to be embedded it may take all
            return False
        lengths = self.lengths(tokens)
        # A tower that is no torch module cannot be cut, and a tokenizer that does not pad leaves nothing to cut.
        if self._call is not None and int(lengths.min()) < self.context:
            full = self._unit(self._whole(tokens))
            for margin in (0, 1):
                try:
                    worst = self._worst(tokens, lengths, margin, full)
                except (
                    RuntimeError,
                    ValueError,
                    IndexError,
                    TypeError,
                    AssertionError,
                ):  # it takes its full context only
                    continue
                if worst <= TOLERANCE:
                    self.margin = margin
                    self._test_sharing(tokens, lengths + margin, full)
                    break
        self._sliced.clear()
        return self.margin is not None

    def _whole(self, tokens: torch.Tensor) -> torch.Tensor:
        """The tower's answer to untrimmed tokens. ClipevalError if they are not what it reads."""
        try:
            return self._full(tokens.to(self.device))
        except (RuntimeError, IndexError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise ClipevalError(
                f"the text tower does not read what the tokenizer gives, {tokens.shape[1]} tokens of a text up to token "
                f"{int(tokens.max()):,} ({str(error).splitlines()[0]})"
                + (placement(self._module) or "; take the tokenizer that the model was trained with")
            ) from error

    def _test_sharing(self, tokens: torch.Tensor, lengths: torch.Tensor, full: torch.Tensor) -> None:
        """Gives up sharing beginnings unless the probes, of which several begin alike, come out the same."""
        if self._shared is not None:
            cut = tokens[:, : int(lengths.max())].to(self.device)
            if _distance(self._unit(self._shared(cut, lengths)), full) > TOLERANCE:
                self._shared = None

    def _worst(self, tokens: torch.Tensor, lengths: torch.Tensor, margin: int, full: torch.Tensor) -> float:
        """The largest difference over probes of every length, each cut to its own length and all cut to the longest."""
        longest = int(lengths.max())
        worst = _distance(self._unit(self._cut(tokens, longest + margin)), full)
        for i, length in enumerate(lengths.tolist()):
            worst = max(worst, _distance(self._unit(self._cut(tokens[i : i + 1], length + margin)), full[i : i + 1]))
        return worst

    def _unit(self, embeddings: torch.Tensor, unit: bool = True) -> torch.Tensor:
        embeddings = embeddings.float()
        return (functional.normalize(embeddings, dim=-1) if unit else embeddings).cpu()

    def _cut(self, tokens: torch.Tensor, length: int) -> torch.Tensor:
        length = min(length, self.context)
        moved = tokens[:, :length].to(self.device)
        if length == self.context or self._call is None:
            return self._full(moved)
        if length not in self._sliced:
            self._sliced[length] = self._call.sliced(self.context, length)
        result: torch.Tensor = functional_call(self._call, self._sliced[length], (moved,))
        return result

    def __call__(
        self,
        texts: Sequence[str],
        budget: int,
        progress: Callable[[int], None] | None = None,
        share: bool = True,
        unit: bool = True,
    ) -> torch.Tensor:
        """float32 [T, D], on the CPU, in the order of `texts`.

        Args:
            texts: T texts; duplicates are embedded once.
            budget: tokens in a batch, padding included; halved where the device's memory does not suffice.
            progress: told after each batch how many of the T texts are done with it.
            share: whether what texts begin with in common may be computed once; not under automatic mixed precision, where a
                published recipe is repeated.
            unit: whether each is brought to length 1; else it is as long as the tower makes it.
        """
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            raise ValueError("no texts to embed")
        counts = np.zeros(len(distinct), dtype=np.int64)
        index = {text: i for i, text in enumerate(distinct)}
        rows = np.fromiter((index[text] for text in texts), dtype=np.int64, count=len(texts))
        np.add.at(counts, rows, 1)
        tokens = torch.cat(
            [
                self.tokens(distinct[i : i + _TOKENISED_AT_ONCE]).to(torch.int32)
                for i in range(0, len(distinct), _TOKENISED_AT_ONCE)
            ]
        )
        lengths = self.lengths(tokens) if self.margin is not None else torch.full((len(tokens),), self.context)
        # The longest first: if the memory does not suffice, it shows at once.
        order = torch.argsort(lengths, descending=True, stable=True)
        shared = self._shared if self.margin is not None and share else None
        if shared is not None:  # texts of one length by their tokens, so that those that begin alike come together
            columns = tokens[:, : int(lengths.max())].T.numpy()
            order = torch.from_numpy(np.lexsort([*columns[::-1], -lengths.numpy()]))
        embeddings: torch.Tensor | None = None
        start = 0
        while start < len(order):
            length = min(self.context, int(lengths[order[start]]) + (self.margin or 0))
            batch = order[start : start + max(1, budget // length)]
            try:
                given = tokens[batch].to(torch.int64)
                if shared is None:
                    made = self._unit(self._cut(given, length), unit)
                else:
                    cut = given[:, :length].to(self.device)
                    made = self._unit(shared(cut, lengths[batch] + (self.margin or 0)), unit)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise ClipevalError("the device's memory does not hold one text and the model") from None
                budget = max(1, len(batch) // 2) * length
                continue
            if embeddings is None:
                embeddings = torch.empty(len(order), made.shape[1])
            embeddings[batch] = made
            start += len(batch)
            if progress is not None:
                progress(int(counts[batch.numpy()].sum()))
        assert embeddings is not None
        return embeddings[torch.from_numpy(rows)] if len(distinct) < len(texts) else embeddings


class _Call(nn.Module):
    """A model whose forward pass is its text encoding, so that functional_call can lend it shorter tensors."""

    def __init__(self, encode: Callable[[torch.Tensor], torch.Tensor], module: nn.Module):
        super().__init__()
        self.module = module
        self.encode = encode

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.encode(tokens)

    def sliced(self, context: int, length: int) -> dict[str, torch.Tensor]:
        """The text side's positional embedding and causal mask, cut from `context` positions to `length`: views."""
        cut: dict[str, torch.Tensor] = {}
        for name, tensor in [*self.named_parameters(), *self.named_buffers()]:
            parts = name.split(".")
            if "visual" in parts:
                continue
            if parts[-1] == "positional_embedding" and tensor.ndim == 2 and tensor.shape[0] == context:
                cut[name] = tensor.detach()[:length]
            elif parts[-1] == "attn_mask" and tuple(tensor.shape) == (context, context):
                cut[name] = tensor[:length, :length]
        return cut


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    worst = float((a - b).abs().max())
    return worst if worst == worst else float("inf")  # NaN, of weights that are not finite
