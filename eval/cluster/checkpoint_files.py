"""Several checkpoints in one override: `model.pretrained=glob(PATTERN)`."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from clipeval.configs.errors import ClipevalError

PATTERN = re.compile(r"^model\.pretrained=(['\"]?)glob\((.*)\)\1$")


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
