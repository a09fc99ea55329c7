"""One picture several times, byte for byte: under two labels, under two names, among those that a probe is trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.data_faults.case import Case, Refused, Scored
from tests.data_faults.cases import plain
from tests.data_faults.cases.scores import captions
from tests.data_faults.colours import picture, write_picture

Make = Callable[[Path], Sequence[str]]
LABELS = (
    "1 picture stands in the set more than once, byte for byte, under different labels, which cannot all be right: "
)
"""One red picture is in the set as `red` and as `blue`, and a blue one of its own as `blue`: two of three are right."""
TWO_OF_THREE = {"acc1": 2 / 3}


def in_folder(place: Path) -> list[str]:
    for name, colour in {"red/a": "red", "blue/b": "red", "blue/c": "blue"}.items():
        write_picture(place / "data" / f"{name}.png", colour)
    return ["task=folder", f"task.data.path={place / 'data'}"]


def in_table(place: Path) -> list[str]:
    in_folder(place)
    (place / "l.csv").write_text("image,label\ndata/red/a.png,red\ndata/blue/b.png,blue\ndata/blue/c.png,blue\n")
    return ["task=labels", f"task.data.path={place / 'l.csv'}"]


def in_parquet(place: Path) -> list[str]:
    rows = {"image": [picture(c) for c in ("red", "red", "blue")], "label": ["red", "blue", "blue"]}
    pq.write_table(pa.table(rows), place / "l.parquet")
    return ["task=hf_dataset", f"task.data.path={place / 'l.parquet'}"]


def in_shards(colours: Sequence[str], labels: Sequence[int]) -> Make:
    """Pictures of one file size, whether they are the same or not (bitmaps)."""

    def make(place: Path) -> list[str]:
        members: dict[str, bytes] = {}
        for i, (colour, label) in enumerate(zip(colours, labels, strict=True)):
            members |= {f"s{i}.bmp": picture(colour, "bmp"), f"s{i}.cls": str(label).encode()}
        plain.write_tar(place / "data" / "test" / "0.tar", members)
        (place / "data" / "classnames.txt").write_text("blue\nred")
        (place / "data" / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.")
        return ["task=webdataset", f"task.data.path={place / 'data'}"]

    return make


def vectors(place: Path) -> list[str]:
    """Several labels an image: the same picture with two sets of them."""
    import io

    in_shards(("red", "red", "blue"), (0, 0, 0))(place)
    members: dict[str, bytes] = {}
    for i, (colour, vector) in enumerate((("red", [0, 1]), ("red", [1, 1]), ("blue", [1, 0]))):
        buffer = io.BytesIO()
        np.save(buffer, np.array(vector))
        members |= {f"s{i}.bmp": picture(colour, "bmp"), f"s{i}.npy": buffer.getvalue()}
    plain.write_tar(place / "data" / "test" / "0.tar", members)
    (place / "data" / "dataset_type.txt").write_text("multilabel")
    return [
        "+task@tasks.mine=_multilabel",
        "tasks.mine.key=mine",
        "tasks.mine.name=Mine",
        f"tasks.mine.data.path={place / 'data'}",
    ]


def splits(shared: int) -> Make:
    """Folders train and test of two pictures to a class, of which some of the class red are in both."""

    def make(place: Path) -> list[str]:
        for number, colour in enumerate(("red", "blue")):
            for i in range(2):
                size = 20 + 4 * number + 2 * i
                write_picture(place / "data" / "train" / colour / f"{i}.png", colour, size=(size, 12))
                same = colour == "red" and i < shared
                write_picture(place / "data" / "test" / colour / f"{i}.png", colour, size=(size + (not same), 12))
        return ["task=folder", f"task.data.path={place / 'data'}", *PROBE]

    return make


def table_splits(shared: bool) -> Make:
    """A table with a column split, its pictures in both splits or in one each."""

    def make(place: Path) -> list[str]:
        rows = []
        for number, split in enumerate(("train", "test")):
            for i, colour in enumerate(("red", "blue")):
                name = f"{colour}{0 if shared else number}.png"
                write_picture(place / name, colour, size=(12 + (0 if shared else number), 12 + i))
                rows.append(json.dumps({"image": name, "label": colour, "split": split}))
        (place / "l.jsonl").write_text("\n".join(rows))
        return ["task=labels", f"task.data.path={place / 'l.jsonl'}", *PROBE]

    return make


PROBE = ("protocol=linear_probe", "task.splits=[train,test]")
SAME = Refused("'test' and 'train' are the same pictures", "split")
CASES = [
    Case(
        "folder: a picture under two labels",
        in_folder,
        Scored(TWO_OF_THREE, flags=[LABELS + "blue/b.png = red/a.png$"]),
    ),
    Case(
        "labels: a picture under two labels",
        in_table,
        Scored(TWO_OF_THREE, flags=[LABELS + "data/red/a.png = data/blue/b.png$"]),
    ),
    Case(
        "parquet: a picture under two labels", in_parquet, Scored(TWO_OF_THREE, flags=[LABELS + "00000000 = 00000001$"])
    ),
    Case(
        "shards: a picture under two labels",
        in_shards(("red", "red", "blue"), (1, 0, 0)),
        Scored(TWO_OF_THREE, flags=[LABELS + "s0 = s1$"]),
    ),
    Case(
        "shards: a picture twice under one label", in_shards(("red", "red", "blue"), (1, 1, 0)), Scored({"acc1": 1.0})
    ),
    Case(
        "shards: a picture under two labels, of a benchmark",
        lambda place: [*in_shards(("red", "red", "blue"), (1, 0, 0))(place), "task.data.samples=3"],
        Scored(TWO_OF_THREE),
    ),
    Case(
        "shards: a picture with two sets of labels",
        vectors,
        Scored({}, samples=3, flags=[LABELS + "s0 = s1$"], task="mine"),
    ),
    Case(
        "captions: a picture under two names",
        lambda place: [*captions([("red", "a red one"), ("blue", "a blue one")])(place), *again(place)],
        Scored(
            {},
            samples=3,
            flags=[
                "1 picture stands in the set more than once.*a caption counts for one.*0.png = 2.png",
                "hang on the order",
            ],
        ),
    ),
    *(
        Case(
            f"{make.__name__}: the same pictures trained on and tested",
            lambda place, make=make: [*make(place), *PROBE],
            SAME,
        )  # type: ignore[misc]
        for make in (plain.folder, plain.parquet)
    ),
    Case("labels: the same pictures trained on and tested", table_splits(shared=True), SAME),
    Case("labels: a probe by a column split", table_splits(shared=False), Scored({}, samples=2)),
    Case("folder: a probe whose splits are apart", splits(0), Scored({"lp_acc1": 1.0}, samples=4)),
    Case(
        "folder: a tested picture that is trained on",
        splits(1),
        Scored(
            {"lp_acc1": 1.0}, samples=4, flags=["1 of 4 tested pictures are in the split 'train' too, byte for byte"]
        ),
    ),
]


def again(place: Path) -> list[str]:
    """The first picture of a table of captions once more, under another name and with another caption."""
    (place / "data" / "2.png").write_bytes((place / "data" / "0.png").read_bytes())
    with (place / "data" / "c.csv").open("a") as file:
        file.write("2.png,a red thing\n")
    return []
