"""Retrieval against clip_benchmark's evaluate, against a full sort, and by hand."""

import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import torch
from clip_benchmark.metrics import zeroshot_retrieval as zsr
from hypothesis import given, settings
from hypothesis import strategies as st

from clipeval.tasks import Retrieval, Samples
from tests.tasks.fakes import Loader, model, unit


def task(**more):
    return Retrieval(key="own/retrieval", name="Own", metric="mean_recall@1", **more)


def table(captions):
    return {"test": Samples(keys=[f"image{i}" for i in range(len(captions))], captions=captions)}


@given(st.lists(st.integers(1, 4), min_size=10, max_size=40), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_agrees_with_clip_benchmark(counts, seed):
    captions = [[f"caption {i} {j}" for j in range(count)] for i, count in enumerate(counts)]
    texts = task().prompts(table(captions))
    fake = model(texts, 8, seed)
    images = unit(len(counts), 8, seed + 1)
    scores = task().score({"test": images}, fake.texts(texts), table(captions))
    batches = [(images[i : i + 7], captions[i : i + 7]) for i in range(0, len(images), 7)]
    theirs = zsr.evaluate(fake, Loader(batches), fake.tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10])
    theirs["mean_recall@1"] = 0.5 * (theirs["text_retrieval_recall@1"] + theirs["image_retrieval_recall@1"])
    assert scores.metrics == pytest.approx(theirs, abs=1e-6)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=12), st.integers(0, 10**6))
@settings(max_examples=80, deadline=None)
def test_ranks_are_those_of_a_stable_sort(counts, seed):
    """Vectors of small whole numbers, so that scores are exact and ties abound."""
    rng = np.random.default_rng(seed)
    images, texts = rng.integers(-2, 3, (len(counts), 3)), rng.integers(-2, 3, (sum(counts), 3))
    captions = [["c"] * count for count in counts]
    found = task().predict({"test": torch.tensor(images).float()}, torch.tensor(texts).float(), table(captions))
    owner = np.repeat(np.arange(len(counts)), counts)
    scores = texts @ images.T
    order = np.argsort(-scores, axis=1, kind="stable")
    by_caption = [int(np.flatnonzero(row == own)[0]) for row, own in zip(order, owner, strict=True)]
    order = np.argsort(-scores.T, axis=1, kind="stable")
    by_image = [int(np.flatnonzero(owner[row] == i)[0]) for i, row in enumerate(order)]
    assert found["rank"].tolist() == by_caption + by_image
    assert found["score"].tolist() == [
        *scores[np.arange(len(owner)), owner],
        *(scores[owner == i, i].max() for i in range(len(counts))),
    ]
    assert found["top_score"].tolist() == [*scores.max(axis=1), *scores.max(axis=0)]


def test_by_hand():
    """Two images, three captions; the second image's caption is nearer to the first image."""
    images = torch.tensor([[1.0, 0], [0, 1]])
    texts = torch.tensor([[1.0, 0], [0.6, 0.8], [0.8, 0.6]])
    scores = task(ks=[1, 2]).score({"test": images}, texts, table([["a", "b"], ["c"]]))
    p = scores.predictions
    assert p["direction"].tolist() == ["image"] * 3 + ["text"] * 2
    assert p["key"].tolist() == ["image0", "image0", "image1", "image0", "image1"]
    assert p["caption"].tolist() == [0, 1, 0, -1, -1]
    assert p["rank"].tolist() == [0, 1, 1, 0, 1]
    assert p["top_key"].tolist() == ["image0", "image1", "image0", "image0", "image0"]
    assert p["top_caption"].tolist() == [-1, -1, -1, 0, 1]
    assert p["own"].tolist() == ["a", "b", "c", "a", "c"]
    assert p["answer"].tolist() == ["", "", "", "a", "b"]
    assert scores.metrics == {
        "image_retrieval_recall@1": pytest.approx(1 / 3),
        "text_retrieval_recall@1": 0.5,
        "image_retrieval_recall@2": 1.0,
        "text_retrieval_recall@2": 1.0,
        "mean_recall@1": pytest.approx(5 / 12),
    }


def test_several_blocks():
    """More images than a block holds, against ranks by the whole matrix."""
    images, texts = unit(600, 16), unit(1200, 16, 5)
    found = task().predict({"test": images}, texts, table([["a", "b"]] * 600))
    scores = texts @ images.T
    own = scores[torch.arange(1200), torch.arange(1200) // 2]
    assert (found["rank"][:1200] == (scores > own[:, None]).sum(1).numpy()).mean() > 0.999
    best = own.view(600, 2).amax(1)
    assert (found["rank"][1200:].to_numpy() == (best[:, None] < scores.T).sum(1).numpy()).mean() > 0.999
    assert found["top_key"][:1200].tolist() == [f"image{i}" for i in scores.argmax(1).tolist()]


def test_fewer_candidates_than_k():
    captions = [["a"], ["b", "c"], ["d", "e", "f"]]
    metrics = task().score({"test": unit(3, 8)}, unit(6, 8, 2), table(captions)).metrics
    assert metrics["image_retrieval_recall@5"] is None
    assert metrics["text_retrieval_recall@5"] is not None
    assert metrics["text_retrieval_recall@10"] is None
    assert metrics["mean_recall@1"] is not None


def test_statistics_need_only_the_predictions(tmp_path):
    scores = task().score({"test": unit(20, 8)}, unit(40, 8, 2), table([["a", "b"]] * 20))
    scores.predictions.sample(frac=1, random_state=0).to_parquet(tmp_path / "p.parquet")
    again = task().statistics(pd.read_parquet(tmp_path / "p.parquet"))
    assert {name: s.value for name, s in again.items()} == pytest.approx(scores.metrics)


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        (None, "2 images need a list of captions each, got 0"),
        ([["a"]], "got 1"),
        ([["a"], []], r"image 'image1' has no list of captions \(1 such"),
        ([["a"], "one string"], "image 'image1' has no list"),
    ],
)
def test_bad_captions(captions, message):
    samples = {"test": Samples(keys=["image0", "image1"], captions=captions)}
    with pytest.raises(ValueError, match=message):
        task().prompts(samples)


def test_other_bad_input():
    with pytest.raises(ValueError, match="2 captions, but 3 text embeddings"):
        task().predict({"test": unit(2, 4)}, unit(3, 4), table([["a"], ["b"]]))
    with pytest.raises(ValueError, match="not finite"):
        task().predict({"test": unit(2, 4)}, torch.full((2, 4), torch.inf), table([["a"], ["b"]]))
    with pytest.raises(ValueError, match="ks must be"):
        task(ks=[0])


def test_mscoco_fits():
    """5,000 images and 25,010 captions: below 1.5 GB for the whole process, and in seconds of two cores."""
    script = textwrap.dedent(
        """
        import time, torch
        from pathlib import Path
        from clipeval.tasks import Retrieval, Samples
        torch.set_num_threads(2)
        captions = [["c"] * (6 if i < 10 else 5) for i in range(5000)]
        images, texts = torch.randn(5000, 512), torch.randn(25010, 512)
        task = Retrieval(key="k", name="n", metric=None)
        samples = {"test": Samples(keys=[str(i) for i in range(5000)], captions=captions)}
        start = time.process_time()
        task.score({"test": images}, texts, samples)
        # Not ru_maxrss, which begins with what the parent had when it started this process.
        peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        print(time.process_time() - start, int(peak.split()[1]) / 2**20)
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seconds, gigabytes = map(float, done.stdout.split())
    assert gigabytes < 1.5
    # Processor time of both cores; a loaded machine makes it longer.
    assert seconds < 20
