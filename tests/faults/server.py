"""A process that has imported everything and run nothing: it forks a fresh `clipeval` for each request, in milliseconds.

Requests and answers are lines of JSON. A request is {"runs": [{"words", "hook", "kill_after", "signal", "everyone"}]}; its runs
go at once.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

LIMIT = 120.0
"""Seconds after which a run is taken to hang, and ended."""


@dataclass(frozen=True)
class Done:
    """How a run ended: its exit status (minus the signal's number if one ended it), and what it printed."""

    status: int
    out: str
    err: str
    seconds: float


class Server:
    """The client's side. Use it as a context manager."""

    def __enter__(self) -> Server:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=Path(__file__).parents[2],
        )
        assert self._receive() == "ready"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)

    def run(self, words: Sequence[str], **more: Any) -> Done:
        """One run; see the module's docstring."""
        return self.run_all([{"words": list(words), **more}])[0]

    def run_all(self, runs: Sequence[Mapping[str, Any]]) -> list[Done]:
        """Several at once."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"runs": list(runs)}) + "\n")
        self._process.stdin.flush()
        return [Done(**answer) for answer in self._receive()]

    def _receive(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the fault server ended; see its error output")
        return json.loads(line)


def _child(run: Mapping[str, Any], out: int, err: int) -> None:
    os.setsid()
    os.dup2(out, 1)
    os.dup2(err, 2)
    status = 70
    try:
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        if run.get("hook"):
            from tests.faults import hooks

            getattr(hooks, run["hook"])()
        from clipeval.cli.main import main

        status = main(run["words"])
    except BaseException as problem:  # noqa: BLE001 - whatever it is, the table shows it
        import traceback

        traceback.print_exception(problem)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _serve(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    started = time.monotonic()
    children: dict[int, tuple[Any, Any]] = {}
    order = []
    for run in runs:
        files = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed when read
        pid = os.fork()
        if pid == 0:
            _child(run, files[0].fileno(), files[1].fileno())
        children[pid] = files
        order.append(pid)
    ends: dict[int, tuple[int, float]] = {}
    due = {pid: run["kill_after"] for pid, run in zip(order, runs, strict=True) if run.get("kill_after") is not None}
    while len(ends) < len(order):
        elapsed = time.monotonic() - started
        for pid, run in zip(order, runs, strict=True):
            if pid in ends:
                continue
            if elapsed > due.get(pid, LIMIT):
                due[pid] = LIMIT
                number = getattr(signal, run.get("signal", "SIGKILL")) if elapsed < LIMIT else signal.SIGKILL
                everyone = number == signal.SIGKILL or run.get("everyone", False)
                group = everyone and os.getpgid(pid) == pid  # not yet, right after the fork
                (os.killpg if group else os.kill)(pid, number)
            gone, status = os.waitpid(pid, os.WNOHANG)
            if gone:
                ends[pid] = os.waitstatus_to_exitcode(status), elapsed
        time.sleep(0.005)
    answers = []
    for pid in order:
        texts = []
        for file in children[pid]:
            file.seek(0)
            texts.append(file.read())
            file.close()
        answers.append({"status": ends[pid][0], "out": texts[0], "err": texts[1], "seconds": ends[pid][1]})
    return answers


def _preload() -> None:
    """Imports and reads what a run imports and reads late, which each fork would do anew."""
    for module in (
        "open_clip",
        "clipeval.cli.main",
        "clipeval.cluster.local",
        "clipeval.cluster.checkpoint_files",
        "clipeval.configs.compose",
        "clipeval.data.caption_files",
        "clipeval.data.huggingface",
        "clipeval.data.image_folder",
        "clipeval.data.pairs",
        "clipeval.data.qrels",
        "clipeval.data.queries",
        "clipeval.data.row_pictures",
        "clipeval.data.splits",
        "clipeval.data.videos",
        "clipeval.data.webdataset",
        "clipeval.models.checkpoint",
        "clipeval.models.fitting",
        "clipeval.models.open_clip",
        "clipeval.models.open_clip_build",
        "clipeval.results.tables",
        "clipeval.tasks",
        "hydra",
        "multiprocessing.popen_fork",
        "multiprocessing.queues",
        "omegaconf._impl",
        "pyarrow.pandas_compat",
        "pyarrow.parquet",
        "rich._emoji_codes",
        "rich.status",
        "scipy.stats",
    ):
        importlib.import_module(module)
    # What a process reads once and keeps, each fork would read again: suites, versions, pictures, a vocabulary, a grammar.
    importlib.import_module("clipeval.results.suites").suites_in({})
    importlib.import_module("clipeval.results.provenance").provenance()
    importlib.import_module("clipeval.models.check_pictures").captioned_pictures()
    importlib.import_module("clipeval.models.open_clip_build")._vocabulary()
    omegaconf = importlib.import_module("omegaconf").OmegaConf
    omegaconf.resolve(omegaconf.create({"a": "${b.c}/${oc.env:HOME,${b.c}}", "b": {"c": "d"}}))
    gc.collect()
    gc.freeze()  # a fork's collector would walk, and so copy, all of it


def _main() -> None:
    _preload()
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps("ready"), file=channel, flush=True)
    for line in sys.stdin:
        print(json.dumps(_serve(json.loads(line)["runs"])), file=channel, flush=True)


if __name__ == "__main__":
    _main()
