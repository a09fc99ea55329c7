"""What a score depends on, in six digests: equal fingerprints mean that a stored score can stand for a new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from clipeval.results.json_io import digest

WORDS = {
    "weights": "the weights",
    "preprocess": "the preprocessing",
    "precision": "the precision",
    "data": "the data",
    "prompts": "the prompts",
    "protocol": "the protocol",
}


@dataclass(frozen=True)
class Fingerprint:
    """Everything that can change a score, and nothing that cannot (workers, batch size, number of devices)."""

    weights: str
    preprocess: str
    precision: str
    data: str
    prompts: str
    protocol: str

    @property
    def digest(self) -> str:
        """SHA-256 over the six parts."""
        return digest(asdict(self))

    def differences(self, other: Fingerprint) -> list[str]:
        """Which parts differ, this side's value first: `["the precision (fp32, not bf16)"]`; [] when equal."""
        lines = []
        for part, words in WORDS.items():
            mine, theirs = getattr(self, part), getattr(other, part)
            if mine != theirs:
                lines.append(f"{words} ({_short(mine)}, not {_short(theirs)})")
        return lines

    def to_json(self) -> dict[str, str]:
        """The six parts and their digest."""
        return {**asdict(self), "digest": self.digest}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Fingerprint:
        """Reads what `to_json` wrote. Raises KeyError for a part that is missing."""
        return cls(**{field.name: str(data[field.name]) for field in fields(cls)})


def identity_differences(mine: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """As `Fingerprint.differences`, of two records' `identity`. What only one of them names was not recorded by the other."""
    return [
        f"the {part} ({_short(mine[part])}, not {_short(theirs[part])})"
        for part in mine
        if part in theirs and mine[part] != theirs[part]
    ]


def _short(value: str) -> str:
    """A digest cut to what people compare by eye; other values whole."""
    is_digest = len(value) >= 40 and all(c in "0123456789abcdef" for c in value)
    return value[:8] if is_digest else value
