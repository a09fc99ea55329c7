"""The four precisions, and what each makes of images and texts."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from clipeval.configs.errors import ClipevalError

log = logging.getLogger(__name__)

_GPU_FILES = (Path("/dev/nvidia0"), Path("/dev/kfd"))
"""What the drivers of NVIDIA and AMD make."""

PRECISIONS = ("fp32", "bf16", "fp16", "datacomp")
"""fp32: the reference, without TF32. bf16, fp16: weights and activations. datacomp: the published recipe, images in fp32,
texts and the images of `mixed` tasks under automatic mixed precision."""


def pick_device(device: str | torch.device) -> torch.device:
    """The device named; `auto` is CUDA if there is one, then MPS, then the CPU. ClipevalError if it is not there."""
    if str(device) == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        if device == "cpu" and (sign := _sign_of_gpu()):
            log.warning(
                "runtime.device=auto takes the CPU, though there seems to be a GPU (%s): torch %s cannot use it. See what "
                "`python -c 'import torch; torch.cuda.init()'` says; runtime.device=cuda stops instead.",
                sign,
                torch.__version__,
            )
    try:
        picked = torch.device(device)
    except RuntimeError:
        raise ClipevalError(f"runtime.device={device} is no device; expected auto, cpu, cuda or cuda:N") from None
    if picked.type == "cuda" and (picked.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ClipevalError(
            f"runtime.device={device} is not on this machine ({count} CUDA devices); use runtime.device=cpu"
        )
    return picked


def _sign_of_gpu() -> str:
    """What speaks for a GPU on this machine, or in this job; empty where nothing does or it is hidden on purpose."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1", "NoDevFiles"):
        return ""
    for name in ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "CUDA_VISIBLE_DEVICES"):
        if os.environ.get(name):
            return f"{name}={os.environ[name]}"
    return next((str(path) for path in _GPU_FILES if path.exists()), "")


def indexed(device: torch.device) -> torch.device:
    """`cuda` with the index of the device that is current now: it may be another later, or in another thread."""
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return device


def current(device: torch.device) -> AbstractContextManager[object]:
    """Makes a GPU the current one of this thread for a block, so that streams, events, pinned memory and kernels are its."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def check_precision(precision: str) -> str:
    """The precision itself, or a ClipevalError that lists them."""
    if precision not in PRECISIONS:
        raise ClipevalError(f"runtime.precision={precision!r} is not one of {', '.join(PRECISIONS)}")
    return precision


def mixed_dtype(device: str | torch.device) -> torch.dtype:
    """What automatic mixed precision computes in: float16 on CUDA, as the published runs did, else bfloat16."""
    picked = pick_device(device) if str(device) == "auto" else torch.device(device)  # it may be another machine's
    return torch.float16 if picked.type == "cuda" else torch.bfloat16


def image_precision(precision: str, mixed: bool, device: str | torch.device) -> str:
    """What a precision comes to for images: fp32, bf16, fp16, amp-fp16 or amp-bf16. Part of a feature's cache key."""
    if check_precision(precision) != "datacomp":
        return precision
    return _amp_name(device) if mixed else "fp32"


def text_precision(precision: str, device: str | torch.device) -> str:
    """What a precision comes to for texts. Part of a text embedding's cache key."""
    return _amp_name(device) if check_precision(precision) == "datacomp" else precision


def _amp_name(device: str | torch.device) -> str:
    return "amp-fp16" if mixed_dtype(device) is torch.float16 else "amp-bf16"


@contextmanager
def deterministic_algorithms(device: torch.device) -> Iterator[None]:
    """On CUDA, algorithms that give the same bits each time; a warning where an operation has none. Then as before.

    cuDNN then does not try which of its algorithms is the fastest, and cuBLAS works in memory of one fixed size, which torch asks
    for by `CUBLAS_WORKSPACE_CONFIG`: what that costs was not measured.
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, deterministic = cudnn.benchmark, cudnn.deterministic
    torch.use_deterministic_algorithms(True, warn_only=True)
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.benchmark, cudnn.deterministic = benchmark, deterministic


@contextmanager
def full_float32() -> Iterator[None]:
    """float32 products in float32, whatever TF32 or bfloat16 short cuts the process has switched on; then as before.

    The switches are the whole process's. Blocks may overlap, in several threads: the first one turns them off, and the last
    one to end puts them back, so that none sees another's.
    """
    global _blocks, _before
    with _lock:
        if not _blocks:
            _before = _Float32.now()
            _Float32.plain()
        _blocks += 1
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if not _blocks and _before is not None:
                _before.put_back()


_lock = threading.Lock()
_blocks = 0
_before: _Float32 | None = None


class _Float32(NamedTuple):
    """torch's switches for float32, by its former interface and, since 2.9, by that of `fp32_precision`.

    Each refuses to answer where the other was used, and setting the former one sets the newer one too.
    """

    matmul: str | None
    cudnn: bool | None
    newer: tuple[str, ...]

    @classmethod
    def now(cls) -> _Float32:
        matmul, cudnn = None, None
        with suppress(RuntimeError):  # it was set by the newer one
            matmul = torch.get_float32_matmul_precision()
        with suppress(RuntimeError):
            cudnn = torch.backends.cudnn.allow_tf32
        return cls(matmul, cudnn, tuple(part.fp32_precision for part in _newer()))

    @staticmethod
    def plain() -> None:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        for part in _newer():
            part.fp32_precision = "ieee"

    def put_back(self) -> None:
        if self.matmul is not None:
            torch.set_float32_matmul_precision(self.matmul)
        if self.cudnn is not None:
            torch.backends.cudnn.allow_tf32 = self.cudnn
        for part, setting in zip(_newer(), self.newer, strict=True):
            part.fp32_precision = setting


def _newer() -> list[Any]:
    """The newer interface's objects with a switch, from the most general one; none before torch 2.9."""
    backends = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):
        return []
    of_mkldnn = [getattr(backends.mkldnn, name, None) for name in ("matmul", "conv", "rnn")]
    found = [backends.cuda.matmul, *(getattr(backends.cudnn, name, None) for name in ("conv", "rnn")), *of_mkldnn]
    return [part for part in found if hasattr(part, "fp32_precision")]
