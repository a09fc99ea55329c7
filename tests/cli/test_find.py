"""`clipeval list`, `show`, `doctor` and `--version`: what a new user asks first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from clipeval.cli import doctor, facts, open_clip_files
from clipeval.cli.main import main
from clipeval.configs import catalog
from clipeval.results import published


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out


def parsed(capsys: pytest.CaptureFixture[str], *words: str) -> object:
    return json.loads(ask(capsys, *words))


# -- list


def test_every_task_is_listed_with_what_its_config_says(capsys: pytest.CaptureFixture[str]) -> None:
    rows = parsed(capsys, "list", "tasks", "--format", "json")
    assert isinstance(rows, list)
    assert [row["task"] for row in rows] == catalog.group_options("task")
    mnist = next(row for row in rows if row["task"] == "mnist")
    assert {**mnist, "chance": None} == {
        "task": "mnist", "name": "MNIST", "group": "other", "protocol": "classification", "metric": "acc1",
        "chance": None, "samples": 10000, "classes": 10, "here": False,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["tasks", "models", "suites", "prompts", "protocols"])
@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_name_is_cut_however_narrow_the_terminal(
    kind: str, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = ask(capsys, "list", kind).splitlines()
    group = {"prompts": "prompts"}.get(kind, kind[:-1])
    shown = {line.split()[0] for line in lines[1:] if line[:1].strip()}
    assert set(catalog.group_options(group)) <= shown
    assert max(map(len, lines)) <= width


def test_a_group_alone(capsys: pytest.CaptureFixture[str]) -> None:
    rows = parsed(capsys, "list", "tasks", "--group", "wilds", "--json")
    assert isinstance(rows, list)
    assert [row["task"] for row in rows] == ["camelyon17", "fmow", "iwildcam"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("list taks", "Did you mean: tasks?"),
        ("list tasks --group vtb", "Did you mean: vtab?"),
        ("list models --group vtab", "--group is for tasks"),
        ("show task=mnst", "Did you mean: mnist?"),
        ("show model=vit_b_32_opnai", "Did you mean: vit_b_32_openai"),
        ("show suite=vtb", "Did you mean: vtab"),
        ("show modl=vit_b_32_openai", "Did you mean: model?"),
        ("show mnist", "task=NAME"),
        ("show model=openai/clip-vit-base-patch16", "model=hf_transformers model.path=openai/clip-vit-base-patch16"),
        ("run model=openai/clip-vit-base-patch16", "model=hf_transformers model.path=openai/clip-vit-base-patch16"),
        ("run model=ViT-B-32", "model=open_clip model.name=ViT-B-32 model.pretrained=TAG"),
        ("show model=open_clip model.path=x", "no key path"),
        ("show task=mnist model.name=x", "'model.name=x' is not read here"),
        ("show task=mnist data.rot=/data", "'data.rot=/data' is not read here"),
        ("show task=mnist data.root=/nowhere/at/all", "is not a folder"),
        ("list tasks data.root=s3://bucket/sets", "is not a folder of this machine"),
    ],
)
def test_a_wrong_word_is_one_line_that_says_the_nearest(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 1
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


# -- show


def test_a_task_with_its_data_and_what_was_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "wds_mnist_test"
    (folder / "test").mkdir(parents=True)
    (folder / "test" / "0.tar").write_bytes(b"x" * 1500)
    found = parsed(capsys, "show", "task=mnist", f"data.root={tmp_path}", "--json")
    assert isinstance(found, dict)
    assert (found["metric"], found["samples"], found["here"]) == ("acc1", 10000, True)
    (here, elsewhere) = found["sources"]
    assert (here["source"], here["bytes"], here["splits_here"]) == ("datacomp", 1500, ["test"])
    assert here["page"] == "https://huggingface.co/datasets/djghosh/wds_mnist_test"
    assert (elsewhere["hub"], elsewhere["here"]) == ("clip-benchmark/wds_mnist", False)
    assert "datacomp" in found["suites"]
    rows = published.table()
    theirs = next(each for each in found["published"] if each["source"] == "open_clip's 38 sets")
    assert theirs["best"]["value"] == pytest.approx(rows["MNIST"].max(), abs=1e-6)
    text = " ".join(ask(capsys, "show", "task=mnist", f"data.root={tmp_path}").split())
    assert f"here: {folder}, 1.5 kB" in text
    assert f"best {rows['MNIST'].max():.4f}" in text


def test_the_sources_are_those_that_a_run_would_read() -> None:
    """`show` names the folders and repositories that Hydra's composed config has, for every task and source."""
    from clipeval.configs.compose import compose

    offered: dict[tuple[str, ...], dict[str, dict[str, dict[str, str]]]] = {}  # by the sources that a task has
    for name in catalog.group_options("task"):
        copies = {copy["source"]: copy for copy in facts.task_facts(name)["sources"]}
        offered.setdefault(tuple(copies), {})[name] = copies
    assert {source for sources in offered for source in sources} >= {"datacomp", "clip_benchmark", "converted"}
    for sources, tasks in offered.items():
        for first in range(0, len(tasks), 15):  # OmegaConf's time grows with the square
            some = list(tasks)[first : first + 15]
            words = ["suite=none", *(f"+task@tasks.{name}={name}" for name in some)]
            for source in {"datacomp", "clip_benchmark", "converted"} & set(sources):
                config = compose(
                    [*words, f"data.source={source}"]
                )  # a value: Hydra composes the tasks once for all sources
                for name in some:
                    data, copy = config.tasks[name].data, tasks[name][source]
                    assert (data.folder, data.hub) == (copy["folder"], copy["hub"]), name


@pytest.mark.parametrize(
    "named",
    [
        "open_clip model.name=ViT-B-16 model.pretrained=openai",
        "hf_transformers model.path=openai/clip-vit-base-patch16",
    ],
)
def test_a_model_without_a_preset_is_shown_by_its_name(named: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = parsed(capsys, "show", *f"model={named}".split(), "--json")
    assert isinstance(found, dict)
    assert found["published"]["sources"][0]["scores"]["imagenet1k"] == {"acc1": 0.6834}
    assert (
        f"download model={named}" in " ".join(ask(capsys, "show", *f"model={named}".split()).split())
        or found["here"] is None
    )


def test_a_model_with_its_size_and_what_was_published(capsys: pytest.CaptureFixture[str]) -> None:
    found = parsed(capsys, "show", "model=vit_b_32_256_datacomp", "--json")
    assert isinstance(found, dict)
    row = published.find("ViT-B-32-256", "datacomp_s34b_b86k")
    assert row is not None
    assert (found["image_size"], found["parameters_m"], found["gflops"]) == (256, row["params (M)"], row["FLOPs (B)"])
    theirs = found["published"]["sources"][0]
    assert theirs["scores"]["imagenet1k"]["acc1"] == pytest.approx(row["ImageNet 1k"], abs=1e-6)
    assert (found["published"]["rank"], found["published"]["models"]) == (50, 121)
    assert "DataComp-1B" in found["what"]
    assert found["about"]["data"] in (said := ask(capsys, "show", "model=vit_b_32_256_datacomp")) and "licence" in said
    assert "https://huggingface.co/facebook/metaclip-2-worldwide-b32" in ask(capsys, "show", "model=vit_b_32_metaclip2")
    assert main(["show", "model=custom"]) == 0
    assert "model._target_=…" in capsys.readouterr().out


def test_weights_are_where_open_clip_fetches_them() -> None:
    import open_clip.pretrained as theirs

    seen = 0
    for preset in catalog.group_options("model"):
        name, tag = (facts.given(catalog.content("model", preset).get(key)) for key in ("name", "pretrained"))
        if not name or not tag:
            continue
        seen += 1
        config, found = theirs.get_pretrained_cfg(name, tag), open_clip_files.weights(name, tag)
        assert found is not None, preset
        hub, filename = os.path.split(config["hf_hub"])
        assert (found.hub, found.filename, found.url) == (hub, filename, config["url"] or "")
    assert seen > 40


def test_a_suite(capsys: pytest.CaptureFixture[str]) -> None:
    found = parsed(capsys, "show", "suite=quickstart", "--json")
    assert isinstance(found, dict)
    assert found["here"] == len(found["tasks"]) == 14
    assert "tasks    14, of which 14 are here" in ask(capsys, "show", "suite=quickstart")


# -- terminals


@pytest.mark.parametrize(
    "words",
    [
        "list tasks",
        "show task=folder",
        "doctor",
        f"report {Path(__file__).parents[1] / 'results' / 'run_before_the_package'}",
    ],
)
def test_a_terminal_without_utf_8_and_colour(words: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "60", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "clipeval", *words.split()], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    text = done.stdout.decode("ascii")
    assert "\x1b" not in text
    assert "?" not in text.replace("??", "")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"clipeval {metadata.version('clipeval')}\n"


# -- doctor


def test_doctor_names_what_is_there_and_no_token(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    main(["doctor", "--json"])
    text = capsys.readouterr().out
    assert "hf_secret" not in text
    found = {check["name"]: check for check in json.loads(text)}
    assert {"clipeval", "Python", "packages", "CPU", "memory", "Java", "Slurm", "cache", "runs", "hub"} <= set(found)
    assert f"torch {metadata.version('torch')}" in found["packages"]["value"]
    assert found["hub"]["state"] == "ok"
    assert all(check["fix"] for check in found.values() if check["state"] != "ok")


def test_doctor_fails_for_what_would_stop_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("a file where the runs should go")
    monkeypatch.setenv("CLIPEVAL_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setattr(
        doctor.metadata, "requires", lambda name: ["numpy<1", "no-such-package", "ray; extra == 'more'"]
    )
    assert main(["doctor", "--json"]) == 1
    found = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert {name for name, check in found.items() if check["state"] == "problem"} == {"packages", "runs", "data"}
    assert "no-such-package is not installed" in found["packages"]["value"]
    assert f"numpy {metadata.version('numpy')}, and <1 is needed" in found["packages"]["value"]
    assert found["extra more"]["fix"] == "pip install 'clipeval[more]'"


@pytest.mark.parametrize(
    ("files", "group", "quota"),
    [
        ({"cpu.max": "max 100000", "job/cpu.max": "150000 100000"}, "0::/job", 1.5),
        ({"cpu.max": "50000 100000", "job/cpu.max": "max 100000"}, "0::/job", 0.5),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, "1:cpu,cpuacct:/elsewhere", 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "1:cpu:/", None),
        ({}, "0::/", None),
    ],
)
def test_the_quota_of_both_kinds_of_control_groups(
    files: dict[str, str], group: str, quota: float | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "proc").write_text(group + "\n")
    assert doctor.cpu_quota(tmp_path, tmp_path / "proc") == quota


def test_data_that_lie_elsewhere_are_not_looked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLIPEVAL_DATA", "s3://bucket/sets")
    assert "data.root is not set" in " ".join(ask(capsys, "show", "task=mnist").split())
    assert [(check.name, check.state) for check in doctor._data()] == [("data", doctor.NOTE)]
