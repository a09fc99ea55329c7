"""Whole runs on a tiny model: resuming, rescoring, overrides, bad data, the plan, and the Python interface."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch

from clipeval.cli.main import main
from scripts.make_miniature import facts, write_set
from scripts.tiny_model import write_tiny_model

TASKS = ("mnist", "cifar10", "gtsrb")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for fact in facts():
        if fact.key in TASKS:
            write_set(tmp_path / "data" / fact.folder, fact, 24, 40, 2, rng)
    return tmp_path


def words(root: Path, model: str, *more: str) -> list[str]:
    tasks = [f"+task@tasks.{t}={t}" for t in TASKS]
    common = [f"data.root={root / 'data'}", f"out={root / 'run'}", f"cache.root={root / 'cache'}", "runtime.workers=1"]
    return ["run", "suite=none", *tasks, "model=open_clip", f"model.name={model}", *common, *more]


def records(root: Path) -> dict[str, dict]:
    return {p.stem: json.loads(p.read_text()) for p in sorted((root / "run" / "records").glob("*.json"))}


def what_counts(record: dict) -> dict:
    """A record without what differs from run to run."""
    return {k: v for k, v in record.items() if k not in ("created", "timings", "options", "digest")}


def test_a_run_leaves_what_the_design_says(root: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(root, model)) == 0
    assert set(records(root)) == set(TASKS)
    run = json.loads((root / "run" / "run.json").read_text())
    assert run["schema"] == 1
    assert {"model", "config", "packages", "code", "hardware"} <= set(run)
    for task in TASKS:
        frame = pd.read_parquet(root / "run" / "predictions" / f"{task}.parquet")
        record = records(root)[task]
        assert len(frame) == record["samples"] == 24
        assert record["metrics"]["acc1"] == pytest.approx((frame["label"] == frame["prediction"]).mean(), abs=1e-9)
        assert any("24 samples" in flag for flag in record["flags"])
    lines = [json.loads(line) for line in (root / "run" / "eval_results.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines] == list(TASKS)
    assert all(line["metrics"]["main_metric"] == line["metrics"]["acc1"] for line in lines)
    assert "24 samples" in capsys.readouterr().out


def test_another_main_metric_is_a_new_label_and_no_new_work(
    root: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(root, model)) == 0
    capsys.readouterr()
    assert main(words(root, model, "tasks.mnist.metric=acc5")) == 0
    assert "nothing to compute" in capsys.readouterr().err
    assert records(root)["mnist"]["metric"] == "acc5"
    assert main(words(root, model, "tasks.mnist.metric=acc6")) == 1
    assert "'acc6'. Did you mean: acc" in capsys.readouterr().err


def test_other_templates_embed_no_image(root: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(root, model)) == 0
    before = records(root)
    capsys.readouterr()
    assert main(words(root, model, "tasks.mnist.prompts=simple")) == 0
    said = capsys.readouterr().err
    assert "1 tasks, 0 images and 10 prompts embedded" in said
    assert "mnist: " in said and "prompts" in said
    after = records(root)
    assert after["mnist"]["prompts"]["name"] == "simple"
    assert what_counts(after["gtsrb"]) == what_counts(before["gtsrb"])
    assert main(words(root, model, "resume=refuse")) == 1
    assert "resume=refuse" in capsys.readouterr().err


def test_workers_and_batches_do_not_change_a_score(root: Path, model: str) -> None:
    assert main(words(root, model, "runtime.workers=0", "runtime.batch_size=7", "cache.features=false")) == 0
    first = {t: pd.read_parquet(root / "run" / "predictions" / f"{t}.parquet") for t in TASKS}
    other = words(
        root, model, "runtime.workers=2", "runtime.batch_size=64", "cache.features=false", f"out={root / 'b'}"
    )
    assert main(other) == 0
    for task in TASKS:
        again = pd.read_parquet(root / "b" / "predictions" / f"{task}.parquet")
        assert again["prediction"].tolist() == first[task]["prediction"].tolist()
        np.testing.assert_allclose(again["score_1"], first[task]["score_1"], atol=1e-4)


def test_deterministic_gives_the_same_bits(root: Path, model: str) -> None:
    steady = ["runtime.deterministic=true", "runtime.batch_size=8"]
    assert main(words(root, model, *steady, "runtime.workers=0")) == 0
    order = [
        w for w in words(root, model, *steady, f"out={root / 'b'}", f"cache.root={root / 'cache2'}") if "@" not in w
    ]
    assert main([*order, *(f"+task@tasks.{t}={t}" for t in reversed(TASKS))]) == 0

    def bits(folder: str) -> set[str]:
        return {
            f"{p.parent.name}/{p.name}" for p in (root / folder / "images").glob("*/*.npy")
        }  # the name is the digest

    assert bits("cache") == bits("cache2")
    assert len(bits("cache")) == len(TASKS)


def damage(root: Path, shard: Path, number: int = 0) -> str:
    """Overwrites the middle of an image in a tar; gives its key."""
    with tarfile.open(shard) as tar:
        image = [m for m in tar if not m.name.endswith(".cls")][number]
    data = bytearray(shard.read_bytes())
    data[image.offset_data : image.offset_data + image.size] = os.urandom(image.size)
    shard.write_bytes(bytes(data))
    return image.name.split(".")[0]


def test_an_image_that_cannot_be_decoded(root: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    shard = root / "data" / "wds_gtsrb_test" / "test" / "1.tar"
    key = damage(root, shard)
    assert main(words(root, model)) == 1
    said = capsys.readouterr().err
    assert str(shard) in said and repr(key) in said and "data.on_error=skip" in said
    assert set(records(root)) >= {"mnist"}, "what was finished before is kept"
    assert main(words(root, model, "data.on_error=skip")) == 0
    record = records(root)["gtsrb"]
    assert record["samples"] == 23
    assert any("1 of 24 images left out" in flag and key in flag for flag in record["flags"])
    assert "left out" in capsys.readouterr().out
    assert main(words(root, model, "data.on_error=fail", "~tasks.cifar10", "tasks.gtsrb.prompts=simple")) == 1


def test_missing_data_is_one_error_before_any_work(root: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "data" / "wds_mnist_test" / "test" / "1.tar").unlink()
    (root / "data" / "wds_gtsrb_test" / "classnames.txt").unlink()
    assert main(words(root, model)) == 1
    said = capsys.readouterr().err
    assert "2 of 3 tasks cannot run" in said and "1.tar missing" in said and "gtsrb" in said
    assert not (root / "run" / "records").exists()


def test_plan_says_what_would_run(root: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    plan = ["plan", *words(root, model)[1:]]
    assert main(plan) == 0
    said = capsys.readouterr().out
    assert "3 tasks: 0 done, 3 to compute, 0 missing. To embed: 72 images" in said
    assert not (root / "run").exists()
    assert main(words(root, model)) == 0
    capsys.readouterr()
    assert main(plan) == 0
    assert "3 tasks: 3 done, 0 to compute" in capsys.readouterr().out
    (root / "data" / "wds_mnist_test" / "test" / "1.tar").unlink()
    assert main(plan) == 1
    assert "1 missing" in capsys.readouterr().out


def test_killed_and_started_again(root: Path, model: str) -> None:
    assert main(words(root, model, f"out={root / 'whole'}", f"cache.root={root / 'other'}")) == 0
    whole = {p.stem: json.loads(p.read_text()) for p in (root / "whole" / "records").glob("*.json")}
    command = [sys.executable, "-m", "clipeval.cli.main", *words(root, model)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    first = root / "run" / "records" / "mnist.json"
    deadline = time.monotonic() + 120
    while not first.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = first.stat().st_mtime_ns
    assert main(words(root, model)) == 0
    assert first.stat().st_mtime_ns == kept, "a finished task is not done twice"
    assert {k: what_counts(v) for k, v in records(root).items()} == {k: what_counts(v) for k, v in whole.items()}


def test_a_folder_of_another_model_is_refused(
    root: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(root, model)) == 0
    other = write_tiny_model(tmp_path / "other", seed=5)
    assert main([w if not w.startswith("model.name") else f"model.name={other}" for w in words(root, model)]) == 1
    assert str(root / "run") in capsys.readouterr().err


def test_from_python_and_the_model_is_left_as_it_was(root: Path, model: str) -> None:
    from clipeval.api import evaluate

    assert main(words(root, model)) == 0
    net, _, transform = open_clip.create_model_and_transforms(model)
    net.train()
    torch.manual_seed(1)
    state = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())
    weights = {k: v.clone() for k, v in net.state_dict().items()}
    tasks = [f"+task@tasks.{t}={t}" for t in TASKS]
    table = evaluate(net, open_clip.get_tokenizer(model), transform, "none", root / "data", overrides=tasks)
    assert net.training
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == state[1:]
    assert all(torch.equal(v, weights[k]) for k, v in net.state_dict().items())
    assert table["task"].tolist() == list(TASKS)
    for row in table.itertuples():
        assert row.value == pytest.approx(records(root)[row.task]["metrics"]["acc1"])


def test_a_reader_who_leaves_early_is_no_error(root: Path, model: str) -> None:
    assert main(words(root, model)) == 0
    command = f"{sys.executable} -m clipeval.cli.main report {root / 'run'} --format csv | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_an_imported_result_is_computed_and_never_reused(
    root: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = {"key": "mnist", "dataset": "MNIST", "metrics": {"acc1": 0.99, "main_metric": 0.99}}
    (root / "eval_results.jsonl").write_text(json.dumps(result))
    named = ["model=open_clip", f"model.name={model}"]
    assert main(["import", str(root / "eval_results.jsonl"), *named, f"out={root / 'run'}"]) == 0
    assert records(root)["mnist"]["metrics"]["acc1"] == 0.99
    capsys.readouterr()
    assert main(words(root, model, "resume=refuse")) == 1
    assert "mnist: imported from" in capsys.readouterr().err
    assert main(words(root, model)) == 0
    assert "imported" not in records(root)["mnist"]
    assert records(root)["mnist"]["samples"] == 24
    assert main(["verify", str(root / "run")]) == 0
    assert "3 of 3: holds" in capsys.readouterr().out
    # And not the other way round.
    assert main(["import", str(root / "eval_results.jsonl"), *named, f"out={root / 'run'}"]) == 1
    assert "holds computed records of mnist" in capsys.readouterr().err


def test_a_folder_of_another_models_imports_takes_no_run(
    root: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = {"key": "mnist", "dataset": "MNIST", "metrics": {"acc1": 0.99, "main_metric": 0.99}}
    (root / "eval_results.jsonl").write_text(json.dumps(result))
    assert main(["import", str(root / "eval_results.jsonl"), "model=vit_b_32_openai", f"out={root / 'run'}"]) == 0
    capsys.readouterr()
    assert main(words(root, model)) == 1
    assert "holds imported results of ViT-B-32-quickgelu__openai" in capsys.readouterr().err
