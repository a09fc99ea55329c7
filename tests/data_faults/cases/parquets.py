"""Parquet files: splits as `datasets` names them, images in every form, nulls, structures, damage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.data_faults.case import Case, Refused, Scored
from tests.data_faults.colours import picture, write_picture

Make = Callable[[Path], Sequence[str]]
RED, BLUE = picture("red"), picture("blue")
LABELS = ["red", "blue"]
RIGHT = Scored({"acc1": 1.0}, samples=2, classnames=["blue", "red"])
SKIP = "data.on_error=skip"


def files(contents: Mapping[str, Any], *words: str) -> Make:
    """Parquet files (or bytes, or text) below data/."""

    def make(place: Path) -> list[str]:
        for name, content in contents.items():
            path = place / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            elif isinstance(content, str):
                path.write_text(content)
            else:
                pq.write_table(content if isinstance(content, pa.Table) else pa.table(content), path)
        return ["task=hf_dataset", f"task.data.path={place / 'data'}", *words]

    return make


def rows(images: Sequence[Any] = (RED, BLUE), labels: Sequence[Any] = LABELS, **more: Any) -> dict[str, Any]:
    return {"image": list(images), "label": list(labels), **more}


def one(table: Any, *words: str) -> Make:
    return files({"test.parquet": table}, *words)


def paths(values: Sequence[Any], *words: str) -> Make:
    """Images that are paths of pictures beside the file."""

    def make(place: Path) -> list[str]:
        write_picture(place / "data" / "pictures" / "a.png", "red")
        write_picture(place / "data" / "pictures" / "b.png", "blue")
        return list(one(rows(values), *words)(place))

    return make


def captions(values: Sequence[Any], *words: str) -> Make:
    inner = one({"image": [RED, BLUE], "caption": list(values)})

    def make(place: Path) -> list[str]:
        given = ["task.data.kind=huggingface", inner(place)[1], "task.data.image=image"]
        return ["task=captions", *given, *words]

    return make


def text_table(place: Path) -> list[str]:
    (place / "rows.tsv").write_text("image\tlabel\na.png\tred\n", encoding="utf-8")
    return ["task=hf_dataset", f"task.data.path={place / 'rows.tsv'}", "task.data.label=label"]


def damaged(place: Path) -> list[str]:
    words = list(one(rows())(place))
    path = place / "data" / "test.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    return words


NAMED = {
    "train-* and validation-*": ("train-00000-of-00001", "validation-00000-of-00001"),
    "x-train and x-val": ("x-train", "x-val"),
    "folders train and dev": ("train/0", "dev/0"),
}
CARD = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: test\n    path: b/*\n---\n"
BOTH = Scored({"mean_recall@1": 1.0}, samples=2)

CASES = [
    *(
        Case(
            f"parquet: {name}",
            files({f"{split}.parquet": rows() for split in splits}),
            Refused("train, validation", "none called 'test'", r"task.splits=\[validation\]"),
        )
        for name, splits in NAMED.items()
    ),
    *(
        Case(
            f"parquet: {name}, validation chosen",
            files({f"{split}.parquet": rows() for split in splits}, "task.splits=[validation]"),
            Scored({"acc1": 1.0}, samples=2, flags=["scored on the split 'validation'"]),
        )
        for name, splits in NAMED.items()
    ),
    *(
        Case(
            f"parquet: {one} beside {other}",
            files({f"{one}.parquet": rows([BLUE, RED]), f"{other}.parquet": rows()}),
            RIGHT,
        )
        for one, other in (
            ("x-train", "x-test"),
            ("train-00000-of-00001", "test-00000-of-00001"),
            ("training/0", "testing/0"),
            ("train", "eval"),
            ("Train", "Test"),
        )
    ),
    Case(
        "parquet: two shards",
        files({f"test-0000{n}-of-00002.parquet": rows() for n in (0, 1)}),
        Scored({"acc1": 1.0}, samples=4),
    ),
    Case("parquet: a shard is missing", files({"test-00001-of-00002.parquet": rows()}), Refused("some are missing")),
    Case(
        "parquet: names without a split",
        files({"a.parquet": rows(), "b.parquet": rows()}),
        Scored({"acc1": 1.0}, samples=4),
    ),
    Case("parquet: latest and greatest are no splits", files({"latest.parquet": rows()}), RIGHT),
    Case(
        "parquet: splits of the README",
        files({"a/x.parquet": rows([BLUE, RED]), "b/x.parquet": rows(), "README.md": CARD}),
        RIGHT,
    ),
    Case(
        "parquet: the README has no test",
        files({"b/x.parquet": rows(), "README.md": CARD.replace("split: test", "split: dev")}),
        Refused("dev", "none called 'test'"),
    ),
    Case(
        "parquet: ._ beside the file",
        files({"test.parquet": rows(), "._test.parquet": b"x"}),
        Scored({"acc1": 1.0}, samples=2, said="ignored 1 system files"),
    ),
    Case("parquet: no file", files({"notes.txt": "x"}), Refused("holds no parquet file")),
    Case("parquet: save_to_disk", files({"data-00000-of-00001.arrow": b"x"}), Refused("save_to_disk", "to_parquet")),
    Case("parquet: a text called .parquet", one("image,label\n"), Refused("test.parquet", "no parquet file")),
    Case("parquet: an empty file", one(b""), Refused("test.parquet", "no parquet file")),
    Case(
        "parquet: a table of text",
        text_table,
        Refused("rows.tsv is a table of text", "task=labels task.data.path=.*rows.tsv"),
    ),
    Case("parquet: cut short", damaged, Refused("test.parquet", "no parquet file")),
    Case(
        "parquet: no rows",
        one(pa.table({"image": pa.array([], pa.binary()), "label": pa.array([], pa.string())})),
        Refused("no image"),
    ),
    Case("parquet: another column", one({"img": [RED, BLUE], "label": LABELS}), Refused("'image'", "img")),
    Case(
        "parquet: the column is named",
        one({"img": [RED, BLUE], "fine": LABELS}, "task.data.image=img", "task.data.label=fine"),
        RIGHT,
    ),
    Case(
        "parquet: a column inside a structure",
        one(
            {"x": [{"img": RED, "y": "red"}, {"img": BLUE, "y": "blue"}]},
            "task.data.image=x.img",
            "task.data.label=x.y",
        ),
        RIGHT,
    ),
    Case(
        "parquet: image {bytes, path}",
        one(rows([{"bytes": RED, "path": "a.png"}, {"bytes": BLUE, "path": "b.png"}])),
        RIGHT,
    ),
    Case("parquet: image {bytes}", one(rows([{"bytes": RED}, {"bytes": BLUE}])), RIGHT),
    Case(
        "parquet: a list of one image",
        one(rows([[{"bytes": RED, "path": None}], [{"bytes": BLUE, "path": None}]])),
        RIGHT,
    ),
    Case(
        "parquet: a list of two images",
        one(rows([[RED, BLUE], [BLUE, RED]])),
        Refused("list of 2", r"task.data.image=COLUMN.0"),
    ),
    Case("parquet: the first of two images", one(rows([[RED, BLUE], [BLUE, RED]]), "task.data.image=image.0"), RIGHT),
    Case("parquet: paths relative to the file", paths(["pictures/a.png", "pictures/b.png"]), RIGHT),
    Case(
        "parquet: {path} relative to the file",
        paths([{"bytes": None, "path": "pictures/a.png"}, {"bytes": None, "path": "pictures/b.png"}]),
        RIGHT,
    ),
    Case(
        "parquet: a path that leads nowhere",
        paths(["pictures/a.png", "pictures/c.png"]),
        Refused("row 1", "pictures/c.png", "does not exist"),
    ),
    Case(
        "parquet: a path that leads nowhere, skipped",
        paths(["pictures/a.png", "pictures/c.png"], SKIP),
        Scored({"acc1": 1.0}, samples=1, flags=["1 left out, .*c.png.*row 1", "there is one class name, 'red'"]),
    ),
    Case(
        "parquet: addresses on the network",
        one(rows(["https://x.org/a.png", "https://x.org/b.png"])),
        Refused("row 0", "network"),
    ),
    *(
        Case(f"parquet: {what}", one(table), Refused("row 1", column, word))
        for what, table, column, word in (
            ("a null image", rows([RED, None]), "image", "null"),
            ("an empty image", rows([RED, b""]), "image", "null"),
            (
                "an image {bytes: null, path: null}",
                rows([{"bytes": RED, "path": None}, {"bytes": None, "path": None}]),
                "image",
                "null",
            ),
            ("a null label", rows(labels=["red", None]), "label", "null"),
            ("an empty label", rows(labels=["red", " "]), "label", "empty"),
            ("a label that is NaN", rows(labels=[0.0, float("nan")]), "label", "null"),
        )
    ),
    *(
        Case(
            f"parquet: {what}, skipped",
            one(table, SKIP, "task.data.classnames=[red,blue]"),
            Scored({"acc1": 1.0}, samples=1, flags=["1 left out, .*row 1"]),
        )
        for what, table in (("a null image", rows([RED, None])), ("a null label", rows(labels=["red", None])))
    ),
    Case("parquet: an image that is a number", one(rows([1, 2])), Refused("row 0", "int")),
    Case("parquet: damaged bytes", one(rows([RED, b"hello"])), Refused("row 1", "no image format")),
    Case(
        "parquet: damaged bytes, skipped",
        one(rows([RED, b"hello"]), SKIP),
        Scored({"acc1": 1.0}, samples=1, flags=["1 of 2 images left out.*row 1"]),
    ),
    Case(
        "parquet: files that differ in their columns",
        files({"test-00000-of-00002.parquet": rows(), "test-00001-of-00002.parquet": {"image": [RED], "label": [0]}}),
        Refused("differ in their columns|label"),
    ),
    Case("parquet: captions", captions(["red", "blue"]), BOTH),
    Case("parquet: lists of captions", captions([["red", "a red one"], ["blue", "a blue one"]]), BOTH),
    Case(
        "parquet: captions of structures",
        captions([[{"raw": "red", "sentid": 1}], [{"raw": "blue", "sentid": 2}]], "task.data.caption=caption.raw"),
        BOTH,
    ),
    Case(
        "parquet: structures for captions",
        captions([{"raw": "red"}, {"raw": "blue"}]),
        Refused("row 0", "fields raw", "task.data.caption=COLUMN.FIELD"),
    ),
    Case("parquet: a null caption", captions(["red", None]), Refused("row 1", "caption", "null")),
    Case(
        "parquet: a null in a list of captions", captions([["red"], ["blue", None]]), Refused("row 1", "item 2", "null")
    ),
    Case("parquet: an empty list of captions", captions([["red"], []]), Refused("row 1", "caption")),
    Case("parquet: numbers for captions", captions([1, 2]), Refused("row 0", "caption", "int|text")),
    Case(
        "parquet: a null caption, skipped",
        captions(["red", None], SKIP),
        Scored({"mean_recall@1": 1.0}, samples=1, flags=["1 left out, .*row 1"]),
    ),
]
