"""Paired comparisons against scipy, statsmodels and simulation."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests

from clipeval.configs.errors import ClipevalError
from clipeval.results import compare as module
from clipeval.results import compare_block, paired
from clipeval.results.compare import compare
from clipeval.results.contact_sheet import _caption, contact_sheet, picture_keys, thumbnail
from clipeval.results.run_folder import RunFolder
from clipeval.tasks import Association, Classification, Retrieval
from clipeval.tasks.statistics import GroupMean, Mean, Proportion, paired_differences


def statistics(record, frame):
    """What the command line does: the record's task computes its metrics from stored predictions."""
    known = {"retrieval": Retrieval, "association": Association}
    made = known.get(record.protocol, Classification)(key=record.key, name=record.name, metric=record.metric)
    return made.statistics(frame)


@pytest.mark.parametrize(
    ("wins", "losses"), [(0, 0), (3, 3), (1, 0), (0, 7), (9, 2), (40, 21), (300, 351), (5000, 4000)]
)
def test_mcnemar_is_the_exact_test_less_half_of_what_was_seen(wins, losses):
    """Mid-p by its definition, from statsmodels' exact test (Fagerland et al. 2013, equation 6)."""
    exact = reference_mcnemar([[10, wins], [losses, 10]], exact=True).pvalue
    n = wins + losses
    expected = 1.0 if wins == losses else exact - stats.binom.pmf(min(wins, losses), n, 0.5)
    assert paired.mcnemar(wins, losses) == pytest.approx(expected, rel=1e-9)
    if n > 500:
        large = reference_mcnemar([[10, wins], [losses, 10]], exact=False, correction=False).pvalue
        assert paired.mcnemar(wins, losses) == pytest.approx(large, rel=0.05, abs=1e-6)


def test_mcnemar_keeps_its_level():
    """Under equal accuracy, 5% of 4,000 repeated comparisons are found, not many fewer."""
    rng = np.random.default_rng(0)
    disagreements = rng.binomial(200, 0.15, 4000)
    wins = rng.binomial(disagreements, 0.5)
    found = np.mean([paired.mcnemar(int(w), int(n - w)) < 0.05 for w, n in zip(wins, disagreements, strict=True)])
    assert 0.035 <= found <= 0.055


@pytest.mark.parametrize(("up", "down", "n"), [(0.08, 0.03, 300), (0.02, 0.02, 500), (0.3, 0.2, 100)])
def test_the_paired_interval_covers_the_truth(up, down, n):
    rng = np.random.default_rng(1)
    counts = rng.multinomial(n, [up, down, 1 - up - down], size=2000)
    covered = 0
    for wins, losses, _ in counts.tolist():
        low, high = paired.difference_of_proportions(wins, losses, n)
        assert low <= (wins - losses) / n <= high
        covered += low <= up - down <= high
    assert 0.93 <= covered / 2000 <= 0.98


def test_the_bootstrap_agrees_with_the_paired_t_test():
    rng = np.random.default_rng(2)
    a = rng.beta(2, 2, 400)
    for shift in (0.0, 0.005, 0.012, 0.03):
        b = np.clip(a + rng.normal(shift, 0.1, 400), 0, 1)
        draws = paired_differences(Mean(a), Mean(b), 10_000, 0)
        (low, high), p = paired.bootstrap(draws, float(b.mean() - a.mean()))
        expected = stats.ttest_rel(b, a)
        interval = expected.confidence_interval(0.95)
        assert p == pytest.approx(expected.pvalue, abs=0.02)
        assert (low, high) == pytest.approx((interval.low, interval.high), abs=0.001)


def test_the_bootstrap_of_per_class_recall_agrees_with_scipys():
    rng = np.random.default_rng(3)
    groups = rng.integers(0, 5, 300)
    hits = rng.random((2, 300)) < np.array([[0.6], [0.68]])

    def difference(index):
        rows = index.astype(int)
        means = [np.mean([h[rows][groups[rows] == g].mean() for g in range(5)]) for h in hits]
        return means[1] - means[0]

    found = stats.bootstrap(
        (np.arange(300.0),), difference, method="percentile", n_resamples=3000, rng=4, vectorized=False
    )
    a, b = (GroupMean(h, groups) for h in hits)
    (low, high), _ = paired.bootstrap(paired_differences(a, b, 10_000, 0), b.value - a.value)
    interval = found.confidence_interval
    assert (low, high) == pytest.approx((interval.low, interval.high), abs=0.008)


def test_a_bootstraps_p_value_is_never_zero_and_knows_no_difference():
    assert paired.bootstrap(np.full(999, 0.3), 0.3)[1] == pytest.approx(1 / 1000)
    assert paired.bootstrap(np.zeros(999), 0.0)[1] == 1.0


def test_holm_is_statsmodels():
    rng = np.random.default_rng(5)
    for size in (1, 2, 7, 38):
        p = rng.random(size) ** 3
        p[: size // 3] = 0.01
        assert paired.holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1].tolist())
    assert paired.holm([]) == []


@pytest.fixture(scope="module")
def pair(factory, tmp_path_factory):
    root = tmp_path_factory.mktemp("pair")
    a = factory.run(root / "a", accuracy=0.6)
    b = factory.run(root / "b", accuracy=0.75, seed=1, name="Better")
    return a, b


def test_differences_wins_and_p_values_are_those_of_the_predictions(pair):
    a, b = pair
    found = compare(a.path, b.path, statistics, draws=2000)
    by_task = {item.task: item for item in found.tasks}
    assert list(by_task) == ["imagenet1k", "imagenetv2", "imagenet-a", "caltech101", "mnist"]
    item = by_task["mnist"]
    frame_a, frame_b = (run.predictions(run.record("mnist")) for run in pair)
    right_a, right_b = (frame["label"] == frame["prediction"] for frame in (frame_a, frame_b))
    assert item.difference == pytest.approx(right_b.mean() - right_a.mean())
    assert (item.wins, item.losses) == (int((right_b & ~right_a).sum()), int((right_a & ~right_b).sum()))
    assert item.p == pytest.approx(paired.mcnemar(item.wins, item.losses))
    assert item.test == "McNemar mid-p"
    assert by_task["caltech101"].test == "paired bootstrap"
    assert [i.adjusted for i in found.tasks] == pytest.approx(
        multipletests([i.p for i in found.tasks], method="holm")[1]
    )
    assert found.difference == pytest.approx(np.mean([i.difference for i in found.tasks]))
    assert found.interval[0] < found.difference < found.interval[1]
    assert item.verdict == "B"


def test_the_samples_where_they_part_are_written(pair, tmp_path):
    a, b = pair
    found = compare(a.path, b.path, statistics, draws=200)
    csv, parquet = found.write(tmp_path)
    apart = pd.read_parquet(parquet)
    for item in found.tasks:
        mine = apart[apart["task"] == item.task]
        assert ((mine["better"] == "B").sum(), (mine["better"] == "A").sum()) == (item.wins, item.losses)
    one = apart[(apart["task"] == "mnist") & (apart["better"] == "B")]
    assert (one["prediction_b"] == one["label"]).all()
    assert (one["prediction_a"] != one["label"]).all()
    table = pd.read_csv(csv)
    assert table["p"].tolist() == pytest.approx([item.p for item in found.tasks])


def test_the_words(pair):
    found = compare(pair[0].path, pair[1].path, statistics, draws=200)
    text = compare_block.render(found, width=110)
    assert max(map(len, text.splitlines())) <= 110
    assert "A: ViT-Toy-32 toy_s1m" in text
    assert "B: Better toy_s1m" in text
    assert text.count("<.001") >= 1
    assert "| MNIST" in compare_block.render(found, "md").replace("**", "")
    assert compare_block.render(found, "csv").startswith("task,name,group,metric,a,b,difference,low,high,p,adjusted")


def test_a_run_is_no_different_from_itself(pair):
    found = compare(pair[0].path, pair[0].path, statistics, draws=200)
    assert all(item.p == 1.0 and item.difference == 0 and item.wins == item.losses == 0 for item in found.tasks)
    assert found.disagreements.empty
    assert "5 cannot be told apart" in compare_block.render(found, width=120)


def _rewrite(run, task, frame):
    record = dataclasses.replace(run.record(task), samples=len(frame))
    run.write(record, frame)


def test_samples_are_matched_by_key_whatever_their_order(factory, pair, tmp_path):
    a = pair[0]
    b = factory.run(tmp_path / "b", ["mnist"], accuracy=0.75, seed=1, name="Better")
    straight = compare(a.path, b.path, statistics).tasks[0]
    frame = b.predictions(b.record("mnist"))
    _rewrite(b, "mnist", frame.sample(frac=1, random_state=0).reset_index(drop=True))
    assert dataclasses.replace(compare(a.path, b.path, statistics).tasks[0]) == straight
    _rewrite(b, "mnist", frame.iloc[:300])
    part = compare(a.path, b.path, statistics).tasks[0]
    assert part.samples == 300
    assert part.remarks == ("compared on the 300 samples in both, of 500 and 300",)


def test_samples_that_are_others_are_compared_as_independent(factory, pair, tmp_path):
    b = factory.run(tmp_path / "b", ["mnist"], accuracy=0.75, seed=1)
    frame = b.predictions(b.record("mnist"))
    _rewrite(b, "mnist", frame.assign(key=[f"other{i}" for i in range(len(frame))]))
    item = compare(pair[0].path, b.path, statistics).tasks[0]
    assert (item.test, item.paired) == ("unpaired", False)
    frame_a = pair[0].predictions(pair[0].record("mnist"))
    rates = [float((f["label"] == f["prediction"]).mean()) for f in (frame_a, frame)]
    expected = stats.norm.sf(abs(rates[1] - rates[0]) / np.sqrt(sum(r * (1 - r) / 500 for r in rates))) * 2
    assert item.p == pytest.approx(expected, abs=0.01)


def test_labels_that_differ_are_named(factory, pair, tmp_path):
    b = factory.run(tmp_path / "b", ["mnist"], accuracy=0.75, seed=1)
    frame = b.predictions(b.record("mnist"))
    labels = frame["label"].to_numpy().copy()
    labels[:3] = (labels[:3] + 1) % 10
    _rewrite(b, "mnist", frame.assign(label=labels))
    assert "3 samples have another label in B" in compare(pair[0].path, b.path, statistics).tasks[0].remarks[0]


def test_tasks_that_only_one_run_has_are_named(factory, pair, tmp_path):
    b = factory.run(tmp_path / "b", ["mnist"], name="Other")
    found = compare(pair[0].path, b.path, statistics)
    assert "ImageNet 1k: recorded by ViT-Toy-32 toy_s1m alone" in found.remarks
    alone = factory.run(tmp_path / "c", ["fairface"])
    with pytest.raises(ClipevalError, match="share no recorded task"):
        compare(pair[0].path, alone.path, statistics)


def test_damaged_predictions_are_named_and_left_out(factory, tmp_path):
    a, b = (factory.run(tmp_path / name, ["mnist", "imagenet1k"]) for name in "ab")
    (a.path / "predictions" / "mnist.parquet").write_bytes(b"")
    found = compare(a.path, b.path, statistics)
    assert [item.task for item in found.tasks] == ["imagenet1k"]
    assert "mnist.parquet is damaged" in found.remarks[0]


def test_retrieval_is_paired_by_image(factory, tmp_path):
    """Five captions an image: the image is the unit, and its key is given where the runs part."""
    rng = np.random.default_rng(6)
    runs = []
    for name, rate in (("a", 0.5), ("b", 0.6)):
        keys = np.repeat([f"i{n:03d}" for n in range(120)], 5)
        own = np.array([f"i{n:03d}" for n in range(120)])
        frame = pd.DataFrame(
            {
                "direction": ["image"] * 600 + ["text"] * 120,
                "key": np.concatenate([keys, own]),
                "rank": (rng.random(720) > rate).astype(int),
            }
        )
        folder = factory.run(tmp_path / name, ["mnist"], name=name)
        record = dataclasses.replace(
            folder.record("mnist"), protocol="retrieval", metric="mean_recall@1", metrics={"mean_recall@1": rate}
        )
        folder.write(record, frame)
        runs.append((folder, frame))
    found = compare(runs[0][0].path, runs[1][0].path, statistics, draws=2000)
    item = found.tasks[0]
    assert (item.samples, item.test, item.paired) == (120, "paired bootstrap", True)
    scores = []
    for _, frame in runs:
        hit = frame["rank"] < 1
        image = hit[frame["direction"] == "image"].groupby(frame["key"]).mean()
        text = hit[frame["direction"] == "text"].groupby(frame["key"]).mean()
        scores.append((image + text) / 2)
    assert item.difference == pytest.approx((scores[1] - scores[0]).mean())
    assert set(found.disagreements["key"]) == set(scores[0].index[(scores[0] - scores[1]).abs() > 1e-12])
    t = stats.ttest_rel(scores[1], scores[0])
    assert item.p == pytest.approx(t.pvalue, abs=0.02)


def test_the_contact_sheet_shows_the_pictures_with_their_names(factory, pair, tmp_path):
    found = compare(pair[0].path, pair[1].path, statistics, draws=200)
    some = found.disagreements[found.disagreements["task"] == "mnist"].head(8)
    pictures = {}
    for key, mode in zip(some["key"], ["RGB", "L", "RGBA", "P", "CMYK", "1", "I;16"], strict=False):
        sink = io.BytesIO()
        Image.new(mode, (28, 20)).save(sink, "TIFF")
        pictures[key] = sink.getvalue()
    record = dataclasses.replace(
        RunFolder(pair[0].path).record("mnist"), prompts={"classnames": [f"digit {i}" for i in range(10)]}
    )
    content = contact_sheet(some, pictures, record, columns=3)
    sheet = Image.open(io.BytesIO(content))
    assert sheet.width == 12 + 3 * 172
    assert len(sheet.getcolors(1 << 20)) > 10
    with pytest.raises(ValueError, match="no picture"):
        contact_sheet(some, {}, record)
    assert thumbnail(b"rubbish") is None


def test_protocols_side_by_side_keep_their_labels_and_their_pictures(factory):
    """In one table of disagreements samples, labels of a task stay whole beside tasks that have none, and name their class."""
    tasks = {
        "classes": pd.DataFrame({"key": ["a", "b"], "label": [0, 1]}),
        "cues": pd.DataFrame({"key": ["i0", "i1"], "cue": ["sky", "bug"], "associated": ["a b c", "c"]}),
        "captions": pd.DataFrame({"key": ["s0", "s1"], "image": ["b", "c"], "own": ["of b", "of c"]}),
    }
    answers = {"classes": ("prediction", [1, 1], [0, 0]), "cues": ("chosen", ["a b d", "d"], ["a b c", "d"])}
    answers["captions"] = ("answer", ["of b", "of c"], ["of x", "of x"])
    found = []
    for task, frame in tasks.items():
        column, *said = answers[task]
        sides = []
        for one in said:
            full = frame.assign(**{column: one})
            right = [0.0, 1.0] if one == said[0] else [1.0, 0.0]
            sides.append((full, {"mean": Mean(np.array(right))}))
        found.append(module._disagreements(task, "mean", *sides)[2])
    disagreements = pd.concat(found, ignore_index=True)
    assert disagreements["label"].tolist()[:2] == [0, 1]
    assert [picture_keys(row) for row in disagreements.to_dict("records")] == [
        ["a"],
        ["b"],
        ["a", "b", "c"],
        ["c"],
        ["b"],
        ["c"],
    ]
    sink = io.BytesIO()
    Image.new("RGB", (40, 40), "teal").save(sink, "PNG")
    pictures = dict.fromkeys("abc", sink.getvalue())
    record = dataclasses.replace(
        factory.record("mnist", factory.predictions("mnist", 0.5, 0), {}), prompts={"classnames": ["zero", "one"]}
    )
    captions = {}
    for task, rows in disagreements.groupby("task"):
        assert contact_sheet(rows, pictures, record).startswith(b"\x89PNG")
        captions[task] = [text for text, _ in _caption(rows.to_dict("records")[0], ["zero", "one"])]
    assert captions["classes"] == ["zero", "A: one", "B: zero"]
    assert captions["cues"] == ["cue: sky", "A: 0.00", "B: 1.00"]
    assert captions["captions"] == ["of b", "A: of b", "B: of x"]


@pytest.mark.parametrize("width", [80, 100, 130])
def test_a_comparison_fits_a_terminal_with_its_names(pair, width):
    found = compare(pair[0].path, pair[1].path, statistics, draws=200)
    text = compare_block.render(found, width=width)
    assert max(map(len, text.splitlines())) <= width
    for item in found.tasks:
        assert item.name.split(" ")[0] in text
    assert ("Left out for want of width: B wins, A wins." in text) == (width == 80)


def test_an_undefined_main_metric_is_left_out(factory, pair, tmp_path):
    def none(record, frame):
        return {record.metric: None if record.task == "mnist" else Proportion(frame["label"] == frame["prediction"])}

    found = module.compare(pair[0].path, pair[1].path, none)
    assert "mnist" not in {item.task for item in found.tasks}
    assert any("MNIST: its main metric is undefined" in text for text in found.remarks)
