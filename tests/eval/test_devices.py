"""`runtime.devices`: several processes leave what one leaves; a process that fails says why."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipeval.cli.main import main
from clipeval.cluster.local import device_names
from clipeval.configs.errors import ClipevalError
from scripts.make_miniature import facts, write_set
from scripts.tiny_model import write_tiny_model

CHUNKED = 2048 + 150
"""Images of the set that is long enough to be cut."""
TASKS = ("mnist", "gtsrb")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for fact in facts():
        if fact.key in TASKS:
            write_set(root / fact.folder, fact, CHUNKED if fact.key == "mnist" else 20, 24, 1, rng)
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


def words(folder: Path, data: Path, model: str, *more: str) -> list[str]:
    tasks = [f"+task@tasks.{t}={t}" for t in TASKS]
    common = [f"data.root={data}", f"out={folder / 'run'}", f"cache.root={folder / 'cache'}", "runtime.workers=1"]
    steady = ["runtime.device=cpu", "runtime.deterministic=true"]
    return ["run", "suite=none", *tasks, "model=open_clip", f"model.name={model}", *common, *steady, *more]


def what_counts(folder: Path, task: str) -> dict:
    record = json.loads((folder / "run" / "records" / f"{task}.json").read_text())
    return {k: v for k, v in record.items() if k not in ("created", "timings", "options", "digest")}


def test_two_processes_leave_what_one_leaves(
    tmp_path: Path, data: Path, model: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tmp_path / "one", data, model)) == 0
    capfd.readouterr()
    assert main(words(tmp_path / "two", data, model, "runtime.devices=2")) == 0
    said = capfd.readouterr().err
    assert f"2 tasks, {CHUNKED + 20:,} images" in said  # each picture once
    for task in TASKS:
        assert what_counts(tmp_path / "one", task) == what_counts(tmp_path / "two", task)
        frames = [pd.read_parquet(tmp_path / n / "run" / "predictions" / f"{task}.parquet") for n in ("one", "two")]
        pd.testing.assert_frame_equal(*frames, check_exact=True)
    lines = [(tmp_path / n / "run" / "eval_results.jsonl").read_text() for n in ("one", "two")]
    assert lines[0] == lines[1]
    assert json.loads((tmp_path / "two" / "run" / "run.json").read_text())["config"]["runtime"]["devices"] == 2
    assert main(words(tmp_path / "two", data, model, "runtime.devices=2")) == 0
    assert "nothing to compute" in capfd.readouterr().err


def test_a_process_that_fails_says_why(
    tmp_path: Path, data: Path, model: str, capfd: pytest.CaptureFixture[str]
) -> None:
    weights = Path(model.removeprefix("local-dir:")) / "open_clip_model.safetensors"
    broken = tmp_path / "model"
    broken.mkdir()
    (broken / "open_clip_config.json").write_bytes((weights.parent / "open_clip_config.json").read_bytes())
    (broken / weights.name).write_bytes(weights.read_bytes()[:-500])
    assert main(words(tmp_path, data, f"local-dir:{broken}", "runtime.devices=2")) == 1
    said = capfd.readouterr().err
    assert "clipeval: process" in said and "of 2" in said and weights.name in said
    assert not list((tmp_path / "run" / "records").glob("*.json"))


def test_devices_are_named() -> None:
    assert device_names("cpu", 3) == ["cpu"] * 3
    with pytest.raises(ClipevalError, match=r"runtime\.device=cuda\."):
        device_names("cuda:1", 2)
    with pytest.raises(ClipevalError, match="this machine has"):
        device_names("cuda", 64)
