"""Several models in one override: `model.pretrained=glob(PATTERN)`, `model.alpha=[0,0.5,1]`, `model.dimensions=[64,128]`."""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from clipeval.configs.compose import compose, override
from clipeval.configs.errors import ClipevalError

PATTERN = re.compile(r"^model\.pretrained=(['\"]?)glob\((.*)\)\1$")


LISTS = ("alpha", "dimensions")
"""Keys of `model` that may have several values, each of which is a model. The last one varies the fastest."""


def several(overrides: Sequence[str], config_dir: str | None) -> tuple[DictConfig, list[list[str]]]:
    """The models that some overrides stand for.

    Returns:
        The composed config, of the first checkpoint where they are several; and of each model the overrides in which it
        differs from the others, where there are several models.

    Raises:
        ClipevalError: as `compose`; or no file has a name of that pattern.
    """
    pattern = pattern_of(overrides)
    files = [] if pattern is None else words_of(checkpoints(pattern))
    config = compose(replaced(overrides, files[0]) if files else overrides, config_dir)
    choices = [files] if files else []
    own = not str(config.model.get("_target_", "clipeval.")).startswith("clipeval.")  # whose arguments only it knows
    for key in () if own else LISTS:
        values = config.model.get(key)
        if isinstance(values, ListConfig):
            choices.append([[override(f"model.{key}", value)] for value in values])
    return config, [list(itertools.chain(*chosen)) for chosen in itertools.product(*choices)] if choices else []


def words_of(paths: Sequence[Path]) -> list[list[str]]:
    """Checkpoint files as overrides."""
    return [[override("model.pretrained", str(path.absolute()))] for path in paths]


def replaced(overrides: Sequence[str], words: Sequence[str]) -> list[str]:
    """Overrides with some keys given anew."""
    keys = {word.partition("=")[0] for word in words}
    return [*(word for word in overrides if word.partition("=")[0].lstrip("+") not in keys), *words]


def pattern_of(overrides: Sequence[str]) -> str | None:
    """The pattern in `model.pretrained=glob(PATTERN)`; None where no override is of that kind."""
    patterns = [match[2].strip("'\"") for match in map(PATTERN.match, overrides) if match]
    return patterns[-1] if patterns else None


def checkpoints(pattern: str) -> list[Path]:
    """The files that a pattern names, in the order of the numbers in their names.

    Raises:
        ClipevalError: there is none.
    """
    paths = [Path(name) for name in glob.glob(str(Path(pattern).expanduser()), recursive=True) if Path(name).is_file()]
    if not paths:
        raise ClipevalError(f"model.pretrained=glob({pattern}): no file has such a name.")
    return sorted(paths, key=natural)


def natural(path: Path) -> list[tuple[int, int | str]]:
    """A key that sorts epoch_2 before epoch_10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", str(path)) if part]
