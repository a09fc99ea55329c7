"""A hub of its own for each test, and pauses that are noted, not waited for."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from clipeval.download import remote


@pytest.fixture(scope="session")
def fake_hub() -> ModuleType:
    """`fake_hub.py` beside this file."""
    spec = importlib.util.spec_from_file_location("fake_hub", Path(__file__).with_name("fake_hub.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fake_hub"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def hub(fake_hub, monkeypatch) -> Iterator[object]:
    """An empty hub, which HF_ENDPOINT names; no token, no pause."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)  # 10 MB: more than these sets have
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # which this hub does not speak
    monkeypatch.setattr("huggingface_hub.utils._auth._get_token_from_file", lambda: None)
    with fake_hub.FakeHub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        yield running


@pytest.fixture(autouse=True)
def remembered(monkeypatch, tmp_path_factory) -> None:
    """What a hub's pages said is kept apart from the user's own cache."""
    monkeypatch.setenv("CLIPEVAL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def pauses(monkeypatch) -> list[float]:
    """The pauses that were asked for, in seconds."""
    asked: list[float] = []
    monkeypatch.setattr(remote, "_pause", lambda seconds, stop: asked.append(seconds))
    monkeypatch.setattr(time, "sleep", asked.append)
    return asked
