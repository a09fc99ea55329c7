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
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

LINES = 12
"""Of what a process wrote before it died, as many of the last lines are shown."""
ROOT = Path(__file__).resolve().parent.parent


class WorkerDied(RuntimeError):  # noqa: N818 - what it is
    """A process ended before it answered; the message holds the last lines that it wrote."""


class Side:
    """The parent's handle on one such process. `log` is its own: nobody else writes there."""

    def __init__(self, python: Path, module: str, log: Path) -> None:
        self.module, self._python = module, python
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
            WorkerDied: the process ended; the message says how, and the last lines that it wrote.
            RuntimeError: the function raised; the message holds its traceback.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"call": name, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # it has died since the last call, or while it started
            raise WorkerDied(self._last_words(name)) from None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerDied(self._last_words(name))
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.module}.{name}: {answer['error']}")
        return answer

    def _last_words(self, name: str) -> str:
        status = self._process.wait(timeout=60)
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        wrote = self._log.read_text(errors="replace").rstrip().splitlines()[-LINES:]
        said = "\n".join(["it wrote last:", *(f"    {line}" for line in wrote)]) if wrote else "it wrote nothing"
        return f"{self.module} ({self._python}) ended before it answered {name!r} ({how}); {said}"

    def close(self) -> None:
        """Ends the process, if it has not ended by itself."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # why it died was said by the call that found it dead
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
