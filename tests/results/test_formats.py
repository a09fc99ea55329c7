"""What other tools make of our files: LaTeX, clip_benchmark, huggingface_hub, figures."""

from __future__ import annotations

import argparse
import csv
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET

import pytest

from clipeval.configs.errors import ClipevalError
from clipeval.results import render_latex
from clipeval.results.figures import figures
from clipeval.results.run_folder import RunFolder
from clipeval.results.tables import report, write_report


@pytest.fixture(scope="module")
def pair(factory, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")

    def change(task):
        return {"mnist": {"flags": ("500 samples, 10,000 expected: 5% & more_of #{x}",)}}.get(task, {})

    factory.run(root / "a", change=change, name="ViT-B-32", pretrained="openai")
    factory.run(root / "b", ["imagenet1k", "mnist"], planned=list(factory.SPECS), name="ViT-B_16", pretrained="a_b&c")
    return [root / "a", root / "b"]


@pytest.mark.parametrize("number", [1, 2])
def test_latex_has_as_many_cells_in_every_line(pair, number):
    text = report(pair[:number], "latex")
    columns = len(re.search(r"\\begin\{tabular\}\{(\w+)\}", text).group(1))
    body = text[text.index("\\toprule") : text.index("\\bottomrule")]
    lines = [line for line in body.splitlines() if line.endswith("\\\\")]
    assert len(lines) >= 8
    for line in lines:
        assert len(re.findall(r"(?<!\\)&", line)) == columns - 1, line
    assert text.count("{") - text.count("\\{") == text.count("}") - text.count("\\}")


def test_latex_escapes_what_tex_would_read():
    assert render_latex.escape("a_b & 5% #1 {x} $ ~ ^ \\") == (
        r"a\_b \& 5\% \#1 \{x\} \$ \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(pair, tmp_path):
    tables = report(pair[:1], "latex") + report(pair, "latex")
    document = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}{tables}\\end{{document}}"
    (tmp_path / "report.tex").write_text(document)
    words = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "report.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "report.pdf").stat().st_size > 10_000


def test_clip_benchmarks_build_reads_our_files(pair, tmp_path):
    from clip_benchmark.cli import main_build

    files = write_report(pair, tmp_path / "json", "clip_benchmark")
    assert len(files) == 8
    main_build(argparse.Namespace(files=[str(tmp_path / "json")], output=str(tmp_path / "benchmark.csv")))
    with open(tmp_path / "benchmark.csv", newline="") as file:
        rows = {(row["model_fullname"], row["dataset"]): row for row in csv.DictReader(file)}
    record = RunFolder(pair[0]).record("caltech101")
    row = rows["ViT-B-32 openai", "wds/vtab/caltech101"]
    assert float(row["mean_per_class_recall"]) == record.value
    assert (row["task"], row["language"]) == ("zeroshot_classification", "en")
    assert len(rows) == 8


def test_two_runs_of_one_model_are_two_models_to_clip_benchmark(factory, tmp_path):
    from clip_benchmark.cli import main_build

    for name, accuracy in (("a", 0.5), ("b", 0.8)):
        factory.run(tmp_path / name, ["mnist", "imagenet1k"], accuracy=accuracy)
    files = write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "json", "clip_benchmark")
    assert len(set(files)) == 4
    main_build(argparse.Namespace(files=[str(tmp_path / "json")], output=str(tmp_path / "benchmark.csv")))
    with open(tmp_path / "benchmark.csv", newline="") as file:
        rows = {(row["model"], row["dataset"]): float(row["acc1"]) for row in csv.DictReader(file)}
    for name in "ab":
        record = RunFolder(tmp_path / name).record("mnist")
        assert rows[f"ViT-Toy-32 toy_s1m ({name})", "wds/mnist"] == record.value


def test_the_hubs_model_card_takes_ours(pair):
    from huggingface_hub import ModelCard

    card = ModelCard(report(pair[:1], "model-card"))
    found = {result.dataset_name: result for result in card.data.eval_results}
    folder = RunFolder(pair[0])
    assert {record.name for record in folder.records() if record.value is not None} == set(found)
    mnist = found["MNIST"]
    assert mnist.metric_value == pytest.approx(folder.record("mnist").value, abs=1e-6)
    assert (mnist.metric_type, mnist.metric_name) == ("accuracy", "acc1")
    assert mnist.metric_args["flags"] == ["500 samples, 10,000 expected: 5% & more_of #{x}"]
    assert mnist.metric_args["interval_95"] == pytest.approx(folder.record("mnist").interval, abs=1e-6)
    assert card.data.model_name == "ViT-B-32-openai"
    assert "| **Average over 5 of 5** |" in card.text
    # Written out and read in again, it is the same card.
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()


def test_a_model_card_names_the_hubs_data_set_where_the_config_does(factory, tmp_path):
    from huggingface_hub import ModelCard

    folder = factory.run(tmp_path / "run", ["mnist"])
    config = {
        "tasks": {"mnist": {**factory.spec("mnist"), "data": {"hub": "djghosh/wds_mnist_test", "revision": "abc"}}}
    }
    folder.write_run({"model": folder.run()["model"], "config": config})
    (result,) = ModelCard(report([folder.path], "model-card")).data.eval_results
    assert (result.dataset_type, result.dataset_revision) == ("djghosh/wds_mnist_test", "abc")


def test_a_model_card_without_scores_is_refused(factory, tmp_path):
    folder = factory.run(tmp_path / "run", ["fairface"])
    with pytest.raises(ClipevalError, match="no score"):
        report([folder.path], "model-card")


def test_figures_are_drawn_with_the_runs_in_them(pair, tmp_path):
    written = figures(pair, tmp_path / "figures")
    assert sorted(path.name for path in written) == sorted(
        f"{name}.{format}" for name in ("groups", "compute", "robustness") for format in ("svg", "pdf")
    )
    for path in written:
        if path.suffix == ".pdf":
            assert path.read_bytes().startswith(b"%PDF")
        elif path.stem != "robustness":
            text = "".join(ET.parse(path).getroot().itertext())
            assert "ViT-B-32 openai" in text
    again = figures(pair, tmp_path / "again")
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in again]


def test_figures_say_what_they_cannot_do(factory, pair, tmp_path):
    with pytest.raises(ClipevalError, match="Did you mean: svg"):
        figures(pair, tmp_path, ["svgg"])
    alone = factory.run(tmp_path / "run", ["fairface"])
    with pytest.raises(ClipevalError, match="nothing to draw"):
        figures([alone.path], tmp_path)
