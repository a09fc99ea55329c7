"""Class names and labels, in every reader."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.data_faults.case import TIES, Case, Refused, Scored
from tests.data_faults.cases.plain import write_tar
from tests.data_faults.colours import picture, write_picture

Make = Callable[[Path], Sequence[str]]
PAIR = ("red", "blue")


def in_folder(labels: Sequence[Any], *words: str) -> Make:
    def make(place: Path) -> list[str]:
        for label, colour in zip(labels, PAIR, strict=True):
            write_picture(place / "data" / str(label) / "a.png", colour)
        return ["task=folder", f"task.data.path={place / 'data'}", *words]

    return make


def in_parquet(labels: Sequence[Any], *words: str) -> Make:
    def make(place: Path) -> list[str]:
        rows = {"image": [picture(c) for c in PAIR], "label": list(labels)}
        (place / "data").mkdir(exist_ok=True)
        pq.write_table(pa.table(rows), place / "data" / "test.parquet")
        return ["task=hf_dataset", f"task.data.path={place / 'data'}", *words]

    return make


def in_csv(labels: Sequence[Any], *words: str) -> Make:
    def make(place: Path) -> list[str]:
        for colour in PAIR:
            write_picture(place / "data" / f"{colour}.png", colour)
        rows = [f"{colour}.png,{label}" for label, colour in zip(labels, PAIR, strict=True)]
        (place / "data" / "t.csv").write_text("\n".join(["image,label", *rows]) + "\n")
        table = ["task.data.kind=table", f"task.data.path={place / 'data' / 't.csv'}"]
        return ["task=folder", *table, "task.data.label=label", *words]

    return make


def in_shards(labels: Sequence[Any], *words: str, names: str | None = None) -> Make:
    def make(place: Path) -> list[str]:
        members = {}
        for number, (label, colour) in enumerate(zip(labels, PAIR, strict=True)):
            members |= {f"s{number}.png": picture(colour), f"s{number}.cls": str(label).encode()}
        write_tar(place / "data" / "test" / "0.tar", members)
        (place / "data" / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.")
        if names is not None:
            (place / "data" / "classnames.txt").write_text(names)
        return ["task=webdataset", f"task.data.path={place / 'data'}", *words]

    return make


def with_file(make: Make, name: str, content: str) -> Make:
    def made(place: Path) -> Sequence[str]:
        words = make(place)
        (place / "data" / name).write_text(content)
        return words

    return made


READERS: dict[str, Callable[..., Make]] = {"folder": in_folder, "parquet": in_parquet, "table": in_csv}
NAMES = "task.data.classnames=[red,blue]"
RIGHT = Scored({"acc1": 1.0}, samples=2, classnames=["red", "blue"])
ORDER = "class names given in the order of the sorted labels: 0 = red, 1 = blue"


def _as(reader: str, labels: Sequence[Any]) -> list[Any]:
    return list(labels) if reader == "parquet" else [str(label) for label in labels]


CASES = [
    *(
        Case(
            f"{r}: numbers for labels",
            make(_as(r, (0, 1))),
            Refused("numbers", "task.data.classnames", "numeric_classnames"),
        )
        for r, make in READERS.items()
    ),
    *(
        Case(
            f"{r}: numbers are meant",
            make(_as(r, (0, 1)), "task.data.numeric_classnames=true"),
            Scored({}, samples=2, classnames=["0", "1"], flags=[TIES]),
        )
        for r, make in READERS.items()
    ),
    *(
        Case(
            f"{r}: numbers with names",
            make(_as(r, (0, 1)), NAMES),
            Scored({"acc1": 1.0}, classnames=["red", "blue"], flags=[ORDER] if r == "folder" else []),
        )
        for r, make in READERS.items()
    ),
    *(
        Case(f"{r}: {{label: name}}", make(_as(r, (7, 3)), "task.data.classnames={7: red, 3: blue}"), RIGHT)
        for r, make in {**READERS, "shards": in_shards}.items()
    ),
    *(
        Case(
            f"{r}: a label without a name",
            make(_as(r, (7, 3)), "task.data.classnames={7: red, 4: blue}"),
            Refused("'3'", "label"),
        )
        for r, make in {**READERS, "shards": in_shards}.items()
    ),
    *(
        Case(
            f"{r}: names in a file",
            with_file(make(("red", "blue"), "task.data.classnames=names.txt"), "names.txt", "red\nblue\n"),
            Scored(
                {"acc1": 1.0},
                classnames=["red", "blue"],
                flags=[r"1 left out, not a picture.*names.txt"] if r == "folder" else [],
            ),
        )
        for r, make in READERS.items()
    ),
    *(
        Case(
            f"{r}: names in JSON",
            with_file(
                make(_as(r, (5, 9)), "task.data.classnames=names.json"),
                "names.json",
                json.dumps({"5": "red", "9": "blue"}),
            ),
            Scored(
                {"acc1": 1.0},
                classnames=["red", "blue"],
                flags=[r"1 left out, not a picture.*names.json"] if r == "folder" else [],
            ),
        )
        for r, make in READERS.items()
    ),
    *(
        Case(
            f"{r}: a file of names that is missing",
            make(("red", "blue"), "task.data.classnames=nowhere.txt"),
            Refused("nowhere.txt"),
        )
        for r, make in READERS.items()
    ),
    *(
        Case(
            f"{r}: WordNet ids",
            make(("n01440764", "n01443537")),
            Scored({}, samples=2, classnames=["tench", "goldfish"], flags=["WordNet", TIES]),
        )
        for r, make in READERS.items()
    ),
    *(
        Case(f"{r}: an unknown WordNet id", make(("n99999999", "n01443537")), Refused("n99999999", "not known"))
        for r, make in READERS.items()
    ),
    *(
        Case(f"{r}: WordNet ids and a name", make(("n01440764", "dog")), Refused("n01440764", "dog"))
        for r, make in READERS.items()
    ),
    *(
        Case(
            f"{r}: WordNet ids with their names given",
            make(("n01440764", "n01443537"), "task.data.classnames={n01440764: red, n01443537: blue}"),
            RIGHT,
        )
        for r, make in READERS.items()
    ),
    *(
        Case(f"{r}: a label with a typing error", make(("red", "bleu"), NAMES), Refused("'bleu'", "blue"))
        for r, make in READERS.items()
    ),
    *(Case(f"{r}: Red and red", make(("Red", "red")), Refused("'Red'", "case")) for r, make in READERS.items()),
    Case("parquet: labels from 1", in_parquet((1, 2), NAMES), Refused("from 1 to 2", "count from 1")),
    Case("table: labels from 1", in_csv(("1", "2"), NAMES), Refused("from 1 to 2", "count from 1")),
    Case("shards: labels from 1", in_shards((1, 2), NAMES), Refused("from 1 to 2", "count from 1")),
    Case("parquet: labels of -1", in_parquet((-1, -1), NAMES), Refused("row 0", "-1", "not labelled")),
    Case("parquet: a label beyond the names", in_parquet((0, 5), NAMES), Refused("label 5")),
    Case("parquet: whole floats", in_parquet((0.0, 1.0), NAMES), RIGHT),
    Case("parquet: a float", in_parquet((0.0, 0.5), NAMES), Refused("row 1", "0.5", "whole number")),
    Case("parquet: booleans", in_parquet((True, False)), Refused("task.data.classnames")),
    Case(
        "parquet: booleans with names",
        in_parquet((True, False), "task.data.classnames=[blue,red]"),
        Scored({"acc1": 1.0}, classnames=["blue", "red"]),
    ),
    Case("parquet: text that are numbers", in_parquet(("0", "1")), Refused("numbers")),
    Case(
        "parquet: labels may be names or places",
        in_parquet(("1", "0"), "task.data.classnames=['1','0']"),
        Refused("names or places"),
    ),
    Case(
        "parquet: a name given twice",
        in_parquet(("red", "blue"), "task.data.classnames=[red,blue,red]"),
        Refused("'red' is given twice"),
    ),
    Case("shards: no class names", in_shards((0, 1)), Refused("no class names")),
    Case("shards: names given", in_shards((0, 1), NAMES), RIGHT),
    Case("shards: a text for a label", in_shards(("dog", "cat"), names="red\nblue\n"), Refused("'dog'", "integer")),
    Case("shards: 1_0 is no number", in_shards(("1_0", "1"), names="red\nblue\n"), Refused("'1_0'", "integer")),
    Case("shards: a digit of another script", in_shards(("٣", "1"), names="red\nblue\n"), Refused("integer")),
    Case("shards: a label in white space", in_shards((" 0\n", "1 "), names="red\nblue\n"), RIGHT),
    Case(
        "shards: a blank line at the end of classnames.txt",
        in_shards((0, 1), names="red\nblue\n\n"),
        Scored({"acc1": 1.0}, classnames=["red", "blue"], flags=["blank line"]),
    ),
    Case("shards: classnames.txt with CRLF", in_shards((0, 1), names="red\r\nblue\r\n"), RIGHT),
    Case("shards: too few names", in_shards((0, 1), names="red\n"), Refused("label 1")),
    Case(
        "shards: WordNet ids in classnames.txt",
        in_shards((0, 1), names="n01440764\nn01443537\n"),
        Scored({}, classnames=["tench", "goldfish"], flags=["WordNet", TIES]),
    ),
    Case(
        "shards: digits in classnames.txt are the set's own names",
        in_shards((0, 1), names="0\n1\n"),
        Scored({}, samples=2, classnames=["0", "1"], flags=[TIES]),
    ),
]
