"""SugarCrepe's and Winoground's own files into the one layout, by `clipeval convert` and by `clipeval download`."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from clip_benchmark.datasets.sugar_crepe import SugarCrepe
from PIL import Image

from clipeval.cli.main import main
from clipeval.configs.compose import compose
from clipeval.configs.errors import ClipevalError
from clipeval.data import open_split
from clipeval.data.config import data_config
from clipeval.data.lock import NAME
from clipeval.download import read_lock, verify
from clipeval.download.selection import convert_sugar_crepe, convert_winoground

RNG = np.random.default_rng(0)
PARTS = ["add_att", "swap_obj"]
WINO = "facebook/winoground"


def image(form: str = "JPEG", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (20, 24, 3), dtype=np.uint8)).convert(mode).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def crepe(tmp_path: Path) -> tuple[Path, Path]:
    """Four COCO images, one of them grey and one in no part; two parts that share two, with a gap in the numbers."""
    images, annotations = tmp_path / "val2017", tmp_path / "json"
    for folder in (images, annotations):
        folder.mkdir()
    names = [f"00000000{i}.jpg" for i in (4, 2, 3, 9)]
    for name in names:
        (images / name).write_bytes(image(mode="L" if name.endswith("3.jpg") else "RGB"))
    for part, chosen in zip(PARTS, ([0, 1, 1], [1, 2]), strict=True):
        items = {
            str(3 * k): {"filename": names[i], "caption": f"{part} a {k} ", "negative_caption": f"{part} not a\n{k}"}
            for k, i in enumerate(chosen)
        }
        (annotations / f"{part}.json").write_text(json.dumps(items))
    return images, annotations


def rows(count: int = 3) -> list[dict[str, object]]:
    """Winoground's columns; PNG with transparency among the images, as there."""
    return [
        {
            "id": 10 + i,
            "image_0": {"bytes": image("PNG", "RGBA"), "path": f"ex_{i}_img_0.png"},
            "image_1": {"bytes": image("JPEG"), "path": None},
            "caption_0": f"an old person kisses a young person {i}",
            "caption_1": f"a young person kisses an old person {i}",
            "tag": "Adjective-Age",
        }
        for i in range(count)
    ]


def parquet(table: list[dict[str, object]], path: Path) -> bytes:
    made = datasets.Dataset.from_list(table)
    for column in ("image_0", "image_1"):
        made = made.cast_column(column, datasets.Image())
    made.to_parquet(path)
    return path.read_bytes()


def read(task: str, root: Path):
    node = compose(["suite=none", f"task={task}"]).tasks[task]
    return open_split(data_config(node), str(root), "test", None)


def test_sugar_crepes_parts_share_one_folder_of_images(crepe, tmp_path, capsys) -> None:
    images, annotations = crepe
    out = tmp_path / "data" / "wds_sugar_crepe"
    words = ["convert", "sugar_crepe", "--images", str(images), "--json", str(annotations), "--out", str(out)]
    assert main(words) == 0
    assert "selection, 2 sets of questions" in capsys.readouterr().out
    splits = {part: read(f"sugar_crepe_{part}", out.parent) for part in PARTS}
    assert len({split.images.digest for split in splits.values()}) == 1  # the key of their embeddings
    assert len({split.digest for split in splits.values()}) == 2
    for part, split in splits.items():
        theirs = SugarCrepe(str(images), str(annotations / f"{part}.json"))
        assert [list(q["captions"]) for q in split.samples.instances] == [theirs[i][1] for i in range(len(theirs))]
        assert [q["id"] for q in split.samples.instances] == theirs.idx_strings
        place = {key: i for i, key in enumerate(split.samples.keys)}
        for i, question in enumerate(split.samples.instances):
            original = images / theirs.ann[theirs.idx_strings[i]]["filename"]
            assert split.images.read(place[question["images"][0]]) == original.read_bytes()
        assert list(split.samples.keys) == ["000000002", "000000003", "000000004"]  # each once; the ninth is in no part
    assert verify(out, full=True) == []
    assert read_lock(out).form == "selection"

    (annotations / "add_att.json").unlink()  # again, with fewer parts: in place of the first
    assert main(words) == 0
    assert sorted(p.name for p in (out / "test").iterdir()) == ["0.tar", "instances_swap_obj.jsonl", "nshards.txt"]
    assert verify(out, full=True) == []


def test_shards_of_a_size(crepe, tmp_path) -> None:
    convert_sugar_crepe(*crepe, tmp_path / "wds_sugar_crepe", shard_size=1)
    assert (tmp_path / "wds_sugar_crepe/test/nshards.txt").read_text() == "3"
    assert len(read("sugar_crepe_add_att", tmp_path).images) == 3


def test_bad_sugar_crepe(crepe, tmp_path, capsys) -> None:
    images, annotations = crepe
    out = tmp_path / "out"

    def said(**paths: Path) -> str:
        words = {"images": images, "json": annotations, "out": out, **paths}
        assert main(["convert", "sugar_crepe", *(w for k, v in words.items() for w in (f"--{k}", str(v)))]) == 1
        assert not out.exists() or list(out.iterdir()) == [out / "notes.txt"]
        return capsys.readouterr().err

    assert f"{tmp_path / 'no'} is no folder: --images names COCO's val2017" in said(images=tmp_path / "no")
    assert f"{images} holds no JSON file" in said(json=images)
    assert "000000002.jpg (1 of 3 images are missing)" in said(
        images=shutil.copytree(images, tmp_path / "few", ignore=lambda *_: ["000000002.jpg"])
    )
    part = annotations / "swap_obj.json"
    whole = part.read_text()
    for text, message in (
        (whole[:30], f"{part} is not JSON"),
        ("[]", f"{part}: SugarCrepe's {{number: {{filename"),
        (whole.replace("negative_caption", "negative"), f"{part}, item '0' has no 'negative_caption'"),
    ):
        part.write_text(text)
        assert message in said()
    part.write_text(whole)
    (images / "000000003.jpg").write_bytes(b"<html>")
    assert f"{images}, image '000000003': 6 bytes that begin with b'<html>' are no JPEG" in said()
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert f"--out {out} holds other things (notes.txt)" in said()


def test_a_conversion_that_fails_leaves_the_earlier_one(crepe, tmp_path) -> None:
    images, annotations = crepe
    out = tmp_path / "wds_sugar_crepe"
    convert_sugar_crepe(images, annotations, out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    (images / "000000004.jpg").write_bytes(b"no image")
    with pytest.raises(ClipevalError, match="no JPEG"):
        convert_sugar_crepe(images, annotations, out)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def check_winoground(root: Path, table: list[dict[str, object]]) -> None:
    split = read("winoground", root)
    place = {key: i for i, key in enumerate(split.samples.keys)}
    for question, row in zip(split.samples.instances, table, strict=True):
        assert question["id"] == row["id"]
        assert question["captions"] == [row["caption_0"], row["caption_1"]]
        assert [split.images.read(place[key]) for key in question["images"]] == [
            row[c]["bytes"] for c in ("image_0", "image_1")
        ]


@pytest.mark.parametrize("form", ["parquet", "folder", "arrow"])
def test_winoground_from_rows(form, tmp_path) -> None:
    table = rows()
    source = tmp_path / "rows"
    source.mkdir()
    if form == "arrow":
        made = datasets.Dataset.from_list(table)
        made.cast_column("image_0", datasets.Image()).cast_column("image_1", datasets.Image()).save_to_disk(source)
    else:
        parquet(table[:2], source / "test-00000-of-00002.parquet")
        parquet(table[2:], source / "test-00001-of-00002.parquet")
    if form == "parquet":
        table, source = table[:2], source / "test-00000-of-00002.parquet"
    assert main(["convert", "winoground", "--rows", str(source), "--out", str(tmp_path / "wds_winoground")]) == 0
    check_winoground(tmp_path, table)


def test_bad_winoground(tmp_path) -> None:
    with pytest.raises(ClipevalError, match="a parquet or Arrow file, or a folder of them, was expected"):
        convert_winoground(tmp_path / "none", tmp_path / "out")
    table = rows(2)
    table[1]["caption_1"] = ""
    parquet(table, tmp_path / "a.parquet")
    with pytest.raises(ClipevalError, match=r"a\.parquet, row 1: there is no caption_1"):
        convert_winoground(tmp_path / "a.parquet", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "b.parquet").write_bytes(b"PAR")
    with pytest.raises(ClipevalError, match=r"b\.parquet is not a parquet file"):
        convert_winoground(tmp_path / "b.parquet", tmp_path / "out")


def test_download_converts_winoground(hub, tmp_path, capsys) -> None:
    table = rows()
    hub.push(WINO, {"README.md": b"", "data/test-00000-of-00001.parquet": parquet(table, tmp_path / "p")}, gated=True)
    words = ["download", "--no-model", "suite=none", "task=winoground", f"data.root={tmp_path / 'data'}"]
    assert main(words) == 1
    assert f"{WINO} is gated: accept its terms" in capsys.readouterr().err.replace("\n", " ")
    hub.repos[WINO].gated = False
    assert main(words) == 0
    check_winoground(tmp_path / "data", table)
    lock = read_lock(tmp_path / "data" / "wds_winoground")
    assert (lock.form, lock.hub) == ("selection", WINO)
    hub.requests.clear()
    assert main(words) == 0
    assert hub.requests == []


def test_download_says_that_sugar_crepe_is_converted(hub, tmp_path, capsys) -> None:
    words = ["download", "--no-model", "suite=none", "task=sugar_crepe_add_att", f"data.root={tmp_path}"]
    assert main(words) == 1
    assert "`clipeval convert`" in capsys.readouterr().err.replace("\n", " ")
    assert hub.requests == []
    assert not (tmp_path / "wds_sugar_crepe" / NAME).exists()


def test_download_fetches_clip_benchmarks_copies_by_split(hub, tmp_path) -> None:
    """test/ and train/ beside each other: only what a task's splits say, and the other when a later task needs it."""
    files = {
        ".gitattributes": b"",
        "README.md": b"# dtd\n",
        "classnames.txt": b"banded\nblotchy\n",
        "zeroshot_classification_templates.txt": b"a photo of a {c} texture.\n",
        "test/nshards.txt": b"1\n",
        "test/0.tar": b"the test split",
        "train/nshards.txt": b"2\n",
        "train/0.tar": b"the train split",
        "train/1.tar": b"and its end",
    }
    hub.push("clip-benchmark/wds_vtab-dtd", files)
    words = ["download", "--no-model", "suite=none", "task=dtd", "data.source=clip_benchmark", f"data.root={tmp_path}"]
    assert main(words) == 0
    folder = tmp_path / "wds_vtab-dtd"
    have = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {NAME}
    about = {"README.md", ".gitattributes"}
    assert have == {name for name in files if not name.startswith("train/")} - about
    assert main([*words, "task.splits=[test,train]"]) == 0
    have = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {NAME}
    assert have == set(files) - about
    lock = read_lock(folder)
    assert lock.hub == "clip-benchmark/wds_vtab-dtd"
    hub.requests.clear()
    assert main(words) == 0
    assert hub.requests == []
    assert not (tmp_path / "wds_vtab-dtd_test").exists()


def test_a_copy_without_the_split_that_a_task_needs(hub, tmp_path, capsys) -> None:
    """DataComp's copies have test alone: a probe's train split is in clip_benchmark's."""
    hub.push("djghosh/wds_vtab-dtd_test", {"classnames.txt": b"a\n", "test/nshards.txt": b"1\n", "test/0.tar": b"tar"})
    words = ["download", "--no-model", "suite=none", "task=dtd", "data.source=datacomp", f"data.root={tmp_path}"]
    assert main([*words, "task.splits=[test,train]"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "djghosh/wds_vtab-dtd_test has no split 'train'; it has test." in said
    assert "data.source=clip_benchmark" in said


def test_a_split_that_no_copy_has(hub, tmp_path, capsys) -> None:
    """SUN397 in clip_benchmark's collection has test alone: data.source=clip_benchmark is no advice to who has given it."""
    files = {"classnames.txt": b"a\n", "test/nshards.txt": b"1\n", "test/0.tar": b"tar"}
    hub.push("clip-benchmark/wds_sun397", files)
    words = ["protocol=linear_probe", "suite=none", "+task@tasks.sun397=sun397", f"data.root={tmp_path}"]
    words.append("data.source=clip_benchmark")
    assert main(["download", "--no-model", *words]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "has no split 'train'; it has test." in said and "'~tasks.sun397'" in said
    assert "(data.source" not in said
    for there in (False, True):
        if there:
            (tmp_path / "wds_sun397" / "test").mkdir(parents=True)
        assert main(["plan", *words]) == 1
        said = " ".join(capsys.readouterr().out.split())
        assert "data.source" not in said and "~tasks.sun397" in said.replace(" ", "")
