"""The precisions, and what each makes of images and texts."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch

from clipeval.configs.errors import ClipevalError

log = logging.getLogger(__name__)

_GPU_FILES = (Path("/dev/nvidia0"), Path("/dev/kfd"))
"""What the drivers of NVIDIA and AMD make."""

PRECISIONS = ("fp32", "bf16", "fp16", "datacomp", "datacomp_tf32")
"""fp32: the reference, without TF32. bf16, fp16: weights and activations. datacomp: the published recipe, images in fp32,
texts and the images of `mixed` tasks under automatic mixed precision. datacomp_tf32: the same with cuDNN's convolutions of fp32
images in TF32, as torch has it where nobody asks for anything else, and as the published runs probably had it."""


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


@contextmanager
def stream_of_its_own(device: torch.device) -> Iterator[None]:
    """Lets a GPU do a block's work beside what others gave it; the block ends once that work is done."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        stream.synchronize()


def check_precision(precision: str) -> str:
    """The precision itself, or a ClipevalError that lists them."""
    if precision not in PRECISIONS:
        raise ClipevalError(f"runtime.precision={precision!r} is not one of {', '.join(PRECISIONS)}")
    return precision


def is_recipe(precision: str) -> bool:
    """Whether it is the published recipe, which is not the same for all images and texts."""
    return precision.startswith("datacomp")


def mixed_dtype(device: str | torch.device) -> torch.dtype:
    """What automatic mixed precision computes in: float16 on CUDA, as the published runs did, else bfloat16."""
    return torch.float16 if _on_cuda(device) else torch.bfloat16


def _on_cuda(device: str | torch.device) -> bool:
    picked = pick_device(device) if str(device) == "auto" else torch.device(device)  # it may be another machine's
    return picked.type == "cuda"


def image_precision(precision: str, mixed: bool, device: str | torch.device) -> str:
    """What a precision comes to for images: fp32, fp32-tf32conv, bf16, fp16, amp-fp16, amp-bf16. Part of a feature's key."""
    if not is_recipe(check_precision(precision)):
        return precision
    if mixed:
        return _amp_name(device)
    # Only cuDNN has such convolutions: elsewhere these are the embeddings of fp32.
    return "fp32-tf32conv" if precision == "datacomp_tf32" and _on_cuda(device) else "fp32"


def text_precision(precision: str, device: str | torch.device) -> str:
    """What a precision comes to for texts. Part of a text embedding's cache key."""
    return _amp_name(device) if is_recipe(check_precision(precision)) else precision


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
