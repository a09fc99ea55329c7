"""Whole runs as on macOS: no `sched_getaffinity`, no control groups, and decoders that are started anew instead of forked."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from types import SimpleNamespace

import open_clip
import pandas as pd
import pytest

from clipeval.api import evaluate
from clipeval.cli.main import main
from clipeval.decoding import decoders
from scripts.tiny_model import write_tiny_model
from tests.data.colour_set import write_colours

CLASSES, COUNT = 4, 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = write_colours(tmp_path_factory.mktemp("set"), {"test": COUNT}, CLASSES)
    (place / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n")
    return place


@pytest.fixture(scope="module")
def name(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = multiprocessing.get_context("spawn")
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(decoders, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(multiprocessing, "get_context", lambda method=None: fresh)


def words(folder: Path, out: Path) -> list[str]:
    task = ["+task@tasks.a=webdataset", f"tasks.a.data.path={folder}"]
    return [*task, f"cache.root={out / 'cache'}"]


def scores(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "predictions" / "a.parquet")


def test_a_run_with_decoders_that_are_started_anew(name: str, folder: Path, tmp_path: Path, mac: None) -> None:
    model = ["suite=none", "model=open_clip", f"model.name={name}", "runtime.device=cpu"]
    for workers in (0, 1):
        out = tmp_path / str(workers)
        assert main(["run", *model, *words(folder, out), f"out={out}", f"runtime.workers={workers}"]) == 0
        assert json.loads((out / "records" / "a.json").read_text())["options"]["workers"] == workers
    pd.testing.assert_frame_equal(scores(tmp_path / "0"), scores(tmp_path / "1"))


def test_evaluate_with_a_transform_that_cannot_be_sent_to_them(
    name: str, folder: Path, tmp_path: Path, mac: None, caplog: pytest.LogCaptureFixture
) -> None:
    model, _, transform = open_clip.create_model_and_transforms(name)
    tokenizer, given = open_clip.get_tokenizer(name), [*words(folder, tmp_path), "runtime.workers=2"]
    table = evaluate(model, tokenizer, lambda image: transform(image), "none", out=tmp_path, overrides=given)  # type: ignore[operator]
    assert table["samples"].tolist() == [COUNT]
    assert caplog.text.count("decoded in this process") == 1 and "lambda" in caplog.text
