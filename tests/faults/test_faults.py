"""Every fault through the command line, one test each; `python -m tests.faults --kills 50` prints them as a table."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.bench import Bench
from tests.faults.cases import CASES, Skipped
from tests.faults.server import Server

KILLS = int(os.environ.get("CLIPEVAL_TEST_KILLS", "6"))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with Server() as server:
        yield Bench(server, tmp_path_factory.mktemp("faults"), KILLS)


@pytest.mark.parametrize("name", CASES)
def test_fault(bench: Bench, name: str) -> None:
    try:
        assert CASES[name](bench)
    except Skipped as reason:
        pytest.skip(str(reason))


def test_the_table_of_faults_is_whole(bench: Bench, tmp_path: Path) -> None:
    assert len(CASES) >= 30
    assert bench.truth.keys() == {"mnist", "cifar10"}
