"""Right candidates against wrong ones: who scores higher, and what ties could change."""

from __future__ import annotations

import numpy as np
import torch

from clipeval.tasks.ties import CLOSE

CELLS = 4_000_000
"""Comparisons held at once: 16 MB."""


def outcomes(scores: torch.Tensor, truth: torch.Tensor, strict: bool) -> torch.Tensor:
    """Whether every right candidate scores higher than every wrong one, for all queries that have a right one.

    Args:
        scores: float32 [m, queries, candidates].
        truth: bool, likewise.
        strict: whether a tie is wrong; else of equal scores the first is the better.

    Returns:
        int8 [m, 3]: by the rule, with ties against the model, with ties its way; 1, 0, or -1 where there is no query with both.
    """
    rows = max(1, CELLS // (scores[0].numel() * scores.shape[2]))
    parts = zip(torch.split(scores, rows), torch.split(truth, rows), strict=True)
    return torch.cat([_outcomes(*part, strict) for part in parts])


def _outcomes(scores: torch.Tensor, truth: torch.Tensor, strict: bool) -> torch.Tensor:
    contest = truth[..., :, None] & ~truth[..., None, :]  # a right candidate in the row, a wrong one in the column
    lead = scores[..., :, None] - scores[..., None, :]
    place = torch.arange(scores.shape[-1], device=scores.device)
    won = (lead > 0) if strict else (lead > 0) | ((lead == 0) & (place[:, None] < place[None, :]))
    some = contest.flatten(1).any(dim=1)
    found = [(ok | ~contest).flatten(1).all(dim=1) for ok in (won, lead > CLOSE, lead >= -CLOSE)]
    return torch.stack(
        [torch.where(some, ok.to(torch.int8), -torch.ones_like(some, dtype=torch.int8)) for ok in found], 1
    )


def all_alike(texts: torch.Tensor, truth: np.ndarray) -> bool | None:
    """Whether each two captions of one image are more alike than either is to any that is not its own.

    Args:
        texts: float32 [captions, D], of one instance.
        truth: bool [images, captions], which belong together.

    Returns:
        None where there is nothing to compare.
    """
    close = (texts.float() @ texts.float().T).cpu().numpy()
    answers = [
        min(close[a, b] for a in own for b in own if a != b) > max(close[a, b] for a in own for b in others)
        for one in truth
        if len(own := np.flatnonzero(one)) > 1 and len(others := np.flatnonzero(~one))
    ]
    return all(answers) if answers else None
