"""Retrieval of images: worked by hand, against trec_eval (which MTEB scores with), and in the words of the sets' own programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from clipeval.tasks import ImageRetrieval, Samples
from clipeval.tasks.image_retrieval import DOCUMENTS
from clipeval.tasks.rankings import measures, places
from tests.tasks.fakes import unit


def task(**options: Any) -> ImageRetrieval:
    return ImageRetrieval(key="own/images", name="Own", metric="map", **options)


def samples(n: int, instances: list[dict[str, Any]], gallery: int | None = None) -> Samples:
    """Images i0, i1, …, of which the first `gallery` are documents under the names d0, d1, …"""
    keys = [f"i{i}" for i in range(n)]
    documents = [(f"d{i}",) if i < (n if gallery is None else gallery) else () for i in range(n)]
    return Samples(keys=keys, instances=instances, metadata=pd.DataFrame({DOCUMENTS: documents}))


def score(images: torch.Tensor, table: Samples, texts: torch.Tensor | None = None, **options: Any) -> Any:
    texts = torch.empty(0, images.shape[1]) if texts is None else texts
    return task(**options).score({"test": images}, texts, {"test": table})


def on_a_line(*cosines: float) -> torch.Tensor:
    """Documents whose cosines with the last image, (1, 0), are these."""
    return torch.tensor([[c, (1 - c * c) ** 0.5] for c in (*cosines, 1.0)])


def test_by_hand() -> None:
    """Of d0 … d4, by falling cosine, d1 and d3 are relevant: ranks 2 and 4."""
    query = {"id": "q", "images": ["i5"], "relevant": {"d1": 1, "d3": 1, "d4": 0}}
    found = score(on_a_line(0.9, 0.8, 0.7, 0.6, 0.5), samples(6, [query], 5), ks=[1, 3]).metrics
    assert found["map"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert found["map_at_3"] == pytest.approx((1 / 2) / 2)
    assert found["ndcg_at_3"] == pytest.approx((1 / np.log2(3)) / (1 + 1 / np.log2(3)))
    assert (found["recall_at_1"], found["recall_at_3"]) == (0, 0.5)
    assert (found["hit_rate_at_1"], found["hit_rate_at_3"], found["mrr_at_3"]) == (0, 1, 0.5)
    capped = score(on_a_line(0.9, 0.8, 0.7, 0.6, 0.5), samples(6, [query], 5), ks=[1, 3], precision="capped").metrics
    assert capped["map_at_1"] == 0
    assert capped["map_at_3"] == pytest.approx((1 / 2) / min(2, 3))


def test_junk_among_and_the_first_document() -> None:
    images = on_a_line(0.9, 0.8, 0.7, 0.6, 0.5)
    query = {"id": "q", "images": ["i5"], "relevant": {"d1": 1, "d3": 1}}
    junk = score(images, samples(6, [{**query, "junk": ["d0", "d2"]}], 5)).metrics
    assert junk["map"] == 1
    among = score(images, samples(6, [{**query, "among": ["d4", "d3", "d0"]}], 5), ks=[1, 2, 5]).metrics
    assert (among["recall_at_1"], among["recall_at_2"], among["recall_at_5"]) == (0, 0.5, 0.5)  # d1 is not ranked
    skipped = score(images, samples(6, [query], 5), skip_first=True)
    assert skipped.metrics["map"] == pytest.approx((1 + 2 / 3) / 2)
    own = score(images, samples(6, [{**query, "relevant": {"d0": 1, "d1": 1}}], 5), skip_first=True).metrics
    assert own["map"] == 0.5  # what is skipped is not found


def test_an_image_and_a_text_are_added() -> None:
    images = torch.eye(3)
    query = {"id": "q", "images": ["i0"], "text": "as i1", "relevant": {"d2": 1}}
    documents = samples(3, [{**query, "junk": ["d0", "d1"]}])
    diagonal = torch.nn.functional.normalize(torch.tensor([[1.0, 1.0, 0.0]]), dim=1)
    found = score(torch.cat([images[:2], diagonal]), documents, texts=images[1:2])
    assert found.predictions["top_key"].tolist() == ["d2"]
    assert found.predictions["top_score"].tolist() == [pytest.approx(1.0)]
    alone = {"id": "q", "text": "as i1", "relevant": {"d1": 1}}
    assert score(images, samples(3, [alone]), texts=images[1:2]).metrics["hit_rate_at_1"] == 1


def test_by_label_each_image_seeks_the_others_of_its_class() -> None:
    images = torch.tensor([[1.0, 0.0], [0.98, 0.199], [0.0, 1.0], [0.1, 0.995], [-1.0, 0.0]])
    table = Samples(keys=list("abcde"), labels=np.array([0, 0, 1, 1, 2]), classnames=["x", "y", "z"])
    found = score(torch.nn.functional.normalize(images, dim=1), table)
    assert found.metrics["map"] == 1
    assert found.predictions["relevant"].tolist() == [1, 1, 1, 1, 0]
    assert np.isnan(found.predictions["map"].iloc[4])  # alone in its class: left out
    assert set(task().dry_run({"test": table})) == set(found.metrics)


def test_ties_are_ordered_by_the_rule_and_bounded() -> None:
    images = on_a_line(0.5, 0.5, 0.5)
    table = samples(4, [{"id": "q", "images": ["i3"], "relevant": {"d1": 1}}], 3)
    for rule, rank in (("first", 1), ("reference", 1)):
        found = score(images, table, ties=rule)
        assert found.predictions["rank"].tolist() == [rank]
        assert found.ties.count == 1
        assert found.ties.ranges["hit_rate_at_1"] == (0, 1)
        assert found.ties.ranges["map"] == (pytest.approx(1 / 3), 1)
    assert score(
        images, samples(4, [{"id": "q", "images": ["i3"], "relevant": {"d2": 1}}], 3), ties="reference"
    ).metrics["hit_rate_at_1"]


def drawn(seed: int) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    rng = np.random.default_rng(seed)
    images = unit(60, 6, seed)
    queries = [
        {
            "id": f"q{i}",
            "images": [f"i{40 + i}"],
            "relevant": {f"d{j}": int(rng.integers(1, 4)) for j in rng.permutation(40)[: 1 + i % 9]},
            "junk": [],
        }
        for i in range(20)
    ]
    return images, queries


@pytest.mark.parametrize("skip_first", [False, True])
def test_agrees_with_trec_eval_as_mteb_calls_it(skip_first: bool) -> None:
    """mteb 2.26.24, calculate_retrieval_scores: pytrec_eval over map_cut, ndcg_cut, recall and success."""
    pytrec_eval = pytest.importorskip("pytrec_eval")
    images, queries = drawn(3)
    ks = [1, 5, 10, 20]
    found = score(images, samples(60, queries, 40), ks=ks, skip_first=skip_first, ties="reference").metrics
    results = {}
    for i, one in enumerate(queries):
        cosines = {f"d{j}": float(images[40 + i] @ images[j]) for j in range(40)}
        ranked = sorted(cosines.items(), key=lambda item: item[1], reverse=True)
        results[one["id"]] = dict(ranked[1:] if skip_first else ranked)
    cuts = ",".join(map(str, ks))
    evaluator = pytrec_eval.RelevanceEvaluator(
        {one["id"]: one["relevant"] for one in queries},
        {f"map_cut.{cuts}", f"ndcg_cut.{cuts}", f"recall.{cuts}", f"success.{cuts}", "map"},
    )
    scores = evaluator.evaluate(results)
    names = {"map_cut": "map_at", "ndcg_cut": "ndcg_at", "recall": "recall_at", "success": "hit_rate_at"}
    for theirs, ours in names.items():
        for k in ks:
            expected = np.mean([one[f"{theirs}_{k}"] for one in scores.values()])
            assert found[f"{ours}_{k}"] == pytest.approx(expected, abs=1e-6), (theirs, k)
    assert found["map"] == pytest.approx(np.mean([one["map"] for one in scores.values()]), abs=1e-6)


def compute_map(ranks: np.ndarray, gnd: list[dict[str, list[int]]], kappas: list[int]) -> tuple[float, np.ndarray]:
    """filipradenovic/revisitop python/evaluate.py: compute_map and compute_ap."""
    aps, prs, empty = [], np.zeros(len(kappas)), 0
    for i in range(len(gnd)):
        if not gnd[i]["ok"]:
            empty += 1
            continue
        pos = np.arange(ranks.shape[0])[np.isin(ranks[:, i], gnd[i]["ok"])]
        junk = np.arange(ranks.shape[0])[np.isin(ranks[:, i], gnd[i]["junk"])]
        k = ij = 0
        for ip in range(len(pos) if len(junk) else 0):
            while ij < len(junk) and pos[ip] > junk[ij]:
                k += 1
                ij += 1
            pos[ip] -= k
        ap = 0.0
        for j, rank in enumerate(pos):
            before = 1.0 if rank == 0 else j / rank
            ap += (before + (j + 1) / (rank + 1)) / len(gnd[i]["ok"]) / 2
        aps.append(ap)
        pos = pos + 1
        for j in range(len(kappas)):
            depth = min(max(pos), kappas[j])
            prs[j] += (pos <= depth).sum() / depth
    return sum(aps) / (len(gnd) - empty), prs / (len(gnd) - empty)


def test_agrees_with_the_revisited_code() -> None:
    images, queries = drawn(5)
    gnd = []
    for i, one in enumerate(queries):
        free = [f"d{j}" for j in range(40) if f"d{j}" not in one["relevant"]]
        one["junk"] = free[i % 3 : 12 : 2]
        if i == 4:
            one["relevant"] = {}
        gnd.append({"ok": [int(d[1:]) for d in one["relevant"]], "junk": [int(d[1:]) for d in one["junk"]]})
    order = np.argsort(-(images[:40] @ images[40:].T).numpy(), axis=0)
    expected, precisions = compute_map(order, gnd, [1, 5, 10])
    found = score(images, samples(60, queries, 40), precision="revisited").metrics
    assert found["map"] == pytest.approx(expected, abs=1e-6)
    for k, value in zip([1, 5, 10], precisions, strict=True):
        assert found[f"mp_at_{k}"] == pytest.approx(value, abs=1e-6)


def test_agrees_with_circos_code() -> None:
    """miccunifi/CIRCO src/evaluation.py, compute_metrics: AP at each rank."""
    images, queries = drawn(7)
    ranks = [5, 10, 25]
    aps: dict[int, list[float]] = {rank: [] for rank in ranks}
    for i, one in enumerate(queries):
        one["relevant"] = dict.fromkeys(one["relevant"], 1)
        predictions = np.argsort(-(images[:40] @ images[40 + i]).numpy())[:50]
        labels = np.isin(predictions, [int(d[1:]) for d in one["relevant"]])
        precisions = np.cumsum(labels) * labels / np.arange(1, len(labels) + 1)
        for rank in ranks:
            aps[rank].append(float(np.sum(precisions[:rank]) / min(len(one["relevant"]), rank)))
    found = score(images, samples(60, queries, 40), precision="capped", ks=ranks).metrics
    for rank in ranks:
        assert found[f"map_at_{rank}"] == pytest.approx(np.mean(aps[rank]), abs=1e-6)


def test_groups_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    images, queries = drawn(9)
    for i, one in enumerate(queries):
        one["group"] = "ab"[i % 2]
    table = samples(60, queries, 40)
    found = score(images, table)
    assert found.metrics["macro_map"] == pytest.approx((found.metrics["map_a"] + found.metrics["map_b"]) / 2)
    monkeypatch.setattr("clipeval.tasks.image_retrieval.CELLS", 100)  # two queries at a time
    pd.testing.assert_frame_equal(score(images, table).predictions, found.predictions)
    assert set(task().dry_run({"test": table})) == set(found.metrics)


def test_ranks_are_those_of_a_sort() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        scores = rng.choice(np.linspace(-1, 1, 9).astype(np.float32), 30)
        relevant = rng.permutation(30)[:7]
        given, worst, best = places(scores, relevant)
        order = np.lexsort((np.arange(30), -scores)).tolist()
        assert given.tolist() == sorted(order.index(i) for i in relevant)
        assert (best <= given).all() and (given <= worst).all()
    assert measures(np.zeros(0, dtype=np.int64), np.zeros(0), np.ones(2), [1], "trec")["map"] == 0


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="precision must be one of"):
        task(precision="exact")
    with pytest.raises(ValueError, match="image 'i9' is not among the images"):
        score(torch.eye(2), samples(2, [{"id": "q", "images": ["i9"], "relevant": {"d0": 1}}]))
    with pytest.raises(ValueError, match="needs an image, a text, or one of each"):
        score(torch.eye(2), samples(2, [{"id": "q", "relevant": {"d0": 1}}]))
    with pytest.raises(ValueError, match="no query has anything relevant"):
        score(torch.eye(2), samples(2, [{"id": "q", "images": ["i0"], "relevant": {}}]))
