"""The readers: every layout, against what webdataset, tarfile and Pillow say of the same files; every fault, one clear error."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from clip_benchmark.datasets.builder import build_wds_dataset
from PIL import Image

from clipeval.configs.errors import ClipevalError
from clipeval.data import DataConfig, open_split
from clipeval.data.images import FileImages
from clipeval.data.subset import take
from clipeval.tasks import Samples
from scripts.make_miniature import picture


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def array_bytes(values: list[int]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(values))
    return buffer.getvalue()


def write_set(root: Path, samples: int = 12, shards: int = 2, classes: tuple[str, ...] = ("cat", "", "dog")) -> Path:
    """A classification set of mixed codecs, with metadata of three values a sample."""
    folder = root / "wds_pets"
    rng = np.random.default_rng(3)
    for shard in range(shards):
        members = []
        for i in range(shard, samples, shards):
            extension, data = picture(i, 40, rng)
            members += [(f"s{i:04d}.cls", str(i % len(classes)).encode()), (f"s{i:04d}.{extension}", data)]
            members += [(f"s{i:04d}.npy", array_bytes([i % 2, 7, i]))]
        write_tar(folder / "test" / f"{shard}.tar", members)
    (folder / "test" / "nshards.txt").write_text(f"{shards}\n")
    (folder / "classnames.txt").write_text("".join(f"{c} \n" for c in classes))
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\nart of a {c}.\n")
    return folder


def config(**values: object) -> DataConfig:
    return DataConfig(**{"folder": "wds_pets", **values})  # type: ignore[arg-type]


def test_reads_what_clip_benchmark_reads(tmp_path: Path) -> None:
    folder = write_set(tmp_path)
    split = open_split(config(samples=12, classes=3), str(tmp_path), "test", None)
    theirs = build_wds_dataset("wds/pets", lambda image: np.asarray(image.convert("RGB")), "test", str(folder))
    pairs = list(theirs)
    assert len(pairs) == len(split.images) == 12
    assert list(split.samples.classnames) == theirs.classes == ["cat", "", "dog"]
    assert list(split.samples.templates) == theirs.templates
    assert split.samples.labels is not None
    assert split.samples.labels.tolist() == [label for _, label in pairs]
    for position, (pixels, _) in enumerate(pairs):
        ours = Image.open(io.BytesIO(split.images.read(position))).convert("RGB")
        assert np.array_equal(np.asarray(ours), pixels)
    assert split.flags == ()


def test_random_access_equals_tarfile_and_survives_pickling(tmp_path: Path) -> None:
    folder = write_set(tmp_path, samples=9, shards=3)
    images = pickle.loads(pickle.dumps(open_split(config(), str(tmp_path), "test", None).images))  # noqa: S301
    assert isinstance(images, FileImages)
    expected = []
    for shard in range(3):
        with tarfile.open(folder / "test" / f"{shard}.tar") as tar:
            expected += [tar.extractfile(m).read() for m in tar if m.name.split(".")[1] not in ("cls", "npy")]  # type: ignore[union-attr]
    for position in reversed(range(9)):
        assert images.read(position) == expected[position]


def test_metadata_takes_named_fields_and_one_value_more_is_fine(tmp_path: Path) -> None:
    write_set(tmp_path)
    split = open_split(config(fields=("region", "year")), str(tmp_path), "test", None)
    order = [i for shard in range(2) for i in range(shard, 12, 2)]
    assert split.samples.metadata["region"].tolist() == [i % 2 for i in order]
    assert split.samples.metadata["year"].tolist() == [7] * 12
    with pytest.raises(ClipevalError, match=r"'s0000'.*3 of the 4 values.*a, b, c, d"):
        open_split(config(fields=tuple("abcd")), str(tmp_path), "test", None)


def test_counts_other_than_the_facts_are_flagged_and_strict_is_an_error(tmp_path: Path) -> None:
    write_set(tmp_path)
    expected = config(samples=6085, classes=102)
    split = open_split(expected, str(tmp_path), "test", None)
    assert split.flags == ("12 samples, where the full set has 6,085", "3 classes, where the full set has 102")
    with pytest.raises(ClipevalError, match=r"12 samples.*strict"):
        open_split(expected, str(tmp_path), "test", None, strict=True)


def test_index_is_kept_and_damage_to_it_is_noticed(tmp_path: Path) -> None:
    write_set(tmp_path)
    cache = tmp_path / "cache"
    first = open_split(config(), str(tmp_path), "test", cache)
    entries = sorted(cache.glob("*.npz"))
    assert len(entries) == 2
    changed = [p.stat().st_mtime_ns for p in entries]
    assert open_split(config(), str(tmp_path), "test", cache).digest == first.digest
    assert [p.stat().st_mtime_ns for p in entries] == changed
    entries[0].write_bytes(entries[0].read_bytes()[:-200])
    assert open_split(config(), str(tmp_path), "test", cache).digest == first.digest


def test_digest_covers_pixels_labels_and_class_names(tmp_path: Path) -> None:
    folder = write_set(tmp_path)
    before = open_split(config(), str(tmp_path), "test", None).digest
    (folder / "classnames.txt").write_text("cat\n\nhound\n")
    assert open_split(config(), str(tmp_path), "test", None).digest != before
    write_set(tmp_path, classes=("cat", "", "dog"))
    assert open_split(config(), str(tmp_path), "test", None).digest == before
    tar = folder / "test" / "0.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(bytes(data))
    assert open_split(config(), str(tmp_path), "test", None).digest != before


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda f: (f / "test" / "1.tar").unlink(), r"nshards.txt says 2 shards, and 1.tar missing.*clipeval download"),
        (lambda f: (f / "test" / "nshards.txt").write_text("two"), "'two'; the number of shards"),
        (
            lambda f: (f / "test" / "0.tar").write_bytes((f / "test" / "0.tar").read_bytes()[:3000]),
            r"0\.tar is not a whole tar.*clipeval download",
        ),
        (lambda f: (f / "test" / "0.tar").write_bytes(b"not a tar" * 500), r"0\.tar is not a whole tar"),
        (lambda f: (f / "test" / "0.tar").write_bytes(b""), r"0\.tar is not a whole tar"),
        (lambda f: (f / "classnames.txt").write_text("cat\n"), r"'s0002' has label 2.*1 classes.*8 samples"),
        (
            lambda f: (f / "classnames.txt").write_bytes("caf\xe9\n".encode("latin-1")),
            "classnames.txt, line 1: not utf-8",
        ),
        (lambda f: write_tar(f / "test" / "0.tar", [("a.cls", b"0")]), "label or caption without an image"),
        (
            lambda f: write_tar(f / "test" / "0.tar", [("a.png", b"x"), ("a.jpg", b"y")]),
            "two members of the kind image",
        ),
        (lambda f: write_tar(f / "test" / "0.tar", [("a.png", b"x"), ("a.cls", b"one")]), "'one' for a label"),
        (lambda f: write_tar(f / "test" / "0.tar", [("a.png", b"x")]), "'a': the image has no cls member"),
        (lambda f: write_tar(f / "test" / "0.tar", [("a.png", b"x"), ("a.npy", b"junk")]), "npy member is not a plain"),
    ],
)
def test_one_clear_error(tmp_path: Path, fault: object, message: str) -> None:
    folder = write_set(tmp_path)
    fault(folder)  # type: ignore[operator]
    with pytest.raises(ClipevalError, match=message):
        open_split(config(), str(tmp_path), "test", None)


def test_a_pickle_among_the_members_is_never_opened(tmp_path: Path) -> None:
    trap = b"cos\nsystem\n(S'touch " + str(tmp_path / "trapped").encode() + b"'\ntR."
    npy = io.BytesIO()
    np.save(npy, np.array([{"a": 1}], dtype=object), allow_pickle=True)  # how an attacker would pack it
    _, image = picture(0, 20, np.random.default_rng(0))
    folder = write_set(tmp_path, shards=1)
    write_tar(folder / "test" / "0.tar", [("a.webp", image), ("a.cls", b"0"), ("a.pyd", trap), ("a.pkl", trap)])
    assert len(open_split(config(), str(tmp_path), "test", None).images) == 1
    write_tar(folder / "test" / "0.tar", [("a.webp", image), ("a.cls", b"0"), ("a.npy", npy.getvalue())])
    with pytest.raises(ClipevalError, match="not a plain array"):
        open_split(config(), str(tmp_path), "test", None)
    assert not (tmp_path / "trapped").exists()


def test_names_that_climb_out_stay_names(tmp_path: Path) -> None:
    _, image = picture(0, 20, np.random.default_rng(0))
    folder = write_set(tmp_path, shards=1)
    members = [("../../evil.webp", image), ("../../evil.cls", b"0"), ("/abs/x.webp", image), ("/abs/x.cls", b"1")]
    write_tar(folder / "test" / "0.tar", members)
    split = open_split(config(), str(tmp_path), "test", None)
    assert len(split.images) == 2
    assert not (tmp_path.parent / "evil.webp").exists()


def test_captions_multilabel_and_instances(tmp_path: Path) -> None:
    _, image = picture(0, 20, np.random.default_rng(0))
    folder = tmp_path / "wds_pets"
    write_tar(
        folder / "test" / "0.tar", [("a.webp", image), ("a.txt", b"one\ntwo\n"), ("b.webp", image), ("b.txt", b"three")]
    )
    (folder / "test" / "nshards.txt").write_text("1")
    (folder / "dataset_type.txt").write_text("retrieval\n")
    assert open_split(config(), str(tmp_path), "test", None).samples.captions == [["one", "two"], ["three"]]
    write_tar(folder / "test" / "0.tar", [("a.webp", image), ("a.txt", b"one"), ("b.webp", image)])
    with pytest.raises(ClipevalError, match="'b': the image has no txt member"):
        open_split(config(), str(tmp_path), "test", None)

    (folder / "dataset_type.txt").write_text("multilabel")
    (folder / "classnames.txt").write_text("x\ny\n")
    write_tar(folder / "test" / "0.tar", [("a.webp", image), ("a.npy", array_bytes([1, 0]))])
    assert open_split(config(), str(tmp_path), "test", None).samples.labels.tolist() == [[1, 0]]  # type: ignore[union-attr]

    (folder / "dataset_type.txt").write_text("association")
    question = {"id": 1, "cue": "ice", "candidates": ["a"], "associations": ["a"]}
    (folder / "test" / "instances.jsonl").write_text(json.dumps(question) + "\n")
    split = open_split(config(samples=1), str(tmp_path), "test", None)
    assert split.samples.instances == [question]
    (folder / "test" / "instances.jsonl").write_text("{")
    with pytest.raises(ClipevalError, match="line 1: not JSON"):
        open_split(config(), str(tmp_path), "test", None)


def test_table_beside_the_shards(tmp_path: Path) -> None:
    folder = write_set(tmp_path, samples=3, shards=1)
    (folder / "test" / "samples.csv").write_text("key,kind,note\ns0002,b,z\ns0000,a,x\ns0001,b,y\n")
    split = open_split(config(label="kind", classnames=()), str(tmp_path), "test", None)
    assert split.samples.classnames == ["a", "b"]
    assert split.samples.labels.tolist() == [0, 1, 1]  # type: ignore[union-attr]
    assert split.samples.metadata["note"].tolist() == ["x", "y", "z"]
    captions = open_split(config(caption="note"), str(tmp_path), "test", None).samples.captions
    assert captions == [["x"], ["y"], ["z"]]
    with pytest.raises(ClipevalError, match=r"'kinds'\. Did you mean: kind"):
        open_split(config(label="kinds"), str(tmp_path), "test", None)
    (folder / "test" / "samples.csv").write_text("key,kind\ns0002,b\n")
    with pytest.raises(ClipevalError, match="key 's0000': no row for the image"):
        open_split(config(label="kind"), str(tmp_path), "test", None)


def test_folder_of_classes(tmp_path: Path) -> None:
    for name in ("red_fox", "owl"):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / name / f"{i}.png")
    (tmp_path / "owl" / "notes.txt").write_text("not a picture")
    split = open_split(DataConfig(kind="folder", path=str(tmp_path)), None, "test", None)
    assert split.samples.classnames == ["owl", "red fox"]
    assert split.samples.keys == ["owl/0.png", "owl/1.png", "red_fox/0.png", "red_fox/1.png"]
    assert split.samples.labels.tolist() == [0, 0, 1, 1]  # type: ignore[union-attr]
    assert split.images.read(2) == (tmp_path / "red_fox" / "0.png").read_bytes()
    with pytest.raises(ClipevalError, match="holds no picture in a class folder"):
        open_split(DataConfig(kind="folder", path=str(tmp_path / "owl")), None, "test", None)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_pictures_with_captions_in_a_table(tmp_path: Path, suffix: str) -> None:
    for name in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    table = tmp_path / f"captions.{suffix}"
    if suffix == "csv":
        table.write_text("image,caption\na.png,one\nb.png,three\na.png,two\n")
    else:
        table.write_text('{"image": "a.png", "caption": ["one", "two"]}\n{"image": "b.png", "caption": "three"}\n')
    data = DataConfig(kind="table", path=str(table), caption="caption")
    split = open_split(data, None, "test", None)
    assert split.samples.captions == [["one", "two"], ["three"]]
    assert len(split.images) == 2
    (tmp_path / "b.png").unlink()
    with pytest.raises(ClipevalError, match=r"line \d: .*b\.png.* does not exist"):
        open_split(data, None, "test", None)


def test_hugging_face_parquet(tmp_path: Path) -> None:
    import datasets

    pictures = [Image.fromarray(np.full((6, 6, 3), i * 40, dtype=np.uint8)) for i in range(4)]
    features = datasets.Features(
        {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["x", "y"]), "n": datasets.Value("int64")}
    )
    rows = datasets.Dataset.from_dict({"picture": pictures, "kind": [0, 1, 1, 0], "n": [5, 6, 7, 8]}, features=features)
    rows.to_parquet(str(tmp_path / "test-00000.parquet"))
    data = DataConfig(kind="huggingface", path=str(tmp_path), image="picture", label="kind")
    split = open_split(data, None, "test", None)
    assert split.samples.classnames == ["x", "y"]
    assert split.samples.labels.tolist() == [0, 1, 1, 0]  # type: ignore[union-attr]
    assert split.samples.metadata["n"].tolist() == [5, 6, 7, 8]
    for i in range(4):
        assert np.asarray(Image.open(io.BytesIO(split.images.read(i))))[0, 0, 0] == i * 40
    with pytest.raises(ClipevalError, match="'labels'"):
        open_split(
            DataConfig(kind="huggingface", path=str(tmp_path), image="picture", label="labels"), None, "test", None
        )


def test_take_of_a_set_without_metadata(tmp_path: Path) -> None:
    samples = Samples(keys=["a", "b", "c"], labels=np.array([0, 1, 0]), classnames=["x", "y"])
    assert take(samples, np.array([2])).labels.tolist() == [0]  # type: ignore[union-attr]


def test_take_drops_questions_with_their_images(tmp_path: Path) -> None:
    write_set(tmp_path, samples=4, shards=1)
    samples = open_split(config(fields=("a",)), str(tmp_path), "test", None).samples
    left = take(samples, np.array([0, 2]))
    assert left.keys == ["s0000", "s0002"]
    assert left.labels.tolist() == [0, 2]  # type: ignore[union-attr]
    assert len(left.metadata) == 2
