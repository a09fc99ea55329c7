"""What is done to a model's weights once they are loaded, and how names, folders and records say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clipeval.configs.errors import ClipevalError
from clipeval.configs.resolvers import tagged
from clipeval.models.adapters import Adapter

KEYS = ("adapter", "interpolate", "alpha")
"""Of a config's `model`."""


@dataclass(frozen=True)
class Changes:
    """None of them is the model as it was published.

    Attributes:
        adapter: merged into the weights.
        interpolate: a second checkpoint, as the config names it.
        alpha: its share, 0 to 1.

    Raises:
        ClipevalError: one of `interpolate` and `alpha` without the other, or beside an adapter.
    """

    adapter: Adapter | None = None
    interpolate: str | None = None
    alpha: float | None = None

    def __post_init__(self) -> None:
        if self.interpolate is not None and self.alpha is None:
            raise ClipevalError(
                f"model.interpolate={self.interpolate} needs model.alpha, the share of these weights: a number from 0 to 1, or a "
                "list of them, as [0,0.5,1]"
            )
        if self.interpolate is None and self.alpha is not None:
            raise ClipevalError(
                f"model.alpha={self.alpha:g} needs model.interpolate, the checkpoint between which and the model it is"
            )
        if self.adapter is not None and self.interpolate is not None:
            raise ClipevalError(
                "model.adapter and model.interpolate are both given, and only one is applied: merge the adapter into a checkpoint "
                "(peft's merge_and_unload), and interpolate to that"
            )

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return self.adapter is not None or self.interpolate is not None

    def name(self, pretrained: str | None) -> str | None:
        """Which weights these are, for tables and records."""
        parts = [pretrained] if pretrained else []
        if self.adapter is not None:
            parts.append(f"adapter {self.adapter.name}")
        if self.interpolate is not None:
            parts.append(f"alpha {self.alpha:g} of {self.interpolate}")
        return ", ".join(parts) or None

    def slug_parts(self) -> tuple[str | None, ...]:
        """For the run folder's name, as `configs/model/_as_trained.yaml` has them."""
        adapter = None if self.adapter is None else self.adapter.given
        return tagged("adapter", adapter), tagged("to", self.interpolate), tagged("alpha", self.alpha)

    def digest_parts(self, other: Any) -> Mapping[str, Any]:
        """What the digest of the weights takes in; empty where nothing is changed.

        Args:
            other: the digest of the second checkpoint.
        """
        adapter = {} if self.adapter is None else {"adapter": self.adapter.digest}
        return {**adapter, **({} if self.interpolate is None else {"interpolate": other, "alpha": self.alpha})}

    def describe(self) -> dict[str, Any]:
        """For a record's `model`."""
        between = {} if self.interpolate is None else {"interpolate": self.interpolate, "alpha": self.alpha}
        return {**(self.adapter.describe() if self.adapter is not None else {}), **between}
