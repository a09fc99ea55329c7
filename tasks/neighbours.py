"""Classifiers without training: the nearest class mean, and the nearest neighbours."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from clipeval.tasks.host_rows import NUMBERS, Rows, block_size, blocks
from clipeval.tasks.ties import CLOSE

ROWS = 1024
TEMPERATURE = 0.07


CLOSE_VOTES = 1e-6
"""Sums of votes that differ by less than this share are equal."""


def mean_cosines(train: Rows, y: torch.Tensor, test: torch.Tensor, classes: int) -> Iterator[torch.Tensor]:
    """Cosines with each class's mean embedding, normalised.

    Args:
        train: float32 [N, D], L2-normalised.
        y: int64 [N].
        test: float32 [M, D], L2-normalised.
        classes: C; one without a sample is never the best.

    Yields:
        float32 [m, C] for some test samples at a time.
    """
    sums, size = torch.zeros(classes, train.shape[1], device=train.device), block_size(train)
    for part, labels in zip(blocks(train, size), torch.split(y, size), strict=True):
        sums.index_add_(0, labels, part)
    means = F.normalize(sums, dim=1)
    empty = torch.bincount(y, minlength=classes) == 0
    for part in torch.split(test, ROWS):
        yield (part @ means.T).masked_fill(empty, -torch.inf)


def votes(
    train: Rows, y: torch.Tensor, test: torch.Tensor, classes: int, k: int, label: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """What the k nearest neighbours vote for, each weighted by exp(cosine / 0.07).

    As Wu et al. (2018, section 3.4) and DINO (Caron et al. 2021) evaluate features; other arguments as of `mean_cosines`.

    Args:
        label: int64 [M], the truth.

    Yields:
        Some test samples at a time, float32 [m, C] thrice: the votes; and those had all ties for the last place among the
        neighbours gone against the label, and all its way.
    """
    k, size = min(k, len(train)), block_size(train)
    rows = max(1, min(ROWS, 4 * NUMBERS // len(train)))
    for part, truth in zip(torch.split(test, rows), torch.split(label, rows), strict=True):
        products = [part @ block.T for block in blocks(train, size)]
        cosines = products[0] if len(products) == 1 else torch.cat(products, dim=1)
        values, places = cosines.topk(k, dim=1)
        tally = _cast(values, y[places], classes)
        worst, best = tally, tally
        tied = ((cosines >= values[:, -1:] - CLOSE).sum(dim=1) > k).nonzero()[:, 0]
        if len(tied):
            given, own = cosines[tied], y[None] == truth[tied, None]
            worst, best = tally.clone(), tally.clone()
            for table, shift in ((worst, -2 * CLOSE), (best, 2 * CLOSE)):
                order = (given + shift * own).topk(k, dim=1).indices
                table[tied] = _cast(given.gather(1, order), y[order], classes)
        yield tally, worst, best


def _cast(cosines: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    empty = torch.zeros(len(cosines), classes, device=cosines.device)
    return empty.scatter_add_(1, labels, (cosines / TEMPERATURE).exp())
