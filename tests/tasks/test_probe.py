"""Linear probes against clip_benchmark's own training, scikit-learn, and numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from clip_benchmark.metrics import linear_probe as theirs
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from torch.utils.data import DataLoader

from clipeval.tasks import LinearProbe, Samples, host_rows, neighbours
from clipeval.tasks import probe as probe_module
from clipeval.tasks.host_rows import HostRows, to_device
from clipeval.tasks.neighbours import mean_cosines, votes
from clipeval.tasks.seeds import SeedMean
from clipeval.tasks.solvers import adamw, lbfgs, sample_few_shot, search_log_grid
from clipeval.tasks.statistics import Proportion

DIM, CLASSES = 24, 7


def embeddings(n: int, seed: int, spread: float = 0.45) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors around a centre for each class, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(99)), dim=1)
    y = torch.arange(n) % CLASSES
    return F.normalize(centres[y] + spread * torch.randn(n, DIM, generator=generator), dim=1), y


def samples(y: torch.Tensor) -> Samples:
    names = [str(i) for i in range(CLASSES)]
    return Samples(keys=[f"k{i}" for i in range(len(y))], labels=y.numpy(), classnames=names)


def make(**fields: Any) -> LinearProbe:
    return LinearProbe(key="set", name="Set", metric="lp_acc1", **fields)


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """clip_benchmark's probe wants CUDA, and its `accuracy` an older numpy."""
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda self, *a: self)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self, *a: self)
    monkeypatch.setattr(torch.nn, "DataParallel", lambda model, device_ids: model)
    infer = theirs.infer
    monkeypatch.setattr(theirs, "infer", lambda model, loader, amp, device: infer(model, loader, amp, "cpu"))

    def accuracy(output: torch.Tensor, target: torch.Tensor, topk: tuple[int, ...]) -> list[float]:
        best = output.topk(max(topk), dim=1).indices
        return [float((best[:, :k] == target.long()[:, None]).any(dim=1).double().mean()) for k in topk]

    monkeypatch.setattr(theirs, "accuracy", accuracy)
    yield


def test_adamw_gives_the_weights_that_clip_benchmark_trains(on_cpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = embeddings(200, 0)
    loader = DataLoader(theirs.FeatureDataset(x, y), batch_size=64, shuffle=True)
    decays = [0.0, 1e-3, 0.5]
    ours = adamw(x, y, CLASSES, decays, seed=3, epochs=4)
    for decay, mine in zip(decays, ours, strict=True):
        model = theirs.train(loader, DIM, CLASSES, decay, 0.1, 4, False, "cpu", 3)
        torch.testing.assert_close(mine.weight, model.weight.detach(), rtol=0, atol=2e-6)
        torch.testing.assert_close(mine.bias, model.bias.detach(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("shots", [None, 5])
def test_a_probe_is_clip_benchmarks(
    shots: int | None, on_cpu: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = {"train": embeddings(140, 0), "val": embeddings(70, 1), "test": embeddings(105, 2)}
    folder = tmp_path / "id"
    folder.mkdir()
    for split, (x, y) in sets.items():
        torch.save(x, folder / f"features_{split}.pt")
        torch.save(y, folder / f"targets_{split}.pt")
    torch.manual_seed(0)  # as its command line does
    reference = theirs.evaluate(
        torch.nn.Identity(), None, None, -1 if shots is None else shots, 64, 0, 0.1, 3,
        "id", 0, str(tmp_path), "cuda", val_dataloader=[], amp=False,
    )  # fmt: skip
    task = make(splits=("train", "val", "test"), shots=shots, epochs=3)
    scores = task.score(
        {s: x for s, (x, _) in sets.items()}, torch.zeros(0, DIM), {s: samples(y) for s, (_, y) in sets.items()}
    )
    for name in ("lp_acc1", "lp_acc5", "lp_mean_per_class_recall"):
        assert scores.metrics[name] == pytest.approx(reference[name], abs=1e-6), name
    for name in ("weight_decay", "epochs", "seed", "fewshot_k"):
        assert scores.metrics[name] == pytest.approx(reference[name], rel=1e-12), name
    assert task.statistics(scores.predictions).keys() == scores.metrics.keys()


def test_logistic_regression_is_scikit_learns() -> None:
    x, y = embeddings(300, 0)
    test, truth = embeddings(700, 1)
    for strength in (1e-2, 1.0, 316.0):
        known = LogisticRegression(C=strength, max_iter=2000, tol=1e-6).fit(x.numpy(), y.numpy())
        ours = lbfgs(x, y, CLASSES, strength)
        theirs_, mine = known.score(test.numpy(), truth.numpy()), (ours(test).argmax(1) == truth).double().mean()
        assert abs(theirs_ - float(mine)) <= 0.002
        assert np.abs(known.predict_proba(test.numpy()) - ours(test).softmax(1).numpy()).max() < 2e-2


def test_the_probe_by_lbfgs_is_within_a_fifth_of_a_point_of_scikit_learn() -> None:
    (x, y), (test, truth) = embeddings(280, 0), embeddings(1400, 5)
    task = make(solver="lbfgs", strength=10.0)
    scores = task.score({"train": x, "test": test}, torch.zeros(0, DIM), {"train": samples(y), "test": samples(truth)})
    known = LogisticRegression(C=10.0, max_iter=2000).fit(x.numpy(), y.numpy())
    assert abs(scores.metrics["lp_acc1"] - known.score(test.numpy(), truth.numpy())) <= 0.002
    recall = balanced_accuracy_score(truth.numpy(), known.predict(test.numpy()))
    assert abs(scores.metrics["lp_mean_per_class_recall"] - recall) <= 0.003


def test_the_search_looks_where_clip_benchmark_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def height(strength: float) -> float:
        return 1.0 / (1.0 + abs(np.log10(strength) + 2.3))

    def scores(strengths: Any) -> list[float]:
        asked.extend(strengths)
        return [height(s) for s in strengths]

    found = search_log_grid(scores, -6, 2)
    tried: list[float] = []
    monkeypatch.setattr(theirs, "train", lambda loader, i, o, wd, *rest: tried.append(wd) or wd)
    monkeypatch.setattr(theirs, "infer", lambda model, *rest: (torch.tensor([model]), torch.tensor([0.0])))
    monkeypatch.setattr(theirs, "accuracy", lambda logits, target, topk: [height(float(tried[-1]))])
    grid = np.logspace(-6, 2, num=97).tolist()
    places = [i for i, value in enumerate(grid) if value in np.logspace(-6, 2, num=7).tolist()]
    how = (None, None, 1, 1, 0.1, 1, False, "cpu", False, 0)
    peak, span = theirs.find_peak(grid, places, *how), 8
    while span > 0:
        peak = theirs.find_peak(grid, [max(peak - span, 0), peak, min(peak + span, 96)], *how)
        span //= 2
    assert asked == tried
    assert found == grid[peak]


def test_few_shots_are_distinct_and_balanced_and_differ_by_seed() -> None:
    y = np.repeat(np.arange(5), 12)
    chosen = sample_few_shot(y, 3, 0)
    assert len(set(chosen.tolist())) == 15
    assert np.bincount(y[chosen]).tolist() == [3] * 5
    assert set(chosen.tolist()) != set(sample_few_shot(y, 3, 1).tolist())
    with pytest.raises(ValueError, match="13 shots were asked for, and class 0 has 12"):
        sample_few_shot(y, 13, 0)


def nearest_mean(train: torch.Tensor, y: torch.Tensor, test: torch.Tensor, classes: int) -> torch.Tensor:
    return torch.cat([cosines.argmax(dim=1) for cosines in mean_cosines(train, y, test, classes)])


def nearest_neighbours(train: torch.Tensor, y: torch.Tensor, test: torch.Tensor, classes: int, k: int) -> torch.Tensor:
    label = torch.zeros(len(test), dtype=torch.int64)
    return torch.cat([found.argmax(dim=1) for found, _, _ in votes(train, y, test, classes, k, label)])


def test_neighbours_by_hand() -> None:
    train = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    y = torch.tensor([0, 2, 2])
    test = torch.tensor([[0.96, 0.28], [0.28, 0.96]])
    # Means: (1, 0), and (0.4, 0.8) normalised, (0.447, 0.894): cosines 0.96 and 0.68; 0.28 and 0.98.
    assert nearest_mean(train, y, test, 4).tolist() == [0, 2]
    # Nearest of the first: (1, 0) at 0.96 and (0.8, 0.6) at 0.936; with k = 3 class 2 has two votes.
    assert nearest_neighbours(train, y, test, 4, k=1).tolist() == [0, 2]
    assert nearest_neighbours(train, y, test, 4, k=50).tolist() == [0, 2]
    weights = torch.exp(torch.tensor([0.96, 0.936, 0.28]) / 0.07)
    assert bool(weights[0] > weights[1] + weights[2])  # why the first stays with class 0


def test_seeds_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    images = rng.random(1000)
    same = SeedMean([Proportion(images < 0.7)] * 3)
    spread = SeedMean([Proportion(images < p) for p in (0.6, 0.7, 0.8)])
    assert same.value == pytest.approx(spread.value, abs=0.02)
    low, high = same.interval()
    assert high - low == pytest.approx(np.diff(Proportion(images < 0.7).interval())[0], abs=2e-3)
    assert np.diff(spread.interval())[0] > 3 * (high - low)


def test_the_interval_covers_what_other_images_and_seeds_would_give() -> None:
    rng, truth, covered = np.random.default_rng(1), 0.7, 0
    for _ in range(2000):
        seeds = np.clip(truth + 0.02 * rng.standard_normal(4), 0, 1)
        images = rng.random(400)
        hits = [Proportion(0.6 * images + 0.4 * rng.random(400) < s) for s in seeds]
        low, high = SeedMean(hits).interval()
        covered += low <= expected(truth) <= high
    assert 0.93 <= covered / 2000 <= 0.985, covered / 2000


def expected(threshold: float) -> float:
    """P(0.6 U + 0.4 V < threshold) for independent uniform U, V and a threshold in [0.6, 1]."""
    return 1 - (1 - threshold) ** 2 / (2 * 0.6 * 0.4)


def test_predictions_alone_give_every_metric_again() -> None:
    (x, y), (test, truth) = embeddings(140, 0), embeddings(70, 1)
    task = make(shots=4, seeds=[0, 1, 2], epochs=2)
    scores = task.score({"train": x, "test": test}, torch.zeros(0, DIM), {"train": samples(y), "test": samples(truth)})
    assert len(scores.predictions) == 3 * 70
    again = {name: s.value for name, s in task.statistics(scores.predictions).items() if s is not None}
    assert again == {name: value for name, value in scores.metrics.items() if value is not None}
    by_seed = [again[f"lp_acc1_seed:{seed}"] for seed in (0, 1, 2)]
    assert again["lp_acc1"] == pytest.approx(np.mean(by_seed))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"solver": "sgd"}, "solver must be one of adamw, lbfgs"),
        ({"seeds": []}, "seeds must be one or several distinct"),
        ({"seeds": [1, 1]}, "distinct"),
        ({"shots": 0}, "shots must be at least 1"),
        ({"splits": ("test",)}, "needs two splits"),
        ({"val_share": 0.0}, "val_share must lie between"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**fields)


def test_too_few_shots_are_known_before_anything_is_embedded() -> None:
    _, y = embeddings(21, 0)
    with pytest.raises(ValueError, match="set: 4 shots were asked for, and class"):
        make(shots=4).prompts({"train": samples(y), "test": samples(y)})


@pytest.mark.parametrize("solver", ["adamw", "lbfgs"])
@pytest.mark.parametrize(("shots", "splits"), [(None, ("train", "test")), (4, ("train", "val", "test"))])
def test_rows_that_the_device_does_not_hold_give_the_same_answers(
    solver: str, shots: int | None, splits: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ImageNet's training images stay in the host's memory and go to the device in blocks: of the same size where they do fit."""
    monkeypatch.setattr(host_rows, "LEAST", 16)
    monkeypatch.setattr(host_rows, "NUMBERS", 16)
    monkeypatch.setattr(neighbours, "NUMBERS", 16 * 90)
    monkeypatch.setattr(probe_module, "ROWS", 16)
    most, get = list[int](), HostRows.__getitem__

    def spy(self: HostRows, index: torch.Tensor | slice) -> torch.Tensor:
        rows = get(self, index)
        most.append(len(rows))
        return rows

    monkeypatch.setattr(HostRows, "__getitem__", spy)
    tables = {split: embeddings(n, n) for split, n in (("train", 90), ("val", 40), ("test", 30)) if split in splits}
    images = {split: x for split, (x, _) in tables.items()}
    about = {split: samples(y) for split, (_, y) in tables.items()}
    task = make(solver=solver, shots=shots, splits=splits, seeds=(0, 1), epochs=3)
    texts, device = torch.zeros(0, DIM), torch.device("cpu")
    plain = task.score(images, texts, about)
    assert not most
    for free in (0, 3 * images["test"].nbytes + (3 * images["val"].nbytes if "val" in images else 0)):
        placed = to_device(images, device, free)
        assert isinstance(placed["test"], torch.Tensor) and isinstance(placed["train"], HostRows)
        found = task.score(placed, texts, about)  # type: ignore[arg-type]
        pd.testing.assert_frame_equal(found.predictions, plain.predictions, check_exact=True)
        assert found.metrics == plain.metrics
    assert most and max(most) <= (64 if solver == "adamw" else 16), "a batch of the training, or a block"
    assert all(isinstance(rows, torch.Tensor) for rows in to_device(images, device, 10**9).values())
