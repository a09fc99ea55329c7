"""Tables of pictures and labels (task=labels): names of columns, splits, labels in every spelling, what cannot be told."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.data_faults.case import Case, Refused, Scored
from tests.data_faults.colours import picture, write_picture

Make = Callable[[Path], Sequence[str]]
COLOURS = {"a": "red", "b": "blue", "c": "red", "d": "blue"}
TWO = ("blue", "red")
ALL = Scored({"acc1": 1.0}, samples=4, classnames=TWO)
ROWS = "a.png,red\nb.png,blue\nc.png,red\nd.png,blue\n"


def file(content: str | bytes, name: str = "l.csv", *words: str) -> Make:
    """A table beside the pictures a.png, c.png (red) and b.png, d.png (blue), no two of which are of the same bytes."""

    def make(place: Path) -> list[str]:
        for number, (picture_name, colour) in enumerate(COLOURS.items()):
            write_picture(place / f"{picture_name}.png", colour, size=(12 + number, 12))
        (place / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return ["task=labels", f"task.data.path={place / name}", *words]

    return make


def parquet(columns: dict[str, list[object]], *words: str) -> Make:
    """A parquet file of paths, or of the pictures themselves where a column is called `image` and says colours."""

    def make(place: Path) -> list[str]:
        file("", "unused.csv")(place)
        given = dict(columns)
        if "image" in given:
            given["image"] = [picture(str(c), size=(12 + i, 12)) for i, c in enumerate(given["image"])]
        pq.write_table(pa.table(given), place / "l.parquet")
        return ["task=labels", f"task.data.path={place / 'l.parquet'}", *words]

    return make


def accented(in_table: str, on_disk: str) -> Make:
    """A picture and a label with an accent, in these forms of Unicode."""

    def make(place: Path) -> list[str]:
        name, other = (unicodedata.normalize(form, "réd") for form in (in_table, on_disk))
        write_picture(place / f"{other}.png", "red")
        write_picture(place / "b.png", "blue")
        (place / "l.csv").write_text(f"image,label\n{name}.png,{name} red\nb.png,blue\n")
        return ["task=labels", f"task.data.path={place / 'l.csv'}"]

    return make


def written_twice(other: str, label: str) -> Make:
    return file(f"image,label\na.png,red\n{other},{label}\nb.png,blue\nc.png,red\nd.png,blue\n")


SPLITS = "image,label,split\na.png,blue,train\nb.png,blue,{0}\nc.png,red,{0}\nd.png,red,\n"
NAMES = "task.data.classnames=[blue,red]"
CASES = [
    Case("labels: plain", file("image,label\n" + ROWS), ALL),
    Case(
        "labels: a table with a mark, CRLF and spaces",
        file(b"\xef\xbb\xbfimage, label\r\na.png, red\r\nb.png,blue \r\nc.png,red\r\nd.png,blue\r\n"),
        ALL,
    ),
    *(
        Case(f"labels: columns {image} and {label}", file(f"{image},{label}\n" + ROWS), ALL)
        for image, label in (
            ("file_name", "label"),
            ("image_path", "class"),
            ("Path", "Class Name"),
            ("filename", "category"),
            ("img", "target"),
        )
    ),
    Case("labels: semicolons, columns not named", file("path;class\n" + ROWS.replace(",", ";")), ALL),
    Case("labels: .tsv", file("path\tclass\n" + ROWS.replace(",", "\t"), "l.tsv"), ALL),
    Case(
        "labels: jsonl",
        file("".join(f'{{"file_name":"{n}.png","label":"{c}"}}\n' for n, c in COLOURS.items()), "l.jsonl"),
        ALL,
    ),
    Case(
        "labels: columns of one's own",
        file("x,y\n" + ROWS, "l.csv", "task.data.image=x", "task.data.label=y"),
        ALL,
    ),
    Case(
        "labels: another column is metadata", file("n,image,label\n" + "1," + ROWS.strip().replace("\n", "\n1,")), ALL
    ),
    Case(
        "labels: two columns may be the label",
        file("image,label,class_name\na.png,1,red\nb.png,0,blue\n"),
        Refused("'label' and 'class_name' may each be the label", "task.data.label="),
    ),
    Case(
        "labels: two columns, one chosen",
        file(
            "image,label,class_name\na.png,1,red\nb.png,0,blue\nc.png,1,red\nd.png,0,blue\n",
            "l.csv",
            "task.data.label=class_name",
        ),
        ALL,
    ),
    Case(
        "labels: no column is the label",
        file("image,colour\na.png,red\n"),
        Refused("line 1", "colour", "task.data.label"),
    ),
    Case(
        "labels: no column is the picture",
        file("photo,label\na.png,red\n"),
        Refused("line 1", "photo", "task.data.image"),
    ),
    Case(
        "labels: no label in jsonl",
        file('{"image":"a.png","colour":"red"}\n', "l.jsonl"),
        Refused("no column is known to be the label", "colour", "task.data.label"),
    ),
    Case("labels: an empty label", file("image,label\na.png,red\nb.png, \n"), Refused("line 3", "label is empty")),
    Case(
        "labels: a missing picture",
        file("image,label\na.png,red\nx.png,blue\n"),
        Refused("line 3", "x.png.*does not exist"),
    ),
    Case(
        "labels: what cannot be used, skipped",
        file("image,label\n" + ROWS + "x.png,blue\na.png,\n", "l.csv", "data.on_error=skip"),
        Scored({"acc1": 1.0}, samples=4, flags=["1 left out.*x.png.*does not exist", "1 left out.*label is empty"]),
    ),
    Case(
        "labels: a list of labels",
        file('{"image":"a.png","label":["red","blue"]}\n{"image":"b.png","label":["red"]}\n', "l.jsonl"),
        Refused("line 1", "a label was expected"),
    ),
    Case(
        "labels: an absolute Windows path",
        file("image,label\nC:\\\\x\\\\a.png,red\n"),
        Refused("line 2", "does not exist"),
    ),
    Case("labels: numbers without names", file("image,label\na.png,1\nb.png,0\n"), Refused("numbers", "classnames")),
    *(
        Case(
            f"labels: written {one}, {zero}, {words[21:]}",
            file(f"image,label\na.png,{one}\nb.png,{zero}\nc.png,{one}\nd.png,{zero}\n", "l.csv", words),
            ALL,
        )
        for one, zero, words in (
            ("1", "0", NAMES),
            ("1.0", "0.0", NAMES),
            ("1.", "0.", NAMES),
            ("1.0", "0.0", "task.data.classnames={0: blue, 1: red}"),
            ("True", "False", "task.data.classnames={False: blue, True: red}"),
        )
    ),
    *(
        Case(
            f"labels: {one} and {zero} in jsonl",
            file(
                "".join(f'{{"image":"{n}.png","label":{one if c == "red" else zero}}}\n' for n, c in COLOURS.items()),
                "l.jsonl",
                NAMES,
            ),
            ALL,
        )
        for one, zero in (("1", "0"), ("1.0", "0.0"), ("true", "false"))
    ),
    Case("labels: counted from 1", file("image,label\na.png,2\nb.png,1\n", "l.csv", NAMES), Refused("count from 1")),
    Case(
        "labels: fewer names than labels",
        file("image,label\na.png,1\nb.png,2\nc.png,0\n", "l.csv", NAMES),
        Refused("label 2", "2 classes"),
    ),
    Case(
        "labels: more names than labels",
        file("image,label\n" + ROWS, "l.csv", "task.data.classnames=[blue,green,red]"),
        Scored({"acc1": 1.0}, samples=4, classnames=("blue", "green", "red")),
    ),
    *(
        Case(
            f"labels: the split is called {name}",
            file(SPLITS.format(name).replace("d.png,red,", f"d.png,blue,{name}")),
            Scored({"acc1": 1.0}, samples=3, classnames=TWO),
        )
        for name in ("test", "Test", "eval")
    ),
    Case(
        "labels: val, and test is asked for",
        file(SPLITS.format("val").replace("red,\n", "red,train\n")),
        Refused("the splits train, val", "task.splits="),
    ),
    *(
        Case(
            f"labels: {name}, and {asked} is chosen",
            file(SPLITS.format(name).replace("red,\n", "red,train\n"), "l.csv", f"task.splits=[{asked}]"),
            Scored({"acc1": 1.0}, samples=2, flags=[f"scored on the split '{asked}'"]),
        )
        for name, asked in (("val", "val"), ("validation", "val"), ("Valid", "validation"))
    ),
    Case("labels: a row without its split", file(SPLITS.format("test")), Refused("line 5", "split.*empty")),
    Case(
        "labels: a column split that says something else",
        file("image,label,split\na.png,red,banana\nb.png,blue,\nc.png,red,x\nd.png,blue,x\n"),
        Scored({"acc1": 1.0}, samples=4, flags=["all rows are scored: the column 'split'.*banana"]),
    ),
    Case(
        "captions: a column split is heeded",
        file("image,caption,split\na.png,red,train\nb.png,blue,test\nc.png,red,test\n", "l.csv", "task=captions"),
        Scored({"mean_recall@1": 1.0}, samples=2),
    ),
    Case(
        "labels: parquet of pictures",
        parquet({"image": ["red", "blue"], "label": ["red", "blue"]}),
        Scored({"acc1": 1.0}, samples=2),
    ),
    Case(
        "labels: parquet of paths, numbers and splits",
        parquet(
            {"file_name": ["a.png", "b.png", "c.png"], "class": [0, 0, 1], "split": ["train", "test", "test"]}, NAMES
        ),
        Scored({"acc1": 1.0}, samples=2, classnames=TWO),
    ),
    Case(
        "labels: parquet with two labels",
        parquet({"image": ["red"], "label": [0], "category": ["red"]}),
        Refused("'label' and 'category' may each be the label"),
    ),
    Case(
        "labels: parquet of val alone",
        parquet({"image": ["red"], "label": ["red"], "split": ["val"]}),
        Refused("the splits val", "task.splits="),
    ),
    Case(
        "labels: a folder",
        lambda place: [*file("x")(place)[:1], f"task.data.path={place}"],
        Refused("is a folder", "l.csv"),
    ),
    Case(
        "labels: no such file",
        lambda place: ["task=labels", f"task.data.path={place / 'x.csv'}"],
        Refused("x.csv is not there", "parquet"),
    ),
    Case(
        "folder: a table in its place",
        lambda place: ["task=folder", file("x")(place)[1]],
        Refused("not a folder", "task=labels task.data.path=.*l.csv"),
    ),
    Case(
        "folder: pictures and a table beside them",
        lambda place: [*(file("x")(place) and ["task=folder"]), f"task.data.path={place}"],
        Refused("no picture in a class folder", "task=labels task.data.path=.*l.csv"),
    ),
    *(
        Case(
            f"labels: {other} beside a.png",
            written_twice(other, "red"),
            Scored({"acc1": 1.0}, samples=4, flags=["1 left out, names a picture that an earlier"]),
        )
        for other in ("./a.png", ".\\a.png", "a.png ")
    ),
    Case("labels: ./a.png has another label", written_twice("./a.png", "blue"), Refused("line 3", "'blue'", "'red'")),
    *(
        Case(
            f"labels: names in {one}, pictures in {other}",
            accented(one, other),
            Scored({"acc1": 1.0}, samples=2, classnames=("blue", "r\u00e9d red")),
        )
        for one, other in (("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD"))
    ),
]
