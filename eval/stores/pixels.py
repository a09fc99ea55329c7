"""Resized pixels kept by content (`cache.pixels=true`): what was decoded once for an input size is not decoded again.

    pixels/<key>/<number>-<checksum>.npy     uint8 [n, 3, height, width], images 32 x number and on, n = 32 but for the last

`<key>` covers what changes a pixel: the data's digest, the resize, the decoding libraries. Mean and std are not among it, so
models that differ in them alone share a store. A file is written whole by the decoder that made its pixels, and only if every
image of it could be read; before it is used, its content is compared with the checksum in its name.
"""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import features

from clipeval.configs.errors import ClipevalError
from clipeval.configs.files import write_atomically
from clipeval.data.images import Images
from clipeval.preprocess.transforms import Preprocess
from clipeval.stores.embeddings import key_of

CHUNK = 32
"""Images in a file: what one decoder makes in one go."""
READERS = 4
"""Threads that read and check files ahead of the encoder."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PixelStore:
    """The pixels of one split's images, resized in one way.

    Attributes:
        root: `cache.root`.
        parts: what the pixels depend on.
        count: the split's number of images.
        label: what it is, for people.
    """

    root: Path
    parts: Mapping[str, Any]
    count: int
    label: str = ""

    @classmethod
    def of(cls, root: Path, images: Images, transform: Preprocess, convert: str, fast: bool, label: str) -> PixelStore:
        """The store of some images as this preprocessing makes them, `fast` or exact; `convert`: see `Preprocess`."""
        decoders = {
            "pillow": PIL.__version__,
            "jpeg": features.version("jpg"),
            "turbo": features.version("libjpeg_turbo"),
        }
        if fast:
            import torchvision

            decoders["torchvision"] = torchvision.__version__
        parts = {
            "data": images.digest,
            "convert": convert,
            "preprocess": "fast" if fast else "exact",
            "size": list(transform.size),
            "interpolation": transform.interpolation,
            "resize_mode": transform.resize_mode,
            "fill_color": transform.fill_color,
            "decoders": decoders,
        }
        return cls(root, parts, len(images), f"{label}, {transform.size[0]}x{transform.size[1]}")

    @cached_property
    def folder(self) -> Path:
        return self.root / "pixels" / key_of(self.parts)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image."""
        height, width = self.parts["size"]
        return 3, height, width

    def files(self) -> dict[int, Path]:
        """{number: file} of what is there; the files' contents are not looked at."""
        found = {}
        with suppress(FileNotFoundError):
            for entry in os.scandir(self.folder):
                number, _, rest = entry.name.partition("-")
                if number.isdigit() and rest.endswith(".npy"):
                    found[int(number)] = Path(entry.path)
        return found

    def touch(self) -> None:
        """Notes that the store is used; in a cache that may only be read, nothing is noted."""
        with suppress(OSError):
            os.utime(self.folder / "parts.json")

    def missing_bytes(self, indices: np.ndarray) -> int:
        """What the files would take that images at these indices, int64, lack."""
        lacking = np.setdiff1d(np.unique(indices // CHUNK), np.fromiter(self.files(), dtype=np.int64))
        images = np.minimum((lacking + 1) * CHUNK, self.count) - lacking * CHUNK
        return int(images.sum()) * int(np.prod(self.shape))

    def save(self, number: int, pixels: np.ndarray) -> None:
        """Writes one file, uint8 [n, 3, height, width]. OSError where the disk has no room for it."""
        label = self.folder / "parts.json"
        if not label.exists():
            write_atomically(label, json.dumps({"label": self.label, **self.parts}, sort_keys=True, indent=1).encode())
        buffer = io.BytesIO()
        np.save(buffer, pixels, allow_pickle=False)
        write_atomically(self.folder / f"{number}-{checksum(number, pixels)}.npy", buffer.getvalue())

    def load(self, number: int, path: Path) -> np.ndarray | None:
        """The pixels of a file, mapped into memory; None, and a warning, where it is damaged: it is then removed.

        None without a warning where it is not there any more: another process has pruned the cache.
        """
        try:
            pixels = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            return None
        except (ValueError, EOFError):  # cut short, or no array of numbers
            pixels = None
        if isinstance(pixels, np.ndarray) and self._is_whole(number, path, pixels):
            return pixels
        log.warning("the cache entry %s is damaged; its images are decoded again", path)
        with suppress(OSError):
            path.unlink()
        return None

    def _is_whole(self, number: int, path: Path, pixels: np.ndarray) -> bool:
        shape = (min(CHUNK, self.count - number * CHUNK), *self.shape)
        known = pixels.dtype == np.uint8 and pixels.shape == shape
        return known and path.stem == f"{number}-{checksum(number, pixels)}"


def read_ahead(wanted: Iterable[tuple[PixelStore, int, Path]]) -> Iterator[np.ndarray | None]:
    """What `PixelStore.load` gives of each file, in order; the next ones are read and checked in threads meanwhile."""
    ahead: deque[Future[np.ndarray | None]] = deque()
    with ThreadPoolExecutor(READERS, thread_name_prefix="pixels") as pool:
        try:
            for store, number, path in wanted:
                ahead.append(pool.submit(store.load, number, path))
                if len(ahead) > 2 * READERS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def check_room(root: Path, needed: int) -> None:
    """ClipevalError where the disk of `root` has less room than `needed` bytes."""
    free = free_bytes(root)
    if needed > free:
        raise ClipevalError(
            f"cache.pixels=true would keep {needed / 1e9:,.1f} GB of pixels, and {root} has room for {free / 1e9:,.1f} GB: make "
            "room (`clipeval cache prune --keep SIZE`), set cache.root to a larger disk, or leave cache.pixels=false."
        )


def free_bytes(root: Path) -> int:
    """Room on the disk of a folder, which need not exist yet."""
    there = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


def checksum(number: int, pixels: np.ndarray) -> str:
    """8 hex digits, the CRC-32 of a file's number and pixels.

    It guards against damage, not against malice: SHA-256 would take longer than everything else that is done to an image
    (112 and 57 µs for 224 x 224 on an AMD EPYC).
    """
    return f"{zlib.crc32(np.ascontiguousarray(pixels).data, zlib.crc32(f'{number} {pixels.shape}'.encode())):08x}"
