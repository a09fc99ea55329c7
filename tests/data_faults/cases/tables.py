"""Tables of pictures and captions: CSV in every form, JSON lines, text that looks like something else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tests.data_faults.case import Case, Refused, Scored
from tests.data_faults.colours import write_picture

Make = Callable[[Path], Sequence[str]]
BOTH = Scored({"mean_recall@1": 1.0}, samples=2)
ONE_LEFT = "1 left out, "


def file(content: str | bytes, name: str = "c.csv", *words: str, encoding: str = "utf-8") -> Make:
    """A table beside the pictures a.png (red) and b.png (blue)."""

    def make(place: Path) -> list[str]:
        write_picture(place / "a.png", "red")
        write_picture(place / "b.png", "blue")
        (place / name).write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return ["task=captions", f"task.data.path={place / name}", *words]

    return make


def ids(names: Sequence[str], rows: str, name: str = "c.csv") -> Make:
    """Pictures whose names look like numbers: the first red, the second blue."""

    def make(place: Path) -> list[str]:
        for picture, colour in zip(names, ("red", "blue"), strict=True):
            write_picture(place / picture, colour, "png")
        (place / name).write_text(rows)
        return ["task=captions", f"task.data.path={place / name}"]

    return make


def labelled(rows: str, *words: str, name: str = "c.csv") -> Make:
    """A table of labels in place of captions."""
    inner = file(rows, name)

    def make(place: Path) -> list[str]:
        inner(place)
        data = [
            "task.data.kind=table",
            f"task.data.path={place / name}",
            "task.data.image=image",
            "task.data.label=label",
        ]
        return ["task=folder", *data, *words]

    return make


HEADER = "image,caption\n"
SKIP = "data.on_error=skip"
CASES = [
    Case(
        "table: names 000123 and 123 are two pictures", ids(("000123", "123"), HEADER + "000123,red\n123,blue\n"), BOTH
    ),
    Case("table: a picture called 1e5", ids(("1e5", "1.0"), HEADER + "1e5,red\n1.0,blue\n"), BOTH),
    Case("table: pictures called NA and null", ids(("NA", "null"), HEADER + "NA,red\nnull,blue\n"), BOTH),
    Case("table: captions NA, None, nan are texts", file(HEADER + "a.png,NA red\nb.png,None\n"), Scored({}, samples=2)),
    Case("table: a caption that is a date", file(HEADER + "a.png,2024-01-02 red\nb.png,blue 1.50\n"), BOTH),
    *(
        Case(f"table: separated by {name}", file(f"image{s}caption\na.png{s}a red, one\nb.png{s}a blue\n"), BOTH)
        for name, s in (("semicolons", ";"), ("|", "|"), ("tabs", "\t"))
    ),
    Case("table: .tsv", file("image\tcaption\na.png\tred\nb.png\tblue\n", "c.tsv"), BOTH),
    Case("table: .TSV in capitals", file("image\tcaption\na.png\tred\nb.png\tblue\n", "c.TSV"), BOTH),
    Case(
        "table: data.sep for all tasks", file("image^caption\na.png^red\nb.png^blue\n", "c.csv", "data.sep='^'"), BOTH
    ),
    Case(
        "table: task.data.sep=tab",
        file("image\tcaption\na.png\tred\nb.png\tblue\n", "c.csv", "task.data.sep=tab"),
        BOTH,
    ),
    Case(
        "table: data.sep that is wrong",
        file(HEADER + "a.png,red\n", "c.csv", "data.sep=';'"),
        Refused("line 1", "data.sep"),
    ),
    Case(
        "table: an unknown separator",
        file("image^caption\na.png^red\n"),
        Refused("line 1", "image\\^caption", "data.sep"),
    ),
    Case(
        "table: latin-1",
        file(HEADER + "a.png,réd red\nb.png,blue\n", encoding="latin-1"),
        Refused("line 2", "data.encoding"),
    ),
    *(
        Case(
            f"table: {key}=latin-1",
            file(HEADER + "a.png,réd red\nb.png,blue\n", "c.csv", f"{key}=latin-1", encoding="latin-1"),
            BOTH,
        )
        for key in ("data.encoding", "task.data.encoding")
    ),
    Case("table: an encoding nobody knows", file(HEADER, "c.csv", "data.encoding=klingon"), Refused("klingon")),
    *(
        Case(f"table: {name} with a mark", file(HEADER + "a.png,réd red\nb.png,blue\n", encoding=name), BOTH)
        for name in ("utf-16", "utf-8-sig", "utf-32")
    ),
    Case(
        "table: utf-16 without a mark",
        file(HEADER + "a.png,red\nb.png,blue\n", encoding="utf-16-le"),
        Refused("utf-16", "data.encoding"),
    ),
    Case("table: an open quote", file(HEADER + 'a.png,"a red\nb.png,a blue\n'), Refused("c.csv, line 2", "quote")),
    Case(
        "table: an open quote in the last row",
        file(HEADER + 'a.png,red\nb.png,"blue\n'),
        Refused("c.csv, line 3", "quote"),
    ),
    Case("table: text behind a quoted field", file(HEADER + 'a.png,"a" red\nb.png,blue\n'), Refused("line 2", "quote")),
    Case("table: quotes inside an unquoted field", file(HEADER + 'a.png,a 5" red\nb.png,blue\n'), BOTH),
    Case("table: a quoted field over two lines", file(HEADER + 'a.png,"a\nred"\nb.png,blue\n'), BOTH),
    Case(
        "table: lines are counted behind a field over two lines",
        file(HEADER + 'a.png,"a\nred"\nb.png\n'),
        Refused("c.csv, line 4", "1 fields"),
    ),
    Case(
        "table: stray commas in all rows",
        file(HEADER + "a.png,red, x\nb.png,blue, y\n"),
        Refused("line 2", "3 fields", "quotes"),
    ),
    Case("table: a stray comma in one row", file(HEADER + "a.png,red\nb.png,blue, y\n"), Refused("line 3", "3 fields")),
    Case(
        "table: a stray comma, skipped",
        file(HEADER + "a.png,red\nb.png,blue, y\n", "c.csv", SKIP),
        Scored({}, samples=1, flags=[ONE_LEFT + "3 fields.*line 3"]),
    ),
    Case("table: trailing commas on every line", file("image,caption,\na.png,red,\nb.png,blue,\n"), BOTH),
    Case("table: blank lines and CRLF", file("image,caption\r\n\r\na.png,red\r\nb.png,blue\r\n\r\n"), BOTH),
    Case("table: carriage returns alone", file("image,caption\ra.png,red\rb.png,blue\r"), BOTH),
    Case("table: spaces around the names of columns", file(" image , caption\na.png,red\nb.png,blue\n"), BOTH),
    Case("table: an empty file", file(""), Refused("c.csv is empty")),
    Case("table: white space alone", file("\n \n"), Refused("c.csv is empty")),
    Case("table: a header and no rows", file(HEADER), Refused("no rows")),
    Case("table: no header", file("a.png,red\nb.png,blue\n"), Refused("line 1", "'image'", "a.png")),
    Case(
        "table: two columns of one name",
        file("image,caption,caption\na.png,x,red\n"),
        Refused("line 1", "two columns", "caption"),
    ),
    Case("table: no such column", file("image,text\na.png,red\n"), Refused("caption", "text")),
    Case("table: a binary file", file(b"\x89PNG\r\n\x1a\n\xff\xff"), Refused("c.csv", "utf-8")),
    Case("table: a spreadsheet", file("x", "c.xlsx"), Refused("c.xlsx", "csv")),
    Case("table: a parquet file", file("x", "c.parquet"), Refused("c.parquet", "hf_dataset")),
    Case("table: an empty caption", file(HEADER + "a.png,red\nb.png,\n"), Refused("line 3", "caption is empty")),
    Case(
        "table: an empty caption, skipped",
        file(HEADER + "a.png,red\nb.png,\n", "c.csv", SKIP),
        Scored({"mean_recall@1": 1.0}, samples=1, flags=[ONE_LEFT + ".*caption is empty.*line 3"]),
    ),
    Case(
        "table: a picture that is missing",
        file(HEADER + "a.png,red\nc.png,blue\n"),
        Refused("line 3", "c.png.*does not exist"),
    ),
    Case(
        "table: a picture that is missing, skipped",
        file(HEADER + "a.png,red\nc.png,blue\n", "c.csv", SKIP),
        Scored({}, samples=1, flags=[ONE_LEFT + ".*'c.png' does not exist"]),
    ),
    Case("table: a picture on the network", file(HEADER + "https://x.y/a.png,red\n"), Refused("line 2", "network")),
    Case("table: a Windows path", file(HEADER + ".\\a.png,red\nb.png,blue\n"), BOTH),
    Case("table: U+2028 in a caption", file(HEADER + "a.png,a\u2028red\nb.png,blue\n"), BOTH),
    Case(
        "table: jsonl", file('{"image":"a.png","caption":"red"}\n{"image":"b.png","caption":"blue"}\n', "c.jsonl"), BOTH
    ),
    Case(
        "table: a JSON list",
        file('[{"image":"a.png","caption":"red"},\n {"image":"b.png","caption":["blue"]}]', "c.json"),
        BOTH,
    ),
    Case(
        "table: U+2028 in jsonl",
        file('{"image":"a.png","caption":"a\u2028red"}\n{"image":"b.png","caption":"blue"}\n', "c.jsonl"),
        BOTH,
    ),
    Case(
        "table: broken jsonl",
        file('{"image":"a.png","caption":"red"}\n{"image"\n', "c.jsonl"),
        Refused("line 2", "not JSON"),
    ),
    Case(
        "table: a key twice in jsonl",
        file('{"image":"a.png","caption":"x","caption":"red"}\n', "c.jsonl"),
        Refused("line 1", "twice"),
    ),
    *(
        Case(
            f"table: a caption {value} in jsonl",
            file(f'{{"image":"a.png","caption":{value}}}\n', "c.jsonl"),
            Refused("line 1", why),
        )
        for value, why in (
            ("null", "caption is null"),
            ("5", "number 5"),
            ("true", "is true"),
            ('{"raw":"red"}', "structure with the fields raw"),
            ('["red",null]', "item 2 of .*caption is null"),
            ("[]", "empty list"),
        )
    ),
    Case(
        "table: null captions in jsonl, skipped",
        file('{"image":"a.png","caption":"red"}\n{"image":"b.png","caption":null}\n', "c.jsonl", SKIP),
        Scored({}, samples=1, flags=[ONE_LEFT + ".*null.*line 2"]),
    ),
    Case(
        "table: an image that is a number",
        file('{"image":1,"caption":"red"}\n', "c.jsonl"),
        Refused("line 1", "number 1"),
    ),
    Case(
        "table: an image that is null", file('{"image":null,"caption":"red"}\n', "c.jsonl"), Refused("line 1", "null")
    ),
    *(
        Case(
            f"table: {path} of {red}",
            file(
                f'{{"image":"a.png","c":{red}}}\n{{"image":"b.png","c":{blue}}}\n',
                "c.jsonl",
                f"task.data.caption={path}",
            ),
            BOTH,
        )
        for path, red, blue in (
            ("c.raw", '[{"raw":"red","sentid":1}]', '[{"raw":"blue","sentid":2}]'),
            ("c.raw", '{"raw":"red"}', '{"raw":"blue"}'),
            ("c.0", '["red","x"]', '["blue","y"]'),
        )
    ),
    Case(
        "table: labels by name",
        labelled("image,label\na.png,red\nb.png,red\n", "task.data.classnames=[red,blue]"),
        Scored({"acc1": 0.5}, samples=2, classnames=["red", "blue"]),
    ),
    Case("table: an empty label", labelled("image,label\na.png,red\nb.png,\n"), Refused("line 3", "label is empty")),
    Case(
        "table: two labels of one picture",
        labelled("image,label\na.png,red\na.png,blue\n"),
        Refused("line 3", "line 2", "one"),
    ),
    Case(
        "table: a picture listed twice",
        labelled("image,label\na.png,red\na.png,red\nb.png,blue\n"),
        Scored({"acc1": 1.0}, samples=2, flags=["1 left out, names a picture that an earlier row names.*line 3"]),
    ),
]
