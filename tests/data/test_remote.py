"""Sets that lie elsewhere: the same samples and digests as on a disk, shards by range, and every failure one sentence."""

from __future__ import annotations

import os
import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipeval.cli.main import main
from clipeval.configs.errors import ClipevalError
from clipeval.data import remote
from clipeval.data.config import DataConfig
from clipeval.data.images import FileImages
from clipeval.data.split import open_split
from clipeval.results.run_folder import RunFolder
from tests.data.colour_set import write_colours
from tests.data.storage import Quiet

CONFIG = DataConfig(kind="webdataset", folder="wds_colours")
RUN = ["model=quickstart", "suite=none", "+task@tasks.colours=webdataset", "runtime.device=cpu", "cache.root=cache"]


def put(folder: Path) -> None:
    """Copies what lies in a folder into the bucket."""
    import boto3

    for path in folder.rglob("*"):
        if path.is_file():
            boto3.client("s3").upload_file(str(path), "weights", f"sets/{path.relative_to(folder).as_posix()}")


@pytest.fixture
def sets(bucket: str, tmp_path: Path) -> str:
    """Twelve colours of three classes in a bucket, of which `tmp_path` / sets is the original."""
    write_colours(tmp_path / "sets" / "wds_colours", {"test": 12}, 3)
    (tmp_path / "sets" / "wds_colours" / "zeroshot_classification_templates.txt").write_text("a photo of {c}.\n")
    put(tmp_path / "sets")
    return f"{bucket}/sets"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often shards were read: whole, or by range."""
    from s3fs import S3FileSystem

    count: Counter[str] = Counter()

    def counted(name: str) -> Any:
        original = getattr(S3FileSystem, name)

        def method(self: Any, path: str, *rest: Any, **more: Any) -> Any:
            if path.endswith(".tar"):
                count[name] += 1
            return original(self, path, *rest, **more)

        return method

    for name in ("get_file", "cat_file"):
        monkeypatch.setattr(S3FileSystem, name, counted(name))
    return count


def test_a_bucket_is_read_as_a_disk_is(sets: str, asked: Counter[str], tmp_path: Path) -> None:
    local = open_split(CONFIG, str(tmp_path / "sets"), "test", tmp_path / "index")
    cache = tmp_path / "cache" / "index"
    there = open_split(CONFIG, sets, "test", cache)
    assert there.digest == local.digest
    assert there.samples.keys == local.samples.keys and there.samples.classnames == local.samples.classnames
    assert asked == {"get_file": 1}, "the index is of every byte"
    assert [there.images.read(i) for i in range(12)] == [local.images.read(i) for i in range(12)]
    assert asked == {"get_file": 1, "cat_file": 2}, "the second image brings those after it along"
    assert there.images.location(3) == f"{sets}/wds_colours/test/0.tar, key 'test003'"
    assert there.images.subset(np.array([7, 2])).read(1) == local.images.read(2)
    assert pickle.loads(pickle.dumps(there.images)).read(4) == local.images.read(4)  # noqa: S301
    assert not any(path.stat().st_size > 3000 for path in cache.parent.rglob("*") if path.is_file()), "no shard is kept"
    asked.clear()
    assert open_split(CONFIG, sets, "test", cache).digest == local.digest
    assert not asked, "the index is kept"


def test_a_set_that_somebody_sent_points_nowhere(sets: str, tmp_path: Path) -> None:
    open_split(CONFIG, sets, "test", tmp_path / "cache" / "index")
    (copy,) = (tmp_path / "cache" / "sets").glob("*/wds_colours")
    sent = shutil.copytree(copy, tmp_path / "sent" / "wds_colours")
    assert b"s3://" in (sent / "test" / "0.tar").read_bytes()
    with pytest.raises(ClipevalError, match=r"sent/wds_colours/test/0\.tar is not a whole tar"):
        open_split(CONFIG, str(tmp_path / "sent"), "test", tmp_path / "cache" / "index")


def test_a_forked_process_has_connections_of_its_own(sets: str, tmp_path: Path) -> None:
    images = open_split(CONFIG, sets, "test", tmp_path / "index").images
    first = images.read(0)
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.write(writer, images.read(0))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == first
    os.waitpid(pid, 0)


def test_what_changes_there_is_read_anew(sets: str, tmp_path: Path) -> None:
    before = open_split(CONFIG, sets, "test", tmp_path / "index")
    (tmp_path / "sets" / "wds_colours" / "classnames.txt").write_text("a\nb\nc\n")
    put(tmp_path / "sets")
    after = open_split(CONFIG, sets, "test", tmp_path / "index")
    assert after.samples.classnames == ["a", "b", "c"] and after.digest != before.digest
    assert after.images.digest == before.images.digest


def test_other_kinds_are_copied_whole(bucket: str, tmp_path: Path) -> None:
    from PIL import Image

    for name, colour in {"red": (255, 0, 0), "blue": (0, 0, 255)}.items():
        (tmp_path / "sets" / "pictures" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), colour).save(tmp_path / "sets" / "pictures" / name / "1.png")
    put(tmp_path / "sets")
    config = DataConfig(kind="folder", path=f"{bucket}/sets/pictures")
    there = open_split(config, None, "test", tmp_path / "cache" / "index")
    local = open_split(DataConfig(kind="folder", path=str(tmp_path / "sets" / "pictures")), None, "test", None)
    assert (there.digest, there.samples.classnames) == (local.digest, local.samples.classnames) != (None, [])


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ("s3://weights/set", r"s3://weights/set/wds_colours: there is no such folder"),
        ("s3://bucket-of-nobody/sets", r"s3://bucket-of-nobody/sets/wds_colours.*(no such|bucket does not exist)"),
        ("s3n://weights/sets", r"Unknown protocol 's3n'. Did you mean: s3"),
        ("s3://me:secret@weights/sets", "holds a password"),
    ],
)
def test_what_is_not_there(sets: str, tmp_path: Path, root: str, said: str) -> None:
    with pytest.raises(ClipevalError, match=said) as found:
        open_split(CONFIG, root, "test", tmp_path / "cache" / "index")
    assert "secret" not in str(found.value)
    assert not any(path.is_file() for path in (tmp_path / "cache").rglob("*"))


def test_without_a_log_in(sets: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3fs import S3FileSystem

    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"AWS_{name}")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    S3FileSystem.clear_instance_cache()
    with pytest.raises(ClipevalError, match=r"wds_colours may not be read .*AWS_PROFILE"):
        open_split(CONFIG, sets, "test", tmp_path / "index")


def test_errors_name_the_address(sets: str, tmp_path: Path) -> None:
    (tmp_path / "sets" / "wds_colours" / "classnames.txt").write_text("one\n")
    put(tmp_path / "sets")
    with pytest.raises(ClipevalError) as found:
        open_split(CONFIG, sets, "test", tmp_path / "index")
    assert str(found.value).startswith(f"{sets}/wds_colours: key ")
    (tmp_path / "sets" / "wds_colours" / "test" / "0.tar").write_bytes(b"no tar" * 1000)
    put(tmp_path / "sets")
    with pytest.raises(ClipevalError) as found:
        open_split(CONFIG, sets, "test", tmp_path / "index")
    assert str(found.value).startswith(f"{sets}/wds_colours/test/0.tar is not a whole tar")


def test_a_run_goes_on_after_a_cut(
    sets: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cut is no fault of an image: none is left out. Decoders are processes, which fork."""
    from s3fs import S3FileSystem

    monkeypatch.chdir(tmp_path)
    words = [*RUN, "tasks.colours.data.folder=wds_colours", "runtime.workers=2"]
    cat = S3FileSystem.cat_file
    monkeypatch.setattr(S3FileSystem, "cat_file", lambda *a, **k: cat(*a, **k)[:-1])
    assert main(["run", *words, f"data.root={sets}", "data.on_error=skip", "out=there"]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"clipeval: {sets}/wds_colours/test/0.tar came incomplete" in said and "goes on from there" in said
    assert not RunFolder("there").tasks()
    monkeypatch.setattr(S3FileSystem, "cat_file", cat)
    assert main(["run", *words, f"data.root={sets}", "out=there"]) == 0
    assert main(["run", *words, "data.root=sets", "out=here"]) == 0
    there, here = (RunFolder(name).record("colours") for name in ("there", "here"))
    assert (there.fingerprint, there.metrics) == (here.fingerprint, here.metrics)
    assert main(["rerun", "there"]) == 1
    assert "a rerun downloads nothing" in capsys.readouterr().err
    assert main(["download", *words, f"data.root={sets}"]) == 1
    assert "need no download" in capsys.readouterr().err


def test_a_server_without_byte_ranges(site: str, tmp_path: Path) -> None:
    """Python's own: it lists folders, and gives every file whole."""
    pytest.importorskip("aiohttp")
    write_colours(tmp_path / "site" / "wds_colours", {"test": 12}, 3)
    split = open_split(CONFIG, site, "test", tmp_path / "index")
    assert len(split.images) == 12 and Quiet.given
    with pytest.raises(remote.SourceLostError, match="gives no parts of files"):
        split.images.read(5)


def test_files_beside_the_sets(sets: str, tmp_path: Path) -> None:
    (tmp_path / "sets" / "notes.txt").write_text("a")
    put(tmp_path / "sets")
    assert remote.below(sets, "notes.txt", tmp_path / "cache").read_text() == "a"
    assert not remote.below(sets, "other.txt", tmp_path / "cache").exists()
    assert remote.below(str(tmp_path / "sets"), "notes.txt", tmp_path) == tmp_path / "sets" / "notes.txt"


def test_reads_ahead_only_what_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.pipe_file("/ahead/0.tar", bytes(range(200)))
    asked: list[tuple[int, int]] = []
    cat = type(fs).cat_file
    monkeypatch.setattr(remote, "AHEAD", 50)

    def noted(self: Any, path: str, start: int, end: int) -> bytes:
        asked.append((start, end))
        return bytes(cat(self, path, start, end))

    monkeypatch.setattr(type(fs), "cat_file", noted)
    offsets = np.arange(0, 200, 10)
    files = ["memory://ahead/0.tar"]
    images = FileImages(files, np.zeros(20, np.int32), offsets, np.full(20, 10), [str(i) for i in offsets], "")
    assert [images.read(i) for i in (0, 1, 2, 10, 18, 19)] == [
        bytes(range(i, i + 10)) for i in (0, 10, 20, 100, 180, 190)
    ]
    assert asked == [(0, 10), (10, 60), (100, 110), (180, 190), (190, 200)]
