"""Turning Flickr, MSCOCO, WinoGAViL and Winoground, as the hub has them, into the one layout.

What the hub has (looked up in public copies and in the code of those who use them):

- nlphuji/flickr_1k_test_image_text_retrieval and nlphuji/mscoco_2014_5k_test_image_text_retrieval, at
  refs/convert/parquet: parquet with the columns `image` ({bytes, path}) and `caption` (list of strings), a row an image.
- The same two at main: test_1k_flickr.csv or test_5k_mscoco_2014.csv with the columns `filename` and `raw` (the captions,
  a list in JSON or as Python prints it), beside images_….zip.
- nlphuji/winogavil at main: winogavil_dataset.csv with the columns `ID`, `cue`, `candidates` and `associations` (lists in
  JSON), beside winogavil_images.zip, whose images are named <candidate>.jpg.
- facebook/winoground at main: parquet with the columns `id`, `image_0`, `image_1`, `caption_0` and `caption_1`.

The images' encoded bytes are kept as they are: what is decoded later is what DataComp's evaluation decodes.
"""

from __future__ import annotations

import ast
import csv
import json
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipeval.configs.errors import ClipevalError
from clipeval.download.shards import SHARD_SIZE, ShardWriter, extension_of
from clipeval.results import safe_json

ROWS = 64
"""Rows that are held in memory at once."""

ReadPath = Callable[[str], bytes]
Row = Mapping[str, Any]
Instance = Mapping[str, Any]
PAIR = ("image_0", "image_1", "caption_0", "caption_1")
"""A Winoground row's columns, its id aside."""


def convert(sources: Sequence[Path], made: Path, shard_size: int = SHARD_SIZE) -> str:
    """Converts a repository's files: parquet, or a CSV beside a zip of images.

    Args:
        sources: the files, parquet shards in their order.
        made: an empty folder for the result; `install` moves it into place.

    Returns:
        What it is: retrieval, association or selection.

    Raises:
        ClipevalError: the files are not of the forms that this module's docstring describes.
    """
    parquet = [path for path in sources if path.suffix == ".parquet"]
    if parquet:
        return convert_rows(parquet_rows(parquet), made, str(parquet[0]), shard_size)
    archives = [path for path in sources if path.suffix == ".zip"]
    tables = [path for path in sources if path.suffix == ".csv"]
    if len(archives) != 1 or not tables:
        names = ", ".join(path.name for path in sources) or "no file"
        raise ClipevalError(
            f"parquet files, or a CSV and one zip of images, were expected to convert; there is {names}."
        )
    for table in tables:
        with table.open(encoding="utf-8-sig", newline="") as file:
            columns = set(next(csv.reader(file), ()))
        if {"cue", "candidates", "associations"} <= columns:
            return _association_archive(table, archives[0], made, shard_size)
        if {"filename", "raw"} <= columns:
            return _retrieval_archive(table, archives[0], made, shard_size)
    raise ClipevalError(
        f"{tables[0]}: the columns cue, candidates and associations (association) or filename and raw (retrieval) were "
        f"expected; there are {', '.join(sorted(columns)) or 'none'}."
    )


def convert_rows(
    rows: Iterable[Row], made: Path, location: str, shard_size: int = SHARD_SIZE, read: ReadPath | None = None
) -> str:
    """Converts rows of `image` and `caption`; of `cue`, `candidates`, `associations` and `candidate_images`; or of PAIR.

    Args:
        rows: in order; an image is {"bytes", "path"}.
        made: an empty folder for the result.
        location: names the rows in errors.
        read: gives the bytes of an image that has a path alone; None: such an image is an error.

    Returns:
        retrieval, association or selection.
    """
    iterator = iter(rows)
    first = next(iterator, None)
    if first is None:
        raise ClipevalError(f"{location} holds no row.")
    everything = _chain(first, iterator)
    if {"image", "caption"} <= set(first):
        write_retrieval(
            (
                (_stem(row["image"]), image_bytes(row["image"], read, f"{location}, row {i}"), row["caption"])
                for i, row in enumerate(everything)
            ),
            made,
            location,
            shard_size,
        )
        return "retrieval"
    if {"cue", "candidates", "associations", "candidate_images"} <= set(first):
        return _association_rows(everything, made, location, shard_size, read)
    if set(PAIR) <= set(first):
        write_pairs(everything, made, location, shard_size)
        return "selection"
    raise ClipevalError(
        f"{location}: the columns image and caption (retrieval), or cue, candidates, associations and candidate_images "
        f"(association), or {', '.join(PAIR)} (selection), were expected; there are {', '.join(sorted(first))}."
    )


def write_retrieval(
    rows: Iterable[tuple[str, bytes, Any]], made: Path, location: str, shard_size: int = SHARD_SIZE
) -> None:
    """Writes images and captions, in their order: <key>.<ext> and <key>.txt, a caption a line, every caption kept.

    Args:
        rows: (name, image, captions); the key is the name where it can be one, else the row's number.
    """
    with ShardWriter(made, limit=shard_size) as shards:
        taken: set[str] = set()
        for i, (name, image, captions) in enumerate(rows):
            lines = [_one_line(text) for text in ([captions] if isinstance(captions, str) else captions or [])]
            lines = [line for line in lines if line]
            if not lines:
                raise ClipevalError(f"{location}, row {i}: the image has no caption.")
            key = name if name and name not in taken and not set(name) & set("./\n") else f"row{i:07d}"
            taken.add(key)
            text = "\n".join(lines) + "\n"
            shards.add(key, [(extension_of(image, f"{location}, row {i}"), image), ("txt", text.encode())])
    (made / "dataset_type.txt").write_text("retrieval\n", encoding="utf-8")


def write_association(
    images: Iterable[tuple[str, bytes]],
    instances: Sequence[Mapping[str, Any]],
    made: Path,
    location: str,
    shard_size: int = SHARD_SIZE,
) -> None:
    """Writes each distinct candidate's image once and the questions about them.

    Args:
        images: (candidate, image), sorted by candidate so that the shards' bytes do not depend on the source's order.
        instances: {"id", "cue", "candidates", "associations"}.
    """
    with ShardWriter(made, limit=shard_size) as shards:
        for candidate, image in images:
            shards.add(candidate, [(extension_of(image, f"{location}, candidate {candidate!r}"), image)])
    lines = "".join(json.dumps(instance, ensure_ascii=False) + "\n" for instance in instances)
    (made / "test" / "instances.jsonl").write_text(lines, encoding="utf-8")
    (made / "dataset_type.txt").write_text("association\n", encoding="utf-8")


def write_pairs(rows: Iterable[Row], made: Path, location: str, shard_size: int = SHARD_SIZE) -> None:
    """Writes rows of two images and their two captions, in their order; the keys are <id>_0 and <id>_1.

    Args:
        rows: PAIR and `id`; an image is {"bytes", "path"}.
        made: an empty folder for the result.
        location: names the rows in errors.
    """
    instances: list[Instance] = []
    with ShardWriter(made, limit=shard_size) as shards:
        for i, row in enumerate(rows):
            lacking = [column for column in PAIR if not row.get(column)]
            if lacking:
                raise ClipevalError(
                    f"{location}, row {i}: there is no {lacking[0]}; the columns {', '.join(PAIR)} were expected."
                )
            number = row.get("id", i)
            keys = [f"{plain_key(str(number))}_{k}" for k in (0, 1)]
            for key, column in zip(keys, PAIR, strict=False):
                data = image_bytes(row[column], None, f"{location}, row {i}, {column}")
                shards.add(key, [(extension_of(data, f"{location}, row {i}, {column}"), data)])
            instances.append({"id": number, "images": keys, "captions": [row["caption_0"], row["caption_1"]]})
    if not instances:
        raise ClipevalError(f"{location} holds no row.")
    write_questions({"instances.jsonl": instances}, made)


def write_questions(questions: Mapping[str, Sequence[Instance]], made: Path) -> None:
    """Writes a caption selection's files of questions beside its shards, and what kind of set it is."""
    for name, instances in questions.items():
        lines = "".join(json.dumps(instance, ensure_ascii=False) + "\n" for instance in instances)
        (made / "test" / name).write_text(lines, encoding="utf-8")
    (made / "dataset_type.txt").write_text("selection\n", encoding="utf-8")


def parquet_rows(paths: Sequence[Path]) -> Iterator[Row]:
    """The rows of parquet files, a few at a time."""
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=ROWS):
                    yield from batch.to_pylist()
        except pa.ArrowInvalid as problem:
            raise ClipevalError(f"{path} is not a parquet file ({problem}).") from None


def _association_rows(rows: Iterable[Row], made: Path, location: str, shard_size: int, read: ReadPath | None) -> str:
    """Each candidate's image goes to a file of its own first: in the rows it comes again with every instance."""
    pile = made / ".images"
    pile.mkdir(parents=True)
    instances: list[Mapping[str, Any]] = []
    names: dict[str, Path] = {}
    for i, row in enumerate(rows):
        instances.append(_instance(row, row.get("ID", i), f"{location}, row {i}"))
        candidates, images = instances[-1]["candidates"], row["candidate_images"]
        if len(images) != len(candidates):
            raise ClipevalError(f"{location}, row {i}: {len(candidates)} candidates and {len(images)} images.")
        for name, image in zip(candidates, images, strict=True):
            if name not in names:
                names[name] = pile / f"{len(names)}"
                names[name].write_bytes(image_bytes(image, read, f"{location}, row {i}, candidate {name!r}"))
    write_association(
        ((name, names[name].read_bytes()) for name in sorted(names)), instances, made, location, shard_size
    )
    shutil.rmtree(pile)
    return "association"


def _association_archive(table: Path, archive: Path, made: Path, shard_size: int) -> str:
    instances = [_instance(row, row.get("ID") or i, f"{table}, row {i}") for i, row in enumerate(_csv_rows(table))]
    if not instances:
        raise ClipevalError(f"{table} holds no row.")
    names = sorted({name for instance in instances for name in instance["candidates"]})
    with _open_zip(archive) as images:
        members = _members(images)
        missing = [name for name in names if name not in members]
        if missing:
            raise ClipevalError(
                f"{archive} holds no image for the candidate {missing[0]!r} ({len(missing)} candidates have none)."
            )
        content = ((name, images.read(members[name])) for name in names)
        write_association(content, instances, made, str(archive), shard_size)
    return "association"


def _retrieval_archive(table: Path, archive: Path, made: Path, shard_size: int) -> str:
    with _open_zip(archive) as images:
        members = _members(images)

        def rows() -> Iterator[tuple[str, bytes, list[str]]]:
            for i, row in enumerate(_csv_rows(table)):
                name = plain_key(PurePosixPath(row["filename"]).stem)
                if name not in members:
                    raise ClipevalError(f"{table}, row {i}: {archive} holds no image {row['filename']!r}.")
                yield name, images.read(members[name]), _list(row["raw"], f"{table}, row {i}")

        write_retrieval(rows(), made, str(table), shard_size)
    return "retrieval"


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as problem:
        raise ClipevalError(f"{path} is not a whole zip ({problem}). Delete it and fetch it again.") from None


def _members(archive: zipfile.ZipFile) -> dict[str, str]:
    """A zip's images by name without folder and extension; the copies that macOS adds (__MACOSX/._…) are left out."""
    paths = [PurePosixPath(name) for name in archive.namelist() if not name.endswith("/")]
    return {
        plain_key(path.stem): str(path)
        for path in paths
        if "__MACOSX" not in path.parts and not path.name.startswith(".")
    }


def _csv_rows(table: Path) -> Iterator[Row]:
    with table.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


def _instance(row: Row, number: Any, location: str) -> dict[str, Any]:
    """One question; a candidate's name becomes a key, in which a dot or a slash would end it."""
    candidates, associations = (
        [plain_key(name) for name in _list(row[column], location)] for column in ("candidates", "associations")
    )
    text = str(number)
    return {
        "id": int(text) if text.isdigit() else text,
        "cue": str(row["cue"]),
        "candidates": candidates,
        "associations": associations,
    }


def _list(value: Any, location: str) -> list[str]:
    """A list of strings: as it is, or read from its JSON or Python text."""
    if isinstance(value, str):
        try:
            value = safe_json.parse(value)
        except ValueError:
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                raise ClipevalError(f"{location}: {value[:60]!r} is no list.") from None
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise ClipevalError(f"{location}: {str(value)[:60]!r} is no list of strings.")
    return list(value)


def plain_key(name: str) -> str:
    """A name as a shard's key, in which a dot or a slash would end it."""
    return name.replace(".", "_").replace("/", "_")


def _one_line(text: str) -> str:
    """A caption without line breaks, which part captions in a txt member; everything else is kept."""
    return " ".join(text.splitlines()) if text.strip() else ""


def _stem(image: Mapping[str, Any] | None) -> str:
    path = (image or {}).get("path")
    return PurePosixPath(path).stem if path else ""


def image_bytes(image: Mapping[str, Any] | None, read: ReadPath | None, location: str) -> bytes:
    """The encoded image of a cell."""
    if image is None:
        raise ClipevalError(f"{location}: there is no image.")
    if image.get("bytes") is not None:
        return bytes(image["bytes"])
    if read is None or not image.get("path"):
        raise ClipevalError(
            f"{location}: the image's bytes are not in the file, which has but its path ({image.get('path')})."
        )
    return read(image["path"])


def _chain(first: Row, rest: Iterator[Row]) -> Iterator[Row]:
    yield first
    yield from rest
