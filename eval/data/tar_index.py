"""An index of a tar: what its members are and where they lie, read once and kept.

The index holds every image's byte range, so that any worker can read any sample, and the content of every small member
(label, metadata, caption), so that no second pass is needed. Members of other kinds are counted and never opened.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile

import numpy as np

from clipeval.configs.addresses import shown
from clipeval.configs.errors import ClipevalError
from clipeval.configs.files import sha256_of, write_atomically
from clipeval.data.account import Account, is_litter
from clipeval.data.depth import HEAD, is_deep
from clipeval.data.remote import Pointer, pointer_at
from clipeval.data.tar_members import Member, read_members
from clipeval.results import safe_json

VERSION = 4
IMAGE_EXTENSIONS = (
    *("webp", "png", "jpg", "jpeg"),  # clip_benchmark's
    *("jpe", "jfif", "gif", "bmp", "tif", "tiff", "avif", "ppm", "pgm", "pbm", "pnm", "jp2"),
)
TEXT_EXTENSIONS = ("cls", "txt")
ARRAY_EXTENSION = "npy"
SMALL = 16 * 2**20
"""The largest label, caption or metadata member that is read, in bytes."""

_NAME = re.compile(
    r"^((?:.*/|)[^./][^./]*)[.]([^/]*)$"
)  # webdataset's own rule: the key ends at the base name's first dot
_LAST = re.compile(r"^((?:.*/|)[^/]+)[.]([^./]*)$")
EXAMPLES = 5
"""Members of one kind that are named where they are left out."""


@dataclass(frozen=True)
class TarIndex:
    """The samples of one tar, in its order.

    Attributes:
        keys: n names.
        offset, size: int64 [n], the byte range of each image.
        cls, txt: the content of those members, None for a sample without one.
        npy: int64 arrays, None for a sample without one.
        digest: sha256 of the whole file.
        left_out: {why: [how many, names of some]} of the members that are none of these.
        ignored: names of system files.
        deep: keys of images of more than 8 bits a pixel.
    """

    keys: list[str]
    offset: np.ndarray
    size: np.ndarray
    cls: list[str | None]
    txt: list[str | None]
    npy: list[np.ndarray | None]
    digest: str
    left_out: dict[str, tuple[int, list[str]]]
    ignored: list[str]
    deep: list[str]

    def tell(self, path: Path, account: Account) -> None:
        """Tells `account` what of the tar is not read."""
        for name in self.ignored:
            account.ignore(f"{path.name}: {name}")
        for why, (count, names) in self.left_out.items():
            for number in range(count):
                account.leave_out(f"{path.name}: {names[number]}" if number < len(names) else path.name, why)


def index_tars(paths: Sequence[Path], cache: Path | None) -> list[TarIndex]:
    """The index of each tar, from the cache where the file has not changed since.

    Args:
        paths: the shards, in order.
        cache: a folder for the indices; None keeps nothing.

    Raises:
        ClipevalError: a shard is missing, truncated or not a tar; it names the shard and the cure.
    """
    if len(paths) == 1:
        return [_cached(paths[0], cache)]
    with ThreadPoolExecutor(max_workers=8) as pool:  # hashing releases the interpreter's lock
        return list(pool.map(lambda path: _cached(path, cache), paths))


def _cached(path: Path, cache: Path | None) -> TarIndex:
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise ClipevalError(f"{path} is missing. Fetch it with `clipeval download`.") from None
    pointer = pointer_at(path)
    if cache is None:
        return _read_tar(path) if pointer is None else _read_elsewhere(pointer, path.parent)
    identity = f"{VERSION}\0{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}\0{stat.st_ino}"
    if pointer is not None:
        identity = f"{VERSION}\0{pointer.address}\0{pointer.size}\0{pointer.version}"
    entry = cache / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.npz"
    kept = _load(entry)
    if kept is None:
        kept = _read_tar(path) if pointer is None else _read_elsewhere(pointer, cache)
        write_atomically(entry, _dump(kept))
    return kept


def _dump(index: TarIndex) -> bytes:
    lines = {"keys": index.keys, "cls": index.cls, "txt": index.txt, "digest": index.digest}
    lines |= {"left_out": index.left_out, "ignored": index.ignored, "deep": index.deep}
    shapes = [None if a is None else list(a.shape) for a in index.npy]
    arrays = [a.ravel() for a in index.npy if a is not None]
    text = json.dumps({**lines, "shapes": shapes}).encode()
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        text=np.frombuffer(text, dtype=np.uint8),
        offset=index.offset,
        size=index.size,
        npy=np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int64),
    )
    data = buffer.getvalue()
    return data + hashlib.sha256(data).digest()


def _load(entry: Path) -> TarIndex | None:
    """A kept index; None where there is none or it is damaged (the sha256 at its end says so), which costs a new pass."""
    try:
        content = entry.read_bytes()
    except FileNotFoundError:
        return None
    data, digest = content[:-32], content[-32:]
    if hashlib.sha256(data).digest() != digest:
        return None
    try:
        return _parse(data)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        BadZipFile,
    ):  # another program's, whose digest fits
        return None


def _parse(data: bytes) -> TarIndex:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        fields = safe_json.parse(arrays["text"].tobytes())
        flat, npy, start = arrays["npy"], [], 0
        for shape in fields["shapes"]:
            count = 0 if shape is None else int(np.prod(shape))
            npy.append(None if shape is None else flat[start : start + count].reshape(shape))
            start += count
        left_out = {why: (count, names) for why, (count, names) in fields["left_out"].items()}
        return TarIndex(
            fields["keys"],
            arrays["offset"],
            arrays["size"],
            fields["cls"],
            fields["txt"],
            npy,
            fields["digest"],
            left_out,
            fields["ignored"],
            fields["deep"],
        )


def _read_tar(path: Path) -> TarIndex:
    with ThreadPoolExecutor(max_workers=1) as pool:  # the digest meanwhile: hashing releases the interpreter's lock
        digest = pool.submit(sha256_of, path)
        return _index(path, digest)


def _read_elsewhere(pointer: Pointer, folder: Path) -> TarIndex:
    """The index of a tar that lies elsewhere: all of it passes through a file in `folder`, for the digest is of every byte."""
    with pointer.copied(folder) as copy:
        try:
            return _read_tar(copy)
        except ClipevalError as problem:
            raise ClipevalError(str(problem).replace(str(copy), shown(pointer.address))) from None


def _index(path: Path, digest: Future[str]) -> TarIndex:
    samples: dict[str, dict[str, Any]] = {}
    try:
        members = read_members(path)
    except (tarfile.TarError, EOFError) as problem:
        raise ClipevalError(
            f"{path} is not a whole tar ({problem}). It was cut short or damaged on its way, or is no tar; fetch it again "
            "(`clipeval download`)."
        ) from None
    left_out: dict[str, tuple[int, list[str]]] = {}
    ignored: list[str] = []
    with path.open("rb") as file:
        for member, key, extension in _keyed(members, left_out, ignored):
            _add(file.fileno(), member, key, extension, samples, path)
    images = {key: sample for key, sample in samples.items() if "image" in sample}
    orphans = [key for key in samples if key not in images]
    if orphans:
        raise ClipevalError(
            f"{path}, key {orphans[0]!r}: a label or caption without an image ({len(orphans)} such keys). An image is "
            f"one of {', '.join(IMAGE_EXTENSIONS)}."
        )
    ranges = np.array([sample["image"] for sample in images.values()], dtype=np.int64).reshape(-1, 2)

    def column(kind: str) -> list[Any]:
        return [sample.get(kind) for sample in images.values()]

    return TarIndex(
        keys=list(images),
        offset=ranges[:, 0].copy(),
        size=ranges[:, 1].copy(),
        cls=column("cls"),
        txt=column("txt"),
        npy=column("npy"),
        digest=digest.result(),
        left_out=left_out,
        ignored=ignored,
        deep=[key for key, sample in images.items() if sample["deep"]],
    )


def _keyed(
    members: Sequence[Member], left_out: dict[str, tuple[int, list[str]]], ignored: list[str]
) -> Iterator[tuple[Member, str, str]]:
    """(member, its sample's key, its kind) of every member that is read.

    webdataset ends a key at the first dot of a name: `a.seg.png` is the member seg.png of the sample a. Where that sample has no
    image of its own, or the longer name has a label of its own, as `img_3.edited.jpg` beside `img_3.edited.cls`, the
    key ends at the last dot: else samples would be lost.
    """
    kinds = {*IMAGE_EXTENSIONS, *TEXT_EXTENSIONS, ARRAY_EXTENSION}
    names = [member.name for member in members]
    if any(name.rpartition("/")[2].count(".") != 1 for name in names):
        first = [_NAME.match(name) for name in names]
        imaged = {m.group(1) for m in first if m and m.group(2).lower() in IMAGE_EXTENSIONS}
        last = [_LAST.match(name) for name in names]
        labelled = {
            m.group(1) for m in last if m and m.group(2).lower() in kinds and m.group(2).lower() not in IMAGE_EXTENSIONS
        }

    def leave_out(name: str, why: str) -> None:
        count, examples = left_out.get(why, (0, []))
        left_out[why] = (count + 1, [*examples, name] if count < EXAMPLES else examples)

    for member in members:
        if is_litter(member.name):
            ignored.append(member.name)
            continue
        if member.size < 0:
            leave_out(member.name, "links and other members that hold no data")
            continue
        match = _NAME.match(member.name)
        key, extension = (match.group(1), match.group(2).lower()) if match else (member.name, "")
        if extension in kinds:
            yield member, key, extension
            continue
        whole = _LAST.match(member.name)
        longer, kind = (whole.group(1), whole.group(2).lower()) if whole else ("", "")
        if match and kind in kinds and (key not in imaged or longer in labelled):
            yield member, longer, kind
            continue
        leave_out(
            member.name,
            f"{extension} members, which are not read" if extension else "members whose names have no ending",
        )


def _add(tar: int, member: Member, key: str, extension: str, samples: dict[str, dict[str, Any]], path: Path) -> None:
    kind = "image" if extension in IMAGE_EXTENSIONS else extension
    sample = samples.setdefault(key, {})
    if kind in sample:
        raise ClipevalError(
            f"{path}, key {key!r}: the tar holds two members of the kind {kind}; a key names one sample."
        )
    if kind == "image":
        sample["image"] = (member.offset, member.size)
        head = os.pread(tar, min(HEAD, member.size), member.offset)
        sample["deep"] = is_deep(head, lambda: os.pread(tar, member.size, member.offset))
        return
    if member.size > SMALL:
        raise ClipevalError(
            f"{path}, key {key!r}: its {extension} member has {member.size:,} bytes; {SMALL:,} at most."
        )
    sample[kind] = _content(os.pread(tar, member.size, member.offset), extension, path, key)


_NOT_AN_ARRAY = (
    ValueError,
    EOFError,
    OSError,
    SyntaxError,
    TypeError,
    KeyError,
    OverflowError,
    MemoryError,
    TokenError,
)
"""What NumPy raises for a header that was damaged; found by tests/fuzz."""


def _plain_array(data: bytes) -> np.ndarray:
    """The array in a .npy file; its header is believed only as far as the bytes bear it out, and no pickle is opened."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects")
    body = data[stream.tell() :]
    if math.prod(shape) * dtype.itemsize != len(body) or any(length < 0 for length in shape):
        raise ValueError(f"its header speaks of {shape} {dtype}, and {len(body)} bytes follow")
    return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")


def _content(data: bytes, extension: str, path: Path, key: str) -> str | np.ndarray:
    location = f"{path}, key {key!r}"
    if extension in TEXT_EXTENSIONS:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise ClipevalError(f"{location}: its {extension} member is not UTF-8 text.") from None
    try:
        array = _plain_array(data)
    except _NOT_AN_ARRAY as problem:
        raise ClipevalError(f"{location}: its npy member is not a plain array ({problem}).") from None
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise ClipevalError(f"{location}: its npy member holds {array.dtype}; numbers were expected.")
    return np.atleast_1d(array).astype(np.int64)
