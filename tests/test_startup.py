"""What needs no model does not wait for torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parent / "results" / "run_before_the_package"
HEAVY = ("torch", "open_clip", "transformers", "torchvision")
SCRIPT = """
import sys
from clipeval.cli.main import main
status = main(sys.argv[2:])
print("status", status, "imported", [name for name in sys.argv[1].split(",") if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("run suite=quikstart", 1),
        ("run runtime.precision=fp33", 1),
        ("run tasks.quickstart_digits.metrik=acc5", 1),
        ("run model.pretrained=glob(/nowhere/*.pt)", 1),
        ("run -m suite=quikstart,quickstart", 1),
        ("plan model=vit_b_33", 1),
        (f"report {RUN}", 0),
        (f"report {RUN} --format md", 0),
        (f"report {RUN} --format csv", 0),
        (f"status {RUN}", 0),
        ("list tasks --group vtab", 0),
        ("list models", 0),
        ("show task=mnist", 0),
        ("show model=vit_b_32_256_datacomp", 0),
        ("show suite=datacomp", 0),
        ("show task=mnst", 1),
        ("completion bash", 0),
    ],
)
def test_no_torch(words: str, status: int) -> None:
    command = [sys.executable, "-c", SCRIPT, ",".join(HEAVY), *words.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == f"status {status} imported []", done.stdout + done.stderr
