"""Embeddings kept by content: what was embedded once is not embedded again.

Two stores, both of plain `.npy` files under `cache.root`, each file written whole and named by the sha256 of its bytes, so
that any number of processes may write at once and a damaged file is known by its name:

    images/<key>/<number>-<sha256>.npy   float32 rows of one split, in chunks: a killed run resumes inside a task
    texts/<key>/<sha256>.npy             rows of (sha256 of the text, embedding)

`<key>` covers whatever changes an embedding: weights, preprocessing, precision, and for images the data's digest. Two
models never share an entry.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipeval.configs.files import sha256_of, write_atomically

CHUNK = 2048
"""Rows in a chunk of image embeddings: what a killed run may lose, and the unit in which a split is shared out."""
WRITING = 2
"""Chunks of a store that may wait to be written; a disk that is slower holds up the run."""

log = logging.getLogger(__name__)


def key_of(parts: Mapping[str, Any]) -> str:
    """The name of a store: sha256 of what its embeddings depend on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


@dataclass(frozen=True)
class ChunkRange:
    """Some chunks of a task's images: from `first` up to `last` of `of` equal lengths."""

    first: int
    last: int
    of: int

    def chunks(self, images: int) -> range:
        """The chunk numbers of a split that has this many images. Ranges that tile a task tile its chunks."""
        count = -(-images // CHUNK)
        return range(self.first * count // self.of, self.last * count // self.of)

    def rows(self, images: int) -> slice:
        """The images in those chunks."""
        chunks = self.chunks(images)
        return slice(chunks.start * CHUNK, chunks.stop * CHUNK)

    def __str__(self) -> str:
        return f"{self.first}-{self.last}/{self.of}"


class ImageStore:
    """The embeddings of one split by one model.

    Args:
        root: `cache.root`; None keeps nothing on disk.
        parts: what the embeddings depend on.
        count: the split's number of images.
        label: what it is, for people.
        writer: writes the chunks meanwhile; None: whoever completes one waits for the disk.
    """

    def __init__(
        self,
        root: Path | None,
        parts: Mapping[str, Any],
        count: int,
        label: str = "",
        writer: Executor | None = None,
    ) -> None:
        self.folder = None if root is None else root / "images" / key_of(parts)
        self._writer = writer
        self._writing: deque[tuple[int, Future[Path]]] = deque()
        self._lock = threading.Lock()
        self.parts = {"label": label, **parts}
        self.count = count
        self.done = np.zeros(count, dtype=bool)
        """bool [N], which images are embedded (or skipped)."""
        self.failures: dict[int, str] = {}
        """{index of an image that could not be read: why}."""
        self._rows: np.ndarray | None = None
        self._unsaved = set(range(-(-count // CHUNK)))
        self._seen: set[int] = set()
        self._files: dict[Path, int] = {}
        """{file: its chunk}."""
        self._damaged: set[Path] = set()
        self.refresh()

    @property
    def complete(self) -> bool:
        """Whether every image is embedded (or skipped)."""
        return bool(self.done.all())

    @property
    def missing(self) -> np.ndarray:
        """int64, the indices of images that are not embedded yet, in order."""
        return np.flatnonzero(~self.done)

    @property
    def visited(self) -> bool:
        """Whether every chunk has been worked on by someone; only images that could not be read may be missing."""
        return self._seen == set(range(-(-self.count // CHUNK)))

    def put(self, indices: np.ndarray, rows: torch.Tensor) -> None:
        """Stores float32 [n, D], and writes every chunk that they complete."""
        if self._rows is None:
            self._rows = self._read_rows(rows.shape[1])
        self._rows[indices] = rows.numpy()
        self.done[indices] = True
        self._save_complete(indices)

    def rows(self, indices: np.ndarray) -> torch.Tensor:
        """float32 [n, D] of what was embedded of some images; [0, 0] where nothing was."""
        return torch.zeros(0, 0) if self._rows is None else torch.from_numpy(self._rows[indices])

    def skip(self, failures: Sequence[tuple[int, str]]) -> None:
        """Marks images that cannot be read, and why: their rows stay NaN, and the next run tries them again."""
        self.failures.update(failures)
        indices = np.array([index for index, _ in failures], dtype=np.int64)
        self.done[indices] = True
        self._save_complete(indices)

    def flush(self) -> None:
        """Writes chunks that are begun, for a process that has to stop; the missing rows are NaN."""
        if self._rows is not None:
            begun = np.unique(np.flatnonzero(~np.isnan(self._rows[:, 0])) // CHUNK)
            self._save(self._unsaved.intersection(begun.tolist()))
        self.settle()

    def settle(self) -> None:
        """Waits for what is being written. OSError where the disk did not take it."""
        self._settle(0)

    def finish(self) -> torch.Tensor:
        """float32 [N, D]; rows that were skipped are NaN. What lies on disk is read now, and not held by the store."""
        assert self.complete
        return torch.from_numpy(self._rows if self._rows is not None else self._read_rows(0))

    def release(self) -> None:
        """Frees the memory; of a store that keeps nothing on disk, the embeddings are lost."""
        self._rows = None
        if self.folder is None:
            self.done[:] = False

    def refresh(self) -> None:
        """Finds out what else is on disk, and holds none of it: with everything cached, a run of many sets holds one at a time."""
        self.settle()
        if self.folder is None or not self.folder.is_dir():
            return
        for path in sorted(self.folder.glob("*-*.npy")):
            number = int(path.name.split("-")[0])
            if path in self._files or path in self._damaged or number not in self._unsaved:
                continue
            rows = _read(path)
            if rows is None:
                self._damaged.add(path)
                continue
            self._seen.add(number)
            self._files[path] = number
            span = slice(number * CHUNK, (number + 1) * CHUNK)
            there = ~np.isnan(rows[:, 0])
            self.done[span] |= there
            if self._rows is not None:
                self._rows[span][there] = rows[there]
            if self.done[span].all():  # else an image was skipped, and is tried again
                self._unsaved.discard(number)
        _touch(self.folder)

    def _read_rows(self, width: int) -> np.ndarray:
        """float32 [N, D] of what is on disk; NaN elsewhere."""
        self.settle()
        chunks = [(number, np.load(path, mmap_mode="r", allow_pickle=False)) for path, number in self._files.items()]
        rows = np.full((self.count, chunks[0][1].shape[1] if chunks else width), np.nan, dtype=np.float32)
        for number, chunk in chunks:
            there = ~np.isnan(chunk[:, 0])  # two files of a chunk complete each other
            rows[number * CHUNK : (number + 1) * CHUNK][there] = chunk[there]
        return rows

    def _save_complete(self, indices: np.ndarray) -> None:
        """Writes the chunks of some images that are complete by now."""
        numbers = self._unsaved.intersection(np.unique(indices // CHUNK).tolist())
        self._save({n for n in numbers if self.done[n * CHUNK : (n + 1) * CHUNK].all()})

    def _save(self, numbers: set[int]) -> None:
        if self.folder is None or self._rows is None:
            return
        for number in sorted(numbers):
            span = slice(number * CHUNK, (number + 1) * CHUNK)
            given = self.folder, f"{number}-", self._rows[span], self.parts
            if self._writer is None:
                self._files[_write(*given)] = number
            else:  # rows that nobody changes any more
                self._settle(WRITING - 1)
                self._writing.append((number, self._writer.submit(_write, *given)))
            self._seen.add(number)
            if self.done[span].all():
                self._unsaved.discard(number)

    def _settle(self, most: int) -> None:
        """Waits until no more than so many chunks are being written."""
        with self._lock:
            while len(self._writing) > most:
                number, written = self._writing.popleft()
                self._files[written.result()] = number


class TextStore:
    """Embeddings of texts by one text tower, looked up by content.

    Args:
        root: `cache.root`; None keeps nothing on disk.
        parts: what the embeddings depend on.
        label: what it is, for people.
    """

    def __init__(self, root: Path | None, parts: Mapping[str, Any], label: str = "") -> None:
        self.folder = None if root is None else root / "texts" / key_of(parts)
        self.parts = {"label": label, **parts}
        self._blocks: list[np.ndarray] = []
        self._index: dict[bytes, tuple[int, int]] = {}
        """{sha256 of a text: (block, row)}."""
        if self.folder is not None and self.folder.is_dir():
            for path in sorted(self.folder.glob("*.npy")):
                block = _read(path)
                if block is not None:
                    self._add(block["text"], block["row"])
            _touch(self.folder)

    def missing(self, texts: Iterable[str]) -> list[str]:
        """The distinct texts that are not embedded yet."""
        return [text for text in dict.fromkeys(texts) if _text_key(text) not in self._index]

    def put(self, texts: Sequence[str], rows: torch.Tensor) -> None:
        """Stores float32 [T, D], a row a text, and writes it."""
        keys = np.frombuffer(b"".join(map(_text_key, texts)), dtype="V32")
        values = rows.numpy().astype(np.float32, copy=False)
        self._add(keys, values)
        if self.folder is not None:
            block = np.empty(len(texts), dtype=[("text", "V32"), ("row", "<f4", (values.shape[1],))])
            block["text"], block["row"] = keys, values
            _write(self.folder, "", block, self.parts)

    def rows(self, texts: Sequence[str]) -> torch.Tensor:
        """float32 [T, D] for texts that were put in, duplicates allowed."""
        indices = np.array([self._index[_text_key(text)] for text in texts], dtype=np.int64).reshape(-1, 2)
        if not len(indices):
            width = self._blocks[0].shape[1] if self._blocks else 0
            return torch.zeros(0, width)
        out = np.empty((len(texts), self._blocks[0].shape[1]), dtype=np.float32)
        for number in np.unique(indices[:, 0]):
            chosen = indices[:, 0] == number
            out[chosen] = self._blocks[number][indices[chosen, 1]]
        return torch.from_numpy(out)

    def _add(self, keys: np.ndarray, rows: np.ndarray) -> None:
        number = len(self._blocks)
        self._blocks.append(rows)
        packed = keys.tobytes()
        for i in range(len(keys)):
            self._index.setdefault(packed[32 * i : 32 * i + 32], (number, i))


def _text_key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _write(folder: Path, prefix: str, array: np.ndarray, parts: Mapping[str, Any]) -> Path:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    data = buffer.getvalue()
    label = folder / "parts.json"
    if not label.exists():
        write_atomically(label, json.dumps(parts, sort_keys=True, indent=1).encode())
    path = folder / f"{prefix}{hashlib.sha256(data).hexdigest()}.npy"
    write_atomically(path, data)
    return path


def _read(path: Path) -> np.ndarray | None:
    """The array in a file, mapped into memory; None, and a warning, where its bytes are not those its name speaks of."""
    if sha256_of(path) != path.stem.rsplit("-", 1)[-1]:
        log.warning("the cache entry %s is damaged; it is computed again", path)
        return None
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:  # objects, which would have to be unpickled
        log.warning("the cache entry %s is no array of numbers; it is computed again", path)
        return None
    return array


def _touch(folder: Path) -> None:
    """Notes that a store was used; in a cache that may only be read, nothing is noted."""
    with suppress(OSError):
        os.utime(folder / "parts.json")
