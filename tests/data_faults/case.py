"""What a data fault is: a small input made by code, and what must come of it: an exact number, an exact error, or a flag."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Scored:
    """The input is scored.

    Attributes:
        metrics: what some metrics must be, to 1e-9.
        samples: how many samples the record must speak of.
        flags: a pattern (re.search) for each flag that must be there, in any order; no other flag may be.
        classnames: what the classes must be called; None: not looked at.
        said: a pattern that standard error must hold.
        task: which of the run's records; None: there is one.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    samples: int | None = None
    flags: Sequence[str] = ()
    classnames: Sequence[str] | None = None
    said: str = ""
    task: str | None = None


@dataclass(frozen=True)
class Refused:
    """The run stops with one error, before anything is scored, that every pattern (re.search) fits."""

    patterns: Sequence[str]

    def __init__(self, *patterns: str) -> None:
        object.__setattr__(self, "patterns", patterns)


@dataclass(frozen=True)
class Case:
    """A data fault.

    Attributes:
        name: `reader: what is unusual about the input`.
        make: writes the input into an empty folder and gives the words of `clipeval run`.
        outcome: what must happen.
        model: makes the model; None: the colour model.
        change: what is done to the input between two runs of the same words, of which the second is looked at; None: one run.
    """

    name: str
    make: Callable[[Path], Sequence[str]]
    outcome: Scored | Refused
    change: Callable[[Path], object] | None = None
    model: Callable[[], Any] | None = None


def check(outcome: Scored | Refused, result: Mapping[str, object] | str, said: str) -> str:
    """Asserts the outcome; how it ended, in a few words.

    Args:
        result: the record's JSON, or the error's text.
        said: what was printed to standard error.
    """
    if isinstance(outcome, Refused):
        assert isinstance(result, str), f"scored ({result.get('metrics')}), and an error was to come"  # type: ignore[union-attr]
        for pattern in outcome.patterns:
            assert re.search(pattern, result, re.DOTALL), f"/{pattern}/ is not in: {result}"
        return "refused: " + " ".join(result.split())[:110]
    assert not isinstance(result, str), f"an error: {result}"
    metrics, flags = result["metrics"], list(result["flags"])  # type: ignore[call-overload]
    for name, value in outcome.metrics.items():
        found = metrics[name]  # type: ignore[index]
        assert abs(found - value) < 1e-9, f"{name} is {found}, not {value}"
    if outcome.samples is not None:
        assert result["samples"] == outcome.samples, f"{result['samples']} samples, not {outcome.samples}"
    for pattern in outcome.flags:
        fitting = [flag for flag in flags if re.search(pattern, flag)]
        assert fitting, f"no flag fits /{pattern}/: {flags}"
        flags.remove(fitting[0])
    if not outcome.metrics:  # names that say nothing to the colour model: every score is equal
        flags = [flag for flag in flags if not flag.startswith("ties: ")]
    assert not flags, f"flags that nobody expected: {flags}"
    if outcome.classnames is not None:
        names = result["prompts"]["classnames"]  # type: ignore[index]
        assert list(names) == list(outcome.classnames), f"classes {names}, not {list(outcome.classnames)}"
    assert re.search(outcome.said, said, re.DOTALL), f"/{outcome.said}/ was not said: {said}"
    numbers = ", ".join(f"{name} {metrics[name]:.4g}" for name in outcome.metrics)  # type: ignore[index]
    return f"scored: {numbers or 'as expected'}" + (f"; flagged: {result['flags'][0]}"[:90] if result["flags"] else "")  # type: ignore[index]
