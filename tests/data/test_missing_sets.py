"""A set that is not here: what a task of papers' suites says of where it comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipeval.cli.facts import task_facts
from clipeval.cli.main import main
from clipeval.configs import catalog

SUITES = ("compositionality", "long_captions", "imagenet_plus", "multilingual", "embeddings", "video")
TASKS = sorted({task for suite in SUITES for task in catalog.suite_tasks(suite)})


def test_every_set_of_the_papers_suites_has_a_page() -> None:
    for task in TASKS:
        assert all(str(copy["page"]).startswith("https://") for copy in task_facts(task)["sources"]), task


@pytest.mark.parametrize("task", ["aro_relation", "docci", "imagenet_c", "cirr", "k400", "msr_vtt", "xtd10"])
def test_a_set_that_is_on_no_hub_says_where_it_is_had(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    language = ["language=de"] if catalog.content("task", task)["data"].get("languages") else []
    page = catalog.content("task", task)["data"]["page"]
    for words in (["run", "model=quickstart", f"out={tmp_path / 'out'}"], ["download", "--no-model"]):
        assert main([*words, f"task={task}", *language, f"data.root={tmp_path}"]) == 1
        said = capsys.readouterr().err
        assert "does not exist" in said or "is not a folder" in said
        assert f"clipeval does not fetch this set, which its makers publish at {page}" in said
        assert "Fetch it with" not in said
