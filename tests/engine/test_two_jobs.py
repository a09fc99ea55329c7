"""Two jobs in one folder that began in the same instant: the second to write run.json had not read what the first wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clipeval.cli.main import main
from clipeval.engine import evaluation

MINE, THEIRS = "quickstart_digits", "quickstart_emoji_selection"


def words(tmp_path: Path, task: str, out: str) -> list[str]:
    limits = ["data.limit=60", "runtime.device=cpu", "runtime.workers=0", f"cache.root={tmp_path / 'cache'}"]
    return ["run", "suite=none", f"+task@tasks.{task}={task}", *limits, f"out={out}"]


@pytest.mark.parametrize("kept", ["folder", "address"])
def test_a_list_that_was_written_over_is_written_again(
    tmp_path: Path, bucket: str, kept: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run") if kept == "folder" else "s3://weights/two"
    theirs = tmp_path / "theirs"
    assert main(words(tmp_path, THEIRS, str(theirs))) == 0
    boto3, run_tasks = pytest.importorskip("boto3"), evaluation.run_tasks

    def write_over(models: Any, options: Any) -> Any:
        content = (theirs / "run.json").read_bytes()
        if kept == "folder":
            (tmp_path / "run" / "run.json").write_bytes(content)
        else:
            boto3.client("s3").put_object(Bucket="weights", Key="two/run.json", Body=content)
        return run_tasks(models, options)

    monkeypatch.setattr(evaluation, "run_tasks", write_over)
    assert main(words(tmp_path, MINE, out)) == 0, capsys.readouterr().err
    if kept == "folder":
        run = json.loads((tmp_path / "run" / "run.json").read_bytes())
    else:
        run = json.load(boto3.client("s3").get_object(Bucket="weights", Key="two/run.json")["Body"])
    assert set(run["tasks"]) == set(run["config"]["tasks"]) == {MINE, THEIRS}


@pytest.mark.parametrize("key", ["out", "cache.root", "head.save", "slurm.logs"])
def test_an_empty_folder_is_not_this_one(tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = [word for word in words(tmp_path, MINE, str(tmp_path / "run")) if not word.startswith(f"{key}=")]
    assert main([*given, f"{key}="]) == 1
    assert f"{key}= is empty: a folder" in capsys.readouterr().err
