"""Tables say what the records say, loudly where something is missing."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import subprocess
import sys

import pandas as pd
import pytest

from clipeval.configs.errors import ClipevalError
from clipeval.results import runs, sheet
from clipeval.results.run_folder import RunFolder
from clipeval.results.tables import FORMATS, report, write_report


@pytest.fixture(scope="module")
def three(factory, tmp_path_factory):
    """A whole run with a flag and a note, an unfinished one, and another whole one."""
    root = tmp_path_factory.mktemp("runs")

    def change(task):
        return {
            "imagenetv2": {"flags": ("300 samples, 10,000 expected",)},
            "imagenet-a": {"notes": ("scored as 200-way accuracy",)},
        }.get(task, {})

    factory.run(root / "a", change=change)
    factory.run(root / "b", ["imagenet1k", "mnist"], planned=list(factory.SPECS), name="ViT-B", accuracy=0.8, seed=1)
    factory.run(root / "c", name="ViT-L", accuracy=0.6, seed=2)
    return [root / name for name in "abc"]


def values(folder):
    return {record.task: record.value for record in RunFolder(folder).records()}


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_terminal_table_fits_and_says_it_all(three, width):
    text = report(three[:1], width=width)
    assert max(map(len, text.splitlines())) <= width
    for task, value in values(three[0]).items():
        name = RunFolder(three[0]).record(task).name
        line = next(line for line in text.splitlines() if line.strip().startswith(name))
        assert ("–" if value is None else f"{value:.4f}") in line
    assert "ImageNet v2 ! [1]" in text
    assert "[1] ! ImageNet v2: 300 samples, 10,000 expected" in text
    assert "[2] scored as 200-way accuracy" in text
    assert "Average over 5 of 5 " in text


def test_the_average_is_over_the_tasks_with_a_main_metric(three):
    found = [value for value in values(three[0]).values() if value is not None]
    assert len(found) == 5
    row = next(line for line in report(three[:1], width=100).splitlines() if "Average over" in line)
    assert f"{sum(found) / 5:.4f}" in row
    shifts = [values(three[0])[task] for task in ("imagenetv2", "imagenet-a")]
    row = next(line for line in report(three[:1], width=100).splitlines() if "ImageNet shifts (2)" in line)
    assert f"{sum(shifts) / 2:.4f}" in row


@pytest.mark.parametrize("format", ["table", "md", "latex", "html"])
def test_an_unfinished_run_says_so_loudly(three, format):
    text = report(three[1:2], format, width=200)
    assert "INCOMPLETE: 4 of 6 tasks are missing: ImageNet v2, ImageNet-A, Caltech-101, FairFace" in text
    assert "over 2 of 5: partial" in text or "over 2 of 5 tasks: partial" in text


@pytest.mark.parametrize("format", ["table", "md", "latex", "html"])
def test_flags_and_notes_are_in_every_table(three, format):
    for paths in (three[:1], three):
        text = report(paths, format, width=100)
        assert "300 samples, 10,000 expected" in text
        assert "scored as 200-way accuracy" in text


@pytest.mark.parametrize("format", ["table", "md", "latex", "html"])
def test_a_corrected_metric_stands_beside_the_published_one(factory, tmp_path, format):
    note = "The published acc1 counts region 5; acc_named leaves it out, acc_none too."

    def change(task):
        return {"notes": (note,), "metrics": {"acc1": 0.0, "acc_named": 0.12345, "acc_none": None}, "intervals": {}}

    for name, model in (("a", "ViT-A"), ("b", "ViT-B")):
        factory.run(tmp_path / name, ["mnist"], change=change, name=model)

    def words(paths):
        text = report(paths, format, width=100).replace("\\_", "_")
        return " ".join(text.split())

    told = "The published acc1 counts region 5; acc_named (0.1235) leaves it out, acc_none (undefined) too."
    assert told in words([tmp_path / "a"])
    both = words([tmp_path / "a", tmp_path / "b"])
    assert all(f"{model} toy_s1m: {told}" in both for model in ("ViT-A", "ViT-B"))


def test_every_line_of_the_csv_has_its_tasks_flags(three):
    frame = pd.read_csv(io.StringIO(report(three[:1], "csv")), keep_default_na=False)
    assert len(frame[frame["task"] == "imagenetv2"]) > 1
    assert set(frame.loc[frame["task"] == "imagenetv2", "flags"]) == {"300 samples, 10,000 expected"}
    assert set(frame.loc[frame["task"] == "mnist", "flags"]) == {""}


@pytest.mark.parametrize("format", ["jsonl", "clip_benchmark"])
def test_forms_without_a_place_for_flags_say_them_aloud(three, format, tmp_path, capsys):
    from clipeval.cli.main import main

    assert main(["report", str(three[0]), "--format", format, "--output", str(tmp_path / "out")]) == 0
    assert "ImageNet v2: 300 samples, 10,000 expected" in capsys.readouterr().err


def test_runs_stand_side_by_side_with_the_best_marked(three):
    built = sheet.build(runs.load(three))
    row = next(row for row in built.rows if row.task == "mnist")
    expected = [values(path)["mnist"] for path in three]
    assert [cell.value for cell in row.cells] == expected
    assert [cell.best for cell in row.cells] == [value == max(expected) for value in expected]
    # Averages over different tasks cannot be ranked; those over the tasks in common can.
    average = next(row for row in built.rows if row.kind == "average")
    assert not any(cell.best for cell in average.cells)
    common = next(row for row in built.rows if row.kind == "common")
    means = [(values(path)["mnist"] + values(path)["imagenet1k"]) / 2 for path in three]
    assert [cell.value for cell in common.cells] == pytest.approx(means)
    assert [cell.best for cell in common.cells] == [value == max(means) for value in means]


def test_many_runs_are_split_over_tables_that_fit(three):
    text = report([*three, *three], width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert sum("Average " in line for line in text.splitlines()) >= 2
    assert text.count("ViT-L") >= 2


def test_csv_holds_every_metric_unrounded(three):
    frame = pd.read_csv(io.StringIO(report(three, "csv")))
    record = RunFolder(three[0]).record("mnist")
    mine = frame[(frame["run"] == "ViT-Toy-32 toy_s1m") & (frame["task"] == "mnist")]
    assert dict(zip(mine["metric"], mine["value"], strict=True)) == pytest.approx(record.metrics, abs=0)
    main = mine[mine["kind"] == "task"].iloc[0]
    assert (main["low"], main["high"]) == pytest.approx(record.interval, abs=0)
    assert main["corrected"] == pytest.approx((record.value - 0.10035) / (1 - 0.10035))
    averages = frame[frame["kind"] == "average"].set_index("run")
    assert averages.loc["ViT-B toy_s1m", ["counted", "expected", "status"]].tolist() == [2, 5, "partial"]
    assert (frame["status"] == "missing").sum() == 4
    assert frame.columns[:4].tolist() == ["run", "model", "pretrained", "kind"]


def test_the_same_runs_give_the_same_bytes_in_every_process(three):
    """Columns that come from a set would change their order with each process."""
    formats = [name for name in FORMATS if name not in ("clip_benchmark", "model-card")]
    code = (
        "import sys, hashlib; from clipeval.results.tables import report\n"
        "for name in sys.argv[1].split(): print(report(sys.argv[2:], name, width=90))\n"
        "assert 'torch' not in sys.modules, 'a report loads torch, which takes seconds'"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code, " ".join(formats), *map(str, three)],
            capture_output=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path), "PATH": ""},
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {"".join(report(three, name, width=90) + "\n" for name in formats).encode()}


def test_a_damaged_record_is_missing_and_named(factory, tmp_path):
    folder = factory.run(tmp_path / "run", ["mnist", "imagenet1k"])
    (folder.path / "records" / "mnist.json").write_text("{}")
    with pytest.raises(ClipevalError):
        report([folder.path], width=100)
    (folder.path / "records" / "mnist.json").write_text('{"schema": 1, "digest": "0"}')
    text = report([folder.path], width=200)
    assert "mnist.json is damaged" in text
    assert "INCOMPLETE: 1 of 2 tasks are missing: MNIST" in text
    assert "damaged" in next(line for line in text.splitlines() if line.strip().startswith("MNIST"))


def test_other_precisions_in_one_run_are_said(factory, tmp_path):
    def change(task):
        return {"fingerprint": factory.fingerprint(precision="bf16" if task == "mnist" else "fp32")}

    folder = factory.run(tmp_path / "run", ["mnist", "imagenet1k"], change=change)
    assert "MIXED: its classification records were made under several precisions: bf16, fp32" in report(
        [folder.path], width=120
    )


def test_a_recipe_that_gives_protocols_a_precision_each_is_not_mixed(factory, tmp_path):
    def change(task):
        if task == "mnist":
            return {"fingerprint": factory.fingerprint(precision="amp/amp"), "protocol": "retrieval"}
        return {"fingerprint": factory.fingerprint(precision="fp32/amp")}

    folder = factory.run(tmp_path / "run", ["mnist", "imagenet1k", "imagenetv2"], change=change)
    assert "MIXED" not in report([folder.path], width=120)
    folder.write_run({**folder.run(), "config": {"runtime": {"precision": "datacomp"}}})
    assert "12.5 M parameters, datacomp, cpu" in report([folder.path], width=120)


def test_runs_with_another_main_metric_are_not_ranked(factory, tmp_path):
    a = factory.run(tmp_path / "a", ["mnist"])
    b = factory.run(tmp_path / "b", ["mnist"], accuracy=0.9, name="B", change=lambda task: {"metric": "acc5"})
    built = sheet.build(runs.load([a.path, b.path]))
    row = next(row for row in built.rows if row.task == "mnist")
    assert not any(cell.best for cell in row.cells)
    assert any("differ in the main metric" in note.text for note in built.footnotes)


def test_an_undefined_main_metric_leaves_the_average(factory, tmp_path):
    folder = factory.run(
        tmp_path / "run",
        ["mnist", "imagenet1k"],
        change=lambda task: {"metrics": {"acc1": math.nan}, "intervals": {}} if task == "mnist" else {},
    )
    text = report([folder.path], width=100)
    assert "Average over 1 of 2: partial" in text
    assert "nan" not in text.lower()


@pytest.mark.parametrize(
    ("paths", "options", "message"),
    [
        ([], {}, "no run folder"),
        (["nowhere"], {}, "nowhere is no run folder: it does not exist"),
        (["."], {}, "holds neither run.json nor records"),
        (["run"], {"format": "tabel"}, "Did you mean: table"),
        (["run"], {"format": "latex", "against": "published"}, "not by latex"),
        (["run", "run"], {"format": "model-card"}, "about one model"),
        (["run"], {"format": "clip_benchmark"}, "--output"),
        (["run"], {"against": "publsihed"}, "publsihed is no run folder"),
    ],
)
def test_mistakes_are_named(factory, tmp_path, monkeypatch, paths, options, message):
    monkeypatch.chdir(tmp_path)
    factory.run(tmp_path / "run", ["mnist"])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ClipevalError, match=message):
        report([empty if path == "." else path for path in paths], **options)


def test_a_folder_of_runs_offers_those_inside(factory, tmp_path):
    factory.run(tmp_path / "one", ["mnist"])
    with pytest.raises(ClipevalError, match=r"did you mean .*one\?"):
        report([tmp_path])


def test_write_report_writes_the_same_text(three, tmp_path):
    (path,) = write_report(three, tmp_path / "out" / "report.md", "md")
    assert path.read_text() == report(three, "md")


def test_a_label_tells_two_runs_of_one_model_apart(factory, tmp_path):
    for name in "ab":
        factory.run(tmp_path / name, ["mnist"])
    labels = [run.label for run in runs.load([tmp_path / "a", tmp_path / "b"])]
    assert labels == ["ViT-Toy-32 toy_s1m (a)", "ViT-Toy-32 toy_s1m (b)"]
    factory.run(tmp_path / "other" / "a", ["mnist"])
    labels = [run.label for run in runs.load([tmp_path / "a", tmp_path / "other" / "a"])]
    assert labels == [f"ViT-Toy-32 toy_s1m ({tmp_path.name}/a)", "ViT-Toy-32 toy_s1m (other/a)"]


def test_a_number_is_not_printed_twice(factory, tmp_path):
    """One task is its own average, and a lone group's average is the average of all."""
    one = factory.run(tmp_path / "one", ["mnist"])
    assert [row.kind for row in sheet.build(runs.load([one.path])).rows] == ["single"]
    group = factory.run(tmp_path / "group", ["imagenetv2", "imagenet-a"])
    built = sheet.build(runs.load([group.path]))
    assert [row.kind for row in built.rows] == ["task", "task", "average"]
    for format in ("table", "md", "latex", "html"):
        assert "ImageNet shifts (2)" not in report([group.path], format)
        assert f"{RunFolder(one.path).record('mnist').value:.4f}" in report([one.path], format)


def test_runs_that_are_equal_have_no_best(factory, tmp_path):
    for name in "ab":
        factory.run(tmp_path / name, ["mnist", "imagenet1k"])
    built = sheet.build(runs.load([tmp_path / "a", tmp_path / "b"]))
    assert not any(cell.best for row in built.rows for cell in row.cells)


@pytest.mark.parametrize("format", ["table", "md", "latex", "html"])
def test_runs_side_by_side_say_what_they_were(factory, tmp_path, format):
    for name, prompts in (("a", None), ("b", {"name": "simple", "templates": ["a photo of a {c}."]})):
        folder = factory.run(tmp_path / name, ["mnist", "imagenet1k"])
        run = folder.run()
        folder.write_run({**run, "config": {**run["config"], "prompts": prompts}})
    text = report([tmp_path / "a", tmp_path / "b"], format)
    assert text.count("fp32, prompts simple") == 1


def test_the_average_knows_which_tasks_share_their_images(factory, tmp_path):
    folder = factory.run(tmp_path / "run", ["imagenetv2", "imagenet-a"])
    apart = sheet.average_cell(runs.load([folder.path])[0], ["imagenetv2", "imagenet-a"])
    run = folder.run()
    tasks = {task: {**spec, "data": {"folder": "wds_same"}} for task, spec in run["config"]["tasks"].items()}
    folder.write_run({**run, "config": {"tasks": tasks}})
    shared = sheet.average_cell(runs.load([folder.path])[0], ["imagenetv2", "imagenet-a"])
    assert shared.value == apart.value
    halves = [
        sum(end * sign for end, sign in zip(record.interval, (-1, 1), strict=True)) / 2 for record in folder.records()
    ]
    assert (shared.interval[1] - shared.interval[0]) / 2 == pytest.approx(sum(halves) / 2)
    assert shared.interval[0] < apart.interval[0]


def test_a_checkpoint_is_known_by_its_name(factory, tmp_path):
    factory.run(tmp_path / "a", ["mnist"], pretrained="/far/away/epoch_latest.pt")
    assert runs.load([tmp_path / "a"])[0].label == "ViT-Toy-32 epoch_latest.pt"


def test_datacomps_lines(three):
    lines = [json.loads(line) for line in report(three[:1], "jsonl").splitlines()]
    stored = [json.loads(line) for line in (three[0] / "eval_results.jsonl").read_text().splitlines()]
    assert sorted(lines, key=str) == sorted(stored, key=str)
    several = [json.loads(line) for line in report(three, "jsonl").splitlines()]
    assert {line["model"] for line in several} == {"ViT-Toy-32", "ViT-B", "ViT-L"}


def test_records_without_run_json_can_be_reported(three, tmp_path, factory):
    folder = factory.run(tmp_path / "run", ["mnist"])
    (folder.path / "run.json").unlink()
    record = folder.record("mnist")
    assert f"{record.value:.4f}" in report([folder.path], width=100)
    assert dataclasses.replace(record).value == record.value
