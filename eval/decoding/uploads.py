"""Copies from the host to a GPU, on a stream of their own: they and the encoder overlap.

Memory that is registered with CUDA (`Uploads.register`: the decoders') is copied from as it lies. Any other goes through pinned
buffers, which costs the main process a copy of its own.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

STAGED = 3
"""Pinned buffers on their way."""

log = logging.getLogger(__name__)


def mark(device: torch.device, stream: torch.cuda.Stream | None = None) -> torch.cuda.Event:
    """When a GPU will have done what it was given so far on a stream; None: its current one, whichever device is current."""
    with torch.cuda.device(device):
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device) if stream is None else stream)
    return event


class Uploads:
    """Sends tensors to one GPU.

    Args:
        device: a CUDA device, with its index.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._staged: deque[tuple[torch.Tensor, torch.cuda.Event]] = deque()
        self._registered: torch.Tensor | None = None

    def register(self, memory: torch.Tensor | None) -> None:
        """Lets the GPU read memory of the host by itself, until `close`; where CUDA refuses, which is said, all goes as without."""
        if memory is None or not memory.nbytes:
            return
        with torch.cuda.device(self.device):
            try:
                status = int(_cudart().cudaHostRegister(memory.data_ptr(), memory.nbytes, 0))
            except (AttributeError, RuntimeError) as problem:  # a build without it
                log.warning("decoded images are copied once more on their way to %s: %s", self.device, problem)
                return
            if not status:
                self._registered = memory
                return
            with suppress(RuntimeError):  # CUDA reports the refusal a second time, to whatever is launched next
                torch.zeros(1, device=self.device)
        log.warning(
            "decoded images are copied once more on their way to %s: CUDA does not register %d MB of memory (error %d)",
            self.device,
            memory.nbytes >> 20,
            status,
        )

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Memory of the GPU for `fill`."""
        with self._copying():
            return torch.empty(shape, dtype=dtype, device=self.device)

    def fill(self, target: torch.Tensor, host: torch.Tensor) -> torch.cuda.Event | None:
        """Copies into memory that `empty` gave.

        Returns:
            When the memory `host` may be used for others; None: at once.
        """
        if self._covers(host):
            with self._copying():
                target.copy_(host, non_blocking=True)
            return self._mark()
        buffer = self._stage(host)
        with self._copying():
            target.copy_(_as(buffer, host), non_blocking=True)
        self._staged.append((buffer, self._mark()))
        return None

    def hand_over(self, target: torch.Tensor) -> torch.Tensor:
        """The filled memory, for the current stream, whose work waits until it is filled."""
        now = torch.cuda.current_stream(self.device)
        now.wait_event(self._mark())
        target.record_stream(now)  # it is the copying stream's, and must not be used again before the encoder is done
        return target

    def send(self, host: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        """A tensor on the GPU, for the current stream, and when the memory `host` may be used for others (None: at once)."""
        target = self.empty(tuple(host.shape), host.dtype)
        event = self.fill(target, host)
        return self.hand_over(target), event

    def close(self) -> None:
        """Ends the registration; what is on its way arrives first."""
        if self._registered is None:
            return
        with torch.cuda.device(self.device):
            self._mark().synchronize()
            _cudart().cudaHostUnregister(self._registered.data_ptr())
        self._registered = None

    def _covers(self, host: torch.Tensor) -> bool:
        if self._registered is None:
            return False
        first = self._registered.data_ptr()
        return first <= host.data_ptr() and host.data_ptr() + host.nbytes <= first + self._registered.nbytes

    def _stage(self, host: torch.Tensor) -> torch.Tensor:
        """A copy in pinned memory, uint8 [bytes] and more, which is filled anew once the GPU has read it."""
        buffer: torch.Tensor | None = None
        if len(self._staged) >= STAGED:
            buffer, copied = self._staged.popleft()
            copied.synchronize()
        if buffer is None or len(buffer) < host.nbytes:
            with torch.cuda.device(self.device):
                buffer = torch.empty(1 << (host.nbytes - 1).bit_length(), dtype=torch.uint8, pin_memory=True)
        _as(buffer, host).copy_(host)
        return buffer

    def _mark(self) -> torch.cuda.Event:
        return mark(self.device, self._stream)

    @contextmanager
    def _copying(self) -> Iterator[None]:
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            yield


def _cudart() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]


def _as(buffer: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The beginning of uint8 [bytes] as a tensor of another's shape and dtype."""
    return buffer[: like.nbytes].view(like.dtype).view(like.shape)
