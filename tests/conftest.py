"""What tests of several folders look at, made once: the default run of the bundled model, half a minute of a core."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

import clipeval.preprocess  # noqa: F401  # open_clip is imported quickly from here on
from clipeval.cli.main import main


def pytest_collection_finish() -> None:
    """The half million objects of what was imported stay: no collection walks them again (a twentieth of the time)."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the `run` and the `cache` of `clipeval run`, which every process of the session shares: to read, not to change.

    Who runs the bundled model again for what comes after the embeddings takes a copy of the cache (`warm`).
    """
    own = tmp_path_factory.getbasetemp()
    place = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "quickstart"
    with FileLock(place.with_suffix(".lock")):
        if not (place / "done").exists():
            shutil.rmtree(place, ignore_errors=True)
            assert main(["run", f"out={place / 'run'}", f"cache.root={place / 'cache'}"]) == 0
            (place / "done").touch()
    return place


@pytest.fixture(scope="session")
def warm(quickstart: Path) -> Callable[[Path], Path]:
    """Makes a cache folder that holds what the default run has left: the embeddings of its images and prompts."""

    def copied(folder: Path) -> Path:
        shutil.copytree(quickstart / "cache", folder, dirs_exist_ok=True)
        return folder

    return copied
