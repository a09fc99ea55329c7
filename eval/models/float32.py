"""Full float32, whatever short cuts the process has switched on: TF32 and bfloat16 products, half-precision sums.

torch has two interfaces for them. The former (`set_float32_matmul_precision`, `allow_tf32`) is a flag of each library. That of
`fp32_precision`, since torch 2.9, is a tree: what an operation leaves open ("none") follows its library, and that the whole
process. Setting the former also sets operations of the tree, and each getter refuses to answer where the two contradict.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@contextmanager
def full_float32(tf32_convolutions: bool = False) -> Iterator[None]:
    """float32 products in float32, and sums of half-precision products in float32; then everything as before.

    The switches are the whole process's. Blocks may overlap, in several threads: the first one turns them off, and the last
    one to end puts them back, so that none sees another's.

    Args:
        tf32_convolutions: whether cuDNN's convolutions may use TF32, as torch lets them by default (`precision=datacomp_tf32`).
            Where a block asks for it while others do not, convolutions use it until that block ends.
    """
    global _before
    with _lock:
        if not _blocks[False] and not _blocks[True]:
            _before = _Switches.turn_off()
        _blocks[tf32_convolutions] += 1
        if tf32_convolutions:
            _set_convolutions(True)
    try:
        yield
    finally:
        with _lock:
            _blocks[tf32_convolutions] -= 1
            if tf32_convolutions and not _blocks[True]:
                _set_convolutions(False)
            if not _blocks[False] and not _blocks[True] and _before is not None:
                _before.put_back()


_lock = threading.Lock()
_blocks = {False: 0, True: 0}
"""{whether with TF32 convolutions: how many are open}."""
_before: _Switches | None = None


def _set_convolutions(tf32: bool) -> None:
    torch.backends.cudnn.allow_tf32 = tf32


@dataclass(frozen=True)
class _Switches:
    """What a process had set.

    Attributes:
        tree: (node of the newer interface, its own setting), from the root; empty before torch 2.9.
        matmul, cudnn: the former interface's.
        accumulation: whether cuBLAS may sum half-precision products in half precision; None: torch knows no such switch.
    """

    tree: list[tuple[Any, str]]
    matmul: str
    cudnn: bool
    accumulation: bool | None

    @classmethod
    def turn_off(cls) -> _Switches:
        """Notes everything and switches it off."""
        parents, operations = _nodes()
        above = []
        for node in parents:  # from the root, so that the next one no longer shows what it inherits
            above.append((node, node.fp32_precision))
            node.fp32_precision = "none"
        below = [(node, node.fp32_precision) for node in operations]
        for node in parents:
            node.fp32_precision = "ieee"
        if any(setting != "none" for _, setting in above):
            # A convolution that nobody has set reads as "tf32" and follows its parents all the same.
            below = [(n, "none" if s != "ieee" and n.fp32_precision == "ieee" else s) for n, s in below]
        matmul, cudnn = _former()
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        for node in operations:
            node.fp32_precision = "ieee"
        accumulation = getattr(torch.backends.cuda.matmul, "allow_fp16_accumulation", None)
        if accumulation:
            torch.backends.cuda.matmul.allow_fp16_accumulation = False
        return cls([*above, *below], matmul, cudnn, accumulation)

    def put_back(self) -> None:
        """As it was."""
        torch.set_float32_matmul_precision(self.matmul)
        torch.backends.cudnn.allow_tf32 = self.cudnn
        for node, setting in reversed(self.tree):  # the root last: torch 2.15 takes mkldnn's for it when it is set
            node.fp32_precision = setting
        if self.accumulation:
            torch.backends.cuda.matmul.allow_fp16_accumulation = True


def _nodes() -> tuple[list[Any], list[Any]]:
    """The newer interface's tree: the process and its libraries, and their operations."""
    backends: Any = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):
        return [], []
    parents = [backends, backends.cudnn, backends.mkldnn]
    of_cudnn = [getattr(backends.cudnn, name, None) for name in ("conv", "rnn")]
    of_mkldnn = [getattr(backends.mkldnn, name, None) for name in ("matmul", "conv", "rnn")]
    operations = [backends.cuda.matmul, *of_cudnn, *of_mkldnn]
    return parents, [node for node in operations if node is not None]


def _former() -> tuple[str, bool]:
    """The former interface's settings, whose getters answer once the newer one's do not contradict them."""
    backends: Any = torch.backends
    _, operations = _nodes()
    for node in operations:
        node.fp32_precision = "ieee"
    matmul = torch.get_float32_matmul_precision()
    for name in ("conv", "rnn") if operations else ():
        getattr(backends.cudnn, name).fp32_precision = "tf32"
    try:
        return matmul, bool(backends.cudnn.allow_tf32)
    except RuntimeError:  # it is not what they are set to now
        return matmul, False
