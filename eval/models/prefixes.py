"""A causal text tower over many texts at once: what they begin with in common is computed once.

In a causal tower the activations at a position depend on the tokens up to it alone. So the 1,000 prompts "a blurry photo of a
…" need their first six positions once, not 1,000 times. Of a batch, each distinct beginning is a node; everything that works
on single positions (projections, MLP, normalisation: nearly all of the arithmetic) runs over the nodes, and attention, which
needs a text's positions side by side, over the texts. In the last block only the position that becomes the embedding is
computed. The products are those of the tower itself, fewer of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from clipeval.preprocess.late import loaded


class PrefixSharing:
    """open_clip's own text transformer, of plain causal blocks, without what several texts compute alike.

    Whether it gives what the tower gives is for the caller to measure.
    """

    def __init__(self, tower: Any) -> None:
        self.tower = tower
        self.blocks: list[Any] = list(tower.transformer.resblocks)
        self.pool = getattr(tower, "text_pool_type", None) or tower.pool_type
        self.end = getattr(tower, "text_eos_id", None) or getattr(tower, "eos_id", None)

    @classmethod
    def of(cls, model: nn.Module) -> PrefixSharing | None:
        """For a model whose text tower is of that kind; else None."""
        tower: Any = model if hasattr(model, "token_embedding") else getattr(model, "text", None)
        wanted = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")
        if (
            not all(getattr(tower, name, None) is not None for name in wanted)
            or getattr(tower, "cls_emb", None) is not None
        ):
            return None
        blocks = getattr(tower.transformer, "resblocks", ())
        plain = all(_is_plain(block) and block.attn.in_proj_weight is not None for block in blocks)
        if not blocks or not plain:
            return None
        made = cls(tower)
        return made if made.pool in ("argmax", "eos", "first", "last") else None

    def __call__(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The embeddings, not normalised.

        Args:
            tokens: int64 [B, L].
            lengths: int64 [B]; positions from there on count for nothing.

        Returns:
            [B, D].
        """
        from open_clip.transformer import text_global_pool

        tower, (batch, length) = self.tower, tokens.shape
        index, first = nodes(tokens, lengths)
        index, first = index.to(tokens.device), first.to(tokens.device)
        dtype = self.blocks[0].get_weight_dtype()
        x = tower.token_embedding(tokens.flatten()[first]).to(dtype)
        x = x + tower.positional_embedding.to(dtype)[first % length]
        for block in self.blocks[:-1]:
            q, k, v = _heads(block, x, index)
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = _rest(block, x, mixed.transpose(1, 2).reshape(batch * length, -1)[first])
        # Of the last block's outputs one position is read of each text: it alone is computed.
        places = torch.arange(length, device=tokens.device).expand(batch, length)
        end = text_global_pool(places[..., None], tokens, self.pool, eos_token_id=self.end).flatten()
        every = torch.arange(batch, device=tokens.device)
        q, k, v = _heads(self.blocks[-1], x, index)
        mixed = functional.scaled_dot_product_attention(
            q[every, :, end][:, :, None], k, v, attn_mask=(places <= end[:, None])[:, None, None]
        )
        pooled = tower.ln_final(_rest(self.blocks[-1], x[index[every, end]], mixed.reshape(batch, -1)))
        projection = tower.text_projection
        found: torch.Tensor = projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
        return found


def _heads(block: Any, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Queries, keys and values [3, B, heads, L, D / heads] of the nodes [N, D] that the texts [B, L] consist of."""
    attn = block.attn
    qkv = functional.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
    return qkv[index].view(*index.shape, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)


def _rest(block: Any, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
    """What a block does to positions [N, D] once attention has mixed them."""
    x = x + block.ls_1(block.attn.out_proj(mixed))
    return x + block.ls_2(block.mlp(block.ln_2(x)))  # type: ignore[no-any-return]


def _is_plain(block: nn.Module) -> bool:
    """Whether it is open_clip's own residual block, and of no class derived from it, whose forward may differ."""
    return type(block) is loaded("open_clip.transformer", "ResidualAttentionBlock")


def nodes(tokens: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The distinct beginnings of some texts.

    Args:
        tokens: int64 [B, L].
        lengths: int64 [B].

    Returns:
        int64 [B, L], the number of the beginning that ends at each position (0 behind a text's end, where it means nothing);
        int64 [N], where each beginning stands first, as a place in the flattened tokens.
    """
    tokens, lengths = tokens.cpu(), lengths.cpu()
    batch, length = tokens.shape
    index = torch.zeros(batch, length, dtype=torch.int64)
    first: list[torch.Tensor] = []
    before, count = torch.zeros(batch, dtype=torch.int64), 0
    vocabulary = int(tokens.max()) + 1
    for position in range(length):
        rows = torch.nonzero(lengths > position).flatten()
        if not len(rows):
            break
        _, numbers = torch.unique(before[rows] * vocabulary + tokens[rows, position], return_inverse=True)
        size = int(numbers.max()) + 1
        places = torch.empty(size, dtype=torch.int64).scatter_(0, numbers.flip(0), (rows * length + position).flip(0))
        first.append(places)
        before[rows] = index[rows, position] = count + numbers
        count += size
    return index, torch.cat(first)
