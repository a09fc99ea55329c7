"""`cache.pixels=true`: the second model decodes nothing; damage, races, full disks and unreadable images change no pixel."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from clipeval.cli.cache import list_entries, prune
from clipeval.cli.main import main
from clipeval.configs.errors import ClipevalError
from clipeval.decoding.decoders import DecodeJob, Decoders
from clipeval.engine.features import FeatureSpec, FeatureStores
from clipeval.engine.runner import RunOptions
from clipeval.engine.stream import StreamOptions
from clipeval.preprocess.transforms import CustomTransform, Preprocess
from clipeval.stores import pixels
from clipeval.stores.pixels import CHUNK, PixelStore
from scripts.make_miniature import facts, write_set
from scripts.tiny_model import write_tiny_model
from tests.preprocess.test_device_resize import Pictures

CPU = torch.device("cpu")
PREPROCESS = Preprocess((24, 16))


class Good(Pictures):
    """As Pictures, all of which can be read; counts how often, over all processes."""

    def __init__(self) -> None:
        self.reads = multiprocessing.Value("q", 0)

    def read(self, position: int) -> bytes:
        with self.reads.get_lock():
            self.reads.value += 1
        return super().read(position if position % 11 != 5 else position + 100)


def options(root: Path | None, fast: bool = False) -> RunOptions:
    return RunOptions(CPU, "fp32", False, StreamOptions(0, None, fast=fast), root)


def store_of(root: Path, images: Any, preprocess: Any = PREPROCESS, fast: bool = False, **more: Any) -> PixelStore:
    need: Any = SimpleNamespace(images=images, convert="rgb_first", **more)
    store = options(root, fast).pixel_store(preprocess, need, "some")
    assert store is not None
    return store


def decode(
    root: Path | None, images: Any, positions: np.ndarray | None = None, workers: int = 0
) -> tuple[dict[int, torch.Tensor], list[str]]:
    """Every image's pixels, and what could not be read."""
    positions = np.arange(len(images)) if positions is None else positions
    store = None if root is None else store_of(root, images)
    decoders = Decoders(
        [DecodeJob("some", images, positions, "rgb_first", False, kept=store)], PREPROCESS, False, workers, CPU
    )
    found: dict[int, torch.Tensor] = {}
    failures = []
    try:
        for decoded in decoders:
            assert len(decoded.indices) == len(decoded.pixels)
            found.update(zip(decoded.indices.tolist(), decoded.pixels.clone(), strict=True))
            failures += [reason for _, reason in decoded.failures]
    finally:
        decoders.close()
    return found, failures


def same(one: dict[int, torch.Tensor], other: dict[int, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.filterwarnings("ignore:This DataLoader")
@pytest.mark.parametrize("workers", [0, 2, 3])
def test_what_was_decoded_once_is_not_decoded_again(tmp_path: Path, workers: int) -> None:
    wanted, _ = decode(None, Good())
    images = Good()
    first, _ = decode(tmp_path, images, workers=workers)
    assert images.reads.value == len(images)
    second, _ = decode(tmp_path, images, workers=workers)
    assert images.reads.value == len(images)
    assert same(first, wanted) and same(second, wanted)
    for order in (np.array([3, 4, 40, 41, 99]), np.arange(99, -1, -1), np.arange(CHUNK)[::-1]):
        some, _ = decode(tmp_path, images, order, workers)
        assert images.reads.value == len(images) and same(some, {int(i): wanted[int(i)] for i in order})


def test_another_order_is_not_kept(tmp_path: Path) -> None:
    images = Good()
    found, _ = decode(tmp_path, images, np.arange(99, -1, -1))
    assert store_of(tmp_path, images).files() == {}
    assert {int(i): found[i].sum() for i in found} == {i: row.sum() for i, row in decode(None, images)[0].items()}


def test_a_part_of_a_file_is_decoded_and_not_kept(tmp_path: Path) -> None:
    images = Good()
    decode(tmp_path, images, np.arange(10, 3 * CHUNK))
    assert set(store_of(tmp_path, images).files()) == {1, 2}
    before = images.reads.value
    found, _ = decode(tmp_path, images)
    assert images.reads.value - before == len(images) - 2 * CHUNK
    assert same(found, decode(None, Good())[0])
    assert set(store_of(tmp_path, images).files()) == {0, 1, 2, 3}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-7] ^= 64
    path.write_bytes(data)


def swap(path: Path) -> None:
    """Under another's number: whole, and not what it is taken for."""
    other = next(p for p in path.parent.glob("1-*.npy"))
    path.write_bytes(other.read_bytes())
    path.rename(path.with_name(f"0-{other.stem.partition('-')[2]}.npy"))


DAMAGES = {
    "a bit": flip,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not an array"),
    "header alone": lambda path: path.write_bytes(path.read_bytes()[:128]),
    "zeros": lambda path: path.write_bytes(path.read_bytes()[:128] + bytes(path.stat().st_size - 128)),
    "another shape": lambda path: np.save(path, np.zeros((CHUNK, 3, 16, 24), np.uint8)),
    "objects": lambda path: np.save(path, np.array([{}], dtype=object), allow_pickle=True),
    "another's": swap,
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_damage_is_noticed_and_mended(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = Good()
    wanted, _ = decode(tmp_path, images)
    path = store_of(tmp_path, images).files()[0]
    DAMAGES[damage](path)
    before = images.reads.value
    found, _ = decode(tmp_path, images)
    assert same(found, wanted) and images.reads.value == before + CHUNK
    assert caplog.text.count("damaged") == 1
    assert same(decode(tmp_path, images)[0], wanted) and images.reads.value == before + CHUNK
    assert sorted(store_of(tmp_path, images).files()) == [0, 1, 2, 3] and len(list(path.parent.glob("*.npy"))) == 4


def test_what_a_killed_writer_left_is_not_read(tmp_path: Path) -> None:
    images = Good()
    store = store_of(tmp_path, images)
    store.folder.mkdir(parents=True)
    (store.folder / ".0-12345678.npy.77.abcd.tmp").write_bytes(b"\x93NUMPY half")
    assert store.files() == {}
    assert same(decode(tmp_path, images)[0], decode(None, Good())[0])


def test_a_store_that_is_pruned_meanwhile_is_decoded(tmp_path: Path) -> None:
    images = Good()
    wanted, _ = decode(tmp_path, images)
    store = store_of(tmp_path, images)
    decoders = Decoders(
        [DecodeJob("some", images, np.arange(100), "rgb_first", False, kept=store)], PREPROCESS, False, 0, CPU
    )
    assert len(prune(tmp_path, 0)) == 1
    found = {int(p): row.clone() for d in decoders for p, row in zip(d.indices, d.pixels, strict=True)}
    assert same(found, wanted)


def test_files_with_an_image_that_cannot_be_read_are_not_kept(tmp_path: Path) -> None:
    class Late(Good):
        def read(self, position: int) -> bytes:
            return b"no image" if position == 40 else super().read(position)

    images = Late()
    first = decode(tmp_path, images)
    second = decode(tmp_path, images)
    assert set(store_of(tmp_path, images).files()) == {0, 2, 3}
    assert first[1] == second[1] and len(first[1]) == 1 and "picture 40" in first[1][0]
    assert same(first[0], second[0]) and len(first[0]) == 99


def test_a_full_disk_ends_the_keeping_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*given: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(given[0]))

    monkeypatch.setattr(pixels, "write_atomically", full)
    assert same(decode(tmp_path, Good())[0], decode(None, Good())[0])
    assert caplog.text.count("not all pixels are kept") == 1 and "No space left" in caplog.text


def test_two_processes_fill_one_store(tmp_path: Path) -> None:
    images = Good()
    context = multiprocessing.get_context("fork")
    fillers = [context.Process(target=decode, args=(tmp_path, images)) for _ in range(3)]
    for filler in fillers:
        filler.start()
    for filler in fillers:
        filler.join()
    assert [filler.exitcode for filler in fillers] == [0, 0, 0]
    before = images.reads.value
    assert same(decode(tmp_path, images)[0], decode(None, Good())[0]) and images.reads.value == before
    names = sorted(path.name for path in store_of(tmp_path, images).folder.iterdir())
    assert len(names) == 5 and names[-1] == "parts.json"


def test_models_share_what_their_pixels_have_in_common(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = Good()
    plain = store_of(tmp_path, images).folder
    assert store_of(tmp_path, images, Preprocess((24, 16), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))).folder == plain
    others = [Preprocess((16, 24)), Preprocess((24, 16), interpolation="bilinear")]
    others += [Preprocess((24, 16), resize_mode="squash"), Preprocess((24, 16), fill_color=1)]
    folders = {store_of(tmp_path, images, other).folder for other in others}
    folders.add(store_of(tmp_path, images, fast=True).folder)
    monkeypatch.setattr(pixels.PIL, "__version__", "0.0")
    folders.add(store_of(tmp_path, images).folder)
    images.digest = "other pictures"
    folders.add(store_of(tmp_path, images).folder)
    assert len({plain, *folders}) == 8
    custom = CustomTransform(lambda image: None, "digest", "a function")
    need = FeatureSpec({"a": 1}, images, "rgb_first", False, "embeddings")
    assert options(tmp_path).pixel_store(custom, need, "some") is None
    planned: Any = SimpleNamespace(features={"test": need}, task=SimpleNamespace(name="some"))
    assert options(tmp_path).pixel_growth([planned], custom, FeatureStores(None)) == 0


def test_the_growth_is_what_the_files_then_take(tmp_path: Path) -> None:
    images = Good()
    need = FeatureSpec({"a": 1}, images, "rgb_first", False, "embeddings")
    planned: Any = SimpleNamespace(features={"test": need, "again": need}, task=SimpleNamespace(name="some"))
    assert options(tmp_path).pixel_growth([planned], PREPROCESS, FeatureStores(None)) == 100 * 3 * 24 * 16
    decode(tmp_path, images, np.arange(CHUNK))
    assert (
        options(tmp_path).pixel_growth([planned, planned], PREPROCESS, FeatureStores(None))
        == (100 - CHUNK) * 3 * 24 * 16
    )
    decode(tmp_path, images)
    assert options(tmp_path).pixel_growth([planned], PREPROCESS, FeatureStores(None)) == 0
    size = sum(path.stat().st_size for path in store_of(tmp_path, images).folder.glob("*.npy"))
    assert 100 * 3 * 24 * 16 <= size <= 100 * 3 * 24 * 16 + 4 * 200
    assert options(None).pixel_growth([planned], PREPROCESS, FeatureStores(None)) == 0


COUNT = 70


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    fact = next(fact for fact in facts() if fact.key == "mnist")
    write_set(root / fact.folder, fact, COUNT, 40, 1, np.random.default_rng(0))
    return root


def words(folder: Path, data: Path, model: str, *more: str, command: str = "run") -> list[str]:
    common = [f"data.root={data}", f"cache.root={folder / 'cache'}", "runtime.workers=0", "runtime.device=cpu"]
    named = ["suite=none", "+task@tasks.mnist=mnist", "model=open_clip", f"model.name={model}"]
    return [command, *named, *common, *more]


def record(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "records" / "mnist.json").read_text())
    return {key: found[key] for key in ("metrics", "fingerprint", "samples", "flags")}


def test_the_command_line_says_fills_lists_and_prunes(
    tmp_path: Path, data: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (write_tiny_model(tmp_path / name, seed=seed) for name, seed in (("one", 1), ("two", 2)))
    size = COUNT * 3 * 32 * 32
    for model in (one, two):
        out = f"out={tmp_path / 'plain' / model[-3:]}"
        assert main(words(tmp_path / "other", data, model, out)) == 0
    capfd.readouterr()
    assert main(words(tmp_path, data, one, "cache.pixels=true", command="plan")) == 0
    said = capfd.readouterr().out
    assert f"cache.pixels: {size / 1000:.1f} kB of resized pixels to keep" in said and "has room for" in said
    assert not (tmp_path / "cache" / "pixels").exists()
    assert main(words(tmp_path, data, one, "cache.pixels=true", f"out={tmp_path / 'one_run'}")) == 0
    assert f"cache.pixels: {size / 1000:.1f} kB of resized pixels will be kept" in capfd.readouterr().err
    # What the check of a model, which looks at pictures of its own, has found of the second one.
    shutil.copytree(tmp_path / "other" / "cache" / "checks", tmp_path / "cache" / "checks", dirs_exist_ok=True)
    with monkeypatch.context() as patch:  # the second model of this size decodes nothing
        patch.setattr(Preprocess, "pixels", lambda *given: 1 / 0)
        assert main(words(tmp_path, data, two, "cache.pixels=true", f"out={tmp_path / 'two_run'}")) == 0
        assert "will be kept" not in capfd.readouterr().err
    for name, model in (("one_run", one), ("two_run", two)):
        assert record(tmp_path / name) == record(tmp_path / "plain" / model[-3:])
    entries = {entry.kind: entry for entry in list_entries(tmp_path / "cache")}
    assert size <= entries["pixels"].bytes <= size + 3000
    assert main(["cache", "--root", str(tmp_path / "cache")]) == 0
    said = capfd.readouterr().out
    assert "pixels" in said and "32x32" in said
    os.utime(entries["pixels"].path / "parts.json", (1, 1))
    for path in entries["pixels"].path.glob("*.npy"):
        os.utime(path, (1, 1))
    assert main(["cache", "prune", "--keep", "200kB", "--root", str(tmp_path / "cache")]) == 0
    assert not list((tmp_path / "cache" / "pixels").iterdir()) and list((tmp_path / "cache" / "images").iterdir())


def test_too_small_a_disk_is_said_before_anything_is_written(
    tmp_path: Path, data: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_tiny_model(tmp_path / "model")
    monkeypatch.setattr(pixels, "free_bytes", lambda root: 1000)
    assert main(words(tmp_path, data, model, "cache.pixels=true", f"out={tmp_path / 'run'}")) == 1
    said = capfd.readouterr().err
    assert "cache.pixels=true would keep" in said and "clipeval cache prune" in said
    assert not (tmp_path / "cache" / "pixels").exists() and not (tmp_path / "run" / "records").exists()
    with pytest.raises(ClipevalError, match="room for"):
        pixels.check_room(tmp_path, 1001)


@pytest.mark.parametrize("how", ["exact", "fast"])
def test_who_resizes_and_what_is_kept_change_no_record(tmp_path: Path, data: Path, how: str) -> None:
    model = write_tiny_model(tmp_path / "model")
    found = []
    for number, more in enumerate((["runtime.resize=workers"], ["runtime.resize=device"], ["cache.pixels=true"])):
        out = [f"out={tmp_path / str(number)}", "cache.features=false", f"runtime.preprocess={how}"]
        assert main(words(tmp_path, data, model, *out, *more)) == 0
        found.append(record(tmp_path / str(number)))
    assert found[0] == found[1] == found[2]
