"""`clipeval.load`: results as DataFrames, and in a notebook."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pytest

import clipeval
from clipeval.configs.errors import ClipevalError


@pytest.fixture(scope="module")
def folders(factory, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    change = {"mnist": {"flags": ("<script>alert(1)</script>",)}}
    factory.run(root / "a", change=lambda task: change.get(task, {}), name="ViT-B-32", pretrained="openai")
    factory.run(root / "b", ["imagenet1k", "mnist"], planned=list(factory.SPECS), name="ViT-B-16", accuracy=0.8)
    return [root / "a", root / "b"]


def test_every_metric_of_every_record_is_there(folders):
    results = clipeval.load(*folders)
    frame = results.metrics
    assert list(frame) == ["run", "task", "name", "metric", "value", "low", "high", "main", "samples"]
    expected = {
        (r.label, t, m): v for r in results.runs for t, record in r.records.items() for m, v in record.metrics.items()
    }
    found = frame.set_index(["run", "task", "metric"])["value"]
    assert len(found) == len(expected)
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, nan_ok=True) if value is not None else pd.isna(found[key])
    assert frame["value"].dtype == "float64"
    main = frame[frame["main"]].set_index(["run", "task"])
    for run in results.runs:
        for task, record in run.records.items():
            if record.interval:
                assert tuple(main.loc[(run.label, task), ["low", "high"]]) == record.interval


def test_the_table_has_a_column_for_each_run(folders):
    results = clipeval.load(*folders)
    table = results.table()
    assert list(table) == results.labels
    assert pd.isna(table.loc["caltech101", results.labels[1]])
    assert table.loc["mnist", results.labels[0]] == results.runs[0].records["mnist"].value


def test_predictions_of_one_run_and_of_several(folders):
    one = clipeval.load(folders[0]).predictions("mnist")
    assert {"key", "label", "prediction"} <= set(one)
    both = clipeval.load(*folders).predictions("mnist")
    assert len(both) == 2 * len(one)
    first = both[both["run"] == clipeval.load(*folders).labels[0]].drop(columns="run").reset_index(drop=True)
    pd.testing.assert_frame_equal(first, one.reset_index(drop=True))
    accuracy = (one["label"] == one["prediction"]).mean()
    assert accuracy == pytest.approx(clipeval.load(folders[0]).table().loc["mnist"].item())


def test_a_notebook_shows_the_table_and_no_code_of_others(folders):
    html = clipeval.load(*folders)._repr_html_()
    assert html.count("<table>") == 1
    assert "ViT-B-32 openai" in html
    assert "&lt;script&gt;" in html
    assert "<script" not in html
    assert "ImageNet 1k" in repr(clipeval.load(folders[0]))


def test_what_is_no_run_is_an_error(folders, tmp_path):
    with pytest.raises(ClipevalError, match="no run folder was named"):
        clipeval.load()
    with pytest.raises(ClipevalError, match="is no run folder"):
        clipeval.load(tmp_path)
    with pytest.raises(ClipevalError, match="Did you mean: mnist"):
        clipeval.load(folders[0]).predictions("mnst")


def test_it_brings_no_torch(folders):
    script = f"import sys, clipeval; clipeval.load({str(folders[0])!r}).metrics; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
