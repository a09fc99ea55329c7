"""Run folders to read, made small and in a moment."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.data.conftest import bucket as bucket
from tests.data.conftest import s3 as s3


@pytest.fixture(scope="session")
def factory() -> ModuleType:
    """`factory.py` beside this file: functions that write synthetic run folders."""
    spec = importlib.util.spec_from_file_location("results_factory", Path(__file__).with_name("factory.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
