"""What is done to a run from inside its own process, before it starts."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

import torch


def little_memory() -> None:
    """A device that holds four images at most."""
    from clipeval.models.encoder import Encoder

    encode = Encoder.encode_images

    def limited(self: Encoder, batch: torch.Tensor, mixed: bool = False) -> torch.Tensor:
        if len(batch) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return encode(self, batch, mixed)

    Encoder.encode_images = limited  # type: ignore[method-assign]


def no_memory() -> None:
    """A device that holds not even one image."""
    from clipeval.models.encoder import Encoder

    def refuse(self: Encoder, batch: torch.Tensor, mixed: bool = False) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory (simulated)")

    Encoder.encode_images = refuse  # type: ignore[method-assign]


def kill_a_decoder() -> None:
    """As the kernel does when memory runs out: SIGKILL for the first decoder that appears."""

    def wait() -> None:
        while not (children := multiprocessing.active_children()):
            time.sleep(0.001)
        pid = children[0].pid
        assert pid
        os.kill(pid, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def kill_a_decoder_while_weights_load() -> None:
    """The same in the middle of load_state_dict, which takes whatever is raised there for a fault of the checkpoint."""
    copy = torch.nn.Parameter.copy_

    def copy_and_kill(self: torch.nn.Parameter, *given: object) -> torch.Tensor:
        for child in multiprocessing.active_children():
            assert child.pid
            os.kill(child.pid, signal.SIGKILL)
            time.sleep(2)  # where PyTorch's handler of SIGCHLD raises
        return copy(self, *given)

    torch.nn.Parameter.copy_ = copy_and_kill  # type: ignore[method-assign]


def jumping_clock() -> None:
    """A clock that is set back and forth by days, at every look."""
    real, state = time.time, [0]

    def jumping() -> float:
        state[0] += 1
        return real() + (-1) ** state[0] * 86400.0 * (state[0] % 7)

    time.time = jumping
