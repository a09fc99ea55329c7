"""Out-of-distribution tasks: one set inside, several outside, each of them a task of configs/task/.

    task=ood ood.inside=imagenet1k ood.outside=[sun397,dtd]

is short for Hydra's own words, which put those tasks' configs into the task `ood`:

    task=ood +task@task.inside=imagenet1k +task@task.outside.sun397=sun397 +task@task.outside.dtd=dtd
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clipeval.configs.errors import ClipevalError

INSIDE, OUTSIDE = "ood.inside=", "ood.outside="


def spell(overrides: Sequence[str]) -> list[str]:
    """The words of a command line with the short ones written out.

    Raises:
        ClipevalError: one of them says nothing.
    """
    found = []
    for word in overrides:
        for start in (INSIDE, OUTSIDE):
            names = [name.strip() for name in word.removeprefix(start).strip("[]").split(",")]
            if word.startswith(start) and not all(names):
                raise ClipevalError(
                    f"{word}: the name of a task was expected, as in ood.inside=imagenet1k ood.outside=[sun397,dtd]."
                )
        if word.startswith(INSIDE):
            found.append(f"+task@task.inside={word.removeprefix(INSIDE)}")
        elif word.startswith(OUTSIDE):
            found += [f"+task@task.outside.{name}={name}" for name in names]
        else:
            found.append(word)
    return found


def each_outside(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """A task for each set outside, in the place of the one that names them all; other tasks as they are.

    Raises:
        ClipevalError: it names no set inside, or none outside, or one as both.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, node in tasks.items():
        if "inside" not in node:
            found[str(name)] = dict(node)
            continue
        inside, outside = node["inside"], node.get("outside") or {}
        if not inside or not outside:
            lacks = "inside" if not inside else "outside"
            raise ClipevalError(
                f"tasks.{name} names no set {lacks}: add ood.{lacks}={'TASK' if not inside else '[TASK,…]'}."
            )
        rest = {key: value for key, value in node.items() if key not in ("inside", "outside", "prompts")}
        for other, against in outside.items():
            if against["data"] == inside["data"]:
                raise ClipevalError(
                    f"tasks.{name}: {other} is the set inside; ood.outside names sets whose pictures are of none of its classes."
                )
            found[f"{name}-{other}"] = {
                **rest,
                "key": f"{node['key']}/{inside['key']}/{against['key']}",
                "name": f"{inside['name']} against {against['name']}",
                "prompts": node.get("prompts") or inside.get("prompts"),
                "notes": [*(node.get("notes") or ()), *(inside.get("notes") or ())],
                "data": inside["data"],
                "outside": against["data"],
            }
    return found
