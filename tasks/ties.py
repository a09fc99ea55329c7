"""Ties: candidates whose scores are equal, so that their order says nothing of the model. One rule for all metrics.

| setting `ties` of a task | of equal candidates |
|---|---|
| first | the one that is named first is the better: the lower class, caption, image or place in a list |
| reference | as the program that published the task's numbers orders them, so that its numbers are met |

What the reference does: classification counts acc1 and acc5 by torch.topk, which leaves the order open, and recall by argmax,
which takes the first; retrieval, caption selection and attributes take the first; association takes the last; multi-label
ranks as torch.sort leaves them. Hence acc1 and mean_per_class_recall of the same balanced samples may differ there; by the
rule `first` they cannot.

Whatever the rule, each record says how many answers would be right or wrong by the order of equal scores alone, and between
what bounds each metric lies if ties go against the model, or all its way. Where that is more than half of the metric's 95%
interval, the record is flagged.

Equal means: closer than float32 can tell (`CLOSE`). Two classes with one name have one vector, but the products that make
their scores may be summed in another order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

RULES = ("first", "reference")

CLOSE = 2.0**-22
"""Cosines closer than this are equal: four units of float32's rounding at 1, what sums of some hundred products are off by."""

SHOWN = 3
"""Metrics that a flag names."""


@dataclass(frozen=True)
class Ties:
    """How much of some scores is the order of equal candidates."""

    count: int = 0
    """Images, queries or instances whose answer is right or wrong by that order."""
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Each metric that they can move: its value with all of them against the model, and all its way."""


def ranges(
    values: Mapping[str, float | None], alternatives: Sequence[Mapping[str, float | None]]
) -> dict[str, tuple[float, float]]:
    """The least and the largest of each metric's values under several orders of equal scores, where they differ."""
    spans = {}
    for name, value in values.items():
        several = [v for v in (value, *(other.get(name) for other in alternatives)) if v is not None]
        if several and max(several) > min(several):
            spans[name] = (min(several), max(several))
    return spans


def flags(
    ties: Ties,
    metrics: Mapping[str, float | None],
    intervals: Mapping[str, tuple[float, float] | None],
    main: str | None,
) -> list[str]:
    """A flag if ties can move a metric by more than half of its interval; the main metric is named first."""
    moved = []
    for name in sorted(ties.ranges, key=lambda name: name != main):
        (low, high), interval = ties.ranges[name], intervals.get(name)
        if interval is None or high - low > (interval[1] - interval[0]) / 2:
            moved.append(f"{name} lies between {low:.4f} and {high:.4f} ({_number(metrics.get(name))} is reported)")
    if not moved:
        return []
    more = f", and {len(moved) - SHOWN} further metrics" if len(moved) > SHOWN else ""
    return [
        f"ties: {ties.count:,} answers hang on the order of equal scores: {'; '.join(moved[:SHOWN])}{more}; look for class "
        "names, captions or images that are equal"
    ]


def _number(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.4f}"


# -- one list of candidates for each row ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Labelled:
    """Where the label of each row stands among its candidates.

    Attributes:
        ahead: int64 [N], candidates that score higher: the label's rank from 0, if ties go its way.
        behind: int64 [N], candidates that score higher or as high: its rank if they do not.
        rival: int64 [N], the best other candidate; the label itself if there is none.
    """

    ahead: np.ndarray
    behind: np.ndarray
    rival: np.ndarray


def locate(scores: torch.Tensor, label: torch.Tensor, close: float) -> Labelled:
    """Where labels stand.

    Args:
        scores: float32 [n, C].
        label: int64 [n], in 0..C - 1; one outside has no place, and no tie either.
        close: scores no further apart than this are equal.
    """
    known = (label >= 0) & (label < scores.shape[1])
    place = torch.where(known, label, torch.zeros_like(label))[:, None]
    own = scores.gather(1, place)
    ahead = (scores > own + close).sum(dim=1)
    behind = (scores >= own - close).sum(dim=1) - 1
    rival = place[:, 0].clone()
    tied = (ahead != behind) & known
    if bool(tied.any()):
        others = scores[tied].scatter(1, place[tied], -torch.inf)
        rival[tied] = others.argmax(dim=1)
    never = torch.full_like(ahead, scores.shape[1])
    located = (torch.where(known, ahead, never), torch.where(known, behind, never), rival)
    return Labelled(*(part.cpu().numpy() for part in located))


def join(parts: Sequence[Labelled]) -> Labelled:
    """Several batches as one."""
    return Labelled(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("ahead", "behind", "rival")))


def ranked_otherwise(predictions: pd.DataFrame, located: Labelled) -> list[pd.DataFrame]:
    """Predictions with all ties against the label, and with all its way; none without a tie that matters.

    Args:
        predictions: label, prediction, pred_1.. of N rows.
        located: where their labels stand.
    """
    tied = hanging(located, [k for k in (1, 5) if f"pred_{k}" in predictions.columns])
    if not tied.any():
        return []
    names = [f"pred_{i + 1}" for i in range(sum(f"pred_{k}" in predictions.columns for k in range(1, 6)))]
    label = predictions["label"].to_numpy()[tied]
    tables = []
    for rank in (located.behind[tied], located.ahead[tied]):
        order = predictions.loc[tied, names].to_numpy().copy()
        order[order == label[:, None]] = -1
        first = rank == 0
        # What stood behind the label moves up; only whether the label is there matters to a metric.
        order[:, 0] = np.where(order[:, 0] == -1, located.rival[tied], order[:, 0])
        inside = np.flatnonzero(rank < len(names))
        order[inside, rank[inside]] = label[inside]
        prediction = predictions["prediction"].to_numpy()[tied]
        prediction = np.where(first, label, np.where(prediction == label, located.rival[tied], prediction))
        table = predictions.copy()
        table.loc[tied, names] = order
        table.loc[tied, "prediction"] = prediction
        tables.append(table)
    return tables


def hanging(located: Labelled, ks: Sequence[int]) -> np.ndarray:
    """bool [N]: whether a label is among the k best by the order of equal scores alone, for one of several k."""
    return np.asarray(np.any([(located.ahead < k) != (located.behind < k) for k in ks], axis=0))


def chosen_otherwise(scores: torch.Tensor, label: torch.Tensor, close: float) -> tuple[np.ndarray, np.ndarray]:
    """The best candidate of each row with all ties against the label, and with all its way.

    Args:
        scores: float32 [n, C].
        label: int64 [n].
        close: scores no further apart than this are equal.

    Returns:
        int64 [n] twice.
    """
    located, given, truth = locate(scores, label, close), scores.argmax(dim=1).cpu().numpy(), label.cpu().numpy()
    worst = np.where((located.behind > 0) & (given == truth), located.rival, given)
    return worst, np.where(located.ahead == 0, truth, given)


# -- by the rule ----------------------------------------------------------------------------------------------------


def first_of_equal(scores: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """The k best candidates of each row, of equal ones the lower index first.

    Args:
        scores: float32 [n, C].
        order: int64 [n, k], the k best in any order of equal ones.
    """
    values = scores.gather(1, order)
    # Equal neighbours, or one left out that is as good as the last one taken.
    unsure = (values[:, 1:] == values[:, :-1]).any(dim=1) | ((scores >= values[:, -1:]).sum(dim=1) > order.shape[1])
    if bool(unsure.any()):
        order = order.clone()
        order[unsure] = torch.sort(scores[unsure], dim=1, descending=True, stable=True).indices[:, : order.shape[1]]
    return order


def same_vectors(head: torch.Tensor) -> torch.Tensor | None:
    """int64 [C]: for each of some vectors float32 [C, D] the first that equals it; None if all differ."""
    _, number = torch.unique(head, dim=0, return_inverse=True)
    if int(number.max()) + 1 == len(head):
        return None
    first = torch.full((int(number.max()) + 1,), len(head), dtype=torch.int64, device=head.device)
    places = torch.arange(len(head), device=head.device)
    return first.scatter_reduce(0, number, places, reduce="amin")[number]
