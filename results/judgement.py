"""Whether a measured value agrees with a published one: the arithmetic of the verdict, for one value and for all of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal

from clipeval.results.published.registry import FULL
from clipeval.results.uncertainty import Interval

Verdict = Literal["exact", "within", "outside", "unknown", "missing"]

FLOAT = 1e-6
"""How far two programs' floats for one count may lie apart: some of the published ones are float32."""

FLIPS = 0.0056
"""The share of answers that another precision changes: 81 of 14,390, `precision=datacomp` against fp32 in
results/benchmarks/2026-11-25-amd-epyc-2-cores.md, the largest share measured of a recipe that was published with."""

ALARMS = 0.04
"""How often a right run may have any value outside, and (`DRIFT`) how often all its values may seem to lie to one side."""

DRIFT = 0.005

NORMAL = NormalDist()


def rounding(digits: int) -> float:
    """Half of the last printed digit: a published 0.7279 stands for anything from 0.72785 to 0.72795."""
    return FLOAT if digits >= FULL else 0.5 * 10.0**-digits


def verdict_of(
    published: float,
    measured: float | None,
    interval: Interval | None,
    *,
    digits: int = 4,
    factor: float = 1.0,
    slack: float = 0.0,
) -> Verdict:
    """Whether a measured value agrees with a published one.

    Args:
        published: the value as it was printed.
        measured: ours; None where there is none.
        interval: the 95% interval of ours over samples.
        digits: decimals that were printed; `FULL` for a float.
        factor: how far the interval's ends are moved out, see `simultaneous`.
        slack: what else may move the value, see `precision_effect`.
    """
    if measured is None:
        return "missing"
    half = rounding(digits)
    # Rounding is decimal, and neither value need be a decimal that binary can hold.
    if abs(measured - published) <= half * (1 + 1e-6):
        return "exact"
    if interval is None:
        return "unknown"
    low = measured - factor * (measured - interval[0]) - half - slack
    high = measured + factor * (interval[1] - measured) + half + slack
    return "within" if low <= published <= high else "outside"


def simultaneous(count: int) -> float:
    """By how much 95% intervals are widened, so that of `count` right values together only `ALARMS` of runs have one outside.

    Bonferroni's bound for normal estimates, whatever their correlation.
    """
    return max(1.0, NORMAL.inv_cdf(1 - ALARMS / 2 / max(1, count)) / NORMAL.inv_cdf(0.975))


def precision_effect(samples: int | None) -> float:
    """How far another precision may move an accuracy over so many samples: 1.96 standard deviations of `FLIPS` random changes."""
    return 0.0 if not samples else NORMAL.inv_cdf(0.975) * math.sqrt(FLIPS / samples)


def drift(differences: Sequence[tuple[float, Interval, float]]) -> float | None:
    """Whether values that agree one by one lie to one side together: the mean standardised difference, where chance rules it out.

    Args:
        differences: of each independent value: (measured - published, its interval about the measured value as distances below
            and above, half of the last digit).

    Returns:
        The sum of z over the root of their number; None where it is less than `DRIFT` allows.
    """
    scores = []
    for difference, (below, above), half in differences:
        reach = above if difference < 0 else below  # towards the published value
        if reach > 0:
            scores.append(difference / (math.hypot(reach / NORMAL.inv_cdf(0.975), half)))
    if len(scores) < 3:
        return None
    total = math.fsum(scores) / math.sqrt(len(scores))
    return total if abs(total) > NORMAL.inv_cdf(1 - DRIFT / 2) else None
