"""WinoGAViL against DataComp's procedure written out with sklearn, and by hand."""

import time

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import jaccard_score

from clipeval.tasks import Association, Samples
from clipeval.tasks.association import prompt
from tests.tasks.fakes import unit


def task():
    return Association(key="own/wino", name="Own", metric="avg_jaccard_score")


def build(n, sizes, seed=0, images=60):
    """n instances with candidates in the given numbers."""
    rng = np.random.default_rng(seed)
    keys = [f"image{i}" for i in range(images)]
    instances = []
    for i in range(n):
        candidates = rng.choice(keys, rng.choice(sizes), replace=False).tolist()
        associations = rng.permutation(candidates)[: rng.integers(1, len(candidates))].tolist()
        instances.append({"id": f"i{i}", "cue": f"cue {i}", "candidates": candidates, "associations": associations})
    return Samples(keys=keys, instances=instances)


def reference(samples, images, texts):
    """eval_utils/wino_eval.py of DataComp: the end of a rising argsort (stable here; numpy's default leaves ties to the
    processor), sklearn's Jaccard."""
    place = {key: i for i, key in enumerate(samples.keys)}
    scores, sizes = [], []
    for instance, text in zip(samples.instances, texts, strict=True):
        truth = np.isin(instance["candidates"], instance["associations"])
        logits = (images[[place[c] for c in instance["candidates"]]] @ text).numpy()
        best = np.argsort(logits, kind="stable")[-truth.sum() :]
        scores.append(jaccard_score(truth, np.isin(np.arange(len(truth)), best)))
        sizes.append(len(truth))
    scores, sizes = np.array(scores), np.array(sizes)
    found = {"avg_jaccard_score": scores.mean()}
    found |= {f"jaccard_score_{k}": scores[sizes == k].mean() for k in (5, 6, 10, 12)}
    return found | {"jaccard_score_5-6": scores[sizes <= 6].mean(), "jaccard_score_10-12": scores[sizes >= 10].mean()}


def test_agrees_with_datacomp():
    samples = build(300, [5, 6, 10, 12])
    images, texts = unit(60, 8), unit(300, 8, 2)
    scores = task().score({"test": images}, texts, {"test": samples})
    assert scores.metrics == pytest.approx(reference(samples, images, texts), abs=1e-9)


def test_agrees_where_candidates_tie():
    samples = build(200, [5, 6, 10, 12], seed=1)
    images = torch.tensor(np.random.default_rng(0).integers(0, 2, (60, 3))).float()
    texts = torch.tensor(np.random.default_rng(1).integers(0, 2, (200, 3))).float()
    scores = task().score({"test": images}, texts, {"test": samples})
    assert scores.metrics == pytest.approx(reference(samples, images, texts), abs=1e-9)


def test_by_hand():
    instance = {"id": "x", "cue": "Owl", "candidates": ["a", "b", "c", "d", "e"], "associations": ["a", "b"]}
    samples = {"test": Samples(keys=["a", "b", "c", "d", "e"], instances=[instance])}
    images = torch.tensor([[0.9, 0], [0.1, 0], [0.8, 0], [0.2, 0], [0.3, 0]])
    assert task().prompts(samples) == ["An owl"]
    scores = task().score({"test": images}, torch.tensor([[1.0, 0]]), samples)
    row = scores.predictions.iloc[0]
    assert (row["key"], row["chosen"], row["correct"], row["associations"]) == ("x", "a c", 1, 2)
    assert row["associated"] == "a b"
    assert scores.metrics["avg_jaccard_score"] == pytest.approx(1 / 3)
    assert scores.metrics["jaccard_score_5"] == scores.metrics["jaccard_score_5-6"] == pytest.approx(1 / 3)
    assert scores.metrics["jaccard_score_6"] is None
    assert scores.metrics["jaccard_score_10-12"] is None


@pytest.mark.parametrize(
    ("cue", "text"),
    [("Apple", "An apple"), ("bear", "A bear"), ("UNIT", "An unit"), ("hour", "A hour"), ("éclair", "A éclair")],
)
def test_prompt(cue, text):
    assert prompt(cue) == text


def test_statistics_need_only_the_predictions(tmp_path):
    scores = task().score({"test": unit(60, 8)}, unit(50, 8, 2), {"test": build(50, [5, 10])})
    scores.predictions.to_parquet(tmp_path / "p.parquet")
    again = task().statistics(pd.read_parquet(tmp_path / "p.parquet"))
    assert {name: s and s.value for name, s in again.items()} == scores.metrics


def test_all_of_winogavil_is_fast():
    samples = build(3563, [5, 6, 10, 12], images=2000)
    start = time.process_time()
    task().score({"test": unit(2000, 512)}, unit(3563, 512, 2), {"test": samples})
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": ["a", "lost"]}, "instance 'x': candidate 'lost' has no image among the 2"),
        ({"associations": ["c"]}, "association 'c' is not one of its candidates"),
        ({"associations": []}, "there is no association"),
        ({"cue": " "}, "empty cue"),
    ],
)
def test_bad_instances(change, message):
    instance = {"id": "x", "cue": "owl", "candidates": ["a", "b"], "associations": ["a"], **change}
    with pytest.raises(ValueError, match=message):
        task().prompts({"test": Samples(keys=["a", "b"], instances=[instance])})


def test_missing_parts():
    with pytest.raises(ValueError, match="no instances"):
        task().prompts({"test": Samples(keys=["a"])})
    with pytest.raises(ValueError, match="instance 0 has no 'id'"):
        task().prompts({"test": Samples(keys=["a"], instances=[{"cue": "owl"}])})
    with pytest.raises(ValueError, match="5 cues, but 4"):
        task().predict({"test": unit(60, 8)}, unit(4, 8), {"test": build(5, [5])})
