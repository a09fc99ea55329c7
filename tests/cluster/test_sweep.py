"""`clipeval run -m`: a folder for each combination, none shared, one table at the end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from clipeval.cli.main import main
from clipeval.cluster.combinations import compose_all
from clipeval.configs.errors import ClipevalError
from clipeval.configs.naming import folder_name, short_keys, suffix, value_name
from tests.models.own_model import Bench

DIGITS = ["suite=none", "task=mnist", "model=vit_b_32_openai"]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path, monkeypatch)


def outs(*words: str) -> list[str]:
    return [Path(str(one.config.out)).name for one in compose_all([*DIGITS, *words], None)[1]]


BASE = "ViT-B-32-quickgelu__openai"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["runtime.precision=fp32,bf16"], [f"{BASE}__precision-fp32", f"{BASE}__precision-bf16"]),
        (["prompts=simple,openai_imagenet_7"], [f"{BASE}__prompts-simple", f"{BASE}__prompts-openai_imagenet_7"]),
        (["model=vit_b_32_openai,vit_b_16_openai"], [BASE, "ViT-B-16-quickgelu__openai"]),
        (
            ["model=vit_b_32_openai,vit_b_16_openai", "runtime.precision=fp32,bf16"],
            [
                *(f"{BASE}__precision-{p}" for p in ("fp32", "bf16")),
                *(f"ViT-B-16-quickgelu__openai__precision-{p}" for p in ("fp32", "bf16")),
            ],
        ),
        (["runtime.precision=fp32"], [BASE]),
        (["runtime.deterministic=true,false"], [f"{BASE}__deterministic-true", f"{BASE}__deterministic-false"]),
        (["task=mnist,cifar10"], [f"{BASE}__task-mnist", f"{BASE}__task-cifar10"]),
        (["probe.shots=1,null"], [f"{BASE}__shots-1", f"{BASE}__shots-null"]),
        (["runtime.batch_size=range(1,3)"], [f"{BASE}__batch_size-1", f"{BASE}__batch_size-2"]),
        (["out=runs/a,runs/b"], ["a", "b"]),
        (["runtime.precision=fp32,bf16", "out='runs/x-${runtime.precision}'"], ["x-fp32", "x-bf16"]),
    ],
)
def test_folders(words: Sequence[str], expected: list[str]) -> None:
    keys = {word.partition("=")[0] for word in words}
    base = [word for word in DIGITS if word.partition("=")[0] not in keys]
    assert [Path(str(one.config.out)).name for one in compose_all([*base, *words], None)[1]] == expected


def test_values_that_would_be_named_alike_are_told_apart() -> None:
    found = outs("prompts={name: a, templates: ['a {c}']},{name: a, templates: ['the {c}']}")
    assert len(set(found)) == 2
    assert all("prompts-" in name for name in found)
    assert value_name("/a/prompts.txt") != value_name("/b/prompts.txt")
    assert value_name("/a/prompts.txt").startswith("prompts-")
    assert value_name("-1") != value_name("1")
    assert value_name("x" * 50) != value_name("x" * 51)
    assert len(folder_name("x" * 300)) == 180
    assert folder_name("x" * 300) != folder_name("x" * 301)
    assert suffix({"model.flip": True, "runtime.precision": "bf16"}) == "__flip-true__precision-bf16"
    assert short_keys(["tasks.a.metric", "tasks.b.metric"]) == {
        "tasks.a.metric": "a.metric",
        "tasks.b.metric": "b.metric",
    }
    assert short_keys(["a.x", "b.x"]) == {"a.x": "a.x", "b.x": "b.x"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["runtime.precision=fp32,bf16", "out=runs/x"],
            "out=runs/x would hold the results of runtime.precision=fp32 and",
        ),
        (["runtime.precision=fp32,fp32"], "runtime.precision=fp32 twice"),
        (["runtime.precision=fp32,fp33"], "runtime.precision"),
        (["model=custom", "model._target_=own_model.Own,own_model.Own"], "own_model.Own twice"),
    ],
)
def test_refused_before_anything_runs(
    bench: Bench, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(bench.place.rglob("*"))
    assert main(["run", "-m", *bench.words(*words, out="")]) == 1
    assert message in capsys.readouterr().err
    assert sorted(bench.place.rglob("*")) == before, "nothing was written"


def test_each_combination_is_run_and_one_table_shows_all(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    words = bench.words("+model.flip=false,true", "prompts=simple,openai_imagenet_7", out="")
    assert main(["run", "-m", *words]) == 0
    table = capsys.readouterr().out
    names = [
        f"own_model.Own__flip-{flip}__prompts-{prompts}"
        for flip in ("false", "true")
        for prompts in ("simple", "openai_imagenet_7")
    ]
    found = {}
    for name in names:
        folder = bench.place / "runs" / name
        found[name] = json.loads((folder / "records" / "folder.json").read_text())["metrics"]["acc1"]
        assert json.loads((folder / "run.json").read_text())["config"]["out"] == f"runs/{name}"
    assert list(found.values()) == [1.0, 1.0, 0.0, 0.0]
    assert {path.name for path in (bench.place / "runs").iterdir()} - {".sweep"} == set(names)
    text = " ".join(table.split())
    assert text.count("1.0000") == text.count("0.0000") == 2
    assert table.count("run folder") == 1, "one table"
    assert "flip" in text and "prompts" in text
    assert [line.strip() for line in table.splitlines() if line.strip().startswith("runs/")] == [
        f"runs/{n}" for n in names
    ]
    assert "Launching" not in table, "a table can be redirected"
    first = [path.stat().st_mtime_ns for path in sorted((bench.place / "runs").glob("own*/records/*.json"))]
    assert main(["run", "-m", *words]) == 0
    again = [path.stat().st_mtime_ns for path in sorted((bench.place / "runs").glob("own*/records/*.json"))]
    assert again == first, "none is done twice"


def test_a_run_that_fails_does_not_hide_the_others(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    words = [w for w in bench.words(out="") if not w.startswith("task.data.path")]
    places = f"task.data.path={bench.place / 'pictures'},{bench.place / 'nowhere'}"
    assert main(["run", "-m", *words, places]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "1.0000" in shown
    assert "1 of 2 runs have no result" in shown


def test_a_list_of_tasks_is_each_of_them_in_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tasks = ["quickstart_digits", "quickstart_emoji_category"]
    words = [f"task=[{','.join(tasks)}]", "runtime.workers=0,1", "data.limit=8", f"cache.root={tmp_path}/cache"]
    assert main(["run", "-m", *words]) == 0
    folders = sorted((tmp_path / "runs").glob("quickstart__*"))
    assert [folder.name for folder in folders] == ["quickstart__workers-0", "quickstart__workers-1"]
    assert all(sorted(file.stem for file in (folder / "records").iterdir()) == tasks for folder in folders)


def test_words_that_are_no_override() -> None:
    with pytest.raises(ClipevalError, match="interval"):
        compose_all([*DIGITS, "probe.rate=interval(0,1)"], None)
