"""Class names that a model cannot tell apart, or that say nothing: empty ones, the same one twice, one alone."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 3
"""Names that a flag shows."""


def name_flags(names: Sequence[str], what: str = "") -> list[str]:
    """What is wrong with a list of class names, a sentence for each kind.

    Args:
        names: C names; the position is the class.
        what: whose names they are, where there are several lists: `of race`.
    """
    places: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        places.setdefault(" ".join(name.split()).casefold(), []).append(number)
    of = f" {what}" if what else ""
    problems = []
    if empty := places.pop("", []):
        problems.append(f"{len(empty)} of {len(names):,} class names{of} are empty: {_classes(empty)}")
    if twice := {name: several for name, several in places.items() if len(several) > 1}:
        shown = [f"{names[several[0]]!r} ({_classes(several)})" for several in list(twice.values())[:SHOWN]]
        more = ", …" if len(twice) > SHOWN else ""
        problems.append(
            f"{len(twice)} of {len(names):,} class names{of} are given more than once, but for case and white space: "
            f"{', '.join(shown)}{more}"
        )
    if len(names) == 1:
        problems.append(
            f"there is one class name{of}, {names[0]!r}: nothing is to be chosen, and every answer is right"
        )
    return problems


def _classes(numbers: Sequence[int]) -> str:
    some = ", ".join(map(str, numbers[:SHOWN])) + (", …" if len(numbers) > SHOWN else "")
    return f"class {some}" if len(numbers) == 1 else f"classes {some}"
