"""What needs no model does not wait for torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parent / "results" / "run_before_the_package"
HEAVY = ("torch", "open_clip", "transformers", "torchvision", "scipy")
SCRIPT = """
import sys
from clipeval.cli.main import main
status = main(sys.argv[2:])
print("status", status, "imported", [name for name in sys.argv[1].split(",") if name in sys.modules])
"""


WITHOUT_TORCH = {
    "run suite=quikstart": 1,
    "run runtime.precision=fp33": 1,
    "run tasks.quickstart_digits.metrik=acc5": 1,
    "run model.pretrained=glob(/nowhere/*.pt)": 1,
    "run -m suite=quikstart,quickstart": 1,
    "plan model=vit_b_33": 1,
    f"report {RUN}": 0,
    f"report {RUN} --format md": 0,
    f"report {RUN} --format csv": 0,
    f"status {RUN}": 0,
    "download suite=quikstart": 1,
    "download modl=quickstart": 1,
    "classify --labels a,b picture.png modl=quickstart": 1,
    "classify --labels a picture.png": 1,
    "import /nowhere/results.json": 1,
    "import suitee=quickstart /nowhere/results.json": 1,
    "verify /nowhere": 1,
    "rerun /nowhere": 1,
    "compare /nowhere /nowhere": 1,
    "report --groups /nowhere": 1,
    "convert winoground --rows /nowhere --out /nowhere/else": 1,
    "cache list --root /nowhere": 0,
    "cache prune": 1,
    f"watch {RUN} suite=quikstart --once": 1,
    "list tasks --group vtab": 0,
    "list models": 0,
    "show task=mnist": 0,
    "show model=vit_b_32_256_datacomp": 0,
    "show suite=datacomp": 0,
    "show task=mnst": 1,
    "completion bash": 0,
}
"""{words: the status with which they end}"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for each of WITHOUT_TORCH: what it printed, in a fork of one process that has imported the command line.

    That process has also imported others' packages, which import none of HEAVY, so that the forks need not.
    """
    folder = tmp_path_factory.mktemp("answers")
    script = f"""
import gc, os, sys
import hydra, hydra.main, numpy, omegaconf, pandas, pyarrow.parquet, rich.console, rich.table, yaml
from clipeval.cli.main import main
assert not [name for name in {HEAVY!r} if name in sys.modules]
gc.freeze()
for number, words in enumerate({list(WITHOUT_TORCH)!r}):
    if not (child := os.fork()):
        os.dup2(file := os.open(str(number), os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(file, 2)
        status = main(words.split())
        print("status", status, "imported", [name for name in {HEAVY!r} if name in sys.modules], flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize("words", WITHOUT_TORCH)
def test_no_torch(words: str, answers: Path) -> None:
    said = Path(answers, str(list(WITHOUT_TORCH).index(words))).read_text()
    assert said.splitlines()[-1] == f"status {WITHOUT_TORCH[words]} imported []", said


def imported(words: str, status: int = 0) -> list[str]:
    """Which of the packages that take seconds a command imports."""
    command = [sys.executable, "-c", SCRIPT, ",".join(HEAVY), *words.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    said, _, names = done.stdout.splitlines()[-1].partition(" imported ")
    assert said == f"status {status}", done.stdout + done.stderr
    return [name for name in HEAVY if repr(name) in names]


def test_no_torch_where_slurm_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert imported("submit suite=quikstart", 1) == []


def digits(folder: Path) -> str:
    """The words of a run of the digits in a folder."""
    return f"suite=none +task@tasks.digits=quickstart_digits out={folder}/run cache.root={folder}/cache"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder in which the digits were run, and what that imported."""
    folder = tmp_path_factory.mktemp("ran")
    return folder, imported(f"run {digits(folder)}")


def test_what_is_done_needs_neither_open_clip_nor_transformers(ran: tuple[Path, list[str]], tmp_path: Path) -> None:
    place, first = ran
    words = digits(place)
    assert "open_clip" in first
    results = Path(place, "run", "eval_results.jsonl")
    assert results.is_file()
    assert imported(f"plan {words}") == ["torch"]
    assert imported(f"run {words}") == ["torch"]
    assert imported(f"import {results} model=quickstart out={tmp_path}/imported") == []
    (facts,) = Path(place, "cache", "facts").iterdir()
    before = facts.read_bytes()
    facts.write_bytes(before[:-20])
    assert "open_clip" in imported(f"plan {words}")
    assert facts.read_bytes() == before


def test_a_plan_of_every_kind_of_task(ran: tuple[Path, list[str]], tmp_path: Path) -> None:
    """A command imports torch without a part (`clipeval.preprocess.quick_imports`): few shots, probes, retrieval are tried on some
    samples, and get what they ask torch for."""
    words = f"plan suite=quickstart cache.root={ran[0]}/cache out={tmp_path}/run"
    assert not {"open_clip", "transformers"} & set(imported(words))


def test_decoders_start_before_open_clip_is_imported(ran: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Of a model whose facts are known, the first images are decoded while open_clip and the weights are on their way."""
    words = digits(tmp_path)
    shutil.copytree(ran[0] / "cache" / "facts", tmp_path / "cache" / "facts")
    script = f"""
import sys
from clipeval.decoding import decoders
start = decoders.Decoders.__init__
def started(self, *given, **more):
    start(self, *given, **more)
    print("started", [name for name in {HEAVY!r} if name in sys.modules])
decoders.Decoders.__init__ = started
{SCRIPT}"""
    done = subprocess.run(
        [sys.executable, "-c", script, ",".join(HEAVY), "run", *words.split(), "runtime.workers=1"],
        capture_output=True,
        text=True,
    )
    assert "started ['torch']" in done.stdout.splitlines(), done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("status 0 imported ['torch', 'open_clip'")
