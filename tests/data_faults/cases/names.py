"""Names that an eye cannot tell apart, splits in other spellings, labels that say something else than they seem to."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from tests.data_faults.case import Case, Refused, Scored
from tests.data_faults.cases.folders import Make, two
from tests.data_faults.cases.label_tables import file
from tests.data_faults.cases.repeated import in_shards
from tests.data_faults.colours import write_picture

NFC, NFD = (unicodedata.normalize(form, "r\u00e9d red") for form in ("NFC", "NFD"))
ROWS = "a.png,red\nb.png,blue\nc.png,red\n"


def names(*classes: str) -> Make:
    """A folder for each name, a picture in each, all of them red but of `blue`."""

    def make(place: Path) -> list[str]:
        for number, name in enumerate(classes):
            write_picture(place / "data" / name / "a.png", "blue" if name == "blue" else "red", size=(12 + number, 12))
        return ["task=folder", f"task.data.path={place / 'data'}"]

    return make


def split_folders(*splits: str, asked: str = "test") -> Make:
    def make(place: Path) -> list[str]:
        for split in splits:
            for colour in ("red", "blue"):
                write_picture(place / "data" / split / colour / "a.png", colour)
        return ["task=folder", f"task.data.path={place / 'data'}", f"task.splits=[{asked}]"]

    return make


HALF = Scored({"acc1": 0.5}, samples=2, flags=["no label is 0.*1 = red.*task.data.classnames={1"])
CASES = [
    Case(
        "folder: a name in the other form of Unicode",
        names(NFD, "blue"),
        Scored({"acc1": 1.0}, classnames=("blue", NFC)),
    ),
    Case(
        "folder: one name in both forms",
        names(NFD, NFC, "blue"),
        Refused(r"'re\\u0301d red'", r"'r\\xe9d red'", "one class name"),
    ),
    *(
        Case(
            f"folder: red beside {other!a}",
            names("red", other, "blue"),
            Refused("differ by case or white space alone, or by letters"),
        )
        for other in ("Red", "red\u200b", "\uff52\uff45\uff44", "\u2060red")
    ),
    Case(
        "folder: a hidden folder beside the classes",
        two({"red/a.png": "red", "blue/a.png": "blue", ".thumbs/a.png": "blue"}),
        Scored(
            {"acc1": 1.0},
            samples=2,
            flags=["1 left out, a picture in a hidden folder: .thumbs/a.png"],
            classnames=("blue", "red"),
        ),
    ),
    *(
        Case(f"folder: {' and '.join(splits)}", split_folders(*splits), Scored({"acc1": 1.0}, samples=2))
        for splits in (("Test",), ("Train", "Test"), ("validation", "testing"))
    ),
    Case(
        "folder: validation, and val is chosen",
        split_folders("train", "validation", asked="val"),
        Scored({"acc1": 1.0}, samples=2, flags=["scored on the split"]),
    ),
    Case("folder: two spellings of test", split_folders("testing", "Test"), Refused("none called 'test'")),
    Case(
        "labels: the index that pandas writes",
        file(",image,label\n0,a.png,red\n1,b.png,blue\n"),
        Scored({"acc1": 1.0}, samples=2),
    ),
    Case(
        "labels: a column without a name among others",
        file("image,,label\na.png,x,red\n"),
        Refused("line 2", "3 fields"),
    ),
    Case(
        "labels: a class called nan",
        file("image,label\na.png,red\nb.png,nan\n"),
        Scored({}, samples=2, flags=["'nan' is a class of its own: if it stands for a missing label"]),
    ),
    Case(
        "labels: several labels in one cell",
        file("image,label\n" + ROWS + "d.png,blue|red\n"),
        Scored({}, samples=4, flags=[r"'blue\|red' is a class of its own beside those it names"]),
    ),
    Case(
        "labels: numbers of which none is 0",
        file("image,label\na.png,1\nb.png,1\n", "l.csv", "task.data.classnames=[blue,red,green]"),
        HALF,
    ),
    Case(
        "shards: labels of which none is 0",
        lambda place: [*in_shards(("red", "blue"), (1, 1))(place), "task.data.classnames=[blue,red,green]"],
        HALF,
    ),
]
