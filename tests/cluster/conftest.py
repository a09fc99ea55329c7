"""Small sets and models for runs that are shared out."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.make_miniature import facts, write_set
from scripts.tiny_model import write_tiny_model
from tests.data.test_data import write_tar

SMALL = ("cifar10", "gtsrb", "fmow")
LARGE = "mnist"
"""A task of three chunks of the embedding store, the last one short."""
LARGE_COUNT = 4500


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    return [write_tiny_model(folder / f"m{seed}", seed=seed) for seed in range(2)]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root of three small tasks and a large one."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for fact in facts():
        if fact.key.rsplit("/", 1)[-1] in SMALL:
            write_set(root / fact.folder, fact, 24, 40, 2, rng)
        if fact.key.rsplit("/", 1)[-1] == LARGE:
            folder = root / fact.folder
            members = []
            for i in range(LARGE_COUNT):
                buffer = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(buffer, "png", compress_level=1)
                members += [(f"s{i:05d}.png", buffer.getvalue()), (f"s{i:05d}.cls", str(i % 10).encode())]
            write_tar(folder / "test" / "0.tar", members)
            (folder / "test" / "nshards.txt").write_text("1\n")
            (folder / "classnames.txt").write_text("".join(f"digit {i}\n" for i in range(10)))
            (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n")
    return root


def words(data: Path, *more: str) -> list[str]:
    """The words of a run over all four tasks."""
    tasks = [f"+task@tasks.{task}={task}" for task in (*SMALL, LARGE)]
    return ["suite=none", *tasks, "model=open_clip", f"data.root={data}", "runtime.workers=1", *more]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Hydra's `-m` gives the root logger a handler of the stream of that moment, which pytest closes after the test."""
    before = logging.root.handlers[:]
    yield
    logging.root.handlers[:] = before
