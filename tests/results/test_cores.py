"""The cores that a process may use: affinity, control groups of both versions, systems that have neither."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clipeval.results import cores


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of 128 cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(128)), raising=False)
    monkeypatch.setattr(cores, "_CGROUPS", tmp_path)
    monkeypatch.setattr(cores, "_OWN", tmp_path / "own")
    return tmp_path


def group(machine: Path, name: str, **files: str) -> None:
    folder = machine / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (folder / file.replace("__", ".")).write_text(text)


@pytest.mark.parametrize(
    ("limit", "usable"),
    [("max 100000", 128), ("800000 100000", 8), ("150000 100000", 2), ("10000 100000", 1), ("99999999 100000", 128)],
)
def test_a_quota_of_version_2(machine: Path, limit: str, usable: int) -> None:
    (machine / "own").write_text("0::/\n")
    group(machine, ".", cpu__max=f"{limit}\n")
    assert cores.usable_cores() == usable


def test_the_least_quota_of_all_groups_above_counts(machine: Path) -> None:
    (machine / "own").write_text("0::/kubepods/pod7/box\n")
    group(machine, "kubepods/pod7/box", cpu__max="max 100000\n")
    group(machine, "kubepods/pod7", cpu__max="400000 100000\n")
    group(machine, "kubepods", cpu__max="6400000 100000\n")
    assert cores.usable_cores() == 4


def test_a_quota_of_version_1(machine: Path) -> None:
    (machine / "own").write_text("12:memory:/x\n4:cpu,cpuacct:/docker/abc\n0::/\n")
    group(machine, "cpu", cpu__cfs_quota_us="600000\n", cpu__cfs_period_us="100000\n")  # as seen from inside
    assert cores.usable_cores() == 6
    group(machine, "cpu/docker/abc", cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n")
    assert cores.usable_cores() == 6
    group(machine, "cpu", cpu__cfs_quota_us="-1\n")
    assert cores.usable_cores() == 128


def test_without_affinity_or_control_groups(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert cores.usable_cores() == 10 and cores.cpu_quota() is None
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores.usable_cores() == 1


@pytest.mark.parametrize("text", ["", "nonsense\n", "0::/gone\n", "x:y\n"])
def test_what_cannot_be_read_limits_nothing(machine: Path, text: str) -> None:
    (machine / "own").write_text(text)
    group(machine, "odd", cpu__max="lots\n")
    assert cores.usable_cores() == 128
