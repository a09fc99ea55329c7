"""What to say, and what to do, where a device's memory does not suffice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from clipeval.configs.errors import ClipevalError, first_line


def no_memory(device: object, problem: BaseException) -> str:
    """One sentence: which device, and what it says of itself."""
    said = first_line(problem, "")
    return f"{device} has no memory left" + (f" ({said})" if said else "")


@contextmanager
def memory_errors_named(what: str, device: object, fix: str) -> Iterator[None]:
    """Names what a device had no memory for.

    Raises:
        ClipevalError: in place of the OutOfMemoryError of the block, whose frames would hold on to the device's memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as problem:
        text = f"{what}: {no_memory(device, problem)}. {fix}"
    else:
        return
    raise ClipevalError(text)
