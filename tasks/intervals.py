"""Confidence intervals in closed form: a proportion, a smooth mean in [0, 1], and the least of several proportions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.special import bdtrc, ndtri


def wilson(value: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion `value` of `n` trials (J. Am. Stat. Assoc. 22, 1927, 209-212).

    `n` need not be whole: with the effective sample size value (1 - value) / variance this is the interval for a
    proportion estimated by anything smooth, a stratified or clustered mean say (Korn and Graubard, Survey Methodology
    24, 1998, 193-201; Dean and Pagano, J. Surv. Stat. Methodol. 3, 2015, 484-503, found Wilson's the best of these).
    """
    z = float(ndtri(0.5 + level / 2))
    if not math.isfinite(n):
        return value, value
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(max(0.0, value * (1 - value)) / n + z * z / (4 * n * n))
    # Rounding must not put the value outside: at 0 and 1 an end is the value itself.
    return max(0.0, min(value, centre - half)), min(1.0, max(value, centre + half))


def effective_sample_size(value: float, variance: float, fallback: float) -> float:
    """The number of independent trials that would know a proportion as well.

    Args:
        value: the estimate, in [0, 1].
        variance: of the estimate.
        fallback: the number to use where the variance says nothing: all right, or all wrong.
    """
    spread = value * (1 - value)
    return spread / variance if variance > 0 and spread > 0 else fallback


def least(hits: np.ndarray, totals: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """An interval for min(p) from `hits` right of `totals` tried, both int64 [G], totals > 0.

    The least of G sample proportions lies below the least true one on average, so a bootstrap around it centres on a
    number that is too low twice over. Instead, tests are inverted; both count an outcome equal to the observed one by half
    (Lancaster's mid-p, J. Am. Stat. Assoc. 56, 1961, 223-234):

    lower end: the least of the groups' own lower limits, each at (1 - level) / 2. The group that is truly worst has its
        limit above its true value that rarely, and the least limit is no higher: no correction for choosing is needed.
    upper end: the largest t for which a least proportion as low as the observed would still be seen with probability
        (1 - level) / 2, were every group at max(its own proportion, t). Several groups near the worst make a low minimum
        likely, so the end moves up with their number; with one clearly worst group it is that group's own limit.

    Coverage by simulation is in the tests.
    """
    tail = (1 - level) / 2
    hits, totals = np.asarray(hits, dtype=np.int64), np.asarray(totals, dtype=np.int64)
    proportions = hits / totals
    worst = int(np.argmin(proportions))
    # Compared in whole numbers: X / n >= h / m just if X >= ceil(h n / m).
    at_least = -(-hits[worst] * totals // totals[worst])
    above = hits[worst] * totals // totals[worst] + 1

    def reach(k: np.ndarray, p: np.ndarray) -> np.ndarray:
        """P(X >= k) for X binomial(totals, p)."""
        tail = np.where(k > totals, 0.0, bdtrc(np.maximum(k - 1, 0), totals, p))
        return np.asarray(np.where(k <= 0, 1.0, tail))

    def own(p: np.ndarray) -> np.ndarray:
        return np.asarray((reach(hits, p) + reach(hits + 1, p)) / 2)

    def low(t: np.ndarray) -> np.ndarray:
        p = np.maximum(proportions, t)
        return np.asarray(1 - (np.prod(reach(at_least, p)) + np.prod(reach(above, p))) / 2)

    value = float(proportions[worst])
    lower = float(np.min(bisect(own, tail, np.zeros(len(hits)), proportions)))
    if value == 1.0:
        return min(lower, value), 1.0
    upper = float(bisect(lambda t: 1 - low(t), 1 - tail, np.array(value), np.array(1.0)))
    return min(lower, value), max(upper, value)


def bisect(
    function: Callable[[np.ndarray], np.ndarray], target: float, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Where an increasing function of arrays meets `target`, elementwise, to 1e-12; an end where it does not."""
    for _ in range(40):
        middle = (low + high) / 2
        below = function(middle) < target
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray((low + high) / 2)
