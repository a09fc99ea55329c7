"""`runtime.devices`: several processes leave what one leaves; a process that fails says why."""

from __future__ import annotations

import io
import json
import os
import signal
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from clipeval.api import _device_of
from clipeval.cli.main import main
from clipeval.cluster import slurm, submit
from clipeval.cluster.job import Job
from clipeval.cluster.local import _work, device_names
from clipeval.cluster.submit import _for_jobs
from clipeval.configs.compose import compose
from clipeval.configs.errors import ClipevalError
from clipeval.engine.evaluation import Evaluation
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


class End:
    """The child's end of the pipe."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, tuple[int, int]]] = []

    def send(self, what: tuple[str, tuple[int, int]]) -> None:
        self.sent.append(what)


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (ValueError("shapes differ\nby much"), "ValueError: shapes differ"),
        (torch.OutOfMemoryError("CUDA: Tried"), "cpu has no memory left (CUDA: Tried); set runtime.batch_size"),
        (MemoryError(), "MemoryError: "),
        (ClipevalError("as it is"), "as it is"),
    ],
)
def test_a_process_says_what_it_died_of(monkeypatch: pytest.MonkeyPatch, problem: Exception, said: str) -> None:
    """And not that it was killed for want of memory, whatever it was."""

    def fail(*given: object) -> None:
        raise problem

    before = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    monkeypatch.setattr(Evaluation, "open", fail)
    config: Any = {"runtime": {"workers": 0, "device": "cpu", "devices": 2}}
    end: Any = End()
    try:
        with nullcontext() if isinstance(problem, ClipevalError) else pytest.raises(type(problem)):
            _work(config, None, [], "cpu", 2, end)  # type: ignore[arg-type]
    finally:
        signal.signal(signal.SIGTERM, before[0])
        torch.set_num_threads(before[1])
    assert len(end.sent) == 1 and end.sent[0][0].startswith(said)


def test_the_gpu_of_a_mac_has_no_number() -> None:
    model: Any = SimpleNamespace(parameters=lambda: iter([SimpleNamespace(device=torch.device("mps:0"))]))
    assert _device_of(model) == "mps"
    assert _device_of(torch.nn.Linear(1, 1)) == "cpu"


@pytest.mark.parametrize("given", [[], ["runtime.devices=2"], ["runtime.device=cpu"], ["runtime.device=cuda:1"]])
def test_a_job_uses_the_gpus_that_it_asks_for(given: list[str]) -> None:
    words_of_jobs = _for_jobs(compose(["suite=none", "slurm.gpus=4", *given]))[1:]
    expected = {
        (): ["runtime.device=cuda", "runtime.devices=4"],
        ("runtime.devices=2",): ["runtime.device=cuda"],
    }
    assert words_of_jobs == expected.get(tuple(given), [])
    assert _for_jobs(compose(["suite=none", *given]))[1:] == []


@pytest.mark.parametrize("runtime", ["published", "default"])
def test_jobs_on_gpus_are_planned_from_a_node_without_one(
    tmp_path: Path, data: Path, model: str, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    """For the precision of the jobs' device: automatic mixed precision is float16 there, and bfloat16 here."""
    sent: list[Any] = []
    monkeypatch.setattr(slurm, "require", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(submit, "send", lambda jobs, options, logs: sent.extend(jobs) or [("12", jobs)])
    given = [w for w in words(tmp_path, data, model)[1:] if not w.startswith("runtime.device=")]
    given = [*given, f"runtime={runtime}", "slurm.gpus=1", "slurm.array=2", f"slurm.logs={tmp_path / 'logs'}"]
    console = Console(file=io.StringIO(), width=200)
    assert submit.submit(given, None, console) == 0
    assert len(sent) == 2 and {unit.task for job in sent for unit in job.units} == set(TASKS)
    assert all("runtime.device=cuda" in run for job in sent for run in job.runs)
    said = json.loads((tmp_path / "run" / "run.json").read_text())["config"]["runtime"]
    assert said["device"] == "cuda" and "submitted array job 12" in console.file.getvalue()  # type: ignore[attr-defined]
    plan = submit._open(compose(given), console).plan()
    assert {planned.fingerprint.precision for planned in plan.tasks} == {
        "fp32/amp-fp16" if runtime == "published" else "fp32/fp32"
    }


def test_what_sbatch_says_as_it_fails_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it says nothing."""
    for name in ("sbatch", "srun", "scontrol"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "$SAID" >&2\nexit {0 if name == "scontrol" else 1}\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    options = compose(["suite=none"]).slurm
    for said, expected in (("error: invalid partition", "invalid partition"), ("", "did not say why")):
        monkeypatch.setenv("SAID", said)
        with pytest.raises(ClipevalError, match=f"Slurm refused the jobs: .*{expected}"):
            submit.send([Job((), None, ())], options, tmp_path / f"logs{len(said)}")


def test_devices_are_named() -> None:
    assert device_names("cpu", 3) == ["cpu"] * 3
    with pytest.raises(ClipevalError, match=r"runtime\.device=cuda\."):
        device_names("cuda:1", 2)
    with pytest.raises(ClipevalError, match="this machine has"):
        device_names("cuda", 64)
