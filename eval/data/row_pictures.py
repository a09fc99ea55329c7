"""The distinct pictures that rows of tables name or hold, each of them once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from clipeval.data.account import Account
from clipeval.data.depth import HEAD, flag_deep, is_deep
from clipeval.data.huggingface import ParquetImages
from clipeval.data.images import Images, digest_of
from clipeval.data.made_images import Box, MadeImages
from clipeval.data.patterns import Pattern
from clipeval.data.pictures import whole_files
from clipeval.data.rows import Row
from clipeval.data.values import Unusable, text_of


@dataclass
class RowPictures:
    """The distinct pictures of a set, in the order in which questions name them.

    Attributes:
        folder: what names of files are relative to.
        cells: {column of parquet: its pictures}.
        keys: their names.
    """

    folder: Path
    cells: Mapping[str, ParquetImages]
    keys: list[str] = field(default_factory=list)
    _key_of: dict[tuple[str, Box | None], str] = field(default_factory=dict)
    _found: list[tuple[str, int, Box | None]] = field(default_factory=list)
    _paths: dict[Path, int] = field(default_factory=dict)
    _digests: list[bytes] = field(default_factory=list)
    _deep: list[str] = field(default_factory=list)

    def find(self, pattern: Pattern, row: Row, box: Box | None) -> list[str]:
        """The keys of the pictures that a row names.

        Raises:
            Unusable: there is none.
        """
        if pattern.is_column and pattern.source in self.cells:
            data = self.cells[pattern.source].read(row.number)
            digest = hashlib.sha256(data).digest()
            if (digest.hex(), box) not in self._key_of:
                name = f"{row.number:08d}" + (f"-{pattern.source}" if len(self.cells) > 1 else "")
                self._digests.append(digest)
                self._note(digest.hex(), box, name, (pattern.source, row.number), data[:HEAD], data)
            return [self._key_of[digest.hex(), box]]
        return [self._file(name, box) for name in pattern.texts(row.content, "the picture's name")]

    def _file(self, name: str, box: Box | None) -> str:
        if (name, box) not in self._key_of:
            text_of(name, "the picture's name")
            if name.startswith(("http://", "https://")):
                raise Unusable("the picture is an address on the network; pictures are read from disk")
            path = self.folder / name
            if not path.is_file():
                raise Unusable(f"the picture {name!r} does not exist in {self.folder}")
            number = self._paths.setdefault(path, len(self._paths))
            with path.open("rb") as file:
                head = file.read(HEAD)
            self._note(name, box, name, ("", number), head, None)
        return self._key_of[name, box]

    def _note(
        self, same: str, box: Box | None, name: str, place: tuple[str, int], head: bytes, data: bytes | None
    ) -> None:
        key = name if box is None else f"{name}@{','.join(map(str, box))}"
        self._key_of[same, box] = key
        self.keys.append(key)
        self._found.append((*place, box))
        if is_deep(head, lambda: data if data is not None else (self.folder / name).read_bytes()):
            self._deep.append(key)

    def images(self, account: Account) -> MadeImages:
        """All of them."""
        flag_deep(self._deep, account)
        sources: dict[str, Images] = dict(self.cells)
        digests = list(self._digests)
        if self._paths:
            shown = [
                path.relative_to(self.folder) if path.is_relative_to(self.folder) else path for path in self._paths
            ]
            files = whole_files(list(self._paths), list(map(str, shown)))
            sources[""] = files
            digests.append(files.digest.encode())
        names = list(sources)
        boxes = [box for _, _, box in self._found]
        return MadeImages(
            sources=list(sources.values()),
            source=np.array([names.index(name) for name, _, _ in self._found], dtype=np.int32),
            position=np.array([position for _, position, _ in self._found], dtype=np.int64),
            boxes=boxes if any(box is not None for box in boxes) else (),
            digest=digest_of(*digests, *(repr(entry) for entry in self._found)),
        )
