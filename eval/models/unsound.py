"""Embeddings that say nothing: NaN, infinite, or zero. Each is an error, before it is cached or scored."""

from __future__ import annotations

import numpy as np
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
    # By numpy, on one core: torch's threads wait for one another while decoders have the other cores.
    values = rows.detach().cpu().numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("nd,nd->n", values, values)
    # Written so that NaN, which no comparison is true of, counts as bad.
    bad = ~(np.isfinite(squares) & (squares >= LEAST**2))
    if not bad.any():
        return None
    place = int(np.flatnonzero(bad)[0])
    if np.isnan(values[place]).any():
        return place, "NaN"
    return place, "infinite" if np.isinf(values[place]).any() else "zero"
