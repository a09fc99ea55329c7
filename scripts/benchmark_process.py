"""Whole commands, in processes of their own: how long they take, when they begin to decode, and how much memory they need."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmark_worker import ROOT

LOOK = 0.05
"""Seconds between two looks at a command's processes."""


@dataclass(frozen=True)
class Ran:
    """A command that ended well.

    Attributes:
        seconds: how long it took.
        peak_gb: the most memory that its processes had together, where that was asked for.
        decoding: seconds until its first decoder process ran; None where it had none.
    """

    seconds: float
    peak_gb: float
    decoding: float | None = None


def clipeval(words: list[str], status: int = 0, memory: bool = True) -> Ran:
    """Runs `clipeval …`; see `ran`."""
    return ran([sys.executable, "-m", "clipeval.cli.main", *words], status, memory)


def ran(command: list[str], status: int = 0, memory: bool = True) -> Ran:
    """Runs a command.

    Args:
        command: its words.
        status: with which it is to end.
        memory: whether to add up its processes' memory, which takes their time.

    Raises:
        RuntimeError: it ended with another status.
    """
    with tempfile.TemporaryFile("w+") as output:
        started, peak, forks, decoding = time.perf_counter(), 0, set[int](), None
        child = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
        while True:
            try:
                child.wait(0.2 if memory else LOOK)
                break
            except subprocess.TimeoutExpired:
                peak = max(peak, memory_of(child.pid)) if memory else 0
                before, forks = forks, forks_of(child.pid)
                if decoding is None and before & forks:  # not one that is about to become another program
                    decoding = time.perf_counter() - started
        seconds = time.perf_counter() - started
        if child.returncode != status:
            output.seek(0)
            raise RuntimeError(f"{' '.join(command)}: {output.read()[-2000:]}")
    return Ran(seconds, peak / 2**20, decoding)


def forks_of(parent: int) -> set[int]:
    """Child processes that run the same program as their parent, as decoders do (Linux; else none)."""
    try:
        words = Path(f"/proc/{parent}/cmdline").read_bytes()
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return {int(pid) for pid in children if Path(f"/proc/{pid}/cmdline").read_bytes() == words != b""}
    except (FileNotFoundError, ProcessLookupError):
        return set()


def memory_of(session: int) -> int:
    """KiB of anonymous and shared memory of a session's processes, what several share counted once (Linux; else 0)."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                lines = (folder / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
    return total
