"""CUDA's streams, simulated on the CPU: what a stream is given runs only when somebody waits for it, and as late as it may."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

Key = tuple[int, int]
"""A device's index, and the number of one of its streams; 0: the default one."""


class FakeCuda:
    """Two devices, their streams with a queue each, a current device, and of each device a current stream.

    Attributes:
        current: the current device.
        busy: the device that the encoder under test has.
        pinned: devices that were current when pinned memory was taken.
        registered: {address: bytes} of host memory that is registered.
        refuses: the status with which a registration is refused; 0: none is.
        handed_over: addresses of tensors that were given to another stream than the one they were made on.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.queues: dict[Key, list[Callable[[], Any]]] = defaultdict(list)
        self.done: dict[Key, int] = defaultdict(int)
        self.current, self.busy = 0, 0
        self.now: dict[int, int] = defaultdict(int)
        self.pinned: set[int] = set()
        self.synchronised: list[int] = []
        self.registered: dict[int, int] = {}
        self.refuses = 0
        self.handed_over: set[int] = set()
        self.made = 0
        fake, to, copy, empty = self, torch.Tensor.to, torch.Tensor.copy_, torch.empty

        class Stream:
            def __init__(self, device: torch.device | int | None = None, key: Key | None = None) -> None:
                if key is None:
                    fake.made += 1
                    key = fake.index(device), fake.made
                self.key = key

            def wait_event(self, event: Any) -> None:
                fake.queues[self.key].append(lambda: fake.run(event.key, event.at))

            def synchronize(self) -> None:
                fake.run(self.key)

        class Event:
            def record(self, stream: Any = None) -> None:
                self.key = fake.stream_of(fake.current) if stream is None else stream.key
                self.at = len(fake.queues[self.key])

            def synchronize(self) -> None:
                fake.run(self.key, self.at)

        def fake_to(tensor: torch.Tensor, *given: Any, **more: Any) -> torch.Tensor:
            if given and isinstance(given[0], torch.device) and given[0].type == "cuda":
                out = empty(tensor.shape, dtype=tensor.dtype)
                fake.push(lambda: copy(out, tensor), fake.index(given[0]))
                return out
            return to(tensor, *given, **more)

        def fake_copy(tensor: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
            if not non_blocking:
                return copy(tensor, source)
            fake.push(lambda: copy(tensor, source))
            return tensor

        def fake_empty(*given: Any, pin_memory: bool = False, device: Any = None, **more: Any) -> torch.Tensor:
            if pin_memory:
                fake.pinned.add(fake.current)
            on_gpu = device is not None and torch.device(device).type == "cuda"
            return empty(*given, **more) if on_gpu or device is None else empty(*given, device=device, **more)

        @contextmanager
        def device(wanted: torch.device) -> Iterator[None]:
            before, fake.current = fake.current, fake.index(wanted)
            try:
                yield
            finally:
                fake.current = before

        @contextmanager
        def stream(wanted: Any) -> Iterator[None]:
            index, number = wanted.key
            before, fake.now[index] = fake.now[index], number
            try:
                with device(torch.device("cuda", index)):
                    yield
            finally:
                fake.now[index] = before

        def register(address: int, size: int, flags: int) -> int:
            if not fake.refuses:
                fake.registered[address] = size
            return fake.refuses

        cudart = SimpleNamespace(cudaHostRegister=register, cudaHostUnregister=self.registered.pop)
        patch.setattr(torch.cuda, "Event", Event)
        patch.setattr(torch.cuda, "Stream", Stream)
        patch.setattr(torch.cuda, "device", device)
        patch.setattr(torch.cuda, "stream", stream)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "current_device", lambda: self.current)
        patch.setattr(torch.cuda, "current_stream", lambda d=None: Stream(key=self.stream_of(self.index(d))))
        patch.setattr(torch.cuda, "synchronize", lambda d=None: self.synchronised.append(self.index(d)))
        patch.setattr(torch.cuda, "cudart", lambda: cudart)
        patch.setattr(torch.Tensor, "to", fake_to)
        patch.setattr(torch.Tensor, "copy_", fake_copy)
        patch.setattr(torch.Tensor, "record_stream", lambda tensor, s: self.handed_over.add(tensor.data_ptr()))
        patch.setattr(torch, "empty", fake_empty)

    def index(self, device: torch.device | int | None) -> int:
        index = device if isinstance(device, int) or device is None else device.index
        return self.current if index is None else index

    def stream_of(self, device: int) -> Key:
        """The current stream of a device."""
        return device, self.now[device]

    def push(self, work: Callable[[], Any], device: int | None = None) -> None:
        """Gives work to the current stream of a device; None: of the encoder's."""
        self.queues[self.stream_of(self.busy if device is None else device)].append(work)

    def run(self, key: Key, upto: int | None = None) -> None:
        """Does what a stream was given, up to a place in its queue; None: all."""
        while self.done[key] < (len(self.queues[key]) if upto is None else upto):
            self.done[key] += 1
            self.queues[key][self.done[key] - 1]()
