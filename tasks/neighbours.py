"""Classifiers without training: the nearest class mean, and the nearest neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F

ROWS = 1024
TEMPERATURE = 0.07


def nearest_mean(train: torch.Tensor, y: torch.Tensor, test: torch.Tensor, classes: int) -> torch.Tensor:
    """The class whose mean embedding, normalised, lies nearest.

    Args:
        train: float32 [N, D], L2-normalised.
        y: int64 [N].
        test: float32 [M, D], L2-normalised.
        classes: C; one without a sample is never the answer.

    Returns:
        int64 [M].
    """
    sums = torch.zeros(classes, train.shape[1], device=train.device).index_add_(0, y, train)
    means = F.normalize(sums, dim=1)
    empty = torch.bincount(y, minlength=classes) == 0
    return torch.cat(
        [(part @ means.T).masked_fill(empty, -torch.inf).argmax(dim=1) for part in torch.split(test, ROWS)]
    )


def nearest_neighbours(
    train: torch.Tensor, y: torch.Tensor, test: torch.Tensor, classes: int, k: int = 20
) -> torch.Tensor:
    """The class with most votes among the k nearest, each weighted by exp(cosine / 0.07).

    As Wu et al. (2018, section 3.4) and DINO (Caron et al. 2021) evaluate features; arguments as of `nearest_mean`.
    """
    k = min(k, len(train))
    found = []
    for part in torch.split(test, ROWS):
        cosines, places = (part @ train.T).topk(k, dim=1)
        votes = torch.zeros(len(part), classes, device=train.device)
        found.append(votes.scatter_add_(1, y[places], (cosines / TEMPERATURE).exp()).argmax(dim=1))
    return torch.cat(found)
