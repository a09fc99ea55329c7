"""suite=multilingual on miniatures in the makers' layouts: every language, its gap to English, the averages that others print."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipeval.cli.main import main
from clipeval.configs.catalog import content, suite_tasks
from clipeval.data.lock import Lock, write_lock
from clipeval.results.languages import LanguageTable, language_tables, openclip_average
from clipeval.results.published.registry import rows as registry_rows
from clipeval.results.runs import load
from scripts.tiny_model import write_tiny_model

SIZE = 12
RETRIEVAL = ("crossmodal3600", "multilingual_mscoco", "xtd10", "flickr30k_200")
RECALLS = [f"{side}_retrieval_recall@{k}" for side in ("image", "text") for k in (1, 5, 10)]


def picture(seed: int) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(sink, "png")
    return sink.getvalue()


def languages_of(task: str) -> list[str]:
    """Some of them, English among them: each is a task of its own, and takes its time."""
    known = list(map(str, content("task", task)["data"]["languages"]))
    return [name for name in known if name in ("de", "en", "quz", "zh", "deu_Latn", "eng_Latn", "zul_Latn")]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("languages")
    for task in RETRIEVAL:
        data = content("task", task)["data"]
        folder = root / "data" / data["folder"]
        (folder / "images").mkdir(parents=True)
        for i in range(SIZE):
            (folder / "images" / f"{i}.png").write_bytes(picture(len(task) * 100 + i))
        for language in languages_of(task):  # what clip_benchmark's builders write
            captions = [f"{language} {'xyz'[i % 3]} {i}" for i in range(SIZE)]
            made = {"image_paths": [f"images/{i}.png" for i in range(SIZE)], "annotations": captions}
            (folder / data["captions"].format(language=language)).write_text(json.dumps(made))
    rows = []
    for i in range(8):
        both = {
            "Question": f"qué {i}",
            "Options": list("abcd"),
            "Translated Question": f"what {i}",
            "Translated Options": list("efgh"),
        }
        subset = "('Spanish', 'Chile')" if i % 2 else "('Telugu', 'India')"
        rows.append(
            {"image": {"bytes": picture(i), "path": None}, "ID": str(i), "Subset": subset, "Label": i % 4, **both}
        )
    hub = root / "data" / "afaji--cvqa"
    (hub / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), hub / "data" / "test-00000-of-00001.parquet")
    write_lock(hub, Lock("afaji/cvqa", None, None, "files", {}))
    model = write_tiny_model(root / "model")
    place = [
        f"data.root={root / 'data'}",
        f"out={root / 'run'}",
        f"cache.root={root / 'cache'}",
        "runtime.workers=0",
        "runtime.device=cpu",
    ]
    few = [f"tasks.{task}.data.languages=[{','.join(languages_of(task))}]" for task in RETRIEVAL]
    # Babel-ImageNet's 90 lists of names take minutes: test_languages.py asks in two of them.
    assert (
        main(
            [
                "run",
                "suite=multilingual",
                "~tasks.babel_imagenet",
                *few,
                "model=open_clip",
                f"model.name={model}",
                *place,
            ]
        )
        == 0
    )
    return root


def records(root: Path) -> dict[str, dict[str, Any]]:
    return {p.stem: json.loads(p.read_text()) for p in (root / "run" / "records").glob("*.json") if p.stem[0] != "."}


def test_every_set_is_asked_in_all_of_its_languages(ran: Path) -> None:
    found = records(ran)
    tasks = {task for task in suite_tasks("multilingual") if task != "babel_imagenet"}
    expected = {f"{task}-{language}" for task in tasks for language in languages_of(task)} | {"cvqa", "cvqa_english"}
    assert set(found) == expected


def test_averages_are_means_over_languages(ran: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = records(ran)
    (run,) = load([ran / "run"])
    tables = {table.key: table for table in language_tables(run)}
    assert set(tables) == {"crossmodal3600", "multilingual_mscoco_captions", "xtd10", "flickr30k-200", "cvqa/local"}
    assert main(["report", str(ran / "run"), "--languages", "--format", "csv"]) == 0
    said = capsys.readouterr().out
    every = []
    for key, task in (("crossmodal3600", "crossmodal3600"), ("multilingual_mscoco_captions", "multilingual_mscoco")):
        metrics = [found[f"{task}-{language}"]["metrics"] for language in languages_of(task)]
        for name in RECALLS:
            assert tables[key].mean[name] == pytest.approx(np.mean([m[name] for m in metrics]))
        every += [m[name] for m in metrics for name in RECALLS]
        gap = tables[key].gaps["de"] - (
            found[f"{task}-de"]["metrics"]["mean_recall@1"] - found[f"{task}-en"]["metrics"]["mean_recall@1"]
        )
        assert gap == pytest.approx(0)
    assert openclip_average(list(tables.values())) == pytest.approx(np.mean(every))
    assert f"{np.mean(every):.4f}" in said
    part = list(csv.DictReader(io.StringIO(said.split('"mean of 3,')[0])))
    assert [row["language"] for row in part] == [*languages_of("crossmodal3600"), "mean of 4"]
    assert tables["flickr30k-200"].gaps["eng_Latn"] == 0


def test_cvqa_is_shown_by_place_beside_english(ran: Path) -> None:
    found = records(ran)
    (run,) = load([ran / "run"])
    table = {t.key: t for t in language_tables(run)}["cvqa/local"]
    for place in ("('Telugu', 'India')", "('Spanish', 'Chile')"):
        local, english = (found[task]["metrics"][f"text_acc_{place}"] for task in ("cvqa", "cvqa_english"))
        assert table.gaps[place] == pytest.approx(local - english)
    assert table.mean["local"] == found["cvqa"]["metrics"]["text_acc"]


def test_the_page_and_the_figures_have_a_map_of_gaps(ran: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert (
        main(["report", str(ran / "run"), "--format", "html", "--output", str(page), "--figures", str(tmp_path)]) == 0
    )
    text = page.read_text()
    assert "Crossmodal-3600: gaps to English" in text and "quz" in text
    assert (tmp_path / "languages-0.svg").exists()


def test_open_clips_own_rows_come_to_its_own_averages() -> None:
    frame = registry_rows()
    frame = frame[(frame["source"] == "openclip_multilingual") & (frame["model"] == "xlm-roberta-base-ViT-B-32")]
    sets = frame[~frame["key"].str.endswith("/avg")]
    keys = sets["key"].astype(str).str.rpartition("/")
    tables = []
    for key in ("crossmodal3600", "multilingual_mscoco_captions"):
        rows = sets[keys[0] == key]
        scores = pd.pivot_table(
            rows.assign(language=keys[2][keys[0] == key]), "value", "language", "metric", observed=True
        )
        tables.append(LanguageTable(key, key, "mean_recall@1", scores, scores.iloc[:, 0] * 0, scores.mean(), None))
        printed = frame[frame["key"] == f"{key}/avg"].set_index("metric")["value"]
        for name in RECALLS:
            assert tables[-1].mean[name] == pytest.approx(printed[name], abs=5.1e-5)
    average = frame[frame["key"] == "multilingual/avg"]["value"].iloc[0]
    assert openclip_average(tables) == pytest.approx(average, abs=5.1e-5)


def test_all_languages_of_one_that_has_none_is_an_error_where_it_is_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "task=cvqa", "language=all"]) == 1
    assert "is in one language only" in capsys.readouterr().err
