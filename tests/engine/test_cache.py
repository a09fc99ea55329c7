"""The stores: nothing is embedded twice, nothing damaged is used, nothing of one model serves another."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipeval.cli.cache import list_entries, prune
from clipeval.configs.files import sha256_of
from clipeval.engine.features import FeatureSpec, FeatureStores
from clipeval.stores import embeddings as store_module
from clipeval.stores.embeddings import CHUNK, ImageStore, TextStore

PARTS = {"image": "abc", "data": "d", "precision": "fp32"}


def rows(count: int, width: int = 4) -> torch.Tensor:
    return torch.arange(count * width, dtype=torch.float32).reshape(count, width)


def fill(store: ImageStore, first: int, last: int) -> None:
    store.put(np.arange(first, last), rows(store.count)[first:last])


def test_a_killed_run_resumes_inside_a_split(tmp_path: Path) -> None:
    count = 2 * CHUNK + 10
    store = ImageStore(tmp_path, PARTS, count)
    fill(store, 0, CHUNK + 100)
    again = ImageStore(tmp_path, PARTS, count)
    assert again.missing.tolist() == list(range(CHUNK, count))
    fill(again, CHUNK, count)
    assert again.complete
    last = ImageStore(tmp_path, PARTS, count)
    assert last.complete
    assert torch.equal(last.finish(), rows(count))


def test_chunks_written_by_several_processes_come_together(tmp_path: Path) -> None:
    count = 3 * CHUNK
    one, two = ImageStore(tmp_path, PARTS, count), ImageStore(tmp_path, PARTS, count)
    fill(one, 0, CHUNK)
    fill(two, 2 * CHUNK, 3 * CHUNK)
    both = ImageStore(tmp_path, PARTS, count)
    assert both.missing.tolist() == list(range(CHUNK, 2 * CHUNK))


def test_another_model_has_another_store(tmp_path: Path) -> None:
    fill(ImageStore(tmp_path, PARTS, 5), 0, 5)
    for name in PARTS:
        assert len(ImageStore(tmp_path, {**PARTS, name: "other"}, 5).missing) == 5


def test_a_flipped_bit_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(ImageStore(tmp_path, PARTS, 5), 0, 5)
    (chunk,) = tmp_path.glob("images/*/*.npy")
    data = bytearray(chunk.read_bytes())
    data[-3] ^= 4
    chunk.write_bytes(bytes(data))
    with caplog.at_level(logging.WARNING):
        assert len(ImageStore(tmp_path, PARTS, 5).missing) == 5
    assert "damaged" in caplog.text


def test_skipped_images_are_tried_again(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, PARTS, 4)
    store.skip([(2, "no image")])
    store.put(np.array([0, 1, 3]), rows(4)[[0, 1, 3]])
    assert store.complete
    assert torch.isnan(store.finish()[2]).all()
    assert ImageStore(tmp_path, PARTS, 4).missing.tolist() == [2]


def test_a_chunk_is_hashed_once_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, hashed = 3 * CHUNK, []
    monkeypatch.setattr("clipeval.stores.embeddings.sha256_of", lambda path: hashed.append(path) or sha256_of(path))
    spec = FeatureSpec(PARTS, range(count), "rgb_first", False, "embeddings")  # type: ignore[arg-type]
    fill(ImageStore(tmp_path, PARTS, count), 0, CHUNK)
    stores = FeatureStores(tmp_path)
    assert len(stores.of(spec).missing) == 2 * CHUNK
    fill(ImageStore(tmp_path, PARTS, count), CHUNK, 2 * CHUNK)  # another process
    hashed.clear()
    stores.refresh()
    stores.refresh()
    assert stores.of(spec).missing.tolist() == list(range(2 * CHUNK, count))
    assert len(hashed) == 1
    fill(stores.of(spec), 2 * CHUNK, count)
    assert stores.of(spec).complete
    stores.of(spec).release()
    assert torch.equal(stores.of(spec).finish(), rows(count)), "what was written is read again"


def test_flushed_chunks_are_completed_later(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, PARTS, 10)
    fill(store, 0, 4)
    store.flush()
    assert ImageStore(tmp_path, PARTS, 10).missing.tolist() == list(range(4, 10))
    fill(store, 4, 10)
    again = ImageStore(tmp_path, PARTS, 10)
    assert again.complete and torch.equal(again.finish(), rows(10))


def test_chunks_are_written_beside_the_stream_and_a_full_disk_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, threads, write = 4 * CHUNK, list[str](), store_module._write
    spec = FeatureSpec(PARTS, range(count), "rgb_first", False, "embeddings")  # type: ignore[arg-type]

    def noted(*given: Any) -> Path:
        threads.append(threading.current_thread().name)
        return write(*given)

    monkeypatch.setattr(store_module, "_write", noted)
    stores = FeatureStores(tmp_path)
    fill(stores.of(spec), 0, count)
    assert len(stores.of(spec)._writing) <= store_module.WRITING, "a slow disk holds up the run"
    assert torch.equal(stores.of(spec).finish(), rows(count)), "whatever is written by now"
    stores.settle()
    assert len(threads) == 4 and all(name.startswith("chunks") for name in threads)
    assert ImageStore(tmp_path, PARTS, count).complete

    def full(*given: Any) -> Path:
        raise OSError(28, "No space left on device", "disk")

    monkeypatch.setattr(store_module, "_write", full)
    other = FeatureStores(tmp_path)
    again = replace(spec, parts={**PARTS, "image": "other"})
    with pytest.raises(OSError, match="No space left"):
        fill(other.of(again), 0, CHUNK)
        other.settle()


def test_memory_only(tmp_path: Path) -> None:
    store = ImageStore(None, PARTS, 3)
    fill(store, 0, 3)
    assert torch.equal(store.finish(), rows(3))
    store.release()
    assert store.missing.tolist() == [0, 1, 2]
    assert not list(tmp_path.iterdir())


def test_texts_by_content(tmp_path: Path) -> None:
    store = TextStore(tmp_path, {"text": "t"})
    assert store.missing(["a", "b", "a"]) == ["a", "b"]
    store.put(["a", "b"], rows(2))
    assert store.missing(["b", "c"]) == ["c"]
    store.put(["c"], rows(3)[2:])
    again = TextStore(tmp_path, {"text": "t"})
    assert torch.equal(again.rows(["c", "a", "c", "b"]), rows(3)[[2, 0, 2, 1]])
    assert TextStore(tmp_path, {"text": "u"}).missing(["a"]) == ["a"]
    assert again.rows([]).shape == (0, 4)


def test_prune_removes_the_least_recently_used(tmp_path: Path) -> None:
    import os

    for age, name in ((300, "old"), (200, "mid"), (100, "new")):
        fill(ImageStore(tmp_path, {**PARTS, "image": name}, 5), 0, 5)
        folder = next(e.path for e in list_entries(tmp_path) if e.parts["image"] == name)
        for file in folder.iterdir():
            os.utime(file, (1e9 - age, 1e9 - age))
    entries = list_entries(tmp_path)
    assert [e.parts["image"] for e in entries] == ["old", "mid", "new"]
    removed = prune(tmp_path, entries[2].bytes + entries[1].bytes)
    assert [e.parts["image"] for e in removed] == ["old"]
    assert [e.parts["image"] for e in list_entries(tmp_path)] == ["mid", "new"]
