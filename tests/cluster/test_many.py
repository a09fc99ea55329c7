"""Many checkpoints over one decoding: each as if it had been run alone; a training run watched as it goes."""

from __future__ import annotations

import csv
import json
import multiprocessing
import pickle
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clipeval.cli.main import main
from clipeval.cluster import local
from clipeval.cluster.checkpoint_files import checkpoints, natural, pattern_of
from clipeval.engine import evaluation
from clipeval.models.open_clip import OpenClip
from clipeval.preprocess.transforms import Preprocess
from clipeval.results.heartbeats import heartbeats
from scripts.tiny_model import write_tiny_model
from tests.cluster.conftest import LARGE, SMALL, words

COUNT = 3


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """A config folder with a tiny architecture, and checkpoints as open_clip's training writes them."""
    (tmp_path / "architectures").mkdir()
    (tmp_path / "checkpoints").mkdir()
    for number in range(1, COUNT + 1):
        folder = tmp_path / f"m{number}"
        write_tiny_model(folder, seed=number)
        state = load_file(folder / "open_clip_model.safetensors")
        torch.save({"epoch": number, "state_dict": state}, tmp_path / "checkpoints" / f"epoch_{number * 5}.pt")
    config = json.loads((tmp_path / "m1" / "open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "architectures" / "tiny-test-clip.json").write_text(json.dumps(config))
    return tmp_path


def command(training: Path, data: Path, pretrained: str | None, *more: str) -> list[str]:
    kept = [word for word in words(data) if LARGE not in word]
    given = [f"model.pretrained={pretrained}"] if pretrained else []
    model = ["model.name=tiny-test-clip", f"model.config_dir={training / 'architectures'}", *given]
    return [*kept, *model, "runtime.deterministic=true", *more]


def results(folder: Path) -> dict[str, tuple]:
    records = {p.stem: json.loads(p.read_text()) for p in (folder / "records").glob("*.json")}
    return {t: (r["metrics"], r["fingerprint"], r["predictions"], r["model"]) for t, r in records.items()}


def test_names_and_order(tmp_path: Path) -> None:
    assert pattern_of(["model=x", "model.pretrained=glob(a/*.pt)"]) == "a/*.pt"
    assert pattern_of(["model.pretrained='glob(a/*.pt)'"]) == "a/*.pt"
    assert pattern_of(["model.pretrained=a.pt"]) is None
    for name in ("epoch_10.pt", "epoch_2.pt", "epoch_9.pt"):
        (tmp_path / name).touch()
    assert [p.name for p in checkpoints(str(tmp_path / "*.pt"))] == ["epoch_2.pt", "epoch_9.pt", "epoch_10.pt"]
    assert natural(Path("a2b")) < natural(Path("a10b"))


def test_each_checkpoint_as_if_alone_and_each_image_decoded_once(
    training: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(training)
    decoded = []
    pixels = Preprocess.pixels
    monkeypatch.setattr(Preprocess, "pixels", lambda self, *a, **k: decoded.append(1) or pixels(self, *a, **k))
    monkeypatch.setattr(evaluation, "check_once", lambda *given: None)  # it decodes pictures of its own
    caches = [f"cache.root={training / name}" for name in ("cache-1", "cache-2")]
    inside = "runtime.workers=0"
    # One that diverged fails alone: when it is loaded, at its first text, or at its first image.
    for number, name, value in ((97, "ln_final.bias", "nan"), (98, "text_projection", 0), (99, "visual.proj", 0)):
        bad = load_file(training / "m1" / "open_clip_model.safetensors")
        bad[name].fill_(float(value))
        torch.save({"state_dict": bad}, training / "checkpoints" / f"epoch_{number}.pt")
    # So does one for which the device has no memory.
    shutil.copy(training / "checkpoints" / "epoch_5.pt", training / "checkpoints" / "epoch_96.pt")
    load = OpenClip.load

    def too_large(self: OpenClip, *given: Any) -> Any:
        if "epoch_96" in self.slug:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.88 GiB")
        return load(self, *given)

    monkeypatch.setattr(OpenClip, "load", too_large)
    assert main(["run", *command(training, data, "glob(checkpoints/*.pt)", caches[0], inside)]) == 1
    error = capsys.readouterr().err
    assert "4 of 7 models failed" in error
    assert "cannot be loaded: cpu has no memory left (CUDA out of memory. Tried to allocate 4.88 GiB)" in error
    assert "are NaN or infinite" in error and error.count("is zero") == 2 == error.count("the embedding of")
    assert error.count("the embedding of the text") == 1
    beats = [
        (p.name.split("__")[1].split("-")[0], b.state) for p in (training / "runs").iterdir() for b in heartbeats(p)
    ]
    assert sorted(beats) == [(f"epoch_{number}", "failed") for number in (96, 97, 98, 99)]
    assert len(decoded) == 24 * len(SMALL), "each image was decoded once for all checkpoints"
    folders = {
        p.name.split("__")[1].split("-")[0]: p for p in (training / "runs").iterdir() if (p / "records").is_dir()
    }
    assert set(folders) == {f"epoch_{5 * n}" for n in range(1, COUNT + 1)}
    for name, folder in folders.items():
        alone = training / "alone" / name
        word = f"{training / 'checkpoints' / name}.pt"
        assert main(["run", *command(training, data, word, caches[1], f"out={alone}", inside)]) == 0
        assert results(folder) == results(alone), "bit for bit, under runtime.deterministic"


class Inline:
    """Processes that run at once and in this one: what `runtime.devices` starts, without the seconds that each takes to import."""

    Pipe = staticmethod(multiprocessing.Pipe)

    def __init__(self) -> None:
        self.done: list[tuple[str, int]] = []

    def Process(self, target: Callable[..., None], args: tuple[Any, ...]) -> Any:  # noqa: N802
        def start() -> None:
            config, handle, units, device, count, _, others = pickle.loads(pickle.dumps((*args[:5], None, args[6])))  # noqa: S301
            self.done += [(str(unit), 1 + len(others)) for unit in units]
            target(config, handle, units, device, count, args[5], others)

        return SimpleNamespace(start=start, is_alive=lambda: False, join=lambda: None)


@pytest.mark.parametrize("broken", [False, True])
def test_several_devices_share_the_images_of_all_checkpoints(
    broken: bool, training: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One device used to work and the others were idle, without a word."""
    inline, decoded, pixels = Inline(), list[int](), Preprocess.pixels
    threads, signals = torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(training)
    monkeypatch.setattr(local, "get_context", lambda kind: inline)
    monkeypatch.setattr(evaluation, "check_once", lambda *given: None)  # it decodes pictures of its own
    pattern, inside = "glob(checkpoints/*.pt)", "runtime.workers=0"
    one = command(training, data, pattern, f"cache.root={training / 'cache-1'}", inside)
    assert main(["run", *one, "out='one/${model.slug}'"]) == 0
    assert "device: cpu, fp32, 0 decoders" in capsys.readouterr().err and not inline.done
    if broken:
        bad = load_file(training / "m1" / "open_clip_model.safetensors")
        bad["visual.proj"].zero_()
        torch.save({"state_dict": bad}, training / "checkpoints" / "epoch_99.pt")
    monkeypatch.setattr(Preprocess, "pixels", lambda self, *a, **k: decoded.append(1) or pixels(self, *a, **k))
    two = command(training, data, pattern, f"cache.root={training / 'cache-2'}", inside, "runtime.devices=2")
    try:
        assert main(["run", *two, "out='two/${model.slug}'"]) == broken
    finally:
        torch.set_num_threads(threads)
        signal.signal(signal.SIGTERM, signals)
    said = capsys.readouterr().err
    assert said.count("device: 2 x cpu, fp32, 0 decoders") == 1
    assert sorted(inline.done) == sorted((task, COUNT + broken) for task in SMALL), "a share of images, for all of them"
    assert (said.count("1 of 4 models failed"), said.count("is zero")) == (broken, broken)
    if not broken:
        assert len(decoded) == 24 * len(SMALL), "each image was decoded once for all checkpoints, on whatever device"
    for folder in (training / "one").iterdir():
        assert results(folder) == results(training / "two" / folder.name), "bit for bit, under runtime.deterministic"


def test_watch(training: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(training)
    later = training / "checkpoints" / "epoch_15.pt"
    shutil.move(later, training / "later.pt")
    go = ["watch", "checkpoints", "--once", "--curve", "curve.csv"]
    go += command(training, data, None, f"cache.root={training / 'cache'}")
    assert main(go) == 0
    first = [p.stat().st_mtime_ns for p in sorted((training / "runs").rglob("records/*.json"))]
    shutil.move(training / "later.pt", later)
    (training / "checkpoints" / "epoch_20.pt").write_bytes(b"half of a checkpoint")
    assert main(go) == 1, "one cannot be read"
    assert "epoch_20.pt" in capsys.readouterr().err
    assert set(first) <= {p.stat().st_mtime_ns for p in (training / "runs").rglob("records/*.json")}, "none done twice"
    rows = list(csv.DictReader((training / "curve.csv").open()))
    assert list(dict.fromkeys(row["step"] for row in rows)) == ["5", "10", "15"]
    assert {row["task"] for row in rows} == set(SMALL)
    record = json.loads(
        next(p for p in (training / "runs").rglob("records/gtsrb.json") if "epoch_15" in str(p)).read_text()
    )
    row = next(r for r in rows if (r["step"], r["task"], r["metric"]) == ("15", "gtsrb", "acc5"))
    assert float(row["value"]) == record["metrics"]["acc5"]


def test_out_for_several_checkpoints(training: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pattern = f"glob({training}/checkpoints/*.pt)"
    assert main(["run", *command(training, data, pattern, f"out={training / 'one'}")]) == 1
    assert "several models" in capsys.readouterr().err
    assert main(["run", *command(training, data, "glob(nothing/*.pt)")]) == 1
    assert "no file has such a name" in capsys.readouterr().err
