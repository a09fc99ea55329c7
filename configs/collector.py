"""Python's collector of reference cycles, kept from looking at what stays anyway while a command starts."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def rare_collections() -> Iterator[None]:
    """Fewer collections while packages are imported, a config is composed and tasks are opened, which make objects and no garbage.

    A full collection beside torch takes 0.2 s, and 40 tasks set off several: a tenth of the time of a run in which nothing is to
    be done. Not for what computes: a cycle may hold a batch of pixels.
    """
    before = gc.get_threshold()
    gc.set_threshold(20_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)
