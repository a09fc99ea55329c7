"""Against MTEB's own tasks, where mteb is installed: both score what a lookup makes of numbered pictures and texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from clipeval.tasks import Classification, ImageRetrieval, ImageSimilarity, Pairs, RawImageRetrieval, Samples
from clipeval.tasks.clustering import RawClustering
from clipeval.tasks.image_retrieval import DOCUMENTS
from tests.tasks.fakes import unit

mteb = pytest.importorskip("mteb")
datasets = pytest.importorskip("datasets")


def picture(number: int) -> Image.Image:
    return Image.new("RGB", (1, 1), (number // 256, number % 256, 0))


class Lookup:
    """What MTEB takes for a model. A picture's first pixel is the number of its row, a text ends in that of its own."""

    def __init__(self, images: torch.Tensor, texts: torch.Tensor | None = None) -> None:
        self.images, self.texts = images, texts

    def encode(self, inputs: Any, **_: Any) -> torch.Tensor:
        parts = []
        batches = list(inputs)
        if "text" in batches[0]:
            assert self.texts is not None
            parts.append(self.texts[[int(text.split()[-1]) for batch in batches for text in batch["text"]]])
        if "image" in batches[0]:
            pixels = [one.getpixel((0, 0)) for batch in batches for one in batch["image"]]
            parts.append(self.images[[256 * high + low for high, low, _ in pixels]])
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]  # as its wrappers of CLIP models add them

    def similarity(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T

    def similarity_pairwise(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (F.normalize(a, dim=-1) * F.normalize(b, dim=-1)).sum(dim=-1)

    mteb_model_meta = None


def theirs(task: Any, model: Lookup, split: Any) -> dict[str, float]:
    from mteb.timing import TimingStack

    how = {"encode_kwargs": {"batch_size": 16}, "hf_split": "test", "hf_subset": "default", "timer": TimingStack()}
    return dict(task._evaluate_subset(model, split, **how))


def rows(**columns: Any) -> Any:
    return datasets.Dataset.from_dict(
        columns, features=datasets.Features({name: feature(values) for name, values in columns.items()})
    )


def feature(values: list[Any]) -> Any:
    if isinstance(values[0], Image.Image):
        return datasets.Image()
    return datasets.Value(
        "string" if isinstance(values[0], str) else "float64" if isinstance(values[0], float) else "int64"
    )


def test_clustering() -> None:
    """Of embeddings of any length, which MTEB does not normalise."""
    label = np.repeat(np.arange(10), 30)
    raw = (unit(10, 16, 3)[label] + 0.8 * unit(300, 16, 4)) * torch.rand(300, 1).mul(9).add(1)
    expected = theirs(
        mteb.get_task("CIFAR10Clustering"),
        Lookup(raw),
        rows(img=[picture(i) for i in range(300)], label=label.tolist()),
    )
    task = RawClustering(key="mteb/CIFAR10Clustering", name="CIFAR-10", metric="nmi")
    table = Samples(keys=[str(i) for i in range(300)], labels=label, classnames=[str(i) for i in range(10)])
    found = task.score({"test": raw}, torch.empty(0, 16), {"test": table}).metrics
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert 0.1 < found["nmi"] < 0.99
    assert task.output == "raw"


def test_visual_sts() -> None:
    raw, gold = unit(400, 5) * 7, np.random.default_rng(0).integers(0, 11, 200) / 2
    sides = [[picture(i + shift) for i in range(200)] for shift in (0, 200)]
    columns = rows(sentence1=sides[0], sentence2=sides[1], score=gold.tolist())
    expected = theirs(mteb.get_task("STS12VisualSTS"), Lookup(raw), columns)
    task = ImageSimilarity(key="mteb/STS12VisualSTS", name="STS12", metric="cosine_spearman")
    instances = [{"id": i, "images": [f"{i}", f"{200 + i}"], "score": score} for i, score in enumerate(gold)]
    table = Samples(keys=[str(i) for i in range(400)], instances=instances)
    found = task.score({"test": F.normalize(raw, dim=-1)}, torch.empty(0, 5), {"test": table}).metrics
    assert found == pytest.approx({name: expected[name] for name in found}, abs=1e-6)
    assert expected["main_score" if "main_score" in expected else "cosine_spearman"] == expected["cosine_spearman"]


def test_pairs() -> None:
    """ARO's relations; the true caption is named first, so that it wins a tie."""
    images, texts = unit(60, 6) * 3, unit(120, 6, 2) * 5
    texts[41] = texts[40]
    columns = rows(
        image=[picture(i) for i in range(60)],
        true_caption=[f"caption {2 * i}" for i in range(60)],
        false_caption=[f"caption {2 * i + 1}" for i in range(60)],
    )
    expected = theirs(mteb.get_task("AROVisualRelation"), Lookup(images, texts), columns)
    task = Pairs(key="aro/visual_relation", name="ARO", metric="text_acc")
    instances = [
        {"id": i, "images": [f"{i:02d}"], "captions": [f"caption {2 * i}", f"caption {2 * i + 1}"]} for i in range(60)
    ]
    table = Samples(keys=[f"{i:02d}" for i in range(60)], instances=instances)
    embedded = {"test": F.normalize(images, dim=-1)}
    found = task.score(embedded, F.normalize(texts, dim=-1), {"test": table}).metrics
    assert found["text_acc"] == pytest.approx(expected["text_acc"], abs=1e-6)
    assert expected["image_acc"] == 0  # theirs, of one image: it is asked to be the second caption's as well


@pytest.mark.parametrize("name", ["CUB200I2IRetrieval", "NIGHTSI2IRetrieval", "CIRRIT2IRetrieval"])
def test_retrieval_of_images(name: str) -> None:
    """With the first result left out, without, and by a picture and a text whose embeddings are added, as long as they are."""
    task, composed = mteb.get_task(name), name.startswith("CIRR")
    images = unit(80, 6) * torch.rand(80, 1).mul(9).add(1)
    texts = unit(20, 6, 2) * torch.rand(20, 1).mul(4).add(1)
    rng = np.random.default_rng(0)
    relevant = {f"q{i}": {f"d{j:02d}": 1 for j in rng.permutation(60)[: 1 + i % 5].tolist()} for i in range(20)}
    asked = {"id": [f"q{i}" for i in range(20)], "image": [picture(60 + i) for i in range(20)]}
    if composed:
        asked["text"] = [f"but {i}" for i in range(20)]
    split = {
        "corpus": rows(id=[f"d{i:02d}" for i in range(60)], image=[picture(i) for i in range(60)]),
        "queries": rows(**asked),
        "relevant_docs": relevant,
        "top_ranked": None,
    }
    expected = theirs(task, Lookup(images, texts), split)
    protocol = RawImageRetrieval if composed else ImageRetrieval
    ours = protocol(key=f"mteb/{name}", name=name, metric=None, skip_first=task.skip_first_result)
    assert ours.skip_first == name.startswith("CUB")
    queries = [
        {
            "id": f"q{i}",
            "images": [str(60 + i)],
            "relevant": relevant[f"q{i}"],
            **({"text": f"but {i}"} if composed else {}),
        }
        for i in range(20)
    ]
    documents = pd.DataFrame({DOCUMENTS: [(f"d{i:02d}",) if i < 60 else () for i in range(80)]})
    table = Samples(keys=[str(i) for i in range(80)], instances=queries, metadata=documents)
    embedded = images if ours.output == "raw" else F.normalize(images, dim=-1)
    found = ours.score({"test": embedded}, texts if composed else torch.empty(0, 6), {"test": table}).metrics
    names = [f"{metric}_at_{k}" for metric in ("ndcg", "map", "recall", "hit_rate", "mrr") for k in (1, 5, 10)]
    shared = [
        one for one in names if not (task.skip_first_result and one.startswith("mrr"))
    ]  # theirs keeps the first there
    assert {one: found[one] for one in shared} == pytest.approx({one: float(expected[one]) for one in shared}, abs=1e-5)


def test_zero_shot_classification() -> None:
    label = np.random.default_rng(0).integers(0, 7, 150)
    images, texts = unit(150, 6) * 4, unit(7, 6, 2) * 3
    task = mteb.get_task("CIFAR10ZeroShot")
    task.get_candidate_labels = lambda: [f"class {i}" for i in range(7)]
    expected = theirs(task, Lookup(images, texts), rows(img=[picture(i) for i in range(150)], label=label.tolist()))
    ours = Classification(key="own", name="Own", metric="acc1")
    table = Samples(
        keys=[str(i) for i in range(150)], labels=label, classnames=[str(i) for i in range(7)], templates=["class {c}"]
    )
    found = ours.score({"test": F.normalize(images, dim=-1)}, F.normalize(texts, dim=-1), {"test": table}).metrics
    assert found["acc1"] == pytest.approx(expected["accuracy"], abs=1e-6)
    assert found["mean_per_class_recall"] == pytest.approx(expected["recall"], abs=1e-6)
