"""Embeddings that are too many for the device they are computed on: they stay in the host's memory, and go there some at a time.

ImageNet's training images are 1.28 million: 5 GB of float32 for 1,024 numbers each, and a probe takes parts of them, joins parts
and multiplies all of them. What is written with these functions gives the same numbers whether the rows are a tensor of the device
or `HostRows`: the blocks are of one size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch

LEAST = 4096
"""Rows of a block, however wide they are."""
NUMBERS = 2**26
"""Of a block of embeddings, or of what is computed of it: 256 MiB of float32."""


class HostRows:
    """Rows of a tensor of the host, in some order.

    Args:
        rows: float32 [M, D], on the CPU.
        device: where rows are computed with.
        places: int64 [N], which rows; None: all.
    """

    def __init__(self, rows: torch.Tensor, device: torch.device, places: np.ndarray | None = None) -> None:
        self.rows, self.device, self.places = rows, device, places
        self.shape = (len(rows) if places is None else len(places), rows.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: torch.Tensor | slice) -> torch.Tensor:
        """float32 [n, D] on the device: the rows of a slice or of int64 [n] places, which lie on the CPU."""
        if self.places is not None:
            index = torch.from_numpy(self.places[index if isinstance(index, slice) else index.numpy()])
        return self.rows[index].to(self.device)

    def float(self) -> HostRows:
        """Itself: they are float32."""
        return self


Rows = torch.Tensor | HostRows


def index_device(x: Rows) -> torch.device:
    """Where places of `x` are to lie, for `x[places]`."""
    return torch.device("cpu") if isinstance(x, HostRows) else x.device


def block_size(x: Rows, wide: int = 1) -> int:
    """Rows of a block of `x`, [N, D], of which [n, wide] is computed."""
    return max(LEAST, NUMBERS // max(wide, x.shape[1]))


def blocks(x: Rows, size: int) -> Iterator[torch.Tensor]:
    """`size` rows at a time, float32 [n, D] on the device."""
    for start in range(0, max(1, len(x)), size):
        yield x[start : start + size]


def take(x: Rows, places: np.ndarray | slice) -> Rows:
    """Some of the rows, of the same kind; of those of the host, none is copied."""
    if isinstance(x, torch.Tensor):
        return x[places]
    known = np.arange(len(x)) if x.places is None else x.places
    return HostRows(x.rows, x.device, known[places])


def join(first: Rows, second: Rows) -> Rows:
    """Rows of one tensor or of two, one after the other."""
    if isinstance(first, HostRows) and isinstance(second, HostRows) and first.rows is second.rows:
        places = [np.arange(len(part)) if part.places is None else part.places for part in (first, second)]
        return HostRows(first.rows, first.device, np.concatenate(places))
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return torch.cat([first, second])
    device = first.device
    return HostRows(torch.cat([on_host(part) for part in (first, second)]), device)


def on_host(x: Rows) -> torch.Tensor:
    """float32 [N, D] on the CPU."""
    if isinstance(x, torch.Tensor):
        return x.cpu()
    return x.rows if x.places is None else x.rows[torch.from_numpy(x.places)]


def to_device(tables: Mapping[str, torch.Tensor], device: torch.device, free: float) -> dict[str, Rows]:
    """Tables on a device, where they fit three times over: a probe copies the parts that it trains on, and joins them.

    Args:
        tables: {split: float32 [N, D], on the CPU}.
        device: where they are to be computed with.
        free: bytes of it that may be used.

    Returns:
        Tensors of the device; those that do not fit as `HostRows`, but for the split `test`.
    """
    found: dict[str, Rows] = {}
    for split, table in sorted(tables.items(), key=lambda item: (item[0] != "test", item[1].nbytes)):
        fits = split == "test" or 3 * table.nbytes <= free
        found[split] = table.to(device) if fits else HostRows(table, device)
        free -= 3 * table.nbytes if fits else 0
    return {split: found[split] for split in tables}
