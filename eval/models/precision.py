"""The four precisions, and what each makes of images and texts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from clipeval.configs.errors import ClipevalError

PRECISIONS = ("fp32", "bf16", "fp16", "datacomp")
"""fp32: the reference, without TF32. bf16, fp16: weights and activations. datacomp: the published recipe, images in fp32,
texts and the images of `mixed` tasks under automatic mixed precision."""


def pick_device(device: str | torch.device) -> torch.device:
    """The device named; `auto` is the first GPU where there is one, else the CPU. ClipevalError if it is not there."""
    if str(device) == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
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
    kind = (
        pick_device(device).type if str(device) == "auto" else str(device).split(":")[0]
    )  # a plan may be another machine's
    return torch.float16 if kind == "cuda" else torch.bfloat16


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
def full_float32(device: torch.device) -> Iterator[None]:
    """float32 products in float32, whatever TF32 or bfloat16 short cuts the process has switched on; then as before."""
    matmul = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        if device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = cudnn
