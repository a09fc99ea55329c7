"""`clipeval cache`: lists, sizes, prunes what was longest not used, and says what it wants when asked wrongly."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from clipeval.cli.cache import parse_size
from clipeval.cli.main import main
from clipeval.data.remote import local_copy
from clipeval.stores.embeddings import ImageStore, TextStore

IMAGES = {"image": "abc", "precision": "fp32"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An old store of images, 16,000 bytes of rows, and a newer one of texts, 14,400 bytes."""
    store = ImageStore(tmp_path, IMAGES, 1000, "tiny, MNIST")
    store.put(np.arange(1000), torch.ones(1000, 4))
    TextStore(tmp_path, {"text": "t", "precision": "fp32"}).put([f"text {i}" for i in range(300)], torch.ones(300, 4))
    for path in tmp_path.glob("images/*/*"):
        os.utime(path, (1, 1))
    return tmp_path


def test_it_lists_what_is_kept(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "--root", str(root)]) == 0
    said = capsys.readouterr().out
    assert "images" in said and "texts" in said and "16." in said
    assert "tiny, MNIST" in said and "2 entries" in said


def test_it_removes_what_was_longest_not_used(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "prune", "--keep", "20kB", "--root", str(root)]) == 0
    assert "1 removed" in capsys.readouterr().out
    assert not list(root.glob("images/*")) and list(root.glob("texts/*/*.npy"))
    assert main(["cache", "prune", "--keep", "0", "--root", str(root)]) == 0
    assert not list(root.glob("texts/*"))


def test_reading_counts_as_use(root: Path) -> None:
    for path in root.glob("texts/*/*"):
        os.utime(path, (2, 2))
    assert ImageStore(root, IMAGES, 1000).complete
    main(["cache", "prune", "--keep", "20kB", "--root", str(root)])
    assert list(root.glob("images/*")) and not list(root.glob("texts/*"))


def test_copies_of_sets_that_lie_elsewhere(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fsspec.filesystem("memory").pipe_file("/kept/wds_own/classnames.txt", b"cat\n" * 1000)
    copy = local_copy("memory://kept/wds_own", root, by_range=True)
    main(["cache", "--root", str(root)])
    assert "wds_own" in (said := capsys.readouterr().out) and "4.0 kB" in said and "3 entries" in said
    main(["cache", "prune", "--keep", "20kB", "--root", str(root)])
    assert copy.is_dir(), "it was used last"
    main(["cache", "prune", "--keep", "0", "--root", str(root)])
    assert not copy.exists()


@pytest.mark.parametrize("words", [["prune"], ["list", "--keep", "1GB"], ["prune", "--keep", "lots"]])
def test_wrong_words_are_answered(words: list[str], root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", *words, "--root", str(root)]) == 1
    assert "10GB" in capsys.readouterr().err
    assert list(root.glob("images/*"))


def test_an_empty_cache_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "--root", str(tmp_path / "none")]) == 0
    assert "0 entries" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("10GB", 10**10), ("1.5G", 15 * 10**8), ("500 MB", 5 * 10**8), ("7", 7), ("2kb", 2000)],
)
def test_sizes_are_read(text: str, count: int) -> None:
    assert parse_size(text) == count
