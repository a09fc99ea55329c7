"""Rankings of documents with several that are relevant: where these stand, and what that is worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipeval.tasks.ties import CLOSE

PRECISIONS = ("trec", "capped", "revisited")
"""What average precision is, of R relevant documents at ranks r_1 < r_2 < … (from 1), up to a depth k:

    trec        sum of j / r_j over r_j <= k, divided by R           trec_eval's map_cut, and so MTEB's map_at_k
    capped      the same, divided by min(R, k)                       CIRCO's
    revisited   the area under precision and recall by trapezoids    Revisited Oxford and Paris (Radenovic et al., CVPR 2018)
"""


def places(scores: np.ndarray, relevant: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks from 0 of some documents, int64 [R] thrice: as equal scores are ordered, with ties against them, with ties their way.

    Args:
        scores: float32 [M]; -inf leaves a document out. Of equal ones the first is the better.
        relevant: int64 [R], distinct, at least one.

    Returns:
        Each sorted by the documents' own scores, the best first.
    """
    order = relevant[np.lexsort((relevant, -scores[relevant]))]
    own = scores[order]
    near = np.sort(scores[scores >= own[-1] - CLOSE])
    ahead = len(near) - np.searchsorted(near, own, side="right")
    same = len(near) - np.searchsorted(near, own, side="left") - ahead
    given = ahead.copy()
    for j in np.flatnonzero(same > 1):
        given[j] += np.count_nonzero(scores[: order[j]] == own[j])
    # Relevant documents are no rivals of one another.
    mine, number = np.sort(own), np.arange(len(own))
    worse = len(near) - np.searchsorted(near, own - np.float32(CLOSE), side="left")
    worse -= len(mine) - np.searchsorted(mine, own - np.float32(CLOSE), side="left")
    better = len(near) - np.searchsorted(near, own + np.float32(CLOSE), side="right")
    better -= len(mine) - np.searchsorted(mine, own + np.float32(CLOSE), side="right")
    return given.astype(np.int64), (worse + number).astype(np.int64), (better + number).astype(np.int64)


def measures(
    ranks: np.ndarray, grades: np.ndarray, every: np.ndarray, ks: Sequence[int], precision: str
) -> dict[str, float]:
    """What a ranking is worth.

    Args:
        ranks: int64 [found], of the relevant documents that were found, from 0, rising.
        grades: float64 [found], how relevant each of them is.
        every: float64 [R], the grades of all that are relevant, found or not.
        ks: depths.
        precision: one of `PRECISIONS`.

    Returns:
        map; and at each depth map_at_k, ndcg_at_k (gains as they are, over log2(rank + 1)), recall_at_k (the share of what is
        relevant), hit_rate_at_k (whether anything is found), mrr_at_k (one over the rank of the first); of `revisited` also
        mp_at_k, the precision among the first k, or among as many as are needed to find all, if these are fewer.
    """
    total = len(every)
    found = {"map": average_precision(ranks, total, None, precision)}
    ideal = np.sort(every)[::-1] / np.log2(np.arange(2, total + 2))
    gains = grades / np.log2(ranks + 2)
    for k in ks:
        inside = int(np.searchsorted(ranks, k))
        found[f"map_at_{k}"] = average_precision(ranks, total, k, precision)
        found[f"ndcg_at_{k}"] = min(1.0, float(gains[:inside].sum() / ideal[:k].sum()))
        found[f"recall_at_{k}"] = inside / total
        found[f"hit_rate_at_{k}"] = float(inside > 0)
        found[f"mrr_at_{k}"] = 1 / (int(ranks[0]) + 1) if inside else 0.0
        if precision == "revisited":
            depth = min(k, int(ranks[-1]) + 1) if len(ranks) else k
            found[f"mp_at_{k}"] = np.count_nonzero(ranks < depth) / depth
    return found


def average_precision(ranks: np.ndarray, total: int, k: int | None, precision: str) -> float:
    """As `PRECISIONS` says; arguments as of `measures`. `k`: the depth; None: all."""
    inside = ranks if k is None else ranks[ranks < k]
    number = np.arange(1, len(inside) + 1)
    if precision == "revisited":
        before = np.where(inside == 0, 1.0, (number - 1) / np.maximum(inside, 1))
        return float((before + number / (inside + 1)).sum() / (2 * total))
    return float((number / (inside + 1)).sum()) / (min(total, k) if precision == "capped" and k is not None else total)
