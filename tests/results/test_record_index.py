"""Reports read only what changed, and never anything but what is there."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from clipeval.results import record_index
from clipeval.results.records import read_content
from clipeval.results.run_folder import RunFolder
from clipeval.results.runs import load
from clipeval.results.tables import report


@pytest.fixture
def run(tmp_path: Path, factory: ModuleType) -> Path:
    """A run folder whose records were written a minute ago."""
    prompts = {"name": "folder", "digest": "c" * 64, "templates": 14, "classnames": ["a cat", "a dog"]}
    path: Path = factory.run(tmp_path / "run", change=lambda task: {"prompts": prompts}).path
    age(path)
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The records whose files are read."""
    seen: list[str] = []
    monkeypatch.setattr(record_index, "read_content", lambda path: seen.append(path.stem) or read_content(path))
    yield seen


def age(run: Path) -> None:
    for path in (run / "records").glob("*.json"):
        before = path.stat().st_mtime - 60
        os.utime(path, (before, before))


def test_the_second_report_reads_nothing_and_says_the_same(run: Path, reads: list[str]) -> None:
    first = report([run], "csv")
    assert sorted(reads) == RunFolder(run).tasks()
    reads.clear()
    assert report([run], "csv") == first
    assert reads == []
    whole, slim = load([run])[0], load([run], slim=True)[0]
    assert list(whole.records) == list(slim.records), "in the same order"
    for task, record in whole.records.items():
        prompts = {k: v for k, v in record.prompts.items() if k != "classnames"}
        assert slim.records[task] == dataclasses.replace(record, prompts=prompts)


def test_only_what_changed_is_read(run: Path, reads: list[str]) -> None:
    report([run], "csv")
    folder, (task, other, *_) = RunFolder(run), RunFolder(run).tasks()
    record = folder.record(task)
    assert record is not None
    folder.amend(dataclasses.replace(record, metrics={**record.metrics, "acc1": 0.123456789}))
    (run / "records" / f"{other}.json").unlink()
    reads.clear()
    assert "0.123456789" in report([run], "csv")
    assert reads == [task]
    assert other not in load([run], slim=True)[0].records
    reads.clear()
    report([run], "csv")
    assert reads == [task], "one as young as this may change again without a trace in its times"
    age(run)
    report([run], "csv")
    reads.clear()
    report([run], "csv")
    assert reads == []


def test_damage_is_seen_each_time(run: Path, reads: list[str]) -> None:
    report([run], "csv")
    path = run / "records" / f"{RunFolder(run).tasks()[0]}.json"
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"acc1": 0.', b'"acc1": 1.', 1))
    assert path.read_bytes() != content
    for _ in range(2):
        assert [problem.path for problem in load([run], slim=True)[0].damaged] == [path]
    path.write_bytes(content)
    assert not load([run], slim=True)[0].damaged


def test_a_damaged_index_is_made_again(run: Path, reads: list[str]) -> None:
    first = report([run], "csv")
    index = run / "records" / record_index.NAME
    whole = index.read_bytes()
    for harm in (whole[:-40], whole.replace(b'"acc1":0.', b'"acc1":1.', 1), b"", b"\xff\n{}"):
        assert harm != whole
        index.write_bytes(harm)
        reads.clear()
        assert report([run], "csv") == first
        assert sorted(reads) == RunFolder(run).tasks()
        assert index.read_bytes() == whole


def test_a_folder_that_cannot_be_written(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: object) -> None:
        raise OSError(30, "Read-only file system")

    first = report([run], "csv")
    (run / "records" / record_index.NAME).unlink()
    monkeypatch.setattr(record_index.os, "replace", refuse)
    assert report([run], "csv") == first
    assert [path.name for path in (run / "records").glob(".*")] == [], "nothing is left behind"


def test_a_record_with_nan_is_damaged(run: Path) -> None:
    path = run / "records" / f"{RunFolder(run).tasks()[0]}.json"
    content = json.loads(path.read_text())
    content["metrics"]["acc1"] = float("nan")
    path.write_text(json.dumps(content))
    assert [problem.path for problem in load([run])[0].damaged] == [path]
