"""Linear probes through the command line: each image of a split is encoded once, whatever the shots, seeds and settings."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from clipeval.cli.main import main
from clipeval.data.images import FileImages
from scripts.tiny_model import write_tiny_model
from tests.data.colour_set import write_colours

CLASSES, TRAIN, TEST = 6, 60, 30


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_colours(tmp_path / "set", {"train": TRAIN, "test": TEST}, CLASSES)


def words(tmp_path: Path, model: str, folder: Path, *more: str) -> list[str]:
    place = [f"task.data.path={folder}", f"out={tmp_path / 'run'}", f"cache.root={tmp_path / 'cache'}"]
    return ["run", "model=open_clip", f"model.name={model}", "task=webdataset", *place, "runtime.workers=0", *more]


def records(tmp_path: Path) -> dict[str, dict]:
    return {p.stem: json.loads(p.read_text()) for p in sorted((tmp_path / "run" / "records").glob("*.json"))}


def test_every_image_is_encoded_once(
    tmp_path: Path, model: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decoded: list[str] = []
    read = FileImages.read

    def count(self: FileImages, position: int) -> bytes:
        decoded.append(self.keys[position])
        return read(self, position)

    monkeypatch.setattr(FileImages, "read", count)
    probe = ("protocol=linear_probe", "probe.shots=[1,4,null]", "probe.seeds=[0,1]", "probe.epochs=40")
    assert main(words(tmp_path, model, folder, *probe)) == 0
    assert main(words(tmp_path, model, folder, *probe, "probe.solver=lbfgs")) == 0
    assert len(decoded) == TRAIN + TEST == len(set(decoded))
    found = records(tmp_path)
    assert set(found) == {f"webdataset-lp-{s}{n}" for s in ("adamw", "lbfgs") for n in ("", "-1", "-4")}
    for record in found.values():
        assert record["metrics"]["lp_acc1"] > 0.5, "three times chance"
        low, high = record["intervals"]["lp_acc1"]
        assert low <= record["metrics"]["lp_acc1"] <= high
        assert len(pd.read_parquet(tmp_path / "run" / record["predictions"]["file"])) == 2 * TEST
    assert found["webdataset-lp-adamw-4"]["metrics"]["fewshot_k"] == 4
    capsys.readouterr()
    assert main(["verify", str(tmp_path / "run")]) == 0
    assert "6 of 6: holds" in capsys.readouterr().out
    assert main(words(tmp_path, model, folder, *probe)) == 0
    assert "all results are up to date" in capsys.readouterr().err


def test_a_set_without_a_training_split_says_so(
    tmp_path: Path, model: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (folder / "train").iterdir():
        path.unlink()
    (folder / "train").rmdir()
    assert main(words(tmp_path, model, folder, "protocol=linear_probe")) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "has the splits test, and none called 'train'" in said and "task.splits" not in said
    assert "a folder of your own that has it" in said


def test_too_few_shots_are_said_before_anything_is_encoded(
    tmp_path: Path, model: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tmp_path, model, folder, "protocol=linear_probe", "probe.shots=11", "probe.strength=0")) == 1
    assert "class 0 has 10 training samples" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "cache" / "images").exists()
