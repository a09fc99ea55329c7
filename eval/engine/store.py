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
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipeval.results import safe_json
from clipeval.results.files import sha256_of, write_atomically

CHUNK = 2048
"""Rows in a chunk of image embeddings: what a killed run may lose, and the unit in which a split is shared out."""

log = logging.getLogger(__name__)


def key_of(parts: Mapping[str, Any]) -> str:
    """The name of a store: sha256 of what its embeddings depend on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


class ImageStore:
    """The embeddings of one split by one model.

    Args:
        root: `cache.root`; None keeps nothing on disk.
        parts: what the embeddings depend on.
        count: the split's number of images.
        label: what it is, for people.
    """

    def __init__(self, root: Path | None, parts: Mapping[str, Any], count: int, label: str = "") -> None:
        self.key = key_of(parts)
        self.folder = None if root is None else root / "images" / self.key
        self.parts = {"label": label, **parts}
        self.count = count
        self.rows: np.ndarray | None = None
        self.done = np.zeros(count, dtype=bool)
        self._unsaved = set(range(-(-count // CHUNK)))
        self._seen: set[int] = set()
        self._kept: list[tuple[int, Path]] = []
        self._scan()

    @property
    def complete(self) -> bool:
        """Whether every image is embedded (or skipped)."""
        return bool(self.done.all())

    @property
    def missing(self) -> np.ndarray:
        """int64 positions that are not embedded yet, in order."""
        return np.flatnonzero(~self.done)

    @property
    def visited(self) -> bool:
        """Whether every chunk has been worked on by someone; only images that could not be read may be missing."""
        return self._seen == set(range(-(-self.count // CHUNK)))

    def put(self, positions: np.ndarray, rows: torch.Tensor) -> None:
        """Takes rows in, and writes every chunk that they complete."""
        self._rows(rows.shape[1])[positions] = rows.numpy()
        self._mark(positions)

    def skip(self, positions: np.ndarray) -> None:
        """Marks images that cannot be read: their rows stay NaN, and the next run tries them again."""
        self._mark(positions)

    def flush(self) -> None:
        """Writes chunks that are begun, for a process that has to stop; the missing rows are NaN."""
        if self.folder is None or self.rows is None:
            return
        for number in sorted(self._unsaved):
            span = slice(number * CHUNK, (number + 1) * CHUNK)
            if not np.isnan(self.rows[span, 0]).all():
                _write(self.folder, str(number), self.rows[span], self.parts)
                self._unsaved.discard(number)

    def finish(self) -> torch.Tensor:
        """float32 [N, D]; rows that were skipped are NaN. What lies on disk is read now, and not held by the store."""
        assert self.complete
        return torch.from_numpy(self.rows if self.rows is not None else self._assembled(0))

    def _rows(self, width: int) -> np.ndarray:
        if self.rows is None:
            self.rows = self._assembled(width)
        return self.rows

    def _assembled(self, width: int) -> np.ndarray:
        chunks = [(number, np.load(path, mmap_mode="r", allow_pickle=False)) for number, path in self._kept]
        rows = np.full((self.count, chunks[0][1].shape[1] if chunks else width), np.nan, dtype=np.float32)
        for number, chunk in chunks:
            there = ~np.isnan(chunk[:, 0])
            rows[number * CHUNK : (number + 1) * CHUNK][there] = chunk[
                there
            ]  # two files of a chunk complete each other
        return rows

    def _mark(self, positions: np.ndarray) -> None:
        self.done[positions] = True
        if self.folder is None or self.rows is None:
            return
        for number in self._unsaved.intersection(np.unique(positions // CHUNK).tolist()):
            span = slice(number * CHUNK, (number + 1) * CHUNK)
            if self.done[span].all():
                _write(self.folder, str(number), self.rows[span], self.parts)
                self._unsaved.discard(number)

    def _scan(self) -> None:
        """Finds out what is on disk, and holds none of it: with everything cached, a run of many sets holds one at a time."""
        if self.folder is None or not self.folder.is_dir():
            return
        for path in sorted(self.folder.glob("*-*.npy")):
            number = int(path.name.split("-")[0])
            rows = _read(path) if number in self._unsaved else None
            if rows is None:
                continue
            self._seen.add(number)
            self._kept.append((number, path))
            span = slice(number * CHUNK, (number + 1) * CHUNK)
            self.done[span] |= ~np.isnan(rows[:, 0])
            if self.done[span].all():  # else an image was skipped, and is tried again
                self._unsaved.discard(number)
        _touch(self.folder)


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
        self._place: dict[bytes, tuple[int, int]] = {}
        if self.folder is not None and self.folder.is_dir():
            for path in sorted(self.folder.glob("*.npy")):
                block = _read(path)
                if block is not None:
                    self._add(block["text"], block["row"])
            _touch(self.folder)

    def missing(self, texts: Iterable[str]) -> list[str]:
        """The distinct texts that are not embedded yet."""
        return [text for text in dict.fromkeys(texts) if _text_key(text) not in self._place]

    def put(self, texts: Sequence[str], rows: torch.Tensor) -> None:
        """Takes in float32 [T, D], a row a text, and writes it."""
        keys = np.frombuffer(b"".join(map(_text_key, texts)), dtype="V32")
        values = rows.numpy().astype(np.float32, copy=False)
        self._add(keys, values)
        if self.folder is not None:
            block = np.empty(len(texts), dtype=[("text", "V32"), ("row", "<f4", (values.shape[1],))])
            block["text"], block["row"] = keys, values
            _write(self.folder, "", block, self.parts)

    def rows(self, texts: Sequence[str]) -> torch.Tensor:
        """float32 [T, D] for texts that were put in, duplicates allowed."""
        places = np.array([self._place[_text_key(text)] for text in texts], dtype=np.int64).reshape(-1, 2)
        if not len(places):
            width = self._blocks[0].shape[1] if self._blocks else 0
            return torch.zeros(0, width)
        out = np.empty((len(texts), self._blocks[0].shape[1]), dtype=np.float32)
        for number in np.unique(places[:, 0]):
            chosen = places[:, 0] == number
            out[chosen] = self._blocks[number][places[chosen, 1]]
        return torch.from_numpy(out)

    def _add(self, keys: np.ndarray, rows: np.ndarray) -> None:
        number = len(self._blocks)
        self._blocks.append(rows)
        packed = keys.tobytes()
        for i in range(len(keys)):
            self._place.setdefault(packed[32 * i : 32 * i + 32], (number, i))


@dataclass(frozen=True)
class CacheEntry:
    """One store on disk, as `clipeval cache` lists it."""

    kind: str
    key: str
    path: Path
    bytes: int
    used: float
    parts: Mapping[str, Any]


def list_entries(root: Path) -> list[CacheEntry]:
    """Every store under `root`, the least recently used first."""
    found = []
    for kind in ("images", "texts", "pixels"):
        for folder in sorted((root / kind).glob("*")):
            files = [f for f in folder.iterdir() if f.is_file()]
            if not files:
                continue
            label = folder / "parts.json"
            parts = _parts(label)
            size, used = sum(f.stat().st_size for f in files), max(f.stat().st_mtime for f in files)
            found.append(CacheEntry(kind, folder.name, folder, size, used, parts))
    return sorted(found, key=lambda entry: entry.used)


def _parts(label: Path) -> dict[str, Any]:
    """What a store's label says; nothing where there is none, or it is none that this program wrote."""
    try:
        found = safe_json.read(label)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def prune(root: Path, keep_bytes: int) -> list[CacheEntry]:
    """Removes the least recently used stores until `keep_bytes` are left; gives what it removed."""
    entries = list_entries(root)
    total, removed = sum(entry.bytes for entry in entries), []
    for entry in entries:
        if total <= keep_bytes:
            break
        shutil.rmtree(entry.path)
        total -= entry.bytes
        removed.append(entry)
    return removed


def human_size(count: int) -> str:
    """`3.2 MB`: in the largest unit that leaves at least 1."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def _text_key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _write(folder: Path, prefix: str, array: np.ndarray, parts: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    data = buffer.getvalue()
    label = folder / "parts.json"
    if not label.exists():
        write_atomically(label, json.dumps(parts, sort_keys=True, indent=1).encode())
    digest = hashlib.sha256(data).hexdigest()
    write_atomically(folder / f"{prefix + '-' if prefix else ''}{digest}.npy", data)


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
