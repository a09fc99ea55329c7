"""Embeddings that say nothing: NaN, infinite, or zero. Each is an error, before it is cached or scored."""

from __future__ import annotations

import torch

CAUSES = "its weights hold NaN, its training collapsed, or the precision is too low for it (try runtime.precision=fp32)"
"""What usually lies behind such an embedding, for errors."""

LEAST = 0.5
"""The least length of an embedding that was normalised; only a vector of (almost) nothing stays shorter."""


def first_unsound(rows: torch.Tensor) -> tuple[int, str] | None:
    """The first embedding that cannot be scored, and what it is.

    Args:
        rows: float32 [N, D], L2-normalised.

    Returns:
        Its row, and `NaN`, `infinite` or `zero`; None where all are sound.
    """
    lengths = rows.norm(dim=1)
    # Written so that NaN, which no comparison is true of, counts as bad.
    bad = ~(torch.isfinite(lengths) & (lengths >= LEAST))
    if not bool(bad.any()):
        return None
    place = int(bad.nonzero()[0])
    row = rows[place]
    if bool(torch.isnan(row).any()):
        return place, "NaN"
    return place, "infinite" if bool(torch.isinf(row).any()) else "zero"
