"""Results of clip_benchmark and DataComp: into our tables, marked, and out again under their names."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from clipeval.cli.main import main
from clipeval.configs.compose import compose
from clipeval.configs.errors import ClipevalError
from clipeval.results import published
from clipeval.results.importing import import_results
from clipeval.results.run_folder import RunFolder
from clipeval.results.tables import report, write_report

CLASSES = {"acc1": 0.6423, "acc5": 0.89, "mean_per_class_recall": 0.6423}
PROBE = {
    **{"lp_acc1": 0.95, "lp_acc5": 0.99, "lp_mean_per_class_recall": 0.95},
    **{"weight_decay": 0.1, "epochs": 10, "seed": 0, "fewshot_k": 16, "normalized": True},
}
RECALLS = {"image_retrieval_recall@5": 0.5, "text_retrieval_recall@5": 0.7}


def theirs(folder: Path, dataset: str, metrics: dict, **fields: str) -> Path:
    """A file as clip_benchmark's `run` dumps it."""
    about = {"model": "ViT-B-32", "pretrained": "openai", "task": "zeroshot_classification", "language": "en", **fields}
    dump = {"dataset": dataset, **about, "metrics": metrics}
    folder.mkdir(exist_ok=True)
    name = "_".join([dataset.removeprefix("wds/"), *about.values()]).replace("/", "_")
    path = folder / f"{name}.json"
    path.write_text(json.dumps(dump))
    return path


def datacomp(path: Path, name: str = "ViT-B-32-quickgelu", pretrained: str = "openai") -> Path:
    """DataComp's eval_results.jsonl with a published model's figures on the 38 sets, and FairFace, which has no main metric."""
    row = published.find(name, pretrained)
    assert row is not None
    lines = []
    for key, (column, metric) in published.COLUMNS.items():
        value = float(row[column])
        lines.append(
            {"key": key, "dataset": column, "metrics": {"acc1": 0.5, metric: value, "acc5": None, "main_metric": value}}
        )
    lines.append(
        {"key": "fairness/fairface", "dataset": "FairFace", "metrics": {"acc_gender_avg": 0.9, "main_metric": None}}
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "theirs"
    theirs(folder, "wds/vtab/cifar100", CLASSES)
    theirs(folder, "wds/imagenet1k", {**CLASSES, "acc5": float("nan")})
    theirs(folder, "imagenet1k", {**CLASSES, "acc1": 0.1}, language="cn")
    theirs(folder, "cifar10", PROBE, task="linear_probe")
    theirs(folder, "nobodys/set", RECALLS, task="zeroshot_retrieval")
    return folder


def test_files_of_one_model_become_one_run_folder(files, tmp_path):
    (found,) = import_results([files], [f"out={tmp_path / 'run'}"])
    folder = RunFolder(tmp_path / "run")
    assert found.folder.path == folder.path
    records = {record.task: record for record in folder.records(verify=True)}
    assert set(records) == {"cifar100", "imagenet1k", "imagenet1k-cn", "cifar10-lp-adamw-16", "nobodys-set"}
    cifar = records["cifar100"]
    assert (cifar.key, cifar.name, cifar.group, cifar.protocol) == (
        "vtab/cifar100",
        "CIFAR-100",
        "vtab",
        "classification",
    )
    assert cifar.metrics == CLASSES
    assert (cifar.value, cifar.interval, cifar.samples, cifar.predictions) == (0.6423, None, None, None)
    assert cifar.model == {"slug": "ViT-B-32__openai", "name": "ViT-B-32", "pretrained": "openai"}
    file = next(files.glob("vtab_cifar100*"))
    assert cifar.imported["file"] == str(file)
    assert cifar.imported["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert cifar.imported["at"].endswith("Z")
    assert records["imagenet1k"].metrics["acc5"] is None
    probe = records["cifar10-lp-adamw-16"]
    assert (probe.value, probe.metric, probe.protocol) == (0.95, "lp_acc1", "linear_probe")
    # The very row that `protocol=linear_probe probe.shots=16` has, and that `language=cn` has.
    named = ["suite=none", "+task@tasks.cifar10=cifar10", "protocol=linear_probe", "probe.shots=16"]
    node = compose(named).tasks["cifar10-lp-adamw-16"]
    assert (probe.key, probe.name, probe.group) == (node.key, node.name, node.group)
    node = compose(["suite=none", "+task@tasks.imagenet1k=imagenet1k", "language=cn"]).tasks["imagenet1k-cn"]
    chinese = records["imagenet1k-cn"]
    assert (chinese.key, chinese.name, chinese.group) == (node.key, node.name, node.group)
    own = records["nobodys-set"]
    assert (own.value, own.metric, own.protocol) == (0.5, "image_retrieval_recall@5", "retrieval")
    assert any("no task of clipeval has the key nobodys/set" in note for note in own.notes)


def test_clip_benchmarks_own_build_reads_what_was_imported_and_computed(files, factory, tmp_path, monkeypatch):
    from clip_benchmark.cli import main as clip_benchmark

    import_results([files], [f"out={tmp_path / 'run'}"])
    factory.run(tmp_path / "computed", ["mnist", "caltech101"], name="RN50", pretrained="openai")
    write_report([tmp_path / "run", tmp_path / "computed"], tmp_path / "out", "clip_benchmark")
    table = tmp_path / "benchmark.csv"
    monkeypatch.setattr("sys.argv", ["clip_benchmark", "build", str(tmp_path / "out"), "--output", str(table)])
    clip_benchmark()
    with open(table, newline="") as file:
        rows = {(row["model_fullname"], row["dataset"], row["language"]): row for row in csv.DictReader(file)}
    assert len(rows) == 7
    assert float(rows["ViT-B-32 openai", "wds/vtab/cifar100", "en"]["acc1"]) == 0.6423
    assert float(rows["ViT-B-32 openai", "imagenet1k", "cn"]["acc1"]) == 0.1
    probe = rows["ViT-B-32 openai", "cifar10", "en"]
    assert (probe["task"], probe["lp_acc1"], probe["normalized"]) == ("linear_probe", "0.95", "True")
    assert probe["imported"] == "clip_benchmark"
    computed = rows["RN50 openai", "wds/mnist", "en"]
    assert (computed["task"], computed["imported"]) == ("zeroshot_classification", "")
    assert float(computed["acc1"]) == RunFolder(tmp_path / "computed").record("mnist").value


def test_clip_benchmarks_files_go_in_and_come_out_again(files, tmp_path):
    import_results([files], [f"out={tmp_path / 'run'}"])
    written = {
        path.name: json.loads(path.read_text())
        for path in write_report([tmp_path / "run"], tmp_path / "out", "clip_benchmark")
    }
    assert len(written) == 5
    for path in files.iterdir():
        before = json.loads(path.read_text(), parse_constant=lambda _: None)
        after = next(
            data
            for data in written.values()
            if (data["dataset"], data["language"]) == (before["dataset"], before["language"])
        )
        assert after.pop("imported") == "clip_benchmark"
        assert after == before


def test_two_records_of_one_name_keep_a_file_each(factory, tmp_path):
    folder = factory.run(tmp_path / "run", ["mnist", "caltech101"], change=lambda task: {"key": "mnist"})
    written = write_report([folder.path], tmp_path / "out", "clip_benchmark")
    stem = "mnist_toy_s1m_ViT-Toy-32_en_zeroshot_classification"
    assert [path.name for path in written] == [f"{stem}.json", f"{stem}_run_mnist.json"]
    metrics = [json.loads(path.read_text())["metrics"] for path in written]
    assert metrics == [dict(folder.record(task).metrics) for task in ("caltech101", "mnist")]


@pytest.mark.parametrize(
    ("task", "protocol", "data", "dataset", "language"),
    [
        ("vtab/cifar100/lp-adamw-16", "linear_probe", {}, "wds/vtab/cifar100", "en"),
        ("flickr8k/captioning", "captioning", {}, "wds/flickr8k", "en"),
        ("imagenet1k/cn", "classification", {"language": "cn"}, "wds/imagenet1k", "cn"),
    ],
)
def test_variants_go_out_under_clip_benchmarks_names(task, protocol, data, dataset, language, factory, tmp_path):
    folder = factory.run(tmp_path / "run", ["mnist"], change=lambda _: {"key": task, "protocol": protocol})
    folder.write_run({"model": folder.run()["model"], "config": {"tasks": {"mnist": {"key": task, "data": data}}}})
    (path,) = write_report([folder.path], tmp_path / "out", "clip_benchmark")
    content = json.loads(path.read_text())
    assert (content["dataset"], content["language"]) == (dataset, language)


def test_datacomps_file_stands_beside_what_was_published(tmp_path, capsys):
    file = datacomp(tmp_path / "eval_results.jsonl")
    assert main(["import", str(file), "model=vit_b_32_openai", f"out={tmp_path / 'run'}"]) == 0
    assert "39 results of ViT-B-32-quickgelu__openai imported" in capsys.readouterr().out
    text = report([tmp_path / "run"], against="published", width=110)
    assert "38 of 38 agree: 38 to the printed digit" in text
    assert "reproduction" not in text
    assert "Average over 38 of 38" in text
    records = {record.key: record for record in RunFolder(tmp_path / "run").records()}
    assert records["wilds/fmow"].task == "fmow"
    assert records["wilds/fmow"].imported["line"] == 1 + list(published.COLUMNS).index("wilds/fmow")
    assert records["fairness/fairface"].metric is None
    lines = [json.loads(line) for line in report([tmp_path / "run"], "jsonl").splitlines()]
    assert {line.pop("imported") for line in lines} == {"DataComp"}
    before = {line["key"]: line for line in map(json.loads, file.read_text().splitlines())}
    assert {line["key"]: line for line in lines} == before


@pytest.mark.parametrize("format", ["table", "csv", "md", "latex", "html", "jsonl", "model-card"])
def test_every_format_says_that_a_figure_was_imported(format, files, tmp_path):
    import_results([files], [f"out={tmp_path / 'run'}"])
    text = report([tmp_path / "run"], format, width=140).replace("\\_", "_")
    assert "imported" in text
    if format != "jsonl":
        assert "imported from clip_benchmark" in text.replace("&#39;", "'")
    if format in ("table", "md", "latex"):
        # Five tasks, one warning that all of them share: it is said once, above them, and marks none (LaTeX: also as a comment).
        said = text.count("imported from clip_benchmark's results and not computed here")
        assert said == (2 if format == "latex" else 1)
        assert " ! [" not in text


def test_imported_figures_stand_beside_computed_ones(files, factory, tmp_path):
    import_results([files], [f"out={tmp_path / 'run'}"])
    factory.run(tmp_path / "computed", ["imagenet1k"], name="RN50", pretrained="openai")
    text = report([tmp_path / "run", tmp_path / "computed"], "md")
    row = next(line for line in text.splitlines() if "ImageNet 1k" in line and "cn" not in line)
    assert row.count("|") == 4
    assert "0.6423" in row
    assert "ViT-B-32 openai: imported from" in text
    assert main(["compare", str(tmp_path / "run"), str(tmp_path / "computed")]) == 1


def test_a_computed_record_is_never_overwritten_and_nothing_else_is_written(files, factory, tmp_path):
    folder = factory.run(tmp_path / "run", ["imagenet1k"], name="ViT-B-32", pretrained="openai")
    before = {path: path.read_bytes() for path in sorted(folder.path.rglob("*")) if path.is_file()}
    with pytest.raises(ClipevalError, match=r"holds computed records of imagenet1k.*another folder with out="):
        import_results([files], [f"out={folder.path}"])
    assert {path: path.read_bytes() for path in sorted(folder.path.rglob("*")) if path.is_file()} == before
    imported = dataclasses.replace(folder.record("imagenet1k"), imported={"file": "x"})
    with pytest.raises(ClipevalError, match="was computed"):
        folder.add_imported(imported)
    assert folder.record("imagenet1k").imported is None
    # Other tasks of the same model may join those that were computed, whose run.json stays what it was.
    (found,) = import_results([next(files.glob("vtab_cifar100*"))], [f"out={folder.path}"])
    assert folder.tasks() == ["cifar100", "imagenet1k"]
    assert folder.run()["code"] == {"version": "0.1.0", "commit": "0123456789abcdef", "dirty": False}
    assert list(folder.run()["tasks"]) == ["imagenet1k", "cifar100"]
    # The same file again changes nothing that matters; an imported record may give way to another import.
    import_results([next(files.glob("vtab_cifar100*"))], [f"out={folder.path}"])
    assert folder.record("cifar100").metrics == found.records[0].metrics


def test_verify_says_what_cannot_be_checked(files, tmp_path, capsys):
    import_results([files], [f"out={tmp_path / 'run'}"])
    assert main(["verify", str(tmp_path / "run")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "0 of 5: holds; 5 imported, which nothing here can check" in out
    assert "cannot be computed again" in out
    path = tmp_path / "run" / "records" / "cifar100.json"
    path.write_bytes(path.read_bytes().replace(b"0.6423", b"0.9423"))
    assert main(["verify", str(tmp_path / "run")]) == 1
    assert "does not match its digest" in " ".join(capsys.readouterr().out.split())
    assert main(["rerun", str(tmp_path / "run")]) == 1


@pytest.mark.parametrize(
    ("name", "content", "words", "message"),
    [
        ("a.json", "{", [], "a.json: it is not JSON"),
        ("a.json", "", [], "a.json is empty"),
        (
            "a.json",
            '{"metrics": {}}',
            [],
            'a.json: dataset is null, and text was expected; a result is an object with "metrics"',
        ),
        ("a.json", "[1]", [], "a.json: it holds no result"),
        (
            "a.jsonl",
            '{"key": "mnist", "dataset": "MNIST", "metrics": {"acc1": 1}}\n\n{"key": 1',
            [],
            "a.jsonl, line 3: it is not JSON",
        ),
        (
            "a.jsonl",
            '{"key": "mnist", "dataset": "MNIST", "metrics": {"acc1": 1}}',
            [],
            "does not say whose result it is: name the model",
        ),
        ("a.txt", b"\xff\xfe", [], "is not UTF-8"),
        (
            "a.jsonl",
            '{"key": "mnist", "dataset": "MNIST", "metrics": {"acc1": 1}}',
            ["model=vit_b_32_openay"],
            "Did you mean: vit_b_32_openai",
        ),
    ],
)
def test_a_bad_file_is_one_clear_error(name, content, words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["import", name, *words]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_what_does_not_fit_into_one_folder_is_refused(files, factory, tmp_path, capsys):
    out = f"out={tmp_path / 'run'}"
    other = theirs(tmp_path / "more", "wds/mnist", CLASSES, model="RN50")
    with pytest.raises(ClipevalError, match="of one model, and these files are of 2: ViT-B-32__openai, RN50__openai"):
        import_results([files, other], [out])
    again = theirs(tmp_path / "again", "wds/imagenet1k", {**CLASSES, "acc1": 0.7})
    with pytest.raises(ClipevalError, match=r"are both of ViT-B-32__openai on imagenet1k, with other figures"):
        import_results([files, again], [out])
    assert not (tmp_path / "run").exists()
    import_results([other], [out])
    with pytest.raises(ClipevalError, match="holds results of RN50__openai, not of ViT-B-32__openai"):
        import_results([files], [out])
    assert main(["import", str(tmp_path / "nothing.json")]) == 1
    assert main(["import", out]) == 1
    assert "no file was named" in capsys.readouterr().err


def test_without_out_each_model_has_a_folder_of_its_own(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = theirs(tmp_path / "more", "wds/mnist", CLASSES, model="RN50")
    found = import_results([files, other])
    assert [str(item.folder.path) for item in found] == ["runs/ViT-B-32__openai-imported", "runs/RN50__openai-imported"]
    assert len(report([item.folder.path for item in found], "csv").splitlines()) > 6


def test_recall_at_1_is_the_mean_of_both_ways(tmp_path):
    both = {"image_retrieval_recall@1": 0.5, "text_retrieval_recall@1": 0.7, **RECALLS}
    key = "wds/retrieval/mscoco_2014_5k_test_image_text_retrieval"
    file = theirs(tmp_path / "in", key, both, task="zeroshot_retrieval")
    (found,) = import_results([file], [f"out={tmp_path / 'run'}"])
    (record,) = found.records
    assert (record.task, record.metric, record.value) == ("mscoco", "mean_recall@1", pytest.approx(0.6))
    assert any("mean of the two" in note for note in record.notes)


def apples_file(path: Path, model: str, pretrained: str) -> Path:
    """One of Apple's results/*.jsonl, its keys as Apple writes them, from the registry's rows of it."""
    rows = published.rows(models={(model, pretrained)}, sources=["mobileclip"])
    rows = rows[rows["metric"] != "average"]
    with open(path, "w") as file:
        for key, part in rows.groupby("key", sort=False):
            metrics = dict(zip(part["metric"], part["value"], strict=True))
            main = published.COLUMNS[key][1] if key in published.COLUMNS else "mean_recall@1"
            metrics["main_metric"] = metrics.get(main, metrics.get("text_acc"))
            theirs = str(key).replace("sugar_crepe/", "comp/sugarcrepe_")
            file.write(json.dumps({"key": theirs, "dataset": str(key), "metrics": metrics}) + "\n")
    return path


def test_apples_file_is_averaged_over_the_38_that_everyone_averages(tmp_path):
    """Its 48 rows with a main metric gave 0.6291, where their README prints 59.7."""
    file = apples_file(tmp_path / "mobileclip2_s0.jsonl", "MobileCLIP2-S0", "dfndr2b")
    words = ["model=open_clip", "model.name=MobileCLIP2-S0", "model.pretrained=dfndr2b", f"out={tmp_path / 'run'}"]
    (found,) = import_results([file], words)
    assert len(found.records) == 50
    assert found.remarks == []  # every key is known, SugarCrepe's and the long captions' too
    by_key = {record.key: record for record in found.records}
    assert by_key["sugar_crepe/add_att"].group == "compositionality"
    assert by_key["longclip/urban1k"].name == "Urban1k"
    text = report([tmp_path / "run"], width=100, against="published")
    lines = text.splitlines()
    (average,) = [line for line in lines if "Average over" in line]
    assert "Average over 38 of 38" in average
    assert "0.5967" in average
    assert "(datacomp)" in text
    for group in ("Other (10)", "Compositionality (7)", "Long captions (3)"):
        assert group in text
    # Imported: once, above the table.
    assert text.count("imported from DataComp's results") == 1
    assert " ! " not in next(line for line in lines if "ImageNet 1k" in line)
    assert "48 of 48 agree: 48 to the printed digit" in text
    frame = list(csv.DictReader(report([tmp_path / "run"], "csv").splitlines()))
    (row,) = [row for row in frame if row["kind"] == "average"]
    assert (row["counted"], row["expected"], row["status"]) == ("38", "38", "done")
    assert float(row["value"]) == pytest.approx(0.5967, abs=0.00005)


def test_a_task_of_ones_own_never_joins_a_suites_average(factory, tmp_path):
    folder = factory.published(tmp_path / "run", "ViT-B-32-256", "datacomp_s34b_b86k")
    before = next(line for line in report([folder.path], width=100).splitlines() if "Average over" in line)
    record = folder.record("mnist")
    mine = dataclasses.replace(record, task="mine", key="mine", name="Mine", metrics={"acc1": 1.0}, predictions=None)
    folder.write(mine, folder.predictions(record))
    text = report([folder.path], width=100)
    after = next(line for line in text.splitlines() if "Average over" in line)
    assert before.split()[:6] == after.split()[:6]
    assert "Average over 38 of 38" in after
    assert "(datacomp)" in text
    assert "Other, not in datacomp" not in text  # alone, it needs no row of its own
    assert "Mine" in text
    # One task left out: the average says that it is not the suite's.
    (folder.path / "records" / "sun397.json").unlink()
    text = " ".join(report([folder.path], width=100).split())
    assert "Average over 37 of 38" in text
    assert "(datacomp): partial" in text
