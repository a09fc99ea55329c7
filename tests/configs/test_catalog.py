"""The catalogue reads the same values as Hydra composes, without Hydra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from clipeval.cli.facts import protocol_of
from clipeval.configs import catalog, compose
from clipeval.configs.errors import ClipevalError

SUITES = [name for name in catalog.group_options("suite") if name != "none"]


def composed(words: list[str]) -> dict[str, Any]:
    found = OmegaConf.to_container(compose._hydra(words), resolve=False)
    assert isinstance(found, dict)
    return found


def test_a_task_has_the_values_that_hydra_gives_it() -> None:
    tasks = catalog.group_options("task")
    for first in range(0, len(tasks), 20):  # OmegaConf's time grows with the square
        some = tasks[first : first + 20]
        words = ["suite=none", *(f"+task@tasks.{name}={name}" for name in some)]
        assert composed(words)["tasks"] == {name: catalog.content("task", name) for name in some}


@pytest.mark.parametrize("model", [catalog.group_options("model")[i] for i in (0, 1, 5, -1)])
def test_a_model_has_the_values_that_hydra_gives_it(model: str) -> None:
    assert composed([f"model={model}"])["model"] == catalog.content("model", model)


def test_a_suite_has_the_tasks_that_hydra_gives_it() -> None:
    for suite in SUITES:
        members = catalog.suite_tasks(suite)
        assert composed([f"suite={suite}"])["tasks"] == {
            name: catalog.content("task", option) for name, option in members.items()
        }


def test_the_protocol_is_the_one_of_the_tasks_class() -> None:
    from importlib import import_module

    for name in catalog.group_options("task"):
        content = catalog.content("task", name)
        module, _, target = content["_target_"].rpartition(".")
        assert vars(import_module(module))[target].protocol == protocol_of(content)


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mine.yaml").write_text("defaults: [mnist]\nname: Mine\ndata: {samples: 7}\n")
    mine = catalog.content("task", "mine", tmp_path)
    assert (mine["name"], mine["metric"], mine["data"]["samples"], mine["data"]["classes"]) == ("Mine", "acc1", 7, 10)
    assert catalog.content("task", "mnist")["data"]["samples"] == 10000, "the base keeps its own values"
    (tmp_path / "task" / "mine.yaml").write_text("defaults: [mine]\n")
    with pytest.raises(ClipevalError, match="mine inherits from itself: mine -> mine"):
        catalog.content("task", "mine", tmp_path)
    (tmp_path / "task" / "mine.yaml").write_text("a: [\n")
    with pytest.raises(ClipevalError, match=r"mine\.yaml is not YAML"):
        catalog.content("task", "mine", tmp_path)


def test_remarks_of_the_config() -> None:
    assert (
        catalog.comments(None, "")["probe.neighbours"] == "of the nearest-neighbour classifier on the same embeddings"
    )
    assert catalog.comments("runtime", "default")["batch_size"] == "null: found by trying"
