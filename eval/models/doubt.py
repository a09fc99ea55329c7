"""One line that a check of a model says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Doubt:
    """What was seen, why it matters, what to do."""

    what: str
    why: str
    cure: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}; {self.cure}"
