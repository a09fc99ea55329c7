"""What a config asks for in place of a model's own description of its texts and images: each is said in every record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from clipeval.configs.schema import pixels
from clipeval.preprocess.transforms import Preprocess, from_open_clip

KEYS = ("text_clean", "context_length", "image_size", "preprocess")
"""Of a config's `model`."""


@dataclass(frozen=True)
class Overrides:
    """None, or an empty mapping, is the model's own.

    Attributes:
        text_clean: a policy of `clipeval.models.text_clean`.
        context_length: tokens of a text.
        image_size: of the image tower, whose positional embedding is resized: a side, or height and width.
        preprocess: some of size, mean, std, interpolation, resize_mode and fill_color, as open_clip's preprocess_cfg has them.
    """

    text_clean: str | None = None
    context_length: int | None = None
    image_size: int | tuple[int, int] | None = None
    preprocess: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Overrides:
        """Of the `model` of a config.

        Raises:
            ClipevalError: `preprocess` has a key or a value that it cannot have.
        """
        given = {key: values[key] for key in KEYS if values.get(key) is not None}
        if isinstance(given.get("image_size"), list):
            given["image_size"] = tuple(given["image_size"])
        return cls(**{**given, "preprocess": pixels(given.get("preprocess", {}))})

    def flags(self, own: Mapping[str, Any], clean: str, context: int | None, size: Any) -> list[str]:
        """What every record says of them; nothing of one that repeats, or fills in, what the model says itself.

        Args:
            own: the model's own preprocess_cfg.
            clean: its own policy.
            context: its own tokens of a text.
            size: its own image size.
        """
        asked: list[tuple[str, Any, Any]] = []
        stated = {key: own[key] for key in self.preprocess if own.get(key) is not None}
        if "size" in self.preprocess:
            stated["size"] = self.image_size or size
        theirs, mine = from_open_clip(stated), from_open_clip({**stated, **self.preprocess})
        asked += [
            (f"preprocess.{key}", getattr(mine, key), getattr(theirs, key)) for key in self.preprocess if key in stated
        ]
        asked += [
            ("text_clean", self.text_clean or clean, clean),
            ("context_length", self.context_length or context, context),
        ]
        asked += [("image_size", _sides(self.image_size or size), _sides(size))]
        return [
            f"model.{key}={_shown(given)} is asked for, in place of the model's own {_shown(its)}: it was not trained so; leave "
            "it out for the model's own number"
            for key, given, its in asked
            if given != its
        ]

    def describe(self) -> dict[str, Any]:
        """For a record's `model`: those that are asked for."""
        found = {"text_clean": self.text_clean, "context_length": self.context_length, "image_size": self.image_size}
        return {
            **{k: v for k, v in found.items() if v is not None},
            **({"preprocess": dict(self.preprocess)} if self.preprocess else {}),
        }

    def slug_parts(self) -> tuple[str | None, ...]:
        """For the run folder's name, as `configs/model/_open_clip.yaml` makes it."""
        size = "x".join(map(str, self.image_size)) if isinstance(self.image_size, tuple) else self.image_size
        named = {"text": self.text_clean, "context": self.context_length, "size": size}
        return tuple(None if value is None else f"{word}-{value}" for word, value in named.items())


def _sides(size: Any) -> tuple[int, int] | None:
    return None if size is None else from_open_clip({"size": size}).size


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{value[0]}" if len(value) == 2 and value[0] == value[1] else f"[{','.join(f'{v:g}' for v in value)}]"
    return str(value)


def applied(preprocess: Preprocess, overrides: Overrides) -> Preprocess:
    """A model's own preprocessing, with what is asked for instead."""
    return from_open_clip({**asdict(preprocess), **overrides.preprocess})
