"""Paired comparisons: two runs on the same samples, in which only the samples where they part say anything."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from clipeval.results.uncertainty import Interval


def mcnemar(wins: int, losses: int) -> float:
    """The two-sided p-value for "wins and losses are equally likely", McNemar's test with the mid-p correction.

    Of n = wins + losses samples on which exactly one run is right, the smaller side is binomial(n, 1/2). The exact test
    counts the observed outcome in full and is conservative; mid-p counts it by half, and keeps the level for small and
    large n alike (Fagerland, Lydersen and Laake, BMC Med. Res. Methodol. 13:91, 2013). 1 where the runs never part.
    """
    n, fewer = wins + losses, min(wins, losses)
    if n == 0 or wins == losses:
        return 1.0
    below, at = stats.binom.cdf(fewer - 1, n, 0.5), stats.binom.pmf(fewer, n, 0.5)
    return float(min(1.0, 2 * below + at))


def difference_of_proportions(wins: int, losses: int, n: int, level: float = 0.95) -> Interval:
    """The interval of (wins - losses) / n, the difference of two paired proportions over n samples.

    Bonett and Price's adjusted Wald interval (J. Educ. Behav. Stat. 37, 2012, 479-488): one win and one loss are added,
    so that it has a width even where the runs never part.
    """
    z = float(stats.norm.ppf(0.5 + level / 2))
    up, down = (wins + 1) / (n + 2), (losses + 1) / (n + 2)
    half = z * math.sqrt(max(0.0, up + down - (up - down) ** 2) / (n + 2))
    # The middle is the adjusted difference; the observed one always lies inside.
    middle = up - down
    observed = (wins - losses) / n
    return max(-1.0, min(middle - half, observed)), min(1.0, max(middle + half, observed))


def bootstrap(draws: np.ndarray, observed: float, level: float = 0.95) -> tuple[Interval, float]:
    """The percentile interval and the two-sided p-value from differences in bootstrap worlds.

    Args:
        draws: float64 [B], the difference in each world in which the same samples were drawn for both runs.
        observed: the difference as measured.
        level: of the interval.

    Returns:
        The interval, and twice the share of worlds on the other side of zero; worlds exactly at zero count by half, and
        one world is added, so that p is never 0: at the least 1 / (B + 1).
    """
    tail = (1 - level) / 2
    low, high = (float(end) for end in np.quantile(draws, [tail, 1 - tail]))
    at_zero = np.count_nonzero(draws == 0) / 2
    other_side = np.count_nonzero(draws < 0 if observed > 0 else draws > 0) + at_zero
    p = 1.0 if observed == 0 else min(1.0, 2 * (other_side + 0.5) / (len(draws) + 1))
    return (min(low, observed), max(high, observed)), p


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: compared with a level, they keep the chance of any false finding below it."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = highest
    return adjusted
