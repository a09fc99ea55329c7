"""What was published, and whether a run reproduces it."""

from __future__ import annotations

import csv
import dataclasses
import io
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from clipeval.configs.compose import CONFIG_DIR
from clipeval.configs.errors import ClipevalError
from clipeval.results import formatting, published, render_markdown, runs, sheet
from clipeval.results.against import against_published
from clipeval.results.judgement import verdict_of
from clipeval.results.tables import report

TABLE = Path(published.__file__).with_name("published_openclip_38.csv")
EXCEPTIONS = {
    ("ViT-L-14", "openai"),
    ("ViT-B-16", "commonpool_l_text_s1b_b8k"),
    ("coca_ViT-B-32", "mscoco_finetuned_laion2b_s13b_b90k"),
}


def rows():
    with open(TABLE, newline="") as file:
        return list(csv.DictReader(file))


def test_121_models_on_38_tasks():
    found = rows()
    assert len(found) == 121
    assert len({(row["name"], row["pretrained"]) for row in found}) == 121
    assert {column for column, _ in published.COLUMNS.values()} == set(list(found[0])[5:])
    assert len(published.COLUMNS) == 38


def test_the_printed_averages_are_the_means_of_the_rows():
    """To the printed digit; for three models the rounding of the 38 figures shows in the last one."""
    off = set()
    for row in rows():
        mean = sum(Decimal(row[column]) for column, _ in published.COLUMNS.values()) / 38
        printed = Decimal(row["Average perf. on 38 datasets"])
        assert abs(mean - printed) <= Decimal("0.0001")
        if abs(mean - printed) > Decimal("0.00005"):
            off.add((row["name"], row["pretrained"]))
    assert off == EXCEPTIONS


def test_the_121_rows_rendered_give_the_printed_averages(factory, tmp_path):
    """All 121 side by side, by our own averaging; their printed averages were of unrounded scores."""
    folder = factory.published(tmp_path / "run", "ViT-B-32-256", "datacomp_s34b_b86k")
    (run,) = runs.load([folder.path])
    made = []
    for row in rows():
        records = {
            task: dataclasses.replace(
                record, metrics={record.metric: float(row[record.name])}, intervals={record.metric: None}
            )
            for task, record in run.records.items()
        }
        made.append(dataclasses.replace(run, label=f"{row['name']} {row['pretrained']}", records=records))
    built = sheet.build(made)
    average = next(row for row in built.rows if row.kind == "average")
    printed = [float(row["Average perf. on 38 datasets"]) for row in rows()]
    shown = [float(formatting.score(cell.value)) for cell in average.cells]
    assert len(shown) == 121
    assert shown == pytest.approx(printed, abs=0.00011)
    assert sum(abs(a - b) < 0.00001 for a, b in zip(shown, printed, strict=True)) >= 117
    assert [cell.best for cell in average.cells].index(True) == int(np.argmax(printed))
    text = render_markdown.render(built)
    assert all(f"| {value:.4f}" in text or f"**{value:.4f}**" in text for value in shown)


def test_a_row_rendered_as_a_run_is_its_own_reproduction(factory, tmp_path):
    for number, row in enumerate(rows()[::40]):
        folder = factory.published(tmp_path / str(number), row["name"], row["pretrained"])
        text = report([folder.path], width=100)
        mean = sum(Decimal(row[column]) for column, _ in published.COLUMNS.values()) / 38
        assert "Average over 38 of 38" in text
        assert f"{mean:.4f}" in next(line for line in text.splitlines() if "Average over" in line)
        found = against_published(runs.load([folder.path])[0])
        assert found.count("exact") == 38
        averages = np.array([float(other["Average perf. on 38 datasets"]) for other in rows()])
        mine = float(row["Average perf. on 38 datasets"])
        # The rounding of the average may tie with a neighbour's.
        assert abs(found.average.place - (1 + int((averages > mean.__float__() + 0.00005).sum()))) <= 1
        assert found.of == 120
        assert mine == found.average.reference


def test_the_columns_are_the_tasks_of_the_configs():
    """The published columns, keys and metrics are those of the task files that `suite=datacomp` runs."""
    found = {}
    for path in (Path(CONFIG_DIR) / "task").glob("*.yaml"):
        spec = yaml.safe_load(path.read_text())
        if isinstance(spec, dict) and spec.get("key") in published.COLUMNS:
            found[spec["key"]] = (spec.get("name"), spec.get("metric", "acc1"))
    assert {key: found.get(key, (None,))[0] for key in published.COLUMNS} == {
        key: column for key, (column, _) in published.COLUMNS.items()
    }


@pytest.mark.parametrize(
    ("published_value", "measured", "interval", "verdict"),
    [
        (0.7281, 0.72805, (0.72, 0.74), "exact"),
        (0.7281, 0.72815, (0.72, 0.74), "exact"),
        (0.7281, 0.72816, (0.72, 0.74), "within"),
        (0.7281, 0.7300, (0.72805, 0.74), "within"),
        (0.7281, 0.7300, (0.72816, 0.74), "outside"),
        (0.7281, 0.7100, (0.70, 0.72804), "outside"),
        (0.7281, 0.7100, None, "unknown"),
        (0.7281, None, None, "missing"),
    ],
)
def test_the_rounding_of_the_printed_figure_counts(published_value, measured, interval, verdict):
    assert verdict_of(published_value, measured, interval) == verdict


def _shift(folder, task, value, interval):
    record = folder.record(task)
    folder.amend(dataclasses.replace(record, metrics={record.metric: value}, intervals={record.metric: interval}))


def test_a_reader_sees_at_a_glance_whether_it_holds(factory, tmp_path):
    folder = factory.published(tmp_path / "run", "ViT-B-32-256", "datacomp_s34b_b86k")
    text = " ".join(report([folder.path], against="published", width=100).split())
    assert "38 of 38 reproduce: 38 to the printed digit" in text
    assert "among 121, the 120 other published models and this run" in text
    _shift(folder, "mnist", 0.70, (0.69, 0.71))
    _shift(folder, "cars", 0.8995, (0.89, 0.91))
    for format in ("table", "md", "html"):
        text = " ".join(report([folder.path], format, against="published", width=100).split())
        assert "37 of 38 reproduce: 36 to the printed digit, 1 within; 1 not: MNIST" in text
        assert "OUTSIDE" in text


def test_an_unfinished_reproduction_is_judged_so_far(factory, tmp_path):
    folder = factory.published(tmp_path / "run", "ViT-B-32-256", "datacomp_s34b_b86k", tasks=["MNIST", "ImageNet 1k"])
    text = " ".join(report([folder.path], against="published", width=100).split())
    assert "2 of 2 reproduce (so far: 2 of 38 tasks)" in text
    # Its average stands among the others' averages over the same two tasks.
    frame = pd.read_csv(TABLE)
    means = frame[["MNIST", "ImageNet 1k"]].mean(axis=1)
    own = (frame["name"] == "ViT-B-32-256") & (frame["pretrained"] == "datacomp_s34b_b86k")
    place = 1 + int((means[~own] > float(means[own].iloc[0])).sum())
    assert f"Average of 2 tasks: {float(means[own].iloc[0]):.4f}, place {place} among 121" in text


def test_any_run_has_its_place(factory, tmp_path):
    folder = factory.run(tmp_path / "run", ["mnist", "imagenet1k"])
    text = " ".join(report([folder.path], against="published", width=100).split())
    record = folder.record("mnist")
    frame = pd.read_csv(TABLE)
    place = 1 + int((frame["MNIST"] > record.value).sum())
    assert f"{place} of 122" in text
    assert "not in the published table" in text


def test_csv_of_a_comparison(factory, tmp_path):
    folder = factory.published(tmp_path / "run", "ViT-B-32-256", "datacomp_s34b_b86k", tasks=["MNIST"])
    frame = pd.read_csv(io.StringIO(report([folder.path], "csv", "published")))
    row = frame[frame["task"] == "mnist"].iloc[0]
    assert (row["reference_value"], row["value"], row["verdict"]) == (0.7939, 0.7939, "exact")
    assert (frame["verdict"] == "missing").sum() == 37


def test_tasks_that_nobody_published_cannot_be_compared(factory, tmp_path):
    folder = factory.run(tmp_path / "run", ["fairface"])
    with pytest.raises(ClipevalError, match="none of these runs' tasks"):
        report([folder.path], against="published")


def test_against_another_run(factory, tmp_path):
    a = factory.run(tmp_path / "a", accuracy=0.7)
    b = factory.run(tmp_path / "b", accuracy=0.4, name="Other")
    text = " ".join(report([a.path], against=str(b.path), width=120).split())
    assert "ViT-Toy-32 toy_s1m against Other toy_s1m" in text
    assert "5 of 5 tasks differ by more than chance: 5 higher, 0 lower" in text


def test_a_place_and_a_figure_can_be_found():
    row = published.find("ViT-B-32-256", "datacomp_s34b_b86k")
    assert published.value(row, "mnist") == 0.7939
    assert published.find("ViT-B-32-256", "nobody") is None
    assert published.flops("ViT-S-32") == 5.66
    assert published.flops("nothing") is None
