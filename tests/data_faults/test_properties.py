"""For random folders, tables, tars and parquet files: what was given is what was scored, or was left out and counted.

The count of what is given is independent of the readers: it comes from the recipe that made the input, not from reading it.
"""

from __future__ import annotations

import csv
import io
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipeval.data.config import DataConfig
from clipeval.data.split import Split, open_split
from tests.data_faults.cases.plain import write_tar
from tests.data_faults.colours import picture

EXAMPLES = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PICTURE = picture("red", size=(3, 3))
_COUNT = re.compile(r"^([\d,]+) left out, ")

LETTERS = "abcxyzäéß漢 _-.,'\"&;0123456789"
names = st.text(LETTERS, min_size=1, max_size=12).map(str.strip).filter(lambda n: n and not n.startswith((".", "-")))
classes = st.lists(
    names.filter(
        lambda n: re.search("[a-zäé漢]", n) and not n.lower().startswith(("train", "test", "val", "dev", "eval"))
    ),
    min_size=2,
    max_size=5,
    unique_by=lambda n: " ".join(
        n.replace("_", " ").split()
    ).casefold(),  # alike names are an error, which a case shows
)
OTHERS = ("notes.txt", "x.mp4", "labels.json", "a.pdf")
LITTER = (".DS_Store", "Thumbs.db", "._a.png")


def spaced(name: str) -> str:
    return " ".join(name.replace("_", " ").split())


def opened(config: DataConfig) -> Split:
    return open_split(config, None, "test", None, on_error="skip")


def left_out(split: Split) -> int:
    """How many things the flags say were left out."""
    return sum(int(found[1].replace(",", "")) for flag in split.flags if (found := _COUNT.match(flag)))


def ignored(split: Split) -> int:
    return sum(int(r.split()[1]) for r in split.remarks if r.startswith("ignored "))


@EXAMPLES
@given(
    classes,
    st.lists(st.tuples(st.sampled_from(["png", "PNG", "jpg", "jpe", ""]), st.booleans()), min_size=1, max_size=4),
    st.lists(st.sampled_from(OTHERS), unique=True),
    st.lists(st.sampled_from(LITTER), unique=True),
)
def test_folders(called: list[str], pictures: list[tuple[str, bool]], others: list[str], litter: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch, "data")
        for name in called:
            for number, (ending, deep) in enumerate(pictures):
                path = data / name / ("deep" if deep else ".") / f"p{number}{'.' if ending else ''}{ending}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(PICTURE)
        for number, other in enumerate(others + litter):
            (data / called[number % len(called)] / other).write_bytes(b"x")
        split = opened(DataConfig(kind="folder", path=str(data)))
    assert len(split.samples.keys) == len(called) * len(pictures)
    assert (left_out(split), ignored(split)) == (len(others), len(litter))
    assert sorted(map(spaced, split.samples.classnames)) == sorted(map(spaced, called))
    of_class = [spaced(split.samples.classnames[label]) for label in split.samples.labels]  # type: ignore[union-attr]
    assert of_class == [spaced(key.split("/")[0]) for key in split.samples.keys]


captions = st.one_of(st.text(LETTERS + "\u2028\x0b", min_size=1, max_size=15), st.just(""), st.just("  "))


@EXAMPLES
@given(
    st.lists(
        st.tuples(names.filter(lambda n: "." not in n), captions, st.booleans()),
        min_size=2,
        max_size=8,
        unique_by=lambda r: r[0],
    ),
    st.sampled_from(",;\t|"),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_tables(rows: list[tuple[str, str, bool]], separator: str, encoding: str, end: str) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=separator, lineterminator=end)
    writer.writerows([("image", "caption"), *((f"{name}.png", caption) for name, caption, _ in rows)])
    usable = [(name, caption) for name, caption, exists in rows if exists and caption.strip()]
    with tempfile.TemporaryDirectory() as scratch:
        for name, _, exists in rows:
            if exists:
                Path(scratch, f"{name}.png").write_bytes(PICTURE)
        path = Path(scratch, "t.csv")
        path.write_bytes(buffer.getvalue().encode(encoding))
        config = DataConfig(kind="table", path=str(path), caption="caption", sep=separator)
        if not usable:
            return
        split = opened(config)
    assert [list(c) for c in split.samples.captions or ()] == [[caption] for _, caption in usable]
    assert len(split.samples.keys) + left_out(split) == len(rows)


keys = st.lists(
    st.text("abcxyz01_-.", min_size=1, max_size=8).filter(lambda k: not k.startswith(".")),
    min_size=1,
    max_size=6,
    unique=True,
)


@EXAMPLES
@given(keys, st.lists(st.sampled_from(["png", "cls", "json", "both"]), min_size=6, max_size=6), st.booleans())
def test_tars(called: list[str], kinds: Sequence[str], sorted_names: bool) -> None:
    """Keys with dots: no sample is lost, or the run stops."""
    from clipeval.configs.errors import ClipevalError

    members: dict[str, bytes] = {}
    for number, (key, kind) in enumerate(zip(called, kinds, strict=False)):
        members |= {f"{key}.png": PICTURE} if kind != "json" else {f"{key}.json": b"{}"}
        members |= {f"{key}.cls": str(number % 2).encode()} if kind in ("cls", "both", "json") else {}
    if sorted_names:
        members = dict(sorted(members.items()))
    pictures = sum(name.endswith(".png") for name in members)
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch)
        write_tar(data / "test" / "0.tar", members)
        (data / "classnames.txt").write_text("red\nblue\n")
        try:
            split = opened(DataConfig(path=str(data)))
        except ClipevalError:
            return  # an orphan label, two members of one key, or no image: the run stops and names it
    labels = sum(name.endswith(".cls") for name in members)
    others = len(members) - pictures - labels
    assert len(split.samples.keys) + left_out(split) - others == pictures
    for key, label in zip(
        split.samples.keys, split.samples.labels if split.samples.labels is not None else (), strict=False
    ):
        assert int(members[f"{key}.cls"]) == int(label)


cells = st.sampled_from(["bytes", "structure", "null", "empty"])


@EXAMPLES
@given(
    st.lists(st.tuples(cells, st.one_of(st.none(), st.sampled_from(["red", "blue"]))), min_size=2, max_size=9),
    st.integers(1, 4),
)
def test_parquet(rows: list[tuple[str, str | None]], group: int) -> None:
    content: dict[str, Any] = {"bytes": PICTURE, "structure": PICTURE, "null": None, "empty": b""}
    table = pa.table(
        {
            "image": [{"bytes": content[kind], "path": None} for kind, _ in rows],
            "label": pa.array([label for _, label in rows], pa.string()),
        }
    )
    usable = [label for kind, label in rows if kind in ("bytes", "structure") and label is not None]
    if len(set(usable)) < 2:
        return
    with tempfile.TemporaryDirectory() as scratch:
        pq.write_table(table, Path(scratch, "test.parquet"), row_group_size=group)
        split = opened(DataConfig(kind="huggingface", path=scratch, label="label"))
        assert all(split.images.read(i) == PICTURE for i in range(len(split.images)))
    named = [split.samples.classnames[int(i)] for i in split.samples.labels]  # type: ignore[union-attr]
    assert named == usable
    assert len(usable) + left_out(split) == len(rows)
