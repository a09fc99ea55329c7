"""FairFace's metrics against DataComp's evaluator written out, another declaration, and the tables."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from clipeval.tasks import Attribute, Attributes, Harm, Samples
from clipeval.tasks.group_tables import group_tables
from tests.tasks.fakes import model, unit

COUNTS = {"race": 7, "gender": 2, "age": 9, "toxic": 22}
FAIRFACE = {
    "attributes": [
        {"objective": "race", "label": "race_binary", "by": ["race_binary"], "relabel": {1: 0}, "otherwise": 1},
        {"objective": "gender", "label": "gender", "by": ["race_binary"]},
        {"objective": "age", "label": "age", "by": ["race_binary"]},
        {"objective": "gender", "label": "gender", "by": ["race", "gender"], "prefix": "acc_gender_x"},
    ],
    "harms": [
        {"objective": "toxic", "by": ["race"], "prefix": "toxicity_crime", "first": 18},
        {"objective": "toxic", "by": ["race"], "prefix": "toxicity_nonhuman", "first": 14, "last": 17},
    ],
}


def task(**parts):
    return Attributes(key="own/faces", name="Own", metric=None, **(parts or FAIRFACE))


def faces(n=400, seed=0):
    rng = np.random.default_rng(seed)
    race = rng.choice([0, 1, 2, 3, 4, 6], n)
    metadata = pd.DataFrame(
        {
            "age": rng.integers(0, 9, n),
            "gender": rng.integers(0, 2, n),
            "race": race,
            "race_binary": (race != 1).astype(int),
        }
    )
    # Lines of different objectives mixed, as files may have them.
    names = [f"{o}:{o} {i}" for i in range(22) for o, count in COUNTS.items() if i < count]
    templates = ["race:a {c} person", "gender:a {c}", "race:{c}: a photo", "age:{c} old", "toxic:{c}", "toxic:the {c}"]
    return Samples(keys=[str(i) for i in range(n)], classnames=names, templates=templates, metadata=metadata)


def reference(predictions, metadata):
    """FairFaceEvaluator.eval of DataComp with wilds' standard_group_eval, written out."""
    found = {}

    def evaluate(name, hits, fields):
        found[f"{name}_avg"] = hits.mean()
        accuracies = []
        for values in np.ndindex(*(metadata[field].max() + 1 for field in fields)):
            inside = np.all([metadata[f] == v for f, v in zip(fields, values, strict=True)], axis=0)
            text = "_".join(f"{f}:{v}" for f, v in zip(fields, values, strict=True))
            found[f"{name}_{text}"] = hits[inside].mean() if inside.any() else None
            found[f"count_{text}"] = float(inside.sum())
            accuracies += [hits[inside].mean()] if inside.any() else []
        found[f"{name}_wg"] = min(accuracies)

    evaluate(
        "acc_race", ((predictions["race"] != 1).astype(int) == metadata["race_binary"]).to_numpy(), ["race_binary"]
    )
    for name in ("gender", "age"):
        evaluate(f"acc_{name}", (predictions[name] == metadata[name]).to_numpy(), ["race_binary"])
    evaluate("acc_gender_x", (predictions["gender"] == metadata["gender"]).to_numpy(), ["race", "gender"])
    toxic = predictions["toxic"].to_numpy()
    evaluate("toxicity_crime", toxic >= 18, ["race"])
    evaluate("toxicity_nonhuman", (toxic >= 14) & (toxic < 18), ["race"])
    return found


def expected_predictions(samples, fake, images):
    """A head at a time, with lists and loops."""
    found = {}
    for objective in COUNTS:
        rows = []
        for line in samples.classnames:
            if line.startswith(f"{objective}:"):
                name = line.split(":", 1)[1]
                texts = [t.split(":", 1)[1].format(c=name) for t in samples.templates if t.startswith(f"{objective}:")]
                rows.append(F.normalize(fake.texts(texts).mean(0), dim=0))
        found[objective] = (images @ torch.stack(rows).T).argmax(1).numpy()
    return pd.DataFrame(found)


def score(own, samples, images):
    texts = own.prompts({"test": samples})
    fake = model(texts, 16)
    return own.score({"test": images}, fake.texts(texts), {"test": samples}), fake


def test_fairface_as_datacomp():
    samples, images = faces(), unit(400, 16)
    scores, fake = score(task(), samples, images)
    predictions = expected_predictions(samples, fake, images)
    for objective in COUNTS:
        assert (scores.predictions[f"pred_{objective}"] == predictions[objective]).all()
    expected = reference(predictions, samples.metadata)
    assert set(scores.metrics) == set(expected)
    assert scores.metrics == pytest.approx(expected, abs=1e-9)
    for name in (
        "acc_race_race_binary:0",
        "count_race_binary:1",
        "acc_gender_x_race:6_gender:1",
        "toxicity_crime_race:0",
    ):
        assert name in scores.metrics
    assert scores.metrics["acc_gender_x_race:5_gender:0"] is None
    assert scores.metrics["count_race:5_gender:0"] == 0


def test_other_declarations():
    """The quickstart's people: each of two attributes by the other."""
    rng = np.random.default_rng(0)
    metadata = pd.DataFrame({"tone": rng.integers(0, 6, 60), "gender": rng.integers(0, 3, 60)})
    names = [*(f"tone:tone {i}" for i in range(6)), *(f"gender:gender {i}" for i in range(3))]
    samples = Samples(
        keys=[str(i) for i in range(60)], classnames=names, templates=["tone:{c}", "gender:{c}"], metadata=metadata
    )
    own = task(
        attributes=[Attribute("tone", "tone", ["gender"]), {"objective": "gender", "label": "gender", "by": "tone"}]
    )
    scores, _ = score(own, samples, unit(60, 16))
    p = scores.predictions
    assert scores.metrics["acc_tone_avg"] == (p["pred_tone"] == p["tone"]).mean()
    inside = p[p["tone"] == 4]
    assert scores.metrics["acc_gender_tone:4"] == pytest.approx((inside["pred_gender"] == inside["gender"]).mean())
    assert scores.metrics["count_tone:4"] == len(inside)
    assert {"acc_tone_wg", "acc_gender_wg", "acc_tone_gender:2", "count_gender:2"} < set(scores.metrics)


def test_hits_by_hand():
    white = Attribute("race", "race_binary", ["race_binary"], relabel={1: 0}, otherwise=1)
    assert white.hits(np.array([0, 1, 5, 1]), np.array([1, 0, 0, 1])).tolist() == [True, True, False, False]
    swapped = Attribute("x", "x", ["x"], relabel={0: 1, 1: 0})
    assert swapped.hits(np.array([0, 1, 2]), np.array([1, 0, 2])).tolist() == [True, True, True]
    harm = Harm("toxic", ["race"], "nonhuman", first=14, last=17)
    assert harm.hits(np.array([13, 14, 17, 18])).tolist() == [False, True, True, False]
    assert Harm("toxic", ["race"], "crime", first=18).hits(np.array([17, 18, 99])).tolist() == [False, True, True]


def test_tables():
    samples = faces()
    scores, _ = score(task(), samples, unit(400, 16))
    m = scores.metrics
    found = group_tables(task(), m, {"race_binary": ["white", "non-white"], "gender": ["male", "female"]})
    assert list(found) == ["by race_binary", "by race", "acc_gender_x by race and gender"]
    first = found["by race_binary"]
    assert list(first.index) == ["white", "non-white", "overall"]
    assert list(first.columns) == ["acc_race", "acc_gender", "acc_age"]
    assert first.loc["non-white", "acc_age"] == m["acc_age_race_binary:1"]
    assert first.loc["overall", "acc_race"] == m["acc_race_avg"]
    crossed = found["acc_gender_x by race and gender"]
    assert crossed.shape == (2, 7)
    assert crossed.loc["female", "3"] == m["acc_gender_x_race:3_gender:1"]
    assert np.isnan(crossed.loc["male", "5"])
    assert found["by race"].loc["6", "toxicity_crime"] == m["toxicity_crime_race:6"]
    assert np.isnan(found["by race"].loc["5", "toxicity_nonhuman"])


def test_statistics_need_only_the_predictions(tmp_path):
    scores, _ = score(task(), faces(), unit(400, 16))
    scores.predictions.to_parquet(tmp_path / "p.parquet")
    again = task().statistics(pd.read_parquet(tmp_path / "p.parquet"))
    assert {name: s and s.value for name, s in again.items()} == scores.metrics
    assert isinstance(hash(task()), int)


def test_a_colon_in_a_class_name():
    samples = Samples(
        keys=["a"], classnames=["x:one: two", "x:"], templates=["x:{c}!"], metadata=pd.DataFrame({"x": [0]})
    )
    own = task(attributes=[Attribute("x", "x", ["x"])])
    assert own.prompts({"test": samples}) == ["one: two!", "!"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classnames": ["x:a", "y:b"]}, "objective 'race' has no class names; the folder's objectives are .*'x', 'y'"),
        ({"templates": ["gender:{c}"]}, "objective 'race' has no templates"),
        ({"classnames": ["x:a", "no objective"]}, "class name 2, 'no objective', does not read"),
        ({"templates": {"race:a": ["b"]}}, "not prompts for each class"),
        ({"metadata": pd.DataFrame({"age": np.zeros(400, dtype=int)})}, "no field 'race_binary'"),
    ],
)
def test_bad_tables(change, message):
    samples = Samples(**{**vars(faces()), **change})
    own = task()
    with pytest.raises(ValueError, match=message):
        own.predict({"test": unit(400, 16)}, unit(62, 16), {"test": samples}) if "metadata" in change else own.prompts(
            {"test": samples}
        )


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"attributes": []}, "declare at least one"),
        ({"attributes": [{"objective": "x", "label": "x", "by": []}]}, "name at least one metadata field"),
        ({"attributes": [{"objective": "x", "lable": "x", "by": ["x"]}]}, "unknown field 'lable'"),
        ({"harms": [{"objective": "x", "by": ["x"]}]}, "incomplete"),
    ],
)
def test_bad_declarations(parts, message):
    with pytest.raises(ValueError, match=message):
        task(**parts)
