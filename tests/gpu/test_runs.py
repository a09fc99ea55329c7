"""Whole runs on a device, over the bundled data: as on the CPU, whatever way they are started."""

from __future__ import annotations

import csv
import gc
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from clipeval.api import evaluate
from clipeval.cli.main import main
from scripts.tiny_model import write_tiny_model
from tests.data.test_data import write_tar

DIGITS, NAMES = "quickstart_digits", "quickstart_emoji_people_name"
PROBE, RETRIEVAL, CLOTHES = "quickstart_digits_probe", "quickstart_emoji_retrieval", "quickstart_fashion_mnist"


def tasks(*names: str) -> list[str]:
    return ["suite=none", *(f"+task@tasks.{name}={name}" for name in names)]


def run(folder: Path, device: torch.device, *words: str) -> Path:
    """A run of the bundled model, unless the words name another; its folder."""
    common = [f"out={folder / 'run'}", f"cache.root={folder / 'cache'}", "runtime.workers=2"]
    assert main(["run", *common, f"runtime.device={device}", *words]) == 0
    return folder / "run"


def record(folder: Path, task: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "records" / f"{task}.json").read_text())
    return found


def predictions(folder: Path, task: str) -> pd.DataFrame:
    return pd.read_parquet(folder / "predictions" / f"{task}.parquet")


def same_scores(one: Path, other: Path, task: str, near: float = 1e-4) -> None:
    """Every score of every sample, to `near`."""
    a, b = predictions(one, task), predictions(other, task)
    assert a["key"].tolist() == b["key"].tolist()
    columns = [c for c in a.columns if c.startswith("score")]
    assert columns
    for column in columns:
        np.testing.assert_allclose(a[column].to_numpy(float), b[column].to_numpy(float), rtol=0, atol=near)


def metrics(folder: Path, task: str) -> dict[str, float]:
    return {k: v for k, v in record(folder, task)["metrics"].items() if v is not None}


# -- precision -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = tasks(DIGITS, NAMES, RETRIEVAL, PROBE)
    return run(tmp_path_factory.mktemp("cpu"), torch.device("cpu"), *words)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "datacomp", "datacomp_tf32"])
def test_each_precision(on_cpu: Path, device: torch.device, tmp_path: Path, precision: str) -> None:
    found = run(tmp_path, device, *tasks(DIGITS, NAMES, RETRIEVAL), f"runtime.precision={precision}")
    if precision == "fp32":
        same_scores(on_cpu, found, DIGITS)
    for task in (DIGITS, NAMES, RETRIEVAL):
        mine, reference = metrics(found, task), metrics(on_cpu, task)
        assert mine.keys() == reference.keys()
        far = {name: (mine[name], reference[name]) for name in mine if abs(mine[name] - reference[name]) > 0.02}
        assert not far
        assert record(found, task)["options"]["device"] == str(device)


def photographs(place: Path) -> Path:
    """A set of JPEGs: noise over colours, a class each."""
    rng, members = np.random.default_rng(0), []
    colours = rng.integers(40, 216, (4, 3))
    for i in range(60):
        pixels, buffer = colours[i % 4] + rng.integers(-40, 40, (70 + i, 90, 3)), io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=90)
        members += [(f"{i:03d}.jpg", buffer.getvalue()), (f"{i:03d}.cls", str(i % 4).encode())]
    write_tar(place / "test" / "0.tar", members)
    (place / "test" / "nshards.txt").write_text("1\n")
    (place / "classnames.txt").write_text("".join(f"colour {i}\n" for i in range(4)))
    (place / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n")
    return place


def test_nvjpeg(device: torch.device, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Near the reference, flagged, and told from it; refused in one sentence where there is no CUDA device."""
    words = ["suite=none", "+task@tasks.a=webdataset", f"tasks.a.data.path={photographs(tmp_path / 'set')}"]
    exact = run(tmp_path / "exact", device, *words)
    if device.type != "cuda":
        more = [
            f"runtime.device={device}",
            "runtime.preprocess=nvjpeg",
            f"cache.root={tmp_path}",
            f"out={tmp_path / 'no'}",
        ]
        assert main(["run", *words, *more]) == 1
        assert "it decodes on a CUDA device" in capsys.readouterr().err
        return
    found = run(tmp_path / "nvjpeg", device, *words, "runtime.preprocess=nvjpeg")
    same_scores(exact, found, "a", near=2.0)  # hundredths of a cosine
    assert record(exact, "a")["fingerprint"]["preprocess"] != record(found, "a")["fingerprint"]["preprocess"]
    assert any("nvJPEG" in flag for flag in record(found, "a")["flags"])
    a, b = predictions(exact, "a"), predictions(found, "a")
    print(f"nvJPEG: {int((a['prediction'] != b['prediction']).sum())} of {len(a)} predictions change")


def test_probes(on_cpu: Path, device: torch.device, tmp_path: Path) -> None:
    found = run(tmp_path, device, *tasks(PROBE))
    for name in ("lp_acc1", "nearest_mean_acc1", "knn_acc1"):
        assert metrics(found, PROBE)[name] == pytest.approx(metrics(on_cpu, PROBE)[name], abs=0.01)
    wide = ["protocol=linear_probe", "task=quickstart_digits", "probe.shots=4", "probe.epochs=5", "probe.strength=0.01"]
    ours = run(tmp_path / "adamw", device, *wide)
    theirs = run(tmp_path / "adamw-cpu", torch.device("cpu"), *wide)
    (name,) = (path.stem for path in (ours / "records").glob("*.json"))
    assert metrics(ours, name)["lp_acc1"] == pytest.approx(metrics(theirs, name)["lp_acc1"], abs=0.02)


def test_rerun(device: torch.device, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(tmp_path, device, *tasks(DIGITS, RETRIEVAL))
    capsys.readouterr()
    assert main(["rerun", str(found), "--output", str(tmp_path / "again")]) == 0
    assert "2 of 2: same" in capsys.readouterr().out
    assert record(tmp_path / "again", DIGITS)["options"]["device"] == str(device)


# -- a model in memory ---------------------------------------------------------------------------------------------------


def allocated(device: torch.device) -> int:
    gc.collect()
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


@pytest.mark.parametrize("which", ["device", "second"])
def test_evaluate_twice_leaves_all_as_it_was(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    device = request.getfixturevalue(which)
    name = write_tiny_model(tmp_path / "model")
    model, _, transform = open_clip.create_model_and_transforms(name)
    model.to(device).train()
    model.visual.eval()  # a frozen tower, say
    modes = [part.training for part in model.modules()]
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(1)
    if device.type == "cuda":
        torch.zeros(8, device=device) @ torch.zeros(8, device=device)  # cuBLAS's own memory, which stays

    def states() -> tuple[Any, ...]:
        gpu = torch.cuda.get_rng_state(device).tolist() if device.type == "cuda" else None
        return torch.get_rng_state().tolist(), gpu, np.random.get_state()[1].tolist(), random.getstate()

    # A fixed strength: a search over embeddings that mean nothing takes minutes.
    words = [*tasks(DIGITS, PROBE)[1:], f"+tasks.{PROBE}.strength=1.0"]
    before, memory = states(), list[int]()
    tables = []
    for _ in range(2):
        tables.append(evaluate(model, open_clip.get_tokenizer(name), transform, "none", overrides=words))
        assert states() == before
        assert [part.training for part in model.modules()] == modes
        assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
        assert all(value.device == device for value in model.state_dict().values())
        assert not any(parameter.grad is not None for parameter in model.parameters())
        assert all(parameter.requires_grad for parameter in model.parameters())
        memory.append(allocated(device))
    assert memory[1] <= memory[0], "each evaluation leaves memory behind"
    assert tables[0]["task"].tolist() == [DIGITS, PROBE]
    assert tables[0]["value"].tolist() == pytest.approx(tables[1]["value"].tolist(), abs=0.005)


# -- many checkpoints ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three checkpoints as open_clip's training writes them, and their architecture."""
    place = tmp_path_factory.mktemp("training")
    (place / "architectures").mkdir()
    (place / "checkpoints").mkdir()
    for number in range(1, 4):
        folder = place / f"m{number}"
        write_tiny_model(folder, seed=number)
        state = load_file(folder / "open_clip_model.safetensors")
        torch.save({"epoch": number, "state_dict": state}, place / "checkpoints" / f"epoch_{number}.pt")
    config = json.loads((place / "m1" / "open_clip_config.json").read_text())["model_cfg"]
    (place / "architectures" / "tiny-gpu-clip.json").write_text(json.dumps(config))
    return place


def checkpoint_words(training: Path, device: torch.device) -> list[str]:
    model = ["model=open_clip", "model.name=tiny-gpu-clip", f"model.config_dir={training / 'architectures'}"]
    return [*tasks(DIGITS, CLOTHES), *model, f"runtime.device={device}", "runtime.workers=2"]


def test_a_glob_of_three_checkpoints_with_no_batch_size_given(
    training: Path, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = checkpoint_words(training, device)
    pattern = f"model.pretrained=glob({training}/checkpoints/*.pt)"
    assert main(["run", *words, pattern, f"cache.root={tmp_path / 'c1'}"]) == 0
    folders = {path.name.split("__")[1].split("-")[0]: path for path in (tmp_path / "runs").iterdir()}
    assert set(folders) == {"epoch_1", "epoch_2", "epoch_3"}
    for name, folder in folders.items():
        alone = tmp_path / "alone" / name
        one = f"model.pretrained={training / 'checkpoints' / name}.pt"
        assert main(["run", *words, one, f"cache.root={tmp_path / 'c2'}", f"out={alone}"]) == 0
        for task in (DIGITS, CLOTHES):
            same_scores(folder, alone, task)
            assert record(folder, task)["model"] == record(alone, task)["model"]


def test_watch_once(training: Path, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*checkpoint_words(training, device), f"cache.root={tmp_path / 'cache'}"]
    assert main(["watch", str(training / "checkpoints"), "--once", "--curve", "curve.csv", *words]) == 0
    rows = list(csv.DictReader((tmp_path / "curve.csv").open()))
    assert {(row["step"], row["task"]) for row in rows} == {(n, t) for n in "123" for t in (DIGITS, CLOTHES)}


# -- several devices -----------------------------------------------------------------------------------------------------


def test_two_devices_leave_what_one_leaves(second: torch.device, tmp_path: Path) -> None:
    words = [*tasks(DIGITS, CLOTHES, NAMES), "runtime.deterministic=true"]
    kind = torch.device(second.type)
    one = run(tmp_path / "one", kind, *words)
    two = run(tmp_path / "two", kind, *words, "runtime.devices=2")
    for task in (DIGITS, CLOTHES, NAMES):
        pd.testing.assert_frame_equal(predictions(one, task), predictions(two, task), check_exact=True)
        assert record(one, task)["fingerprint"] == record(two, task)["fingerprint"]
