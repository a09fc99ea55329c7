"""data.on_missing=skip: a task whose data cannot be opened is left out, and every table says that it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import open_clip
import pandas as pd
import pytest

from clipeval.api import evaluate
from clipeval.cli.main import main
from clipeval.cluster.job import Job
from clipeval.cluster.shares import TaskShard
from clipeval.replay.stored_run import StoredRun
from clipeval.results.compare import compare
from clipeval.results.run_folder import RunFolder
from clipeval.results.tables import FORMATS
from scripts.make_miniature import facts
from tests.engine.test_run import TASKS, model, records, root, words

__all__ = ["model", "root"]  # fixtures
SKIP = "data.on_missing=skip"
GONE = "cifar10"
SKIPPED = 3


@pytest.fixture
def short(root: Path) -> Path:
    """A data root without one of the sets."""
    shutil.move(original(root), root / "away")
    return root


def original(root: Path) -> Path:
    return root / "data" / next(fact.folder for fact in facts() if fact.key == GONE)


def squeezed(text: str) -> str:
    return " ".join(text.split())


def test_without_it_every_set_that_is_missing_is_named(
    short: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(next((short / "data").glob("*gtsrb*")))
    assert main(words(short, model)) == 1
    said = squeezed(capsys.readouterr().err)
    assert "2 of 3 tasks cannot run" in said and "cifar10:" in said and "gtsrb:" in said
    assert SKIP in said
    assert not (short / "run").exists()


def test_it_is_said_when_it_runs_when_it_resumes_and_no_more_when_the_data_is_there(
    short: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for attempt in ("computed", "reused"):
        assert main(words(short, model, SKIP)) == SKIPPED, attempt
        said = capsys.readouterr()
        assert "1 of 3 tasks are skipped" in squeezed(said.err) and "does not exist" in said.err
        assert "2 of 3" in said.out and "skipped" in said.out, attempt
        assert set(records(short)) == set(TASKS) - {GONE}
    shutil.move(short / "away", original(short))
    assert main(words(short, model, SKIP)) == 0
    said = capsys.readouterr()
    assert "skipped" not in said.out + said.err and "3 of 3" in said.out
    assert "skipped" not in json.loads((short / "run" / "run.json").read_text())


def test_a_record_of_before_is_not_shown_as_this_runs(
    root: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the set held then cannot be compared with what the run asks for now."""
    assert main(words(root, model)) == 0
    shutil.move(original(root), root / "away")
    assert main(words(root, model, SKIP, "prompts=simple")) == SKIPPED
    assert "2 of 3" in capsys.readouterr().out
    assert len(pd.read_json(root / "run" / "eval_results.jsonl", lines=True).dropna(subset="skipped")) == 1
    shutil.move(root / "away", original(root))
    assert main(words(root, model, SKIP)) == 0
    assert set(records(root)) == set(TASKS)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("runs", [1, 2])
def test_every_format(form: str, runs: int, short: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(short, model, SKIP)) == SKIPPED
    other = words(short, model, SKIP, f"out={short / 'other'}", "prompts=simple")
    folders = [str(short / "run"), str(short / "other")][:runs]
    assert runs == 1 or main(other) == SKIPPED
    if form == "model-card" and runs > 1:
        return
    capsys.readouterr()
    output = short / ("folder" if form == "clip_benchmark" else f"report.{form}")
    assert main(["report", *folders, "--format", form, "--output", str(output)]) == 0
    said = capsys.readouterr()
    text = said.err if form == "clip_benchmark" else output.read_text()
    assert "skipped" in text
    if form == "csv":
        table = pd.read_csv(output)
        assert set(table[table.kind == "task"].query("task == 'cifar10'").status) == {"skipped"}
        average = table[table.kind == "average"]
        assert set(average.counted) == {2} and set(average.expected) == {3} and set(average.status) == {"partial"}
    else:
        assert "2 of 3" in text
    if form == "jsonl":
        lines = [json.loads(line) for line in text.splitlines()]
        assert [line["metrics"]["main_metric"] is None for line in lines].count(True) == runs
        assert "2 of 3" in said.err


def test_compare(root: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(root, model)) == 0
    shutil.move(original(root), root / "away")
    assert main(words(root, model, SKIP, f"out={root / 'other'}", "prompts=simple")) == SKIPPED
    capsys.readouterr()
    for form in ("table", "md", "csv"):
        assert main(["compare", str(root / "run"), str(root / "other"), "--format", form]) == 0
        said = squeezed(capsys.readouterr().out)
        assert "skipped it" in said, form
        assert form == "csv" or "On 2 of 3 tasks" in said
    found = compare(root / "run", root / "other", StoredRun.read(RunFolder(root / "run")).statistics)
    table = found.table().set_index("task")
    assert len(table) == 3 and pd.isna(table.difference[GONE]) and found.of == 3


def test_status_plan_verify_rerun(short: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(short / "run")
    assert main(["plan", *words(short, model)[1:]]) == 1
    assert main(["plan", *words(short, model, SKIP)[1:]]) == SKIPPED
    assert "2 of 3 tasks" in capsys.readouterr().out
    assert main(words(short, model, SKIP)) == SKIPPED
    capsys.readouterr()
    assert main(["status", run]) == SKIPPED
    said = squeezed(capsys.readouterr().out)
    assert "2 done, 1 skipped; 2 of 3 tasks" in said
    assert main(["verify", run]) == 0
    assert "2 of 3: holds; 1 skipped" in squeezed(capsys.readouterr().out)
    assert main(["rerun", run]) == 0
    shutil.move(next((short / "data").glob("*gtsrb*")), short / "gtsrb")
    assert main(["rerun", run, "--output", str(short / "again")]) == 1, "what was recorded is repeated or refused"


def test_jobs_of_an_array_add_up(short: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each job opens its own tasks alone, one of them nothing but the skipped one; the folder knows of all."""
    given = words(short, model, SKIP)[1:]
    for task in TASKS:
        Job((tuple(given),), None, (TaskShard(0, task),))()
    capsys.readouterr()
    assert main(["report", str(short / "run")]) == 0
    assert "2 of 3" in capsys.readouterr().out
    assert main(["status", str(short / "run")]) == SKIPPED
    statuses = {main(["run", "--share", f"{number}/3", *given]) for number in range(3)}
    assert statuses == {0, SKIPPED}
    shutil.move(short / "away", original(short))
    Job((tuple(given),), None, (TaskShard(0, GONE),))()
    assert main(["status", str(short / "run")]) == 0


def test_all_of_them_is_an_error(short: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words(short, model, SKIP), "~tasks.mnist", "~tasks.gtsrb"]) == 1
    assert "1 of 1 tasks cannot run" in squeezed(capsys.readouterr().err)


def test_what_is_wrong_with_the_config_is_never_skipped(
    root: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(root, model, SKIP, "tasks.mnist.metric=acc7")) == 1
    said = squeezed(capsys.readouterr().err)
    assert "Unknown metric 'acc7'" in said and "runs the others" not in said


def test_a_damaged_set_is_skipped_with_its_reason(root: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    (original(root) / "test" / "nshards.txt").write_text("9\n")
    assert main(words(root, model, SKIP)) == SKIPPED
    assert "nshards.txt says 9 shards" in squeezed(capsys.readouterr().out)


def test_from_python(short: Path, model: str) -> None:
    net = open_clip.create_model(model).eval()
    pre = open_clip.image_transform(32, is_train=False)
    overrides = [SKIP, *[f"+task@tasks.{task}={task}" for task in TASKS], "runtime.workers=0"]
    table = evaluate(net, open_clip.SimpleTokenizer(), pre, "none", short / "data", overrides=overrides).set_index(
        "task"
    )
    assert len(table) == 3 and pd.isna(table.value[GONE]) and table["flags"][GONE].startswith("skipped: ")
    assert table.value.drop(GONE).notna().all()


def test_it_changes_no_fingerprint(root: Path, model: str) -> None:
    assert main(words(root, model)) == 0
    before = {task: record["fingerprint"] for task, record in records(root).items()}
    assert main(words(root, model, SKIP)) == 0
    assert {task: record["fingerprint"] for task, record in records(root).items()} == before


def test_words_of_a_table_of_one_group(short: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words(short, model, SKIP), "~tasks.mnist"]) == SKIPPED
    assert "1 of 2" in capsys.readouterr().out
