"""On a real Slurm of one node: arrays, jobs killed and requeued under way, large tasks in parts, scripts of one's own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipeval.cli.main import main
from tests.cluster.conftest import LARGE, LARGE_COUNT, SMALL, words
from tests.cluster.slurm_node import one_node, why_not

REPOSITORY = Path(__file__).parents[2]
HELD = 3.0
"""A job that begins in the very second in which it was requeued is lost: slurmd takes its new credential for the revoked
one. Hence Slurm's own delay, of which this much is enough."""

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"no Slurm: {why_not()}")


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory(prefix="slurm-") as root, one_node(Path(root), max_array=3) as environment:
        yield {**environment, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def truth(models: list[str], data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict]]:
    """Each model's records of an undisturbed run, in this process."""
    folder = tmp_path_factory.mktemp("truth")
    for number, model in enumerate(models):
        more = (f"model.name={model}", f"out={folder / str(number)}", f"cache.root={folder / 'cache'}")
        assert main(["run", *words(data, *more)]) == 0
    return [records(folder / str(number)) for number in range(len(models))]


def records(run: Path) -> dict[str, dict]:
    found = {path.stem: json.loads(path.read_text()) for path in (run / "records").glob("*.json")}
    return {task: {k: r[k] for k in ("metrics", "samples", "fingerprint", "flags")} for task, r in found.items()}


def call(environment: dict[str, str], folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False, timeout=200
    )


def clipeval(environment: dict[str, str], folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return call(environment, folder, sys.executable, "-m", "clipeval.cli.main", *words)


def queue(environment: dict[str, str]) -> list[list[str]]:
    done = call(environment, REPOSITORY, "squeue", "-h", "-r", "-o", "%i %T %r")
    assert done.returncode == 0, f"squeue: {done.stderr}"  # an unanswered question is no empty queue
    return [line.split() for line in done.stdout.splitlines()]


def drain(environment: dict[str, str], seconds: float = 200) -> None:
    """Waits for an empty queue; a requeued job, which Slurm holds back for two minutes, is let go after HELD seconds."""
    deadline = time.monotonic() + seconds
    seen: dict[str, float] = {}
    while jobs := queue(environment):
        assert time.monotonic() < deadline, jobs
        held = {job[0] for job in jobs if job[1] == "PENDING" and job[-1] in ("BeginTime", "None")}
        seen = {job: seen.get(job, time.monotonic()) for job in held}
        for job in [job for job, since in seen.items() if time.monotonic() - since > HELD]:
            call(environment, REPOSITORY, "scontrol", "update", f"JobId={job}", "StartTime=now")
        time.sleep(0.5)


def running(run: Path, seconds: float = 100) -> dict:
    """The first marker of a process at work in a run folder."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for path in (run / "status").glob("[!.]*.json"):
            try:
                marker = json.loads(path.read_text())
            except (OSError, ValueError):
                continue
            if marker["state"] == "running":
                return marker
        time.sleep(0.02)
    raise AssertionError(f"nobody came to work in {run}")


def test_array_killed_under_way_and_sent_again(
    slurm: dict[str, str], models: list[str], data: Path, truth: list[dict[str, dict]], tmp_path: Path
) -> None:
    names = f"model.name={','.join(models)}"
    out = f"out={tmp_path}/runs/${{model.slug}}"
    array = ("slurm.array=4", "slurm.cpus=1", "slurm.time=30", "slurm.gpus=0")
    command = ("submit", *words(data, names, out, f"cache.root={tmp_path / 'cache'}"), *array)
    done = clipeval(slurm, tmp_path, *command)
    assert done.returncode == 0, done.stderr
    ids = re.findall(r"submitted (?:array )?job (\d+)", done.stderr)
    assert len(ids) == 2, "an array larger than MaxArraySize is split"
    logs = next((tmp_path / "runs" / ".slurm").iterdir())
    assert logs.is_dir()
    folders = sorted((tmp_path / "runs").glob("m*"))
    assert len(folders) == 2
    os.kill(running(folders[0])["pid"], signal.SIGKILL)
    out_of_time = running(folders[1])["job"]
    call(slurm, tmp_path, "scancel", "--signal=USR2", out_of_time)  # as Slurm does slurm.signal seconds before the end
    drain(slurm)
    written = "".join(path.read_text() for path in logs.glob(f"{out_of_time}_0_log.*"))
    assert "Requeued job" in written or "completed successfully" in written.lower()
    units = [
        u
        for f in folders
        for p in (f / "jobs").glob("*.json")
        for us in json.loads(p.read_text())["units"].values()
        for u in us
    ]
    assert any(u.startswith(f"{LARGE}[") for u in units), f"{LARGE} was to be cut into parts: {units}"
    lost = clipeval(slurm, tmp_path, "status", *map(str, folders))
    if lost.returncode:  # unless it was killed after its last record
        assert "killed" in lost.stdout
    again = clipeval(slurm, tmp_path, *command)
    assert again.returncode == 0, again.stderr
    drain(slurm)
    final = clipeval(slurm, tmp_path, "status", *map(str, folders))
    assert final.returncode == 0, final.stdout
    assert [records(folder) for folder in folders] == truth
    assert "nothing is missing" in again.stderr or "submitted" in again.stderr


def test_array_sbatch(
    slurm: dict[str, str], models: list[str], data: Path, truth: list[dict[str, dict]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    script = tmp_path / "clipeval"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m clipeval.cli.main "$@"\n')
    script.chmod(0o755)
    more = (f"model.name={models[0]}", f"out={run}", f"cache.root={tmp_path / 'cache'}")
    # The configs' own sample counts would leave the large task to one index: here they say what there is.
    counts = [f"tasks.{LARGE}.data.samples={LARGE_COUNT}", *(f"tasks.{task}.data.samples=24" for task in SMALL)]
    command = (
        "sbatch",
        "--parsable",
        "--array=0-2",
        "--cpus-per-task=1",
        str(REPOSITORY / "scripts/slurm/array.sbatch"),
    )
    done = call({**slurm, "CLIPEVAL": str(script)}, tmp_path, *command, *words(data, *more), *counts)
    assert done.returncode == 0, done.stderr
    while not (begun := [job for job, state, *_ in queue(slurm) if state == "RUNNING"]):
        time.sleep(0.1)
    time.sleep(1)
    call(slurm, tmp_path, "scancel", "--batch", "--signal=USR1", begun[0])  # as Slurm does before the end of its time
    drain(slurm)
    logs = {path.name: path.read_text() for path in tmp_path.glob("clipeval-*.log")}
    assert len(logs) == 3
    assert sum("queued again" in text for text in logs.values()) == 1, logs
    found = {task: r["metrics"] for task, r in records(run).items()}
    assert found == {t: r["metrics"] for t, r in truth[0].items()}, logs
