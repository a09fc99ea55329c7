"""Evaluations in training leave the process's memory as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="it is read from Linux's /proc")
def test_nothing_is_left(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.callbacks.memory", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    before, *after = found["tensors"]
    assert after[0] == after[1], "bytes of all tensors"
    assert 0 <= after[0] - before < 1024, "what is computed once and kept"
    assert found["resident"][-1] - found["resident"][0] < 100, "the libraries that the first evaluation loads"
