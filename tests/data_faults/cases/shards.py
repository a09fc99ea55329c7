"""Tars: names with dots, compression, every naming of shards, what lies in them beside samples, and what is missing."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.data_faults.case import Case, Refused, Scored
from tests.data_faults.cases.plain import THREE, samples_table, shards, write_tar
from tests.data_faults.colours import picture

Make = Callable[[Path], Sequence[str]]
Members = Mapping[str, bytes]
RED, BLUE = picture("red"), picture("blue")
GOOD: dict[str, bytes] = {"a.png": RED, "a.cls": b"0", "b.png": BLUE, "b.cls": b"1"}
RIGHT = Scored({"acc1": 1.0}, samples=2, classnames=["red", "blue"])


def one(members: Members, *words: str, name: str = "test/0.tar", pack: Callable[[bytes], bytes] | None = None) -> Make:
    """A set of one shard."""

    def make(place: Path) -> list[str]:
        data = place / "data"
        path = write_tar(data / name, members)
        if pack is not None:
            path.write_bytes(pack(path.read_bytes()))
        (data / "classnames.txt").write_text("red\nblue\n")
        (data / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.")
        return ["task=webdataset", f"task.data.path={data}", *words]

    return make


def several(names: Sequence[str], count: str | None = None, *words: str) -> Make:
    """A red and a blue picture in each of some shards."""

    def make(place: Path) -> list[str]:
        given: list[str] = []
        for number, name in enumerate(names):
            given = list(one({f"{number}{k}": v for k, v in GOOD.items()}, *words, name=name)(place))
        if count is not None:
            (place / "data" / "test" / "nshards.txt").write_text(count)
        return given

    return make


def changed(change: Callable[[Path], object], *words: str, make: Make = shards) -> Make:
    """The plain set of two shards, and something done to its folder."""

    def made(place: Path) -> list[str]:
        given = list(make(place))
        change(place / "data")
        return [*given, *words]

    return made


def special_member(kind: bytes, target: str) -> Make:
    """A set of one shard with a member that is a link."""

    def make(place: Path) -> list[str]:
        given = one(GOOD)(place)
        with tarfile.open(place / "data" / "test" / "0.tar", "w") as tar:
            for name, data in GOOD.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            info = tarfile.TarInfo("c.png")
            info.type, info.linkname = kind, target
            tar.addfile(info)
        return list(given)

    return make


def append(path: Path, name: str, data: bytes) -> None:
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))


def cut(data: Path) -> None:
    path = data / "test" / "1.tar"
    path.write_bytes(path.read_bytes()[:1300])


def captioned(texts: Mapping[str, bytes], *words: str) -> Make:
    """A retrieval set: a red and a blue picture, with the given txt members."""

    def make(place: Path) -> list[str]:
        members = {"a.png": RED, "b.png": BLUE} | {f"{key}.txt": text for key, text in texts.items()}
        write_tar(place / "data" / "test" / "0.tar", members)
        (place / "data" / "dataset_type.txt").write_text("retrieval")
        return [
            "task=captions",
            "task.data.kind=webdataset",
            "task.data.caption=null",
            f"task.data.path={place / 'data'}",
            *words,
        ]

    return make


def table(edit: Callable[[str], str], *words: str) -> Make:
    """The set with samples.csv, whose text is edited."""

    def change(data: Path) -> None:
        path = data / "test" / "samples.csv"
        path.write_text(edit(path.read_text()))

    return changed(change, *words, make=samples_table)


def renamed(names: Mapping[str, str]) -> Members:
    return {names.get(name, name): data for name, data in GOOD.items()}


NOT_READ = "which are not read: 0.tar: "
DOTTED = {
    "dots in picture and label": renamed({"a.png": "a.edited.png", "a.cls": "a.edited.cls"}),
    "dots in the picture alone": {**GOOD, "c.v2.png": RED, "c.v2.cls": b"0"},
    "a date in the name": renamed({"a.png": "img_2024.05.01.png", "a.cls": "img_2024.05.01.cls"}),
    "dots in a folder": renamed({k: f"v1.0/{k}" for k in GOOD}),
    "./ before the name": renamed({k: f"./{k}" for k in GOOD}),
    "a name in other letters": renamed({"a.png": "Füße.png", "a.cls": "Füße.cls"}),
    "a name of 180 letters": renamed({"a.png": "x" * 180 + ".png", "a.cls": "x" * 180 + ".cls"}),
    "endings in capitals": renamed({"a.png": "a.PNG", "a.cls": "a.CLS"}),
    "a label before its picture": {"a.cls": b"0", "a.png": RED, "b.cls": b"1", "b.png": BLUE},
    "all labels behind all pictures": {"a.png": RED, "b.png": BLUE, "a.cls": b"0", "b.cls": b"1"},
}

CASES = [
    *(
        Case(
            f"shards: {name}",
            one(members),
            Scored({"acc1": 1.0}, samples=sum(m.lower().endswith(".png") for m in members)),
        )
        for name, members in DOTTED.items()
    ),
    Case(
        "shards: two pictures told apart behind the dot",
        one({"a.1.png": RED, "a.1.cls": b"0", "a.2.png": BLUE, "a.2.cls": b"1"}),
        RIGHT,
    ),
    Case(
        "shards: a picture beside its mask",
        one({**GOOD, "a.seg.png": BLUE}),
        Scored({"acc1": 1.0}, samples=2, flags=[rf"1 left out, seg.png members, {NOT_READ}a.seg.png"]),
    ),
    Case(
        "shards: json beside each sample",
        one({**GOOD, "a.json": b"{}", "b.json": b"{}"}),
        Scored({"acc1": 1.0}, samples=2, flags=[rf"2 left out, json members, {NOT_READ}a.json, 0.tar: b.json"]),
    ),
    Case(
        "shards: a picture that Pillow cannot know by its name",
        one({**GOOD, "c.heic": RED}),
        Scored({"acc1": 1.0}, samples=2, flags=["1 left out, heic members.*c.heic"]),
    ),
    Case(
        "shards: a member without an ending",
        one({**GOOD, "README": b"x"}),
        Scored({"acc1": 1.0}, samples=2, flags=["1 left out, members whose names have no ending.*README"]),
    ),
    *(
        Case(
            f"shards: {name} in the tar",
            one({**GOOD, name: b"x"}),
            Scored({"acc1": 1.0}, samples=2, said="ignored 1 system files"),
        )
        for name in (".DS_Store", "._a.png", "__MACOSX/._a.png", "Thumbs.db", ".ipynb_checkpoints/a.png")
    ),
    *(
        Case(
            f"shards: a {name} in the tar",
            special_member(kind, "a.png"),
            Scored({"acc1": 1.0}, samples=2, flags=["1 left out, links.*c.png"]),
        )
        for name, kind in (("symbolic link", tarfile.SYMTYPE), ("hard link", tarfile.LNKTYPE))
    ),
    Case(
        "shards: two pictures of one key",
        one({**GOOD, "a.jpg": RED}),
        Refused("key 'a'", "two members of the kind image"),
    ),
    Case(
        "shards: one member twice",
        changed(lambda data: append(data / "test" / "0.tar", "a.png", RED), make=one(GOOD)),
        Refused("key 'a'", "two members"),
    ),
    Case("shards: a label without a picture", one({**GOOD, "c.cls": b"1"}), Refused("key 'c'", "without an image")),
    Case("shards: a picture without a label", one({**GOOD, "c.png": RED}), Refused("key 'c'", "no cls member")),
    Case(
        "shards: a picture without a label, skipped",
        one({**GOOD, "c.png": RED}, "data.on_error=skip"),
        Scored({"acc1": 1.0}, samples=2, flags=["1 left out, .*no cls member.*'c'"]),
    ),
    Case("shards: an empty label", one({**GOOD, "b.cls": b""}), Refused("key 'b'", "integer")),
    Case(
        "shards: an empty label, skipped",
        one({**GOOD, "b.cls": b""}, "data.on_error=skip"),
        Scored({"acc1": 1.0}, samples=1, flags=["1 left out, .*'b'"]),
    ),
    Case(
        "shards: a label that is no UTF-8",
        one({**GOOD, "b.cls": b"\xff\xfe"}),
        Refused("key 'b'", "cls member", "UTF-8"),
    ),
    Case("shards: an empty picture", one({**GOOD, "b.png": b""}), Refused("'b'|b.png", "0 bytes", "on_error=skip")),
    Case(
        "shards: an empty picture, skipped",
        one({**GOOD, "b.png": b""}, "data.on_error=skip"),
        Scored({"acc1": 1.0}, samples=1, flags=["1 of 2 images left out"]),
    ),
    Case("shards: no picture at all", one({"README.md": b"x"}), Refused("holds no image")),
    *(
        Case(
            f"shards: {name}",
            one(GOOD, name=f"test/{name}", pack=pack),
            Scored({"acc1": 1.0}, samples=2, said="read through a copy"),
        )
        for name, pack in (
            ("0.tar.gz", gzip.compress),
            ("0.tgz", gzip.compress),
            ("0.tar.bz2", bz2.compress),
            ("0.tar.xz", lzma.compress),
            ("000000.tar.gz", gzip.compress),
        )
    ),
    Case(
        "shards: a gzip called .tar",
        one(GOOD, pack=gzip.compress),
        Scored({"acc1": 1.0}, samples=2, said="read through a copy"),
    ),
    Case(
        "shards: a gzip cut short",
        one(GOOD, name="test/0.tar.gz", pack=lambda data: gzip.compress(data)[:-20]),
        Refused("0.tar.gz", "cut short or damaged"),
    ),
    Case(
        "shards: a damaged member in a gzip names the shard",
        one({**GOOD, "b.png": b"x"}, name="test/7.tar.gz", pack=gzip.compress),
        Refused("7.tar", "b"),
    ),
    Case("shards: .tar.zst", one(GOOD, name="test/0.tar.zst"), Refused("0.tar.zst", "compression")),
    Case(
        "shards: a zip called .tar",
        one(GOOD, pack=lambda data: b"PK\x03\x04" + data),
        Refused("0.tar", "not a whole tar"),
    ),
    *(
        Case(
            f"shards: called {', '.join(names)}",
            several([f"test/{name}" for name in names]),
            Scored({"acc1": 1.0}, samples=2 * len(names)),
        )
        for names in (
            ("000000.tar",),
            ("00000.tar", "00001.tar"),
            ("shard-0.tar", "shard-1.tar"),
            ("imagenet-val-000000.tar", "imagenet-val-000001.tar"),
            ("0.TAR",),
            ("1.tar", "2.tar"),
        )
    ),
    Case(
        "shards: in the set's own folder",
        several(["00000.tar", "00001.tar"]),
        Scored({"acc1": 1.0}, samples=4, flags=["the shards lie in data itself, not in data/test: all 2 are read"]),
    ),
    Case(
        "shards: in the set's own folder beside a train folder",
        several(["00000.tar", "train/0.tar"]),
        Refused("train", "task.splits"),
    ),
    Case("shards: in train alone", several(["train/0.tar"]), Refused("train", "task.splits=\\[train\\]")),
    Case(
        "shards: in val, chosen",
        several(["val/0.tar"], None, "task.splits=[val]"),
        Scored({"acc1": 1.0}, samples=2, flags=["scored on the split 'val'"]),
    ),
    Case(
        "shards: one number is missing",
        several(["test/0.tar", "test/2.tar"]),
        Scored({"acc1": 1.0}, samples=4, flags=["1 numbers are missing among the shards 0.tar to 2.tar: 1"]),
    ),
    Case("shards: fewer than nshards.txt says", several(["test/0.tar"], "2"), Refused("nshards.txt says 2", "1.tar")),
    Case(
        "shards: more than nshards.txt says",
        several(["test/0.tar", "test/1.tar"], "1"),
        Scored({"acc1": 1.0}, samples=2, flags=["1 left out, a tar beside the 1 that nshards.txt counts: 1.tar"]),
    ),
    *(
        Case(
            f"shards: nshards.txt reads {text!r}",
            several(["test/0.tar"], text),
            Refused("nshards.txt", "number of shards"),
        )
        for text in ("", "two", "0", "-1", "1.0")
    ),
    Case("shards: nshards.txt with a line end of Windows", several(["test/0.tar"], "1\r\n"), RIGHT),
    Case(
        "shards: 0.tar and 0.tar.gz", several(["test/0.tar", "test/0.tar.gz"]), Refused("one shard twice", "0.tar.gz")
    ),
    Case(
        "shards: ._0.tar",
        changed(lambda data: (data / "test" / "._0.tar").write_bytes(b"x"), make=one(GOOD)),
        Scored({"acc1": 1.0}, samples=2, said="ignored 1 system files"),
    ),
    Case(
        "shards: keys start anew in each shard",
        changed(lambda data: write_tar(data / "test" / "1.tar", GOOD), make=one(GOOD)),
        Scored({"acc1": 1.0}, samples=4),
    ),
    Case("shards: a shard cut short", changed(cut), Refused("1.tar", "not a whole tar", "cut short")),
    Case(
        "shards: an empty file for a shard",
        changed(lambda data: (data / "test" / "1.tar").write_bytes(b"")),
        Refused("1.tar", "not a whole tar"),
    ),
    Case(
        "shards: a shard that changed",
        shards,
        Scored({"acc1": 0.5}, samples=2, flags=["no label is 0"]),
        lambda place: (
            write_tar(place / "data" / "test" / "0.tar", {**GOOD, "a.cls": b"1"}),
            write_tar(place / "data" / "test" / "1.tar", {}),
            (place / "data" / "classnames.txt").write_text("red\nblue\n"),
        ),
    ),
    Case(
        "shards: no such folder",
        lambda place: ["task=webdataset", f"task.data.path={place / 'nowhere'}"],
        Refused("nowhere", "does not exist"),
    ),
    Case(
        "shards: captions of several lines",
        captioned({"a": b"red\n\na red one\n", "b": b"blue\r\nso blue\r\n"}),
        Scored({"mean_recall@1": 1.0}, samples=2),
    ),
    Case(
        "shards: a line separator within a caption",
        captioned({"a": "red \u2028 or so".encode(), "b": b"blue"}),
        Scored({"mean_recall@1": 1.0}, samples=2),
    ),
    Case("shards: an empty caption", captioned({"a": b"red", "b": b"\n"}), Refused("'b'", "caption")),
    Case(
        "shards: an empty caption, skipped",
        captioned({"a": b"red", "b": b"\n"}, "data.on_error=skip"),
        Scored({"mean_recall@1": 1.0}, samples=1, flags=["1 left out, .*'b'"]),
    ),
    Case("shards: a picture without captions", captioned({"a": b"red"}), Refused("'b'", "no txt member")),
    Case(
        "shards: a picture without captions, skipped",
        captioned({"a": b"red"}, "data.on_error=skip"),
        Scored({"mean_recall@1": 1.0}, samples=1, flags=["1 left out, .*'b'"]),
    ),
    Case(
        "shards with samples.csv: separated by ;",
        table(lambda text: text.replace(",", ";")),
        Scored({"acc1": 0.75}, samples=12, classnames=THREE),
    ),
    Case(
        "shards with samples.csv: a row is missing",
        table(lambda text: text.replace("red3,red\n", "")),
        Refused("samples.csv", "no row", "'red3'"),
    ),
    Case(
        "shards with samples.csv: a row is missing, skipped",
        table(lambda text: text.replace("red3,red\n", ""), "data.on_error=skip"),
        Scored({"acc1": 9 / 11}, samples=11, flags=["1 left out, .*red3"]),
    ),
    Case(
        "shards with samples.csv: a row too many",
        table(lambda text: text + "white9,red\n"),
        Scored({"acc1": 0.75}, samples=12, flags=["1 left out, a row for an image that is in no shard.*line 14"]),
    ),
    Case(
        "shards with samples.csv: a key twice", table(lambda text: text + "red0,blue\n"), Refused("'red0'", "already")
    ),
    Case(
        "shards with samples.csv: an empty label",
        table(lambda text: text.replace("red3,red", "red3,")),
        Refused("'red3'", "empty"),
    ),
    Case(
        "shards with samples.csv: an empty label, skipped",
        table(lambda text: text.replace("red3,red", "red3,"), "data.on_error=skip"),
        Scored({"acc1": 9 / 11}, samples=11, flags=["1 left out, .*red3"]),
    ),
    Case(
        "shards with samples.csv: no column of that name",
        table(lambda text: text, "task.data.label=color"),
        Refused("'color'", "colour"),
    ),
    Case("shards with samples.csv: no key column", table(lambda text: text.replace("key,", "id,")), Refused("key")),
]
