"""Classification against clip_benchmark's evaluate, against wilds' definitions written out, and by hand."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from clip_benchmark.metrics import zeroshot_classification as zsc
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, recall_score

from clipeval.tasks import Classification, GroupMetrics, Samples
from clipeval.tasks.classification import top_k
from tests.tasks.fakes import Loader, allow_numpy_2_4, model, unit

TEMPLATES = ["a photo of a {c}.", "the {c}"]


def task(**more):
    return Classification(key="own/task", name="Own", metric="acc1", **more)


def samples(labels, names, metadata=None, templates=TEMPLATES):
    return Samples(
        keys=[f"{i:04}" for i in range(len(labels))],
        labels=np.asarray(labels),
        classnames=names,
        templates=templates,
        metadata=pd.DataFrame() if metadata is None else pd.DataFrame(metadata),
    )


def evaluate(names, labels, images, templates=TEMPLATES, dim=16, **more):
    """Our metrics, and clip_benchmark's of the same images and the same table of text vectors."""
    table = {"test": samples(labels, names, templates=templates)}
    own = task(**more)
    texts = own.prompts(table)
    fake = model(texts, dim)
    scores = own.score({"test": images}, fake.texts(texts), table)
    loader = Loader([(images, torch.as_tensor(labels))], names)
    with pytest.MonkeyPatch.context() as patch:
        allow_numpy_2_4(patch)
        theirs = zsc.evaluate(fake, loader, fake.tokenizer, names, templates, "cpu", amp=False)
    return scores, theirs


def agree(ours, theirs):
    for name, value in theirs.items():
        if math.isnan(value):
            assert ours[name] is None
        else:
            assert ours[name] == pytest.approx(value, abs=1e-9), name


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
@pytest.mark.filterwarnings("ignore:A single label was found")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@given(
    classes=st.integers(1, 12),
    n=st.integers(1, 30),
    blank=st.booleans(),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_agrees_with_clip_benchmark(classes, n, blank, seed):
    """Few classes and many, one sample, classes that no sample has, a blank name."""
    rng = np.random.default_rng(seed)
    names = [f"class {i}" for i in range(classes)]
    if blank:
        names[rng.integers(classes)] = ""
    images = unit(n, 16, seed)
    scores, theirs = evaluate(names, rng.integers(0, classes, n), images)
    agree(scores.metrics, theirs)
    assert (scores.metrics["acc5"] is None) == (classes < 5)


@given(classes=st.integers(1, 12), n=st.integers(1, 40), seed=st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_ties_are_resolved_as_by_the_reference(classes, n, seed):
    """Whole numbers, so that scores are exact and many tie; and classes that are the same twice."""
    rng = np.random.default_rng(seed)
    images, vectors = (
        torch.tensor(rng.integers(-1, 2, (n, 3))).float(),
        torch.tensor(rng.integers(-1, 2, (classes, 3))).float(),
    )
    vectors[rng.integers(classes)] = vectors[0]
    labels = torch.tensor(rng.integers(0, classes, n))
    found = pd.DataFrame({"label": labels, **top_k(images, vectors)})
    metrics = task().statistics(found)
    topk = (1, 5) if classes >= 5 else (1,)
    with pytest.MonkeyPatch.context() as patch:
        allow_numpy_2_4(patch)
        expected = zsc.accuracy(100.0 * images @ vectors.T, labels, topk)
    assert [metrics[f"acc{k}"].value for k in topk] == expected
    assert found["prediction"].tolist() == (images @ vectors.T).argmax(dim=1).tolist()


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_duplicate_names_share_their_prompts():
    """Two of six classes have one name: texts repeat, and an image of either is right for one of them at most."""
    names = ["crane", "cat", "crane", "dog", "owl", "bee"]
    scores, theirs = evaluate(names, np.arange(60) % 6, unit(60, 16))
    assert scores.metrics["mean_per_class_recall"] == pytest.approx(theirs["mean_per_class_recall"], abs=0.1)
    pairs = scores.predictions.loc[scores.predictions["pred_1"].isin([0, 2]), ["pred_1", "pred_2"]]
    assert len(pairs)
    assert all(set(pair) == {0, 2} for pair in pairs.to_numpy())


def test_chunks_change_nothing():
    images, classes = unit(100, 16), unit(9, 16, 2)
    whole = top_k(images, classes)
    for rows in (1, 7, 99):
        found = top_k(images, classes, rows)
        for name, values in whole.items():
            np.testing.assert_allclose(found[name], values, atol=1e-5)


def test_by_hand():
    eye = torch.eye(6)
    table = {"test": samples([0, 1, 5, 0], [f"c{i}" for i in range(6)], templates=["{c}"])}
    images = torch.stack([eye[0], 0.8 * eye[2] + 0.6 * eye[1], eye[5], -eye[0]])
    scores = task().score({"test": images}, eye, table)
    assert scores.predictions["prediction"].tolist()[:3] == [0, 2, 5]
    assert scores.predictions["pred_2"][1] == 1
    assert scores.predictions["score_2"][1] == pytest.approx(60)
    assert scores.metrics == {"acc1": 0.5, "acc5": 0.75, "mean_per_class_recall": pytest.approx((0.5 + 0 + 1) / 3)}
    assert list(scores.predictions.columns[:4]) == ["key", "label", "prediction", "pred_1"]


def wilds(hits, groups, prefix, name):
    """wilds' standard_group_eval for one field, written out."""
    found = {f"{prefix}_avg": np.mean(hits)}
    for g in range(max(groups) + 1):
        inside = hits[groups == g]
        found[f"{prefix}_{name}:{g}"] = np.mean(inside) if len(inside) else None
        found[f"count_{name}:{g}"] = float(len(inside))
    return found, min(value for key, value in found.items() if ":" in key and key[0] != "c" and value is not None)


@pytest.fixture
def grouped():
    """200 images of 8 classes in regions 0, 1, 3, 5 and years 0..4."""
    rng = np.random.default_rng(4)
    metadata = {"region": rng.choice([0, 1, 3, 5], 200, p=[0.4, 0.3, 0.25, 0.05]), "year": rng.integers(0, 5, 200)}
    return samples(rng.integers(0, 8, 200), [f"c{i}" for i in range(8)], metadata), unit(200, 16)


def score(own, table, images):
    texts = own.prompts({"test": table})
    return own.score({"test": images}, model(texts, 16).texts(texts), {"test": table})


def test_fmow_names_and_numbers(grouped):
    table, images = grouped
    own = task(
        by=[
            {"field": "year", "worst": "acc_worst_year"},
            {"field": "region", "worst": "acc_worst_region", "worst_without": {"acc_worst_region_named": [5]}},
        ]
    )
    scores = score(own, table, images)
    hits = (scores.predictions["prediction"] == scores.predictions["label"]).to_numpy()
    region, year = table.metadata["region"].to_numpy(), table.metadata["year"].to_numpy()
    by_year, worst_year = wilds(hits, year, "acc", "year")
    by_region, worst_region = wilds(hits, region, "acc", "region")
    _, named = wilds(hits[region != 5], region[region != 5], "acc", "region")
    expected = {
        **by_year,
        "acc_worst_year": worst_year,
        **by_region,
        "acc_worst_region": worst_region,
        "acc_worst_region_named": named,
    }
    plain = {"acc1", "acc5", "mean_per_class_recall"}
    assert {name: value for name, value in scores.metrics.items() if name not in plain} == pytest.approx(expected)
    assert scores.metrics["acc_region:2"] is None
    assert scores.metrics["count_region:2"] == 0


def test_dollar_street_is_top_5(grouped):
    table, images = grouped
    scores = score(task(by=[GroupMetrics("year", top=5, prefix="acc_top5")]), table, images)
    p = scores.predictions
    hits = np.array(
        [row.label in (row.pred_1, row.pred_2, row.pred_3, row.pred_4, row.pred_5) for row in p.itertuples()]
    )
    expected, worst = wilds(hits, table.metadata["year"].to_numpy(), "acc_top5", "year")
    for name, value in {**expected, "acc_top5_wg": worst, "acc5": hits.mean()}.items():
        assert scores.metrics[name] == pytest.approx(value)


def test_default_names(grouped):
    table, images = grouped
    names = set(score(task(by=[{"field": "region"}]), table, images).metrics)
    assert {"acc_avg", "acc_region:0", "count_region:5", "acc_wg"} < names


def test_iwildcam(grouped):
    table, images = grouped
    scores = score(task(macro=True), table, images)
    p = scores.predictions
    options = {"labels": np.unique(p["label"]), "average": "macro", "zero_division": 0}
    assert scores.metrics["acc_avg"] == (p["label"] == p["prediction"]).mean()
    assert scores.metrics["recall-macro_all"] == pytest.approx(recall_score(p["label"], p["prediction"], **options))
    assert scores.metrics["F1-macro_all"] == pytest.approx(f1_score(p["label"], p["prediction"], **options))


def test_statistics_need_only_the_predictions(grouped, tmp_path):
    table, images = grouped
    own = task(macro=True, by=[{"field": "region"}])
    scores = score(own, table, images)
    scores.predictions.to_parquet(tmp_path / "p.parquet")
    again = own.statistics(pd.read_parquet(tmp_path / "p.parquet"))
    assert {name: s and s.value for name, s in again.items()} == scores.metrics


def test_a_task_is_hashable_and_plain():
    own = task(by=[{"field": "region", "worst_without": {"w": [5]}}], splits=["test"])
    assert own == task(by=(GroupMetrics("region", worst_without={"w": (5,)}),))
    assert isinstance(hash(own), int)


@pytest.mark.parametrize(
    ("labels", "metadata", "message"),
    [
        ([0, 8, 1], None, "own/task: label 8 of sample '0001' is outside 0..7"),
        ([0, -1, 1], None, "label -1"),
        ([0, 1], None, "3 images need labels of shape"),
        ([0.0, 1.0, 2.0], None, "labels must be integers"),
        ([0, 1, 2], {"country": [1, 2, 3]}, "metadata has no field 'region', only .*'country'.*data.fields"),
        ([0, 1, 2], {"region": [1, 2]}, "'region' has 2 values for 3 images"),
        ([0, 1, 2], {"region": [1, -1, 2]}, "'region' is -1 in row 1"),
        ([0, 1, 2], {"region": [1, np.nan, 2]}, "'region' is nan in row 1"),
        ([0, 1, 2], {"region": [0, 1, 2], "label": [0, 1, 2]}, "'label' has the name of a column"),
    ],
)
def test_bad_tables(labels, metadata, message):
    table = samples(labels, [f"c{i}" for i in range(8)], metadata)
    table = Samples(**{**vars(table), "keys": ["0000", "0001", "0002"]})
    own = task(by=[{"field": "region"}] if metadata else [])
    with pytest.raises(ValueError, match=message):
        score(own, table, unit(3, 16))


def test_other_bad_input():
    names = [f"c{i}" for i in range(3)]
    table = samples([0, 1], names, {"g": [0, 1]})
    with pytest.raises(ValueError, match="no labels"):
        score(task(), Samples(**{**vars(table), "labels": None}), unit(2, 16))
    with pytest.raises(ValueError, match="2 keys, but image embeddings of shape"):
        score(task(), table, unit(3, 16))
    with pytest.raises(ValueError, match="needs five classes"):
        score(task(by=[{"field": "g", "top": 5}]), table, unit(2, 16))
    with pytest.raises(ValueError, match="not finite"):
        score(task(), table, torch.full((2, 16), torch.nan))
    with pytest.raises(ValueError, match="has no images"):
        score(task(), samples(np.zeros(0, dtype=int), names), torch.zeros(0, 16))
    with pytest.raises(ValueError, match="lack the columns"):
        task().statistics(pd.DataFrame({"key": ["a"]}))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"field": "g", "top": 3}, "top must be 1 or 5"),
        ({"feild": "g"}, "own/task: by: unknown field 'feild'; GroupMetrics has"),
        ({"top": 5}, "incomplete"),
        ("region", "expected a mapping"),
    ],
)
def test_bad_declarations(part, message):
    with pytest.raises(ValueError, match=message):
        task(by=[part])
