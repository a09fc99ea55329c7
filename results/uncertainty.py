"""How sure a number is: intervals of metrics, of averages over tasks, of differences, and scores corrected for chance.

All intervals speak of the samples: what another draw of as many images would have given, with the model and its
prompts fixed.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for its name alone: a report needs no torch, which would take seconds to load
    from clipeval.tasks.statistics import Statistic

Interval = tuple[float, float]


def intervals(
    statistics: Mapping[str, Statistic | None], level: float = 0.95, seed: int = 0
) -> dict[str, Interval | None]:
    """Each metric's interval, as records hold them; None where the metric, or its interval, is undefined."""
    intervals_of: dict[str, Interval | None] = {}
    for name, statistic in statistics.items():
        pair = None if statistic is None else statistic.interval(level=level, seed=seed)
        intervals_of[name] = (
            None if pair is None or not all(map(math.isfinite, pair)) else (float(pair[0]), float(pair[1]))
        )
    return intervals_of


def average_interval(
    values: Sequence[float], pairs: Sequence[Interval | None], images: Sequence[Hashable] | None = None
) -> Interval | None:
    """The interval of the mean of n estimates, from the interval of each.

    With x_i the estimates and [l_i, u_i] their intervals, and m the mean:

        low = m - sqrt(sum (x_i - l_i)^2) / n        high = m + sqrt(sum (u_i - x_i)^2) / n

    the method of variance estimates recovery (Zou and Donner, Statistics in Medicine 27, 2008). It is the textbook
    formula when the intervals are symmetric, and keeps their skew when they are not. Tasks on distinct images are
    independent draws. Tasks on the same images are not: theirs are added before they are squared, as if fully
    correlated, which errs to the safe side.

    Args:
        values: the estimates.
        pairs: the interval of each.
        images: what each was estimated on; equal entries share their images. Default: all are distinct.

    Returns:
        None without estimates, or when one of them has no interval.
    """
    known = [pair for pair in pairs if pair is not None]
    if not values or len(known) < len(values):
        return None
    mean = math.fsum(values) / len(values)
    below: dict[Hashable, float] = {}
    above: dict[Hashable, float] = {}
    for value, (low, high), name in zip(values, known, images or range(len(values)), strict=True):
        below[name] = below.get(name, 0.0) + value - low
        above[name] = above.get(name, 0.0) + high - value
    return mean - math.hypot(*below.values()) / len(values), mean + math.hypot(*above.values()) / len(values)


def difference_interval(a: float, pair_a: Interval, b: float, pair_b: Interval) -> Interval:
    """The interval of a - b for two independent estimates, by the same method. Paired ones: see `compare.py`."""
    low = a - b - math.hypot(a - pair_a[0], pair_b[1] - b)
    high = a - b + math.hypot(pair_a[1] - a, b - pair_b[0])
    return low, high


def chance_corrected(value: float | None, chance: float | None) -> float | None:
    """0 for guessing, 1 for perfect: (value - chance) / (1 - chance). None where either is unknown."""
    if value is None or chance is None or chance >= 1:
        return None
    return (value - chance) / (1 - chance)
