"""Flickr, MSCOCO and WinoGAViL into the one layout: what `datasets` says of the sources is what the reader says of the result."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import socket
import tarfile
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets.arrow_writer import ArrowWriter
from PIL import Image

from clipeval.configs.errors import ClipevalError
from clipeval.data import DataConfig, open_split
from clipeval.data.lock import NAME
from clipeval.download import DownloadError, convert_cached, download, read_lock, verify
from clipeval.download.cached import main
from clipeval.download.convert import convert, convert_rows, write_retrieval
from clipeval.download.shards import ShardWriter

FLICKR = "nlphuji/flickr_1k_test_image_text_retrieval"
WINO = "nlphuji/winogavil"
RNG = np.random.default_rng(0)
CAPTIONS = [
    ["A dog runs .", "Ein Hund läuft", "one\ntwo", " padded  ", "five", "and a sixth"],
    ["A cat sleeps .", "b", "c", "d", "e"],
    ["犬", "b2", "c2", "d2", "e2"],
]
WORDS = ["eagle", "tea party", "ash", "no.1", "teepee", "metal"]
GAMES = [
    {"cue": "bald", "candidates": ["eagle", "tea party", "ash", "no.1", "teepee"], "associations": ["eagle", "ash"]},
    {"cue": "plush", "candidates": ["metal", "eagle", "tea party", "ash", "teepee"], "associations": ["tea party"]},
]


def image(form: str = "JPEG", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (20, 20, 3), dtype=np.uint8)).convert(mode).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def pictures() -> dict[str, bytes]:
    forms = [("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGBA"), ("WEBP", "RGB"), ("JPEG", "CMYK"), ("JPEG", "RGB")]
    return {word: image(*form) for word, form in zip(WORDS, forms, strict=True)}


def parquet(rows: list[dict[str, object]], path: Path) -> bytes:
    """The parquet that `datasets` writes, as the hub's own converter does."""
    table = datasets.Dataset.from_list(rows)
    feature = datasets.Image()
    for name, value in rows[0].items():
        if name == "image":
            table = table.cast_column(name, feature)
        elif name == "candidate_images":
            table = table.cast_column(name, datasets.List(feature))
        del value
    table.to_parquet(path)
    return path.read_bytes()


def flickr_rows(pictures: dict[str, bytes]) -> list[dict[str, object]]:
    content = list(pictures.values())
    return [
        {"image": {"bytes": content[i], "path": f"{1000 - i}.jpg"}, "caption": CAPTIONS[i], "img_id": str(i)}
        for i in range(3)
    ]


def wino_files(pictures: dict[str, bytes]) -> dict[str, bytes]:
    """winogavil_dataset.csv with the original's columns, and winogavil_images.zip with a stray file, as zips have."""
    table = io.StringIO()
    columns = ["", "candidates", "cue", "associations", "score_fool_the_ai", "num_associations", "num_candidates", "ID"]
    writer = csv.DictWriter(table, columns)
    writer.writeheader()
    for i, game in enumerate(GAMES):
        lists = {name: json.dumps(game[name]) for name in ("candidates", "associations")}
        writer.writerow({"": i, "cue": game["cue"], **lists, "score_fool_the_ai": 0, "num_candidates": 5, "ID": 7 + i})
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for word, content in pictures.items():
            file.writestr(f"winogavil_images/{word}.jpg", content)
        file.writestr("__MACOSX/winogavil_images/._eagle.jpg", b"junk")
        file.writestr("winogavil_images/unused.jpg", pictures["eagle"])
    return {
        "winogavil_dataset.csv": table.getvalue().encode(),
        "winogavil_images.zip": archive.getvalue(),
        "winogavil.py": b"# a loading script, which `datasets` runs no more\n",
        "README.md": b"",
    }


def check_flickr(root: Path, config: DataConfig, pictures: dict[str, bytes]) -> None:
    split = open_split(config, str(root), "test", None)
    assert [split.images.read(i) for i in range(3)] == list(pictures.values())[:3]
    expected = [[text.replace("\n", " ") for text in texts] for texts in CAPTIONS]
    assert [list(texts) for texts in split.samples.captions] == expected


def check_wino(root: Path, config: DataConfig, pictures: dict[str, bytes]) -> None:
    split = open_split(config, str(root), "test", None)
    read = {key: split.images.read(i) for i, key in enumerate(split.samples.keys)}
    assert read == {word.replace(".", "_"): content for word, content in pictures.items()}
    games = [{k: v for k, v in game.items() if k != "id"} for game in split.samples.instances]
    assert games == json.loads(json.dumps(GAMES).replace("no.1", "no_1"))


def test_flickr_from_the_hubs_parquet(hub, tmp_path, pictures):
    rows = flickr_rows(pictures)
    whole = parquet(rows[:2], tmp_path / "0.parquet"), parquet(rows[2:], tmp_path / "1.parquet")
    files = {
        "TEST/test/0000.parquet": whole[0],
        "TEST/test/0001.parquet": whole[1],
        "TEST/train/0000.parquet": whole[1],
    }
    hub.push(FLICKR, {"images_flickr_1k_test.zip": b"zip", "flickr_1k.py": b"script"})
    commit = hub.push(FLICKR, files, branch="refs/convert/parquet")
    config = DataConfig(folder="flickr", hub=FLICKR, revision="refs/convert/parquet")
    report = download({"flickr": config}, tmp_path, None)
    (row,) = report.rows
    assert (row.status, row.transferred) == ("converted", len(whole[0]) + len(whole[1]))
    check_flickr(tmp_path, config, pictures)
    folder = tmp_path / "flickr"
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        NAME,
        "dataset_type.txt",
        "test/0.tar",
        "test/nshards.txt",
    ]
    assert (folder / "dataset_type.txt").read_text().strip() == "retrieval"
    lock = read_lock(folder)
    assert (lock.form, lock.requested, lock.revision) == ("retrieval", "refs/convert/parquet", commit)
    assert lock.source["TEST/test/0000.parquet"].sha256 == hashlib.sha256(whole[0]).hexdigest()
    hub.requests.clear()
    assert download({"flickr": config}, tmp_path, None).rows[0].status == "reused"
    assert hub.requests == []

    bare = DataConfig(
        folder="again", hub=FLICKR
    )  # no revision: the default branch has a script, the hub has its parquet
    download({"flickr": bare}, tmp_path, None)
    assert (tmp_path / "again/test/0.tar").read_bytes() == (folder / "test/0.tar").read_bytes()


def test_winogavil_from_its_csv_and_zip(hub, tmp_path, pictures):
    hub.push(WINO, wino_files(pictures))
    config = DataConfig(folder="wino", hub=WINO)
    download({"wino": config}, tmp_path, None)
    check_wino(tmp_path, config, pictures)
    folder = tmp_path / "wino"
    assert verify(folder, full=True) == []
    assert json.loads((folder / "test/instances.jsonl").read_text().splitlines()[0])["id"] == 7
    assert not list(folder.glob(".*"))
    with tarfile.open(folder / "test/0.tar") as tar:
        members = tar.getmembers()
    names = ["ash.png", "eagle.jpg", "metal.jpg", "no_1.webp", "tea party.jpg", "teepee.jpg"]
    assert [member.name for member in members] == names  # each once, sorted, the extension that of its bytes
    assert {(member.mtime, member.uid, member.uname) for member in members} == {(0, 0, "")}


def test_a_damaged_conversion_is_made_again_to_the_same_bytes(hub, tmp_path, pictures):
    hub.push(WINO, wino_files(pictures))
    config = DataConfig(folder="wino", hub=WINO)
    download({"wino": config}, tmp_path, None)
    shard = tmp_path / "wino/test/0.tar"
    before, lock = shard.read_bytes(), read_lock(tmp_path / "wino")
    shard.write_bytes(before[:-1])
    hub.push(WINO, wino_files(pictures) | {"more.txt": b""})  # the revision that was recorded is fetched, not this one
    assert download({"wino": config}, tmp_path, None).rows[0].status == "converted"
    assert shard.read_bytes() == before
    assert read_lock(tmp_path / "wino") == lock


def test_a_set_that_was_prepared_elsewhere_is_left_alone(hub, tmp_path, pictures):
    hub.push(WINO, wino_files(pictures))
    config = DataConfig(folder="wino", hub=WINO)
    download({"wino": config}, tmp_path, None)
    (tmp_path / "wino" / NAME).unlink()
    hub.requests.clear()
    (row,) = download({"wino": config}, tmp_path, None).rows
    assert (row.status, hub.body_bytes) == ("reused", 0)
    assert "prepared elsewhere" in row.note


def test_flickr_from_its_csv_and_zip(tmp_path, pictures):
    """The CSV's captions are JSON in one set and Python's spelling in the other."""
    for spell in (json.dumps, repr):
        table, archive = tmp_path / "test_1k_flickr.csv", tmp_path / "images.zip"
        with table.open("w", newline="") as file, zipfile.ZipFile(archive, "w") as images:
            writer = csv.writer(file)
            writer.writerow(["raw", "sentids", "split", "filename", "img_id"])
            for i, row in enumerate(flickr_rows(pictures)):
                images.writestr(f"images_flickr_1k_test/{row['image']['path']}", row["image"]["bytes"])
                writer.writerow([spell(CAPTIONS[i]), "[]", "test", row["image"]["path"], i])
        made = tmp_path / f"made_{spell.__name__}"
        made.mkdir()
        assert convert([table, archive], made) == "retrieval"
        check_flickr(tmp_path, DataConfig(folder=made.name), pictures)


def test_shards_are_cut_at_a_size_and_the_same_content_gives_the_same_bytes(tmp_path):
    rows = [(f"k{i}", image(), [f"caption {i}"]) for i in range(7)]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_retrieval(rows, tmp_path / name, "rows", shard_size=4000)
    shards = sorted((tmp_path / "a/test").glob("*.tar"))
    assert 1 < len(shards) == int((tmp_path / "a/test/nshards.txt").read_text())
    for shard in shards:
        assert shard.read_bytes() == (tmp_path / "b/test" / shard.name).read_bytes()
    keys = [key for i in range(len(shards)) for key in tar_keys(tmp_path / f"a/test/{i}.tar")]
    assert keys == [key for key, _, _ in rows]


def tar_keys(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        return list(dict.fromkeys(name.rsplit(".", 1)[0] for name in tar.getnames()))


def test_names_that_cannot_be_keys_become_row_numbers(tmp_path):
    rows = [(name, image(), "one caption") for name in ("a", "a", "b.c", "", "d/e")]
    write_retrieval(rows, tmp_path, "rows")
    assert tar_keys(tmp_path / "test/0.tar") == ["a", "row0000001", "row0000002", "row0000003", "row0000004"]
    with ShardWriter(tmp_path) as shards:
        shards.add("x", [])
        with pytest.raises(ClipevalError, match="'x' comes twice"):
            shards.add("x", [])


def cache_of(root: Path, pictures: dict[str, bytes], outside: bool) -> Path:
    """DataComp's hf_cache, as `datasets` 2 wrote it: Arrow tables, images inside them or in downloads/extracted."""
    cache = root / "hf_cache"
    extracted = cache / "downloads/extracted/0a1b"
    extracted.mkdir(parents=True)
    for word, content in pictures.items():
        (extracted / f"{word}.jpg").write_bytes(content)

    def planned(word: str) -> dict[str, object]:
        return {"bytes": None if outside else pictures[word], "path": str(extracted / f"{word}.jpg")}

    flickr = [{"image": planned(word), "caption": captions} for word, captions in zip(WORDS, CAPTIONS, strict=False)]
    wino = [
        {**game, "ID": i, "candidate_images": [planned(word) for word in game["candidates"]]}
        for i, game in enumerate(GAMES)
    ]
    one, text = datasets.Image(), datasets.Value("string")
    features = datasets.Features({"image": one, "caption": datasets.List(text)})
    write_cache(cache, FLICKR, flickr, features)
    lists = {
        "candidates": datasets.List(text),
        "associations": datasets.List(text),
        "candidate_images": datasets.List(one),
    }
    write_cache(cache, WINO, wino, datasets.Features({"cue": text, "ID": datasets.Value("int64"), **lists}))
    return cache


def write_cache(cache: Path, hub: str, rows: list[dict[str, object]], features: datasets.Features) -> None:
    name = hub.split("/")[1]
    folder = cache / hub.replace("/", "___") / "TEST/1.1.0/9f8e"
    folder.mkdir(parents=True)
    with ArrowWriter(path=str(folder / f"{name}-test.arrow"), features=features) as writer:
        for row in rows:
            writer.write(row)
        writer.finalize()
    broken = folder.with_name("9f8e.incomplete")  # a preparation that was killed, and a leftover of `map`
    broken.mkdir()
    (broken / f"{name}-test.arrow").write_bytes(b"half")
    (folder / "cache-test.arrow").write_bytes(b"other")


@pytest.mark.parametrize("outside", [False, True])
def test_datacomps_hf_cache_is_converted_without_a_network(tmp_path, monkeypatch, pictures, outside):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody is there
    (tmp_path / "old").mkdir()
    cache_of(tmp_path / "old", pictures, outside)
    root = tmp_path / "new"
    shutil.move(tmp_path / "old", root)  # the absolute paths in the tables are no longer true
    tasks = {
        "flickr": DataConfig(folder="flickr", hub=FLICKR, revision="refs/convert/parquet"),
        "wino": DataConfig(folder="wino", hub=WINO),
    }
    report = download(tasks, root, None)
    assert [(row.status, row.transferred, row.note) for row in report.rows] == [
        ("converted", 0, "from hf_cache; its revision is unknown")
    ] * 2
    check_flickr(root, tasks["flickr"], pictures)
    check_wino(root, tasks["wino"], pictures)
    assert read_lock(root / "flickr").revision is None
    assert [row.status for row in download(tasks, root, None).rows] == ["reused", "reused"]
    (root / "wino/test/0.tar").unlink()
    assert [row.status for row in download(tasks, root, None).rows] == ["reused", "converted"]


def test_the_converters_command(tmp_path, pictures, capsys):
    cache = cache_of(tmp_path, pictures, outside=True)
    assert main([str(cache), WINO, str(tmp_path / "wino")]) == 0
    assert "association" in capsys.readouterr().out
    check_wino(tmp_path, DataConfig(folder="wino"), pictures)
    assert main([]) == 2
    assert main([str(cache), "org/other", str(tmp_path / "other")]) == 1
    assert "holds no test split of org/other" in capsys.readouterr().err
    shutil.rmtree(cache / "downloads")
    with pytest.raises(ClipevalError, match=r"points to .*downloads/extracted/.* which is gone"):
        convert_cached(cache, WINO, tmp_path / "third")


def test_sources_that_are_not_what_was_expected(hub, tmp_path, pictures):
    files = wino_files(pictures)
    broken = {
        "image": (
            files | {"winogavil_images.zip": zip_of({"a/eagle.jpg": pictures["eagle"]})},
            "no image for the candidate 'ash'",
        ),
        "zip": (files | {"winogavil_images.zip": b"not a zip"}, "is not a whole zip"),
        "columns": (files | {"winogavil_dataset.csv": b"a,b\n1,2\n"}, "were expected; there are a, b"),
        "list": (
            files | {"winogavil_dataset.csv": b"cue,candidates,associations\nx,oops,[]\n"},
            "row 0: 'oops' is no list",
        ),
        "rows": (files | {"winogavil_dataset.csv": b"cue,candidates,associations\n"}, "holds no row"),
        "two": (files | {"b.zip": b""}, "one zip of images, were expected"),
        "parquet": ({"test.parquet": b"PAR1"}, "is not a parquet file"),
        "kind": (
            files | {"winogavil_images.zip": zip_of({f"{w}.jpg": b"GIF89a" for w in WORDS})},
            "are no JPEG, PNG or WebP",
        ),
    }
    for name, (content, message) in broken.items():
        hub.push(f"org/{name}", content)
        with pytest.raises(DownloadError, match=message):
            download({name: DataConfig(folder=name, hub=f"org/{name}")}, tmp_path, None)
        assert not (tmp_path / name / "test").exists()
        assert not (tmp_path / name / NAME).exists()
    hub.push("org/large", {"a/partial-test/0000.parquet": b""})
    with pytest.raises(DownloadError, match="conversion is partial"):
        download({"large": DataConfig(folder="large", hub="org/large")}, tmp_path, None)
    for rows, message in (
        ([], "holds no row"),
        ([{"text": "x"}], "there are text"),
        ([{"image": {"bytes": image(), "path": None}, "caption": []}], "the image has no caption"),
        ([{"image": None, "caption": ["x"]}], "there is no image"),
        ([{"image": {"bytes": None, "path": "a.jpg"}, "caption": ["x"]}], r"has but its path \(a.jpg\)"),
    ):
        with pytest.raises(ClipevalError, match=message):
            convert_rows(rows, tmp_path / "rows", "rows")


def zip_of(files: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return archive.getvalue()


def test_a_hub_set_of_ones_own_is_kept_as_parquet(hub, tmp_path, pictures):
    rows = [{"image": {"bytes": content, "path": None}, "label": i % 2} for i, content in enumerate(pictures.values())]
    content = parquet(rows, tmp_path / "0.parquet")
    hub.push("me/mine", {"data/test-00000-of-00001.parquet": content, "README.md": b"x"})
    config = DataConfig(kind="huggingface", folder="mine", hub="me/mine", label="label", numeric_classnames=True)
    (row,) = download({"mine": config}, tmp_path, None).rows
    assert (row.status, row.files) == ("fetched", 1)
    assert read_lock(tmp_path / "mine").form == "files"
    split = open_split(config, str(tmp_path), "test", None)
    assert [split.images.read(i) for i in range(6)] == list(pictures.values())


def test_a_hub_id_alone_is_fetched_below_the_data_root(hub, tmp_path, pictures, monkeypatch):
    def rows(first: int, last: int) -> bytes:
        table = [
            {"image": {"bytes": content, "path": None}, "label": i % 2}
            for i, content in enumerate(list(pictures.values())[first:last])
        ]
        return parquet(table, tmp_path / "rows.parquet")

    files = {"data/test-0.parquet": rows(0, 4), "data/train-0.parquet": rows(4, 6), "README.md": b"x"}
    hub.push("me/mine", files)
    config = DataConfig(kind="huggingface", hub="me/mine", label="label", numeric_classnames=True)
    root = tmp_path / "root"
    wanted = {"mine": ("test",)}
    assert config.location(str(root)) == Path("me/mine")  # from the hub, as long as it is not on the disk
    (row,) = download({"mine": config}, root, None, splits=wanted).rows
    assert (row.status, row.files, row.location) == ("fetched", 1, str(root / "me--mine"))
    assert not (root / "me--mine" / "data" / "train-0.parquet").exists()
    hub.requests.clear()
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, lambda *_: pytest.fail("a socket was used"))
    split = open_split(config, str(root), "test", None)
    assert [split.images.read(i) for i in range(4)] == list(pictures.values())[:4]
    assert download({"mine": config}, root, None, splits=wanted).rows[0].status == "reused"
    assert hub.requests == []
    shard = root / "me--mine" / "data" / "test-0.parquet"
    shard.write_bytes(files["data/test-0.parquet"][:-1] + b"0")
    with pytest.raises(ClipevalError, match=r"test-0\.parquet is not what was downloaded"):
        open_split(config, str(root), "test", None)


def test_a_hub_id_without_a_data_root_is_left_to_datasets(hub, tmp_path):
    (row,) = download({"hf": DataConfig(kind="huggingface", hub="me/mine")}, None, None).rows
    assert row.status == "local"
    assert "data.root=PATH" in row.note
    assert hub.requests == []


@pytest.mark.parametrize(("limit", "shards"), [(1, [[0], [1], [2]]), (3000, [[0, 1], [2]]), (10**9, [[0, 1, 2]])])
def test_shards_have_the_bytes_that_they_always_had(tmp_path, limit, shards):
    """Their digests are in locks and fingerprints: GNU's form, no time, no owner, members in the order given."""
    samples = [(key, [("webp", bytes(900)), ("txt", f"{key}\n".encode())]) for key in ("a", "b" * 150, "\N{DOG} 50%d")]
    with ShardWriter(tmp_path / "50%d off", limit=limit) as writer:
        for key, members in samples:
            writer.add(key, members)
    folder = tmp_path / "50%d off" / "test"
    assert sorted(path.name for path in folder.iterdir()) == [*(f"{i}.tar" for i in range(len(shards))), "nshards.txt"]
    assert (folder / "nshards.txt").read_text() == str(len(shards))
    for number, inside in enumerate(shards):
        expected = io.BytesIO()
        with tarfile.open(fileobj=expected, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for key, members in (samples[i] for i in inside):
                for extension, content in members:
                    header = tarfile.TarInfo(f"{key}.{extension}")
                    header.size = len(content)
                    tar.addfile(header, io.BytesIO(content))
        assert (folder / f"{number}.tar").read_bytes() == expected.getvalue()
