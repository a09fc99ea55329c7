"""Sets that stay on the hub: `data.root=hf://datasets/ORG`."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from clipeval.configs.errors import ClipevalError
from clipeval.data.config import DataConfig
from clipeval.data.split import open_split
from tests.data.colour_set import write_colours

CONFIG = DataConfig(kind="webdataset", folder="wds_colours")


@pytest.fixture
def pushed(hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set of twelve colours on the hub; gives the folder above its original."""
    from huggingface_hub import HfFileSystem

    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": hub.endpoint})  # as FSSPEC_HF_ENDPOINT
    HfFileSystem.clear_instance_cache()
    original = write_colours(tmp_path / "sets" / "wds_colours", {"test": 12}, 3)
    files = {p.relative_to(original).as_posix(): p.read_bytes() for p in original.rglob("*") if p.is_file()}
    hub.push("org/wds_colours", files)
    return tmp_path / "sets"


def test_shards_are_read_by_range(hub, pushed: Path, tmp_path: Path) -> None:
    local = open_split(CONFIG, str(pushed), "test", tmp_path / "index")
    there = open_split(CONFIG, "hf://datasets/org", "test", tmp_path / "cache" / "index")
    assert (there.digest, there.samples.keys) == (local.digest, local.samples.keys)
    hub.requests.clear()
    assert [there.images.read(i) for i in range(12)] == [local.images.read(i) for i in range(12)]
    ranges = [r for r in hub.requests if r.status == 206]
    assert len(ranges) == 2
    hub.requests.clear()
    assert open_split(CONFIG, "hf://datasets/org", "test", tmp_path / "cache" / "index").digest == local.digest
    assert not [r for r in hub.requests if r.path.endswith(".tar")], "the index is kept"


def test_a_set_that_is_not_there(hub, pushed: Path, tmp_path: Path) -> None:
    config = DataConfig(kind="webdataset", folder="wds_colour")
    with pytest.raises(ClipevalError, match=r"hf://datasets/org/wds_colour: there is no such"):
        open_split(config, "hf://datasets/org", "test", tmp_path / "index")


def test_a_gated_set_asks_for_the_token(hub, pushed: Path, tmp_path: Path) -> None:
    files = next(iter(hub.repos["org/wds_colours"].commits.values()))
    hub.push("org/wds_colours", files, gated=True)
    with pytest.raises(ClipevalError, match=r"hf://datasets/org/wds_colours/.* may not be read .*hf auth login"):
        open_split(CONFIG, "hf://datasets/org", "test", tmp_path / "index")
