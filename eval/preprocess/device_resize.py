"""Where blocks of decoded images are resized: by the Triton kernel on a GPU, else by tensor operations; whichever was seen to be
exact on that very device.

What is right is not left to trust: each way has to give Pillow's own pixels for a few pictures before it is used. So a driver
that cannot compile the kernel, a device whose integers behave otherwise or a build of Pillow with another arithmetic (such as
Pillow-SIMD) cost time, and never a number.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from clipeval.preprocess import packed
from clipeval.preprocess.transforms import Preprocess

log = logging.getLogger(__name__)

Way = Callable[[torch.Tensor, np.ndarray], torch.Tensor]
"""A block on the device and its descriptors on the CPU, to uint8 [n, 3, height, width]."""


@lru_cache(maxsize=8)
def is_exact(preprocess: Preprocess) -> bool:
    """Whether the integer arithmetic gives the pixels of the Pillow that is installed; tried on the CPU, in milliseconds."""
    block, about, wanted = _probe(preprocess)
    return torch.equal(packed.resize(block, about, preprocess), wanted)


class DeviceResize:
    """Sends blocks of decoded images to a device and resizes them there.

    Args:
        preprocess: that the blocks are filled for.
        device: where the pixels are wanted; a GPU has to be the current one whenever this is called.
        send: takes a block to the device; None: as torch does.
    """

    def __init__(
        self, preprocess: Preprocess, device: torch.device, send: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> None:
        self.preprocess, self.device = preprocess, device
        self.send = send or (lambda block: block.to(device))
        self._way: Way | None = None

    def __call__(self, block: torch.Tensor, count: int) -> torch.Tensor:
        """The resized images of a block.

        Args:
            block: uint8 [bytes] on the CPU, as `Packer` filled it.
            count: how many images it has.

        Returns:
            uint8 [count, 3, height, width], on the device (on the CPU, if no way is exact on the device).
        """
        about, way = packed.descriptors(block, count), self.way
        return way(block if way == self._on_cpu else self.send(block), about)

    def there(self, block: torch.Tensor, about: np.ndarray) -> torch.Tensor:
        """The same of a block that is on the device, with its descriptors, int32 [n, 20] on the CPU."""
        way = self.way
        return way(block.cpu() if way == self._on_cpu else block, about)

    @property
    def way(self) -> Way:
        """The first that is exact on this device."""
        if self._way is None:
            self._way = self._choose()
        return self._way

    def _choose(self) -> Way:
        ways: list[tuple[str, Way]] = [("tensor operations", self._by_tensors)]
        if self.device.type == "cuda":
            ways.insert(0, ("the Triton kernel", self._by_triton))
        block, about, wanted = _probe(self.preprocess)
        for name, way in ways if self.device.type != "cpu" else ():
            try:
                exact = torch.equal(way(block.to(self.device), about).cpu(), wanted)
            # No compiler, no Triton, an operation that the device lacks: each has a type of its own.
            except Exception as problem:  # noqa: BLE001
                log.warning(
                    "images are not resized by %s on %s: %s: %s", name, self.device, type(problem).__name__, problem
                )
                continue
            if exact:
                return way
            log.warning("images are not resized by %s on %s: its pixels are not Pillow's", name, self.device)
        if self.device.type != "cpu":
            log.warning("images are resized on the CPU, in this process; runtime.resize=workers is faster")
        return self._on_cpu

    def _by_triton(self, block: torch.Tensor, about: np.ndarray) -> torch.Tensor:
        from clipeval.preprocess import resize_triton  # not on every machine, and slow to import

        return resize_triton.resize(block, len(about), self.preprocess)

    def _by_tensors(self, block: torch.Tensor, about: np.ndarray) -> torch.Tensor:
        return packed.resize(block, about, self.preprocess)

    def _on_cpu(self, block: torch.Tensor, about: np.ndarray) -> torch.Tensor:
        return packed.resize(block, about, self.preprocess)


def _probe(preprocess: Preprocess) -> tuple[torch.Tensor, np.ndarray, torch.Tensor]:
    """A block of small pictures, its descriptors, and Pillow's pixels: larger and smaller, wide, tall and very tall, grey."""
    height, width = preprocess.size
    rng = np.random.default_rng(0)
    shapes: list[tuple[int, ...]] = [
        (height + 30, 2 * width, 3),
        (3 * height, width + 5, 3),
        (height // 2 + 1, width // 3 + 1, 3),
    ]
    shapes += [(height + 9, width + 3), (40, 8, 3), (height, width, 3)]
    data = []
    for shape in shapes:
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(buffer, "PNG", compress_level=0)
        data.append(buffer.getvalue())
    room = packed.least_bytes(preprocess, len(data)) + 2 * sum(map(len, data)) + (1 << 20)
    block = np.zeros(room, dtype=np.uint8)
    packer = packed.Packer(preprocess, block, len(data))
    for image in data:
        packer.add(image, "rgb_first")
    filled = torch.from_numpy(block)[: packer.used]
    return filled, packed.descriptors(filled, len(data)), torch.stack([preprocess.pixels(image) for image in data])
