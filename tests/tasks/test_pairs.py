"""Image-text pairs: worked by hand, against clip_benchmark's evaluate, and against the words of the sets' own programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from clip_benchmark.metrics import image_caption_selection as ics

from clipeval.tasks import Drop, Pairs, Samples
from clipeval.tasks.means import PairedDifference
from tests.tasks.fakes import Loader, model, unit


def task(**options: Any) -> Pairs:
    return Pairs(key="own/pairs", name="Own", metric="text_acc", **options)


def score(instances: list[dict[str, Any]], images: torch.Tensor, texts: torch.Tensor, **options: Any) -> Any:
    samples = Samples(keys=sorted({k for one in instances for k in one["images"]}), instances=instances)
    return task(**options).score({"test": images}, texts, {"test": samples})


def question(name: str, images: str, captions: int, **more: Any) -> dict[str, Any]:
    return {"id": name, "images": list(images), "captions": [f"{name}{i}" for i in range(captions)], **more}


@pytest.mark.parametrize(("images", "captions"), [(2, 2), (3, 2), (2, 5)])
def test_without_more_it_scores_as_clip_benchmark(images: int, captions: int) -> None:
    instances = [
        {
            "id": i,
            "images": [f"{i:03d}-{j}" for j in range(images)],
            "captions": [f"c {i} {j}" for j in range(captions)],
        }
        for i in range(60)
    ]
    vectors = unit(60 * images, 6)
    texts = [caption for one in instances for caption in one["captions"]]
    fake = model(texts, 6)
    found = score(instances, vectors, fake.texts(texts))
    loader = Loader([(vectors.view(60, images, 1, 1, 6), [one["captions"] for one in instances])])
    theirs = ics.evaluate(fake, loader, fake.tokenizer, "cpu", amp=False)
    assert {name: found.metrics[name] for name in theirs} == pytest.approx(theirs, abs=1e-6)


def test_by_hand() -> None:
    """Two groups. `one` is right (caption 1 of 3); `two` is wrong; `both` has two pictures, whose captions are right, and the
    second caption finds the wrong picture."""
    instances = [
        question("one", "a", 3, correct=[[1]], group="g"),
        question("two", "a", 2, correct=[[1]], group="g"),
        question("both", "ab", 2, group="h"),
    ]
    images = torch.tensor([[1.0, 0], [0, 1.0]])
    texts = torch.tensor([[0, 1.0], [1.0, 0], [0.6, 0.8], [1.0, 0], [0.8, 0.6], [1.0, 0.0], [0.6, 0.5]])
    texts[6] = torch.tensor([0.9, 0.1])  # for b: 0.1 against 0; for the caption: a has 0.9
    found = score(instances, images, texts)
    assert found.metrics == {
        "image_acc": 0.0,
        "text_acc": pytest.approx(2 / 3),
        "acc": 0.0,
        "macro_image_acc": 0.0,
        "image_acc_h": 0.0,
        "macro_text_acc": pytest.approx((0.5 + 1) / 2),
        "text_acc_g": 0.5,
        "text_acc_h": 1.0,
        "macro_acc": 0.0,
        "acc_h": 0.0,
    }
    table = found.predictions
    assert table["text_choice"].tolist() == ["1", "0", "0,1"]
    assert table["image_choice"].tolist() == ["0", "0", "0,0"]
    assert table["image_correct"].isna().tolist() == [True, True, False]
    assert table[["image", "own", "answer"]].to_numpy().tolist() == [
        ["a", "one1", "one1"],
        ["a", "two1", "two0"],
        ["a", "both0", "both0"],
    ]


def test_of_equal_scores_the_first_named_wins_or_none_does() -> None:
    """As MTEB names the true caption first (a tie is right), ARO's makers the false one (wrong), and Winoground asks for more."""
    images, texts = torch.tensor([[1.0, 0]]), torch.tensor([[0.6, 0.8], [0.6, 0.8]])
    for correct, strict, value in ((0, False, 1.0), (1, False, 0.0), (0, True, 0.0)):
        found = score([question("x", "a", 2, correct=[[correct]])], images, texts, strict=strict)
        assert found.metrics["text_acc"] == value
        assert found.ties.count == 1
        assert found.ties.ranges["text_acc"] == (0.0, 1.0)


def test_several_right_captions_as_sugar_crepe_pp_counts_them() -> None:
    n = 200
    images, texts = unit(n, 8), unit(3 * n, 8, 2)
    instances = [{"id": i, "images": [f"{i:03d}"], "captions": list("pqn"), "correct": [[0, 1]]} for i in range(n)]
    found = score(instances, images, texts, strict=True).metrics
    itt = tot = 0
    for image, (p1, p2, neg) in zip(images, texts.view(n, 3, 8), strict=True):  # test_Variants_CLIP.py, line by line
        cos = lambda x, y: F.cosine_similarity(x, y, dim=0)  # noqa: E731
        itt += bool(cos(image, p1) > cos(image, neg) and cos(image, p2) > cos(image, neg))
        tot += bool(cos(p1, p2) > cos(p1, neg) and cos(p1, p2) > cos(p2, neg))
    assert found["text_acc"] == pytest.approx(itt / n, abs=1e-6)
    assert found["caption_acc"] == pytest.approx(tot / n, abs=1e-6)
    assert found["image_acc"] is None
    assert found["acc"] is None


def test_macro_averages_leave_out_small_and_named_groups() -> None:
    n = 60
    groups = np.repeat(["big", "small", "both ways"], [30, 5, 25])
    images, texts = unit(n, 6), unit(2 * n, 6, 3)
    instances = [
        {"id": i, "images": [f"{i:02d}"], "captions": list("ft"), "correct": [[1]], "group": g}
        for i, g in enumerate(groups)
    ]
    found = score(instances, images, texts, least=20, without=["both ways"])
    right = (images[:, None] @ texts.view(n, 2, 6).mT).squeeze(1).argmax(dim=1).numpy() == 1
    assert found.metrics["macro_text_acc"] == pytest.approx(right[groups == "big"].mean(), abs=1e-6)
    assert found.metrics["text_acc_small"] == pytest.approx(right[groups == "small"].mean(), abs=1e-6)
    assert found.metrics["text_acc"] == pytest.approx(right.mean(), abs=1e-6)


def test_many_groups_have_no_metric_each() -> None:
    instances = [question(f"q{i:03d}", "a", 2, group=f"{i:03d}") for i in range(100)]
    found = score(instances, unit(1, 6), unit(200, 6, 2))
    assert set(found.metrics) == {f"{m}{side}_acc" for m in ("", "macro_") for side in ("text", "image")} | {
        "acc",
        "macro_acc",
    }


def test_sets_and_pairs_as_whatsup_counts_them() -> None:
    slots, n = ("left", "right", "on", "under"), 40
    images, texts = unit(4 * n, 6), unit(16 * n, 6, 5)
    instances = [
        {
            "id": f"{i}{slot}",
            "images": [f"{i:02d}{j}"],
            "captions": list("abcd"),
            "group": slot,
            "sets": {"set_acc": str(i), "pair_acc": f"{i}{j // 2}"},
        }
        for i in range(n)
        for j, slot in enumerate(slots)
    ]
    found = score(instances, images, texts).metrics
    right = (images[:, None] @ texts.view(4 * n, 4, 6).mT).squeeze(1).argmax(dim=1).numpy() == 0
    pair = whole = 0
    for i in range(n):  # evaluate_scores of whatsup_vlms
        answers = dict(zip(slots, right[4 * i : 4 * i + 4], strict=True))
        pair += bool(answers["left"] and answers["right"]) + bool(answers["on"] and answers["under"])
        whole += sum(answers.values()) == 4
    assert found["pair_acc"] == pytest.approx(pair / (len(instances) / 2), abs=1e-6)
    assert found["set_acc"] == pytest.approx(whole / (len(instances) / 4), abs=1e-6)
    assert found["text_acc"] == pytest.approx(right.mean(), abs=1e-6)


def test_a_drop_is_paired() -> None:
    """Three things seen in both groups: right and right, right and wrong, right and wrong; a fourth in one alone."""
    right, wrong = [1.0, 0, 0, 1], [0, 1.0, 1, 0]
    rows = [
        ("No", "x", right),
        ("No", "y", right),
        ("No", "z", right),
        ("Yes", "x", right),
        ("Yes", "y", wrong),
        ("Yes", "z", wrong),
    ]
    rows.append(("Yes", "w", wrong))
    instances = [question(f"{g}{i}", "a", 2, group=g, sets={"id": i}) for g, i, _ in rows]
    texts = torch.tensor([text for _, _, text in rows]).view(-1, 2)
    found = score(instances, torch.tensor([[1.0, 0]]), texts, drops=[Drop("drop", "No", "Yes", "id")])
    assert found.metrics["drop"] == pytest.approx(2 / 3)
    assert found.metrics["text_acc_Yes"] == 0.25
    assert "id" not in found.metrics
    low, high = found.statistics["drop"].interval()
    assert low < 2 / 3 < high


def test_class_names_are_put_into_templates() -> None:
    templates = ["a {c}", "the {c}"]
    samples = {"test": Samples(keys=["a"], instances=[question("x", "a", 2)], templates=templates)}
    asked = task(templated=True)
    assert asked.prompts(samples) == ["a x0", "the x0", "a x1", "the x1"]
    texts = F.normalize(torch.tensor([[1.0, 0], [0, 1.0], [0.9, 0.1], [0.9, 0.1]]), dim=1)
    image = F.normalize(torch.tensor([[1.0, 0.2]]), dim=1)
    assert (
        asked.score({"test": image}, texts, samples).metrics["text_acc"] == 0.0
    )  # the mean of x0's two lies at 45 degrees


def test_statistics_need_only_the_predictions(tmp_path: Any) -> None:
    instances = [
        question(f"q{i}", "ab" if i % 2 else "a", 3, group=str(i % 3), sets={"whole": str(i // 4)}) for i in range(40)
    ]
    found = score(instances, unit(2, 6), unit(120, 6, 2))
    found.predictions.to_parquet(tmp_path / "p.parquet")
    again = task().statistics(pd.read_parquet(tmp_path / "p.parquet"))
    assert {name: None if s is None else s.value for name, s in again.items()} == found.metrics


@pytest.mark.parametrize(
    ("correct", "message"),
    [([[0], [1]], "a list of captions for each image"), ([[2]], "captions are numbered 0 to 1")],
)
def test_what_is_correct_must_fit(correct: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score([question("x", "a", 2, correct=correct)], unit(1, 4), unit(2, 4))


def test_a_paired_difference_covers() -> None:
    rng, inside = np.random.default_rng(0), 0
    for _ in range(300):
        first = rng.random(80) < 0.9
        second = first & (rng.random(80) < 0.7)
        low, high = PairedDifference(first, second).interval()
        inside += low <= 0.9 * 0.3 <= high
    assert 0.92 <= inside / 300 <= 0.98
    assert PairedDifference(np.ones(50), np.ones(50)).interval()[1] > 0
