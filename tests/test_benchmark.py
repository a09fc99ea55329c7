"""The benchmark's own arithmetic: targets, the day's file, and memory that several processes share."""

from __future__ import annotations

import ast
import importlib
import json
import math
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clip_benchmark
import pytest

from scripts import benchmark
from scripts.benchmark import line, write
from scripts.benchmark_feed import feed
from scripts.benchmark_gpu import _overlap, gpu
from scripts.benchmark_process import memory_of
from scripts.benchmark_rows import Bench, Result, Size, _rates, _seconds
from scripts.benchmark_worker import Side, WorkerDied

ABOUT: dict[str, Any] = {
    "created": "2026-11-25T00:00:00Z",
    "hardware": {"cpu": "AMD EPYC 7", "cores": 2, "memory_gib": 24},
    "packages": {"torch": "2.15.0"},
    "python": "3.11",
    "baseline": "none",
    "command": "python scripts/benchmark.py",
    "code": {"commit": "0123456789abcdef", "dirty": False},
    "load": "0.1",
}


def answers(*seconds: float) -> list[dict[str, float]]:
    return [{"images": 100, "seconds": s} for s in seconds]


def test_every_part_of_it_can_be_imported() -> None:
    """Those that a worker alone imports are named in no other test."""
    for path in sorted(Path(__file__).parents[1].glob("scripts/benchmark*.py")):
        importlib.import_module(f"scripts.{path.stem}")


def test_a_target_is_reached_by_the_median_of_the_rounds_ratios() -> None:
    rates = _rates("decode", "work", "images/s", answers(10, 10, 10), answers(2, 4, 5), "images", 2.5)
    assert rates.ratios == [5.0, 2.5, 2.0] and rates.met
    rates.same = False  # faster, and not the same numbers
    assert rates.met is False
    seconds = _seconds("miniature", "work", answers(30), answers(9, 10, 11), [], at_most=9.5)
    assert seconds.ratios == [30 / 9, 3.0, 30 / 11] and seconds.met is False
    assert "| **no** |" in line(seconds) and "at most 9.5 s" in line(seconds)
    alone = _rates("decode", "work", "images/s", [], answers(2.0), "images", 2.5)
    assert alone.met is None and alone.ratios == []


def test_rows_of_a_day_stand_in_one_file_and_those_measured_again_replace_the_old(tmp_path: Path) -> None:
    first = [Result("heads", "a head", "prompts/s", [1.0]), Result("memory", "peak", "GB", [1.5])]
    path = write(tmp_path, first, ABOUT)
    again = write(tmp_path, [Result("heads", "a head", "prompts/s", [3.0])], {**ABOUT, "load": "0.2"})
    assert again == path and path.name == "2026-11-25-amd-epyc-7-2-cores.md"
    kept = json.loads(path.with_suffix(".json").read_text())["results"]
    assert [(r["row"], r["ours"]) for r in kept] == [("heads", [3.0]), ("memory", [1.5])]
    assert "load 0.2" in path.read_text() and "load 0.1" in path.read_text()


TWO_THAT_SHARE = """
import mmap, os, sys, time
shared = mmap.mmap(-1, int(sys.argv[1]))
os.fork()
for start in range(0, len(shared), 4096):
    shared[start] = 1
os.write(1, b"x")
time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux says what memory processes share")
def test_memory_that_two_processes_share_counts_once() -> None:
    size = 64 * 2**20
    words = [sys.executable, "-c", TWO_THAT_SHARE, str(size)]  # small, whatever the tests before have imported
    leader = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert leader.stdout is not None
        assert leader.stdout.read(2) == b"xx"
        together = memory_of(leader.pid)
        assert size / 2**10 < together < 1.9 * size / 2**10
        assert memory_of(2**22) == 0  # no such session
    finally:
        os.killpg(leader.pid, 9)
        leader.communicate()


@pytest.mark.parametrize(("seconds", "overlap"), [(2, 1), (3, 0), (2.5, 0.5)])
def test_what_of_the_quicker_part_costs_no_time(seconds: float, overlap: float) -> None:
    """100 images that are encoded in 1 s and decoded in 2."""
    assert _overlap({"images": 100, "seconds": seconds}, 100.0, 50.0) == pytest.approx(overlap)


def test_the_row_of_a_gpu_measures_every_part(tmp_path: Path) -> None:
    size = Size(decoded_for_gpu=40, times_on_gpu=2, classes_on_gpu=4, templates=3, fed=512, probed=60)
    bench = Bench(tmp_path, tmp_path, 1, size, None, None, lambda said: None)  # type: ignore[arg-type]
    results = list(gpu(bench, device="cpu"))
    assert [r.unit for r in results] == ["images/s", "min", "min"] * 2
    for result in results[::3]:
        figures = result.figures
        assert json.loads(json.dumps(figures)) == figures
        assert figures.keys() >= {"device", "driver", "cores", "batch", "load_s", "search_s", "encoder", "scaling"}
        whole = figures["end_to_end"]["2"]
        assert whole["images"] == 80 and 0 < whole["first_s"] < whole["seconds"] and 0 < whole["busy"] <= 1
        assert math.isfinite(whole["overlap"])  # of 80 images, while a neighbour changes each rate: any number
        assert all(figures[f"end_to_end_{how}"]["images"] == 80 for how in ("workers", "store"))
        assert len(list((tmp_path / "kept-tiny" / "pixels").rglob("*.npy"))) == 2, (
            "of 40 images, kept by the first pass"
        )
        rates = [figures["encoder"], figures["texts"], figures["decoders"]["2"], *figures["main_thread_us"].values()]
        assert min([*rates, figures["probe"]["adamw_s"], figures["probe"]["lbfgs_s"]]) > 0
        assert result.ratios == [whole["rate"] / min(figures["encoder"], figures["decoders"]["2"])]


def test_the_row_of_the_main_thread_needs_no_gpu(tmp_path: Path) -> None:
    bench = Bench(tmp_path, tmp_path, 1, Size(fed=1024), None, None, lambda said: None)  # type: ignore[arg-type]
    results = list(feed(bench))
    assert [len(r.ours) for r in results] == [1] * 5 and all(us > 0 for r in results for us in r.ours)
    assert [r.at_most for r in results] == [10.0] * 4 + [None]


def worker(tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch) -> Side:
    """A side whose module is one of these."""
    (tmp_path / f"{module}.py").write_text(MODULES[module])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Side(Path(sys.executable), module, tmp_path / f"{module}.log")


MODULES = {
    "no_package": "import a_package_that_nobody_installed\n",
    "killed": "import os, signal\ndef work():\n    print('half of it is done')\n    os.kill(os.getpid(), signal.SIGKILL)\n",
    "raises": "def work():\n    raise ValueError('no images')\n",
    "answers": "def work(number):\n    return {'twice': 2 * number}\n",
}


def test_a_worker_that_dies_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it has died before the call is written (a broken pipe) or while it is at work."""
    side = worker(tmp_path, "no_package", monkeypatch)
    side._process.wait(timeout=60)
    for _ in range(2):
        with pytest.raises(
            WorkerDied, match=r"no_package .*before it answered 'work' \(exit status 1\); it wrote last:"
        ) as caught:
            side("work")
        assert "No module named 'a_package_that_nobody_installed'" in str(caught.value)
    side.close()
    side = worker(tmp_path, "killed", monkeypatch)
    with pytest.raises(WorkerDied, match=r"killed by signal 9"):
        side("work")
    side.close()
    side = worker(tmp_path, "raises", monkeypatch)
    with pytest.raises(RuntimeError, match="ValueError: no images"):
        side("work")
    side.close()
    side = worker(tmp_path, "answers", monkeypatch)
    assert side("work", number=4) == {"twice": 8}
    side.close()


def test_the_benchmark_ends_with_a_workers_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def row(bench: Bench) -> Iterator[Result]:
        side = worker(tmp_path, "no_package", monkeypatch)
        side("work")
        yield Result("heads", "never", "s", [1.0])

    monkeypatch.setitem(benchmark.ROWS, "heads", row)
    words = ["--rows", "heads", "--no-baseline", "--output", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    assert benchmark.main(words) == 1
    said = capsys.readouterr().err
    assert "No module named 'a_package_that_nobody_installed'" in said and "Broken pipe" not in said


def test_what_clip_benchmark_imports_is_installed_beside_it() -> None:
    """`requests` is a package of the tests' own: without them, clip_benchmark_env has to bring it."""
    imported = {
        name.partition(".")[0]
        for path in Path(clip_benchmark.__file__).parent.rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        for name in _imports(node)
    }
    script = (Path(__file__).parents[1] / "scripts" / "clip_benchmark_env").read_text()
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    tests_own = {requirement.partition(">")[0] for requirement in project["optional-dependencies"]["test"]}
    assert "requests" in imported & tests_own, "if not, the script need not install it any more"
    for name in imported & tests_own:
        assert re.search(rf"pip install .*\b{name}\b", script), name


def _imports(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
