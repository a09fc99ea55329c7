"""Errors for the person at the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_ERROR = 1
EXIT_SKIPPED = 3
"""Everything is done but the tasks that `data.on_missing=skip` left out."""

SHOWN = 20
"""How many choices an error lists, if it must."""


class ClipevalError(ValueError):
    """Something that the user can put right. Its text names the thing, what was expected, and the cure."""


def first_line(problem: BaseException, instead: str | None = None) -> str:
    """The first line of what an error says; where it says nothing `instead`, or the name of its type."""
    said = str(problem).strip().splitlines()
    return said[0] if said else type(problem).__name__ if instead is None else instead


def nearest(kind: str, given: object, choices: Iterable[object]) -> str:
    """`Unknown task 'cifar1'. Did you mean: cifar10, cifar100? Available: cars, …`

    Of many choices it says how many there are beside the close ones, and where none is close the first of them.

    Args:
        kind: what was asked for: task, suite, column.
        given: what was given.
        choices: what there is.
    """
    names = list(dict.fromkeys(str(choice) for choice in choices))
    text = f"Unknown {kind} {str(given)!r}."
    close = closest(str(given), names)
    if close:
        text += f" Did you mean: {', '.join(close)}?"
    if not names:
        return f"{text} There is none."
    names = [_leaf(name, str(given)) for name in names]
    if close and len(names) > SHOWN:
        return f"{text} There are {len(names)} in all"
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{text} Available: {', '.join(names[:SHOWN])}{rest}"


def closest(given: str, choices: Iterable[str], most: int = 3) -> list[str]:
    """Up to `most` choices that look like `given`, whatever the case: by spelling, else those that hold it."""
    folded: dict[str, str] = {}
    for choice in choices:
        folded.setdefault(_fold(_leaf(choice, given)), choice)
    name = _fold(_leaf(given, given))
    matches = difflib.get_close_matches(name, folded, n=most, cutoff=0.65)
    holding = [f for f in folded if len(name) > 2 and name in f and f not in matches]
    return [folded[m] for m in [*matches, *holding][:most]]


def _leaf(choice: str, given: str) -> str:
    """A dotted key without the part that it shares with the given one."""
    return choice.removeprefix(given[: given.rfind(".") + 1])


def _fold(name: str) -> str:
    return name.lower().replace("-", "_").replace("/", "_")
