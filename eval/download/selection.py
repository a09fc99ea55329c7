"""Turning SugarCrepe and Winoground into the one layout of caption selection.

    clipeval convert sugar_crepe --images val2017 --json DIR --out ROOT/wds_sugar_crepe
    clipeval convert winoground  --rows FILE|DIR            --out ROOT/wds_winoground

What their makers have (looked up in the code of those who use them, clip_benchmark's among it):

- SugarCrepe: a JSON file for each part, {"0": {"filename", "caption", "negative_caption"}, …} with gaps in the numbers, beside
  COCO's val2017 images. The parts share images, so that all of them lie over one folder: test/*.tar holds each image once, and
  test/instances_<part>.jsonl a part's questions.
- Winoground, facebook/winoground: rows of `id`, `image_0`, `image_1`, `caption_0`, `caption_1`, in parquet or as `datasets`
  keeps them (Arrow).

The images' encoded bytes are kept as they are.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clipeval.configs.errors import ClipevalError
from clipeval.data.lock import Lock
from clipeval.download.cached import arrow_rows
from clipeval.download.convert import Instance, Row, parquet_rows, plain_key, write_pairs, write_questions
from clipeval.download.shards import PARTIAL, SHARD_SIZE, ShardWriter, extension_of, install, room_for
from clipeval.results import safe_json


def convert_sugar_crepe(images: Path, annotations: Path, folder: Path, shard_size: int = SHARD_SIZE) -> Lock:
    """Converts SugarCrepe's files: every part whose JSON lies in `annotations`.

    Args:
        images: the folder of COCO's val2017 images.
        annotations: the folder of JSON files, a part each.
        folder: the folder to make, whole or not at all.

    Returns:
        The lock of what was made.

    Raises:
        ClipevalError: a file is missing or not of the form above; it says which, and what was expected.
    """
    parts = sorted(annotations.glob("*.json"))
    if not images.is_dir() or not parts:
        missing = f"{annotations} holds no JSON file" if images.is_dir() else f"{images} is no folder"
        raise ClipevalError(
            f"{missing}: --images names COCO's val2017 folder, --json the one of SugarCrepe's files (add_att.json and others)."
        )
    names: dict[str, str] = {}
    questions: dict[str, list[Instance]] = {}
    for part in parts:
        found = _questions(part)
        names.update({plain_key(Path(item["filename"]).stem): item["filename"] for item in found.values()})
        questions[f"instances_{part.stem}.jsonl"] = [
            {
                "id": number,
                "images": [plain_key(Path(item["filename"]).stem)],
                "captions": [item["caption"], item["negative_caption"]],
            }
            for number, item in found.items()
        ]
    lost = sorted(name for name in names.values() if not (images / name).is_file())
    if lost:
        raise ClipevalError(
            f"{images} holds no {lost[0]} ({len(lost)} of {len(names)} images are missing). SugarCrepe is about COCO's val2017."
        )
    content = ((key, (images / names[key]).read_bytes()) for key in sorted(names))
    with _preparing(folder) as made:
        with ShardWriter(made, limit=shard_size) as shards:
            for key, image in content:
                shards.add(key, [(extension_of(image, f"{images}, image {key!r}"), image)])
        write_questions(questions, made)
        return install(made, folder, "selection")


def convert_winoground(rows: Path, folder: Path, shard_size: int = SHARD_SIZE) -> Lock:
    """Converts Winoground's rows: a file of parquet or Arrow, or a folder of such files.

    Raises:
        ClipevalError: as `convert_sugar_crepe`.
    """
    files = [rows] if rows.is_file() else sorted(p for p in rows.rglob("*") if p.suffix in (".parquet", ".arrow"))
    if not files:
        raise ClipevalError(f"--rows {rows}: a parquet or Arrow file, or a folder of them, was expected.")

    def read() -> Iterator[Row]:
        for file in files:
            yield from parquet_rows([file]) if file.suffix == ".parquet" else arrow_rows([file])

    with _preparing(folder) as made:
        write_pairs(read(), made, str(rows), shard_size)
        return install(made, folder, "selection")


def _questions(part: Path) -> dict[str, dict[str, str]]:
    """A part of SugarCrepe, as its file has it."""
    try:
        content = safe_json.read(part)
    except ValueError as problem:
        raise ClipevalError(f"{part} is not JSON ({problem}).") from None
    form = "SugarCrepe's {number: {filename, caption, negative_caption}} was expected"
    if not isinstance(content, dict) or not content:
        raise ClipevalError(f"{part}: {form}.")
    for number, item in content.items():
        for key in ("filename", "caption", "negative_caption"):
            if not isinstance(item, dict) or not isinstance(item.get(key), str) or not item[key].strip():
                raise ClipevalError(f"{part}, item {number!r} has no {key!r}; {form}.")
        if Path(item["filename"]).name != item["filename"]:
            raise ClipevalError(
                f"{part}, item {number!r}: {item['filename']!r} is no name of a file in --images; {form}."
            )
    return content


@contextmanager
def _preparing(folder: Path) -> Iterator[Path]:
    """An empty folder to write a set into for `folder`; where the block fails it leaves no trace.

    `folder` has to be a set of this kind, which is replaced, or hold nothing.
    """
    kind = folder / "dataset_type.txt"
    there = [path.name for path in folder.iterdir() if path.name != PARTIAL] if folder.is_dir() else []
    if there and not (kind.is_file() and kind.read_text(encoding="utf-8").strip() == "selection"):
        raise ClipevalError(
            f"--out {folder} holds other things ({sorted(there)[0]}); name a new folder, as data.root/wds_sugar_crepe."
        )
    try:
        yield room_for(folder)
    finally:
        shutil.rmtree(folder / PARTIAL, ignore_errors=True)
        with suppress(OSError):  # it holds a set, unless this was the first attempt and failed
            folder.rmdir()
