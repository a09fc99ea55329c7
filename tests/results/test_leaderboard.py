"""The published models and one's own runs in one table and page."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from clipeval.cli.main import main
from clipeval.configs.errors import ClipevalError
from clipeval.results import published, runs
from clipeval.results.leaderboard import Filters, label, leaderboard, training_data
from clipeval.results.leaderboard_table import build, markdown
from clipeval.results.page.leaderboard import render
from scripts.make_pictures import find_chromium, show, start_browser, wait


@pytest.fixture(scope="module")
def board():
    return leaderboard()


@pytest.fixture(scope="module")
def run(factory, tmp_path_factory):
    folder = factory.published(tmp_path_factory.mktemp("run") / "r", "ViT-B-32-256", "datacomp_s34b_b86k")
    return folder.path


def test_every_model_is_averaged_over_the_same_38(board):
    assert len(board.tasks) == 38
    assert len(board.rows) == 121 + 14
    assert board.dropped == ()
    scores = board.rows.set_index(["model", "pretrained"])["score"]
    table = published.table().set_index(["name", "pretrained"])
    printed = table["Average perf. on 38 datasets"]
    assert max(abs(scores[pair] - value) for pair, value in printed.items()) < 0.00011
    assert scores["MobileCLIP2-S0", "dfndr2b"] == pytest.approx(0.5967, abs=0.00005)
    assert board.rows["score"].is_monotonic_decreasing
    assert board.rows["place"].iloc[0] == 1
    # Models that were published on a few of the tasks have no average that could stand beside these.
    assert not board.rows["model"].str.startswith("PE-Core").any()
    assert board.left_out > 0


@pytest.mark.parametrize("suite", ["compositionality", "long_captions", "imagenet_plus", "multilingual", "vtab"])
def test_where_nobody_has_all_tasks_the_fullest_table_is_made(suite: str) -> None:
    """Of what some have, no other set of tasks that a model was published with has more values."""
    made = leaderboard(suite)
    assert len(made.rows) >= 4 and made.rows[list(made.tasks)].notna().all(axis=None)
    if suite == "compositionality":  # MTEB's twenty; Apple's fourteen have SugarCrepe by part
        assert len(made.rows) == 20 and len(made.tasks) == 4 and "SCAM" in made.dropped
    assert "(+nan)" not in markdown(made)
    render(made)


def test_filters_leave_places_as_they_are(board):
    small = leaderboard(filters=Filters(max_params=160, data="datacomp"))
    assert 0 < len(small.rows) < len(board.rows)
    assert (small.rows["params"] <= 160).all()
    assert all("datacomp" in text.lower() for text in small.rows["pretrained"] + small.rows["data"])
    places = dict(zip(label(board.rows), board.rows["place"], strict=True))
    assert all(places[name] == place for name, place in zip(label(small.rows), small.rows["place"], strict=True))
    assert set(leaderboard(filters=Filters(since="2024-01-01")).rows["source"]) == {"mobileclip"}
    assert leaderboard(filters=Filters(max_gflops=20)).rows["gflops"].max() <= 20


def test_the_frontier_has_no_better_model_for_less(board):
    known = board.rows[board.rows["gflops"].notna()]
    for row in known[known["frontier"]].itertuples():
        assert not ((known["score"] > row.score) & (known["gflops"] <= row.gflops)).any()
    for row in known[~known["frontier"]].itertuples():
        assert ((known["score"] >= row.score) & (known["gflops"] <= row.gflops)).sum() > 1


def test_robustness_is_the_height_above_the_published_trend(board):
    assert board.rows["robustness"].abs().max() < 0.2
    assert abs(board.rows["robustness"].mean()) < 0.01
    assert np.isnan(leaderboard("retrieval").rows["robustness"]).all()


def test_correlations_are_spearmans(board):
    from scipy.stats import spearmanr

    expected = spearmanr(board.rows["mnist"], board.rows["cars"]).statistic
    assert board.correlation.loc["mnist", "cars"] == pytest.approx(expected)
    assert board.correlation.shape == (38, 38)


def test_models_like_mine(board):
    near = board.like("ViT-B-16-quickgelu openai", 3)  # by any of its names
    assert len(near) == 3
    mine = board.row("ViT-B-16 openai")
    keys = list(board.tasks)
    expected = (board.rows[keys] - mine[keys].astype(float)).abs().mean(axis=1).drop(mine.name).min()
    assert near["distance"].iloc[0] == pytest.approx(expected)
    with pytest.raises(ClipevalError, match="no row of this leaderboard has this name; near it: ViT-B-16 "):
        board.like("ViT-B-16 openay")


def test_a_run_stands_among_them(run, factory, tmp_path):
    found = leaderboard(runs=runs.load([run]), filters=Filters(max_params=1))
    assert found.rows["mine"].tolist() == [True]  # whatever the filters say
    place = int(found.rows["place"].iloc[0])
    theirs = leaderboard().rows.set_index(["model", "pretrained"])["place"]
    assert abs(place - theirs["ViT-B-32-256", "datacomp_s34b_b86k"]) <= 1
    # A run of fewer tasks: everyone is averaged over those, and the others are named.
    part = factory.published(tmp_path / "part", "ViT-B-16", "openai", tasks=["MNIST", "ImageNet 1k"])
    found = leaderboard(runs=runs.load([part.path]))
    assert list(found.tasks.values()) == ["ImageNet 1k", "MNIST"]
    assert len(found.dropped) == 36
    text = " ".join(build(found).remarks)
    assert "Not counted, for not every one of these has them" in text
    none = factory.run(tmp_path / "none", ["fairface"])
    with pytest.raises(ClipevalError, match="has recorded no published task of suite=datacomp"):
        leaderboard(runs=runs.load([none.path]))


@pytest.mark.parametrize(
    ("tag", "data"), [("openai", "OpenAI WIT-400M"), ("datacompdr_lt", "DataCompDR-1B"), ("v1", "")]
)
def test_the_data_that_a_tag_names(tag, data):
    assert training_data(tag) == data


def test_the_command(run, tmp_path, capsys):
    assert main(["leaderboard", "--top", "3", "--like", "ViT-B-16 openai"]) == 0
    out = capsys.readouterr().out
    assert "135 models by their average over the same 38 tasks" in out
    assert "dfn5b" in out
    assert main(["leaderboard", "suite=datacomp", str(run), "--sort", "mnist", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 136
    assert sum(row["mine"] == "True" for row in rows) == 1
    assert main(["leaderboard", str(run), "--top", "2", "--output", str(tmp_path / "board.md")]) == 0
    assert "| ViT-B-32-256 datacomp\\_s34b\\_b86k" in (tmp_path / "board.md").read_text()
    for words, message in (
        (["suite=datacmp"], "Did you mean: datacomp"),
        (["--sort", "mnits"], "Did you mean: mnist"),
        (["--since", "yesterday"], "a day was expected"),
        (["suite=fairness", "suite=vtab"], "one suite at a time"),
        (["suite=quickstart"], "nothing was published of the tasks"),
    ):
        capsys.readouterr()
        assert main(["leaderboard", *words]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1


@pytest.mark.skipif(find_chromium() is None, reason="chromium and chromedriver are not installed")
def test_the_pages_filters_act_on_table_and_chart(run, tmp_path):
    path = tmp_path / "board.html"
    path.write_text(render(leaderboard(runs=runs.load([run])), like="ViT-B-16 openai"))
    points = (
        "return document.getElementById('chart-compute').data.filter(t => t.text).reduce((n, t) => n + t.x.length, 0)"
    )
    with start_browser() as browser:
        for width in (1280, 390):
            show(browser, path, width)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            assert browser.execute_script("return document.getElementById('count').textContent") == "136 of 136 models"
            browser.save_screenshot(str(tmp_path / f"board-{width}.png"))
        before = browser.execute_script(points)
        browser.execute_script(
            "const f = document.getElementById('max-params'); f.value = 100; f.dispatchEvent(new Event('input'))"
        )
        wait(browser, "return !document.getElementById('count').textContent.startsWith('136 ')")
        assert 0 < browser.execute_script(points) < before
        assert browser.get_log("browser") == []
