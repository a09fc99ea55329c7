"""What a caller's process has set that reaches into models and scores: kept out of an evaluation, and left as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch


@contextmanager
def plain_surroundings(device: torch.device) -> Iterator[None]:
    """torch's own defaults for a block, in this thread: float32 tensors on the CPU, gradients, and no autocast.

    An operation without a deterministic implementation warns where a process has asked for an error: that it is there is a
    caller's choice of model, and of the device.

    Args:
        device: where the model is.
    """
    dtype = torch.get_default_dtype()
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    kinds = [kind for kind in dict.fromkeys(("cpu", device.type)) if torch.is_autocast_enabled(kind)]
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())  # a probe is trained
        torch.set_default_dtype(torch.float32)
        stack.callback(torch.set_default_dtype, dtype)
        if has_default_device():
            stack.enter_context(torch.device("cpu"))
        for kind in kinds:
            stack.enter_context(torch.autocast(kind, enabled=False))
        if kinds:
            # It holds weights that were cast: theirs may be older than the weights are now, ours let no gradient through.
            torch.clear_autocast_cache()
            stack.callback(torch.clear_autocast_cache)
        if deterministic == (True, False):
            torch.use_deterministic_algorithms(True, warn_only=True)
            stack.callback(torch.use_deterministic_algorithms, True, warn_only=False)
        yield


def has_default_device() -> bool:
    """Whether tensors are made elsewhere than on the CPU where nothing says where (`torch.set_default_device`)."""
    return torch.get_default_device().type != "cpu"


@contextmanager
def random_states() -> Iterator[None]:
    """Puts back the random states of Python, numpy and torch after a block, on every device that this process uses."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
