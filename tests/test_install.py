"""scripts/install: the pinned torch, another build, or the one that is there; with a Python that notes what it is asked."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHON = """#!/bin/sh
echo "$@" >> "{log}"
case "$*" in
    "-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python;;
    *"import torch"*) [ ! -e no-torch ];;
esac
"""


class Place:
    """A copy of what the script reads, and what it asked of Python."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        (folder / "scripts").mkdir()
        shutil.copy(ROOT / "scripts" / "install", folder / "scripts")
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, folder)
        self.python = folder / "python"
        self.python.write_text(PYTHON.format(log=self.log))
        self.python.chmod(0o755)

    def install(self, *words: str) -> tuple[int, list[str], str]:
        """Status, what Python was asked to install or make, and what was said."""
        self.log.write_text("")
        environment = {**os.environ, "PYTHON": str(self.python)}
        done = subprocess.run(
            ["bash", "scripts/install", *words],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        asked = [line for line in self.log.read_text().splitlines() if line.startswith("-m")]
        return done.returncode, asked, done.stderr


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_the_pinned_set(place: Place) -> None:
    status, asked, _ = place.install("test")
    assert status == 0 and asked[0] == "-m venv .venv"
    assert asked[1:] == ["-m pip install --quiet --no-compile --editable .[test] --constraint constraints.txt"]
    assert place.install("test") == place.install() == (0, [], "")


def test_the_torch_that_is_there(place: Place) -> None:
    status, asked, _ = place.install("--torch", "installed", "test")
    assert status == 0 and asked[0] == "-m venv --system-site-packages .venv" and len(asked) == 2
    constraints = asked[1].split("--constraint ")[1]
    pinned = (place.folder / constraints).read_text()
    assert not any(
        line.startswith(("torch==", "torchvision==", "triton==", "nvidia-", "cuda-")) for line in pinned.splitlines()
    )
    assert "open_clip_torch==" in pinned and "numpy==" in pinned
    assert place.install() == (0, [], ""), "what was chosen stays chosen"
    status, asked, said = place.install("--torch", "https://example.org/rocm")
    assert status == 1 and not asked and "made with installed torch" in said


def test_another_build(place: Place) -> None:
    url = "https://example.org/rocm"
    status, asked, _ = place.install("--torch", url)
    assert status == 0 and asked[0] == "-m venv .venv"
    assert asked[1] == f"-m pip install --quiet --no-compile torch torchvision --index-url {url}"
    assert asked[2].endswith("--editable . --constraint .venv/clipeval-constraints.txt")


def test_what_is_wrong_is_said(place: Place) -> None:
    status, asked, said = place.install("--torch")
    assert status == 1 and not asked and "installed, or the URL" in said
    (place.folder / "no-torch").touch()
    status, asked, said = place.install("--torch", "installed")
    assert status == 1 and "no torch and torchvision" in said and not any("editable" in line for line in asked)
