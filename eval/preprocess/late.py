"""Classes of packages that may not be imported yet: a plan needs nothing of open_clip, which takes longer to import than torch."""

from __future__ import annotations

import sys
from typing import Any


def loaded(module: str, name: str) -> Any:
    """A class, as `isinstance` takes it; the empty tuple, of which nothing is an instance, while its module is not imported.

    >>> isinstance(model, loaded("open_clip.coca_model", "CoCa"))
    """
    return getattr(sys.modules.get(module), name, ())
