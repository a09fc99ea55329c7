"""What is remembered of the tasks' classes is what they have."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

import clipeval.tasks
from clipeval.configs import task_classes
from clipeval.configs.compose import compose
from clipeval.configs.errors import ClipevalError
from clipeval.configs.task_classes import task_class

FILE = "task_classes.json"


@pytest.fixture(autouse=True)
def as_at_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of one's own, and a process in which the classes have not been imported."""
    monkeypatch.setenv("CLIPEVAL_CACHE", str(tmp_path))
    forget(monkeypatch)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_classes, "_is_there", lambda: False)
    task_classes._remembered.cache_clear()
    task_classes._remember.cache_clear()


def test_what_is_remembered_is_what_the_classes_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = task_class("clipeval.tasks.Classification")
    known = json.loads(Path(tmp_path, FILE).read_text())["classes"]
    assert set(known) >= {f"clipeval.tasks.{name}" for name in clipeval.tasks.__all__ if name.endswith("Retrieval")}
    forget(monkeypatch)
    monkeypatch.setattr(task_classes, "_imported", lambda *given: pytest.fail(f"imported {given}"))
    assert task_class("clipeval.tasks.Classification") == read
    for target in known:
        found = getattr(clipeval.tasks, target.rpartition(".")[2])
        remembered = task_class(target)
        assert list(remembered.fields) == [field.name for field in dataclasses.fields(found)]
        assert (remembered.protocol, remembered.one_head) == (found.protocol, found.one_head)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"state": 1}', '{"state": "STATE", "classes": {"a": 1}}', '{"state": "STATE"}']
)
def test_a_damaged_memory_is_read_anew(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = task_class("clipeval.tasks.Retrieval")
    whole = Path(tmp_path, FILE).read_text()
    Path(tmp_path, FILE).write_text(content.replace("STATE", json.loads(whole)["state"]))
    forget(monkeypatch)
    assert task_class("clipeval.tasks.Retrieval") == read
    assert Path(tmp_path, FILE).read_text() == whole


def test_of_another_code_nothing_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = task_class("clipeval.tasks.Retrieval")
    content = json.loads(Path(tmp_path, FILE).read_text())
    content["state"] = "another"
    content["classes"]["clipeval.tasks.Retrieval"] = [["wrong"], "wrong", True]
    Path(tmp_path, FILE).write_text(json.dumps(content))
    forget(monkeypatch)
    assert task_class("clipeval.tasks.Retrieval") == read


def test_a_cache_that_cannot_be_written_costs_time_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPEVAL_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    assert task_class("clipeval.tasks.Retrieval").protocol == "retrieval"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("clipeval.tasks.Clasification", "Did you mean: Classification"),
        ("clipeval.tasks.nearest", "Did you mean: NearestNeighbours"),
        ("clipeval.taks.Classification", "'clipeval.taks' cannot be imported"),
        ("Classification", "cannot be imported"),
        ("clipeval.tasks.Tree", "a task's class was expected"),
        ("clipeval.tasks.base.Samples", "a task's class was expected"),
    ],
)
def test_what_is_no_class_of_a_task(target: str, message: str) -> None:
    with pytest.raises(ClipevalError) as error:
        task_class(target)
    assert message in str(error.value)


def test_a_composition_with_a_wrong_key_is_refused_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["suite=none", "task=mnist", "data.root=/data"]
    compose(words)
    forget(monkeypatch)
    monkeypatch.setattr(task_classes, "_imported", lambda *given: pytest.fail(f"imported {given}"))
    compose(words)
    with pytest.raises(ClipevalError, match="tamplates"):
        compose([*words, "+task.tamplates=x"])
