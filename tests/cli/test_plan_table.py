"""What `clipeval plan` says of a run's needs beforehand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from clipeval.cli.plan_table import _memory


def planned(name: str, *images: int, derived: bool = False) -> Any:
    features = {str(number): SimpleNamespace(images=range(count)) for number, count in enumerate(images)}
    return SimpleNamespace(id=name, features=features, derived=object() if derived else None)


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        (
            [planned("mnist", 10_000), planned("probe", 1_281_167, 50_000)],
            ["1,331,167", "probe", "2.7 GB where", "5.5 GB"],
        ),
        ([planned("mnist", 10_000), planned("made", 1_281_167, derived=True)], []),
        ([], []),
    ],
)
def test_the_memory_of_the_largest_task_is_said_beforehand(tasks: list[Any], said: list[str]) -> None:
    text = _memory(SimpleNamespace(open=tasks))  # type: ignore[arg-type]
    assert bool(text) is bool(said) and all(part in text for part in said)
