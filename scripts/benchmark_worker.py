"""One side of the benchmark: a process that stays, so that both can alternate without paying for start-up.

Started by scripts/benchmark.py as `python -m scripts.benchmark_worker scripts.benchmark_ours` (or `…_theirs`, with the
other environment's Python). Reads `{"call": name, "arguments": {…}}` a line and answers with a line of JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parent.parent


class Side:
    """The parent's handle on one such process."""

    def __init__(self, python: Path, module: str, log: Path) -> None:
        self.module = module
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [str(python), "-m", "scripts.benchmark_worker", module],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def __call__(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Calls a function of the module there.

        Raises:
            RuntimeError: it raised, or the process died; the message holds its words.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"call": name, "arguments": arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.module} ended in {name}; see {self._log}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.module}.{name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def serve(module: str, requests: TextIO, answers: TextIO) -> None:
    """Answers calls until the requests end."""
    functions = importlib.import_module(module)
    for line in requests:
        request = json.loads(line)
        try:
            answer = getattr(functions, request["call"])(**request["arguments"])
        except Exception:  # noqa: BLE001  (the other process has to know, whatever it was)
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log
    serve(sys.argv[1], sys.stdin, answers)
