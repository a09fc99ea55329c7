"""Folders by class: odd endings, links, litter, empty and doubtful classes; and pictures that Pillow hesitates at."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from tests.data_faults.case import TIES, Case, Refused, Scored
from tests.data_faults.cases.plain import THREE, folder
from tests.data_faults.colours import picture, write_picture

Make = Callable[[Path], Sequence[str]]
SAME = Scored({"acc1": 0.75, "mean_per_class_recall": 0.75}, samples=12, classnames=THREE)


def with_(change: Callable[[Path], object], *words: str) -> Make:
    """The plain folder of four pictures to a class, and something done to it."""

    def make(place: Path) -> list[str]:
        given = folder(place)
        change(place / "data")
        return [*given, *words]

    return make


def two(files: dict[str, str], *words: str) -> Make:
    """A folder of the given {path: colour}."""

    def make(place: Path) -> list[str]:
        for name, colour in files.items():
            write_picture(place / "data" / name, colour)
        return ["task=folder", f"task.data.path={place / 'data'}", *words]

    return make


def put(name: str, content: bytes = b"x") -> Callable[[Path], object]:
    def change(data: Path) -> None:
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(content)

    return change


def split_folders(*names: str) -> Callable[[Path], object]:
    def change(data: Path) -> None:
        data.rename(data.with_name("classes"))
        for name in names:
            shutil.copytree(data.with_name("classes"), data / name)

    return change


def link_class(data: Path) -> None:
    (data / "red").rename(data.parent / "elsewhere")
    (data / "red").symlink_to(data.parent / "elsewhere")


def link_pictures(data: Path) -> None:
    (data.parent / "store").mkdir()
    for path in sorted((data / "red").iterdir()):
        path.rename(data.parent / "store" / path.name)
        path.symlink_to(data.parent / "store" / path.name)


def rename(old: str, new: str) -> Callable[[Path], object]:
    return lambda data: (data / old).rename(data / new)


def long_text_chunk() -> bytes:
    info, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_text("prompt", "x" * 3_000_000, zip=True)
    Image.open(io.BytesIO(picture("red"))).save(buffer, "png", pnginfo=info)
    return buffer.getvalue()


def array(values: np.ndarray, format: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format)
    return buffer.getvalue()


ENDINGS = {
    "jfif": "jpeg",
    "JPE": "jpeg",
    "JPG": "jpeg",
    "avif": "avif",
    "PNG": "png",
    "tiff": "tiff",
    "gif": "gif",
    "jp2": "jpeg2000",
    "ico": "ico",
    "tga": "tga",
}
LITTER = (
    ".ipynb_checkpoints/0-checkpoint.png",
    "__MACOSX/red/._0.png",
    "red/.DS_Store",
    "red/._0.png",
    "red/Thumbs.db",
    "blue/desktop.ini",
)
DEEP = r"1 pictures of more than 8 bits"

CASES = [
    *(
        Case(
            f"folder: a picture that ends in .{ending}",
            with_(lambda data, e=ending, f=format: write_picture(data / "red" / f"x.{e}", "red", f)),  # type: ignore[misc]
            Scored({"acc1": 10 / 13}, samples=13),
        )
        for ending, format in ENDINGS.items()
    ),
    Case(
        "folder: a picture without an ending",
        with_(put("red/x", picture("red"))),
        Scored({"acc1": 10 / 13}, samples=13),
    ),
    Case(
        "folder: a picture with an ending of its own",
        with_(put("red/x.0001", picture("red"))),
        Scored({"acc1": 10 / 13}, samples=13),
    ),
    Case("folder: a PNG called .jpg", with_(put("red/x.jpg", picture("red"))), Scored({"acc1": 10 / 13}, samples=13)),
    Case("folder: a class behind a link", with_(link_class), SAME),
    Case("folder: pictures that are links", with_(link_pictures), SAME),
    Case(
        "folder: a link back",
        with_(lambda data: (data / "red" / "loop").symlink_to(data)),
        Scored({"acc1": 0.75}, samples=12, flags=["1 left out, a link back.*red/loop"]),
    ),
    Case(
        "folder: a broken link",
        with_(lambda data: (data / "red" / "x.png").symlink_to(data / "nowhere.png")),
        Scored({"acc1": 0.75}, samples=12, flags=["1 left out, a broken link: red/x.png"]),
    ),
    *(
        Case(
            f"folder: {name}",
            with_(put(name)),
            Scored({"acc1": 0.75}, samples=12, classnames=THREE, said="ignored 1 system files"),
        )
        for name in LITTER
    ),
    Case(
        "folder: a text file",
        with_(put("red/notes.txt")),
        Scored({"acc1": 0.75}, samples=12, flags=["1 left out, not a picture.*red/notes.txt"]),
    ),
    Case(
        "folder: a video",
        with_(put("red/x.mp4")),
        Scored({"acc1": 0.75}, samples=12, flags=["1 left out, not a picture.*red/x.mp4"]),
    ),
    Case(
        "folder: a picture in no class",
        with_(put("x.png", picture("red"))),
        Scored({"acc1": 0.75}, samples=12, flags=["1 left out, a picture that lies in no class folder: x.png"]),
    ),
    Case(
        "folder: an empty class",
        with_(lambda data: (data / "yellow").mkdir()),
        Refused("yellow.*without a picture", "classnames"),
    ),
    Case("folder: a class of text files alone", with_(put("yellow/a.txt")), Refused("yellow.*without a picture")),
    Case(
        "folder: an empty class that is chosen",
        with_(lambda data: (data / "yellow").mkdir(), "task.data.classnames=[red,green,blue,yellow]"),
        Scored({"acc1": 0.75}, samples=12, classnames=["red", "green", "blue", "yellow"]),
    ),
    Case(
        "folder: train and val, no test",
        with_(split_folders("train", "val")),
        Refused("train, val", "task.splits=\\[val\\]"),
    ),
    Case(
        "folder: val is chosen",
        with_(split_folders("train", "val"), "task.splits=[val]"),
        Scored({"acc1": 0.75}, samples=12, classnames=THREE, flags=["scored on the split 'val'"]),
    ),
    Case("folder: train, val and test", with_(split_folders("train", "val", "test")), SAME),
    Case("folder: train alone", with_(split_folders("train")), Refused("train", "task.splits")),
    Case(
        "folder: a class called train",
        two({"train/a.png": "red", "blue car/a.png": "blue"}),
        Scored({}, samples=2, classnames=["blue car", "train"], flags=[TIES]),  # "train" names no colour
    ),
    Case(
        "folder: a class called test",
        two({"test/a.png": "red", "blue/a.png": "blue"}),
        Scored({}, samples=2, classnames=["blue", "test"], flags=[TIES]),
    ),
    Case(
        "folder: red_fox and red fox",
        two({"red_fox/a.png": "red", "red fox/b.png": "red"}),
        Refused("red_fox", "red fox", "one class name"),
    ),
    Case(
        "folder: underscores",
        two({"light_red/a.png": "red", "blue/b.png": "blue"}),
        Scored({"acc1": 1.0}, classnames=["blue", "light red"]),
    ),
    Case(
        "folder: pictures at any depth",
        two({"red/2024/may/a.png": "red", "blue/b.png": "blue"}),
        Scored({"acc1": 1.0}, samples=2, classnames=["blue", "red"]),
    ),
    Case(
        "folder: one folder too high",
        two({"pets/cat/a.png": "red", "pets/dog/b.png": "blue"}),
        Scored(
            {"acc1": 1.0}, flags=["no picture lies in one itself .*pets/cat/a.png", "there is one class name, 'pets'"]
        ),
    ),
    Case(
        "folder: two folders too high",
        two({"pets/cat/a.png": "red", "cars/dog/b.png": "blue"}),
        Scored({}, flags=["no picture lies in one itself"]),
    ),
    Case(
        "folder: nothing at all",
        lambda place: [(place / "data").mkdir(), *two({})(place)][1:],
        Refused("holds no picture"),
    ),
    Case("folder: no such folder", two({}), Refused("is not a folder")),
    Case(
        "folder: a file",
        lambda place: ["task=folder", f"task.data.path={write_picture(place / 'a.png', 'red')}"],
        Refused("is not a folder"),
    ),
    Case(
        "folder: pictures without class folders",
        two({"a.png": "red", "b.png": "blue"}),
        Refused("no picture in a class folder"),
    ),
    Case("folder: an empty picture", with_(put("red/x.png", b"")), Refused("red/x.png", "0 bytes", "on_error=skip")),
    Case(
        "folder: an empty picture, skipped",
        with_(put("red/x.png", b""), "data.on_error=skip"),
        Scored({"acc1": 0.75}, samples=12, flags=["1 of 13 images left out.*red/x.png"]),
    ),
    Case("folder: a text called .png", with_(put("red/x.png", b"hello")), Refused("red/x.png", "no image format")),
    Case(
        "folder: a picture cut short",
        with_(put("red/x.jpg", picture("red", "jpeg", size=(64, 64))[:300])),
        Refused("red/x.jpg", "truncated|decoded"),
    ),
    Case(
        "folder: a long text chunk",
        with_(put("red/x.png", long_text_chunk())),
        Refused("red/x.png", "data.max_text_chunk"),
    ),
    *(
        Case(
            f"folder: a long text chunk, {key}",
            with_(put("red/x.png", long_text_chunk()), f"{key}=10000000"),
            Scored({"acc1": 10 / 13}, samples=13),
        )
        for key in ("data.max_text_chunk", "task.data.max_text_chunk")
    ),
    Case(
        "folder: more pixels than data.max_pixels",
        with_(put("red/x.png", picture("red", size=(40, 40))), "data.max_pixels=1000"),
        Refused("1,600 pixels", "data.max_pixels"),
    ),
    Case(
        "folder: 16-bit grey",
        with_(put("red/x.png", array(np.full((9, 9), 30_000, np.uint16)))),
        Scored({"acc1": 9 / 13}, samples=13, flags=[DEEP + ".*red/x.png"]),
    ),
    Case(
        "folder: 32-bit float",
        with_(put("red/x.tif", array(np.full((9, 9), 0.5, np.float32), "tiff"))),
        Scored({"acc1": 9 / 13}, samples=13, flags=[DEEP + ".*red/x.tif"]),
    ),
    *(
        Case(
            f"folder: mode {mode} in {format}",
            with_(put(f"red/x.{format}", picture("red", format, mode))),
            Scored({"acc1": 10 / 13}, samples=13),
        )
        for mode, format in (("RGBA", "png"), ("P", "png"), ("CMYK", "tiff"), ("RGBA", "webp"))
    ),
]
