"""How prompts become class vectors: weights, means of cosines, weights that images or labels give; worked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clipeval.data.descriptors import descriptor_prompts, sentence, waffle_templates
from clipeval.tasks import Classification, Pooling, Samples, WeightedPrompts
from tests.tasks.fakes import unit

ABOUT: dict[str, Any] = {"key": "own/set", "name": "Own", "metric": "acc1"}


def scored(
    pooling: Pooling, texts: torch.Tensor, images: torch.Tensor, templates: Any = ("{c} a", "{c} b")
) -> np.ndarray:
    samples = Samples(
        keys=[str(i) for i in range(len(images))], labels=np.zeros(len(images), dtype=np.int64), classnames=["x", "y"],
        templates=templates, pooling=pooling,
    )  # fmt: skip
    table = Classification(**ABOUT).score({"test": images}, texts, {"test": samples}).predictions
    return table[["pred_1", "score_1"]].to_numpy()


def test_means_of_cosines_and_weights() -> None:
    texts, images = unit(4, 8, 3), unit(5, 8, 4)
    cosines = (images @ texts.T).view(5, 2, 2)
    found = scored(Pooling(cosines=True), texts, images)
    mean = cosines.mean(dim=2)  # aggregate_similarity of DCLIP and WaffleCLIP
    assert found[:, 0].tolist() == mean.argmax(dim=1).tolist()
    assert found[:, 1] == pytest.approx(100 * mean.amax(dim=1).numpy(), abs=1e-4)
    weighted = F.normalize((texts.view(2, 2, 8) * torch.tensor([0.75, 0.25])[:, None]).sum(dim=1), dim=-1)
    assert scored(Pooling((3.0, 1.0)), texts, images)[:, 1] == pytest.approx(
        100 * (images @ weighted.T).amax(dim=1).numpy(), abs=1e-4
    )
    each = {"x": ["x one"], "y": ["y one", "y two", "y three"]}
    own = scored(Pooling({"x": (5.0,), "y": (0.0, 1.0, 1.0)}, cosines=True), texts, images, each)
    by_class = torch.stack([images @ texts[0], (images @ texts[2] + images @ texts[3]) / 2], dim=1)
    assert own[:, 1] == pytest.approx(100 * by_class.amax(dim=1).numpy(), abs=1e-4)
    with pytest.raises(ValueError, match="the 2 prompts of 'x' need a weight each"):
        scored(Pooling((1.0,)), texts, images)


def task(**options: Any) -> WeightedPrompts:
    return WeightedPrompts(**ABOUT, **options)


def ran(asked: WeightedPrompts, texts: torch.Tensor, images: torch.Tensor, labels: list[int]) -> Any:
    samples = {
        role: Samples(
            keys=[str(i) for i in range(len(images))],
            labels=np.array(labels),
            classnames=["x", "y"],
            templates=["{c} a", "{c} b"],
        )
        for role in (["train", "test"] if len(asked.splits) == 2 else ["test"])
    }
    return asked.score(dict.fromkeys(samples, images), texts, samples)


def test_zero_shot_prompt_ensembling_by_hand() -> None:
    """Template a tells the two images apart, b does not: x_a = e0, y_a = e1, x_b = y_b = e2; images e0, e1."""
    texts = torch.eye(3)[[0, 2, 1, 2]]
    found = ran(task(temperature=0.5), texts, torch.eye(3)[[0, 1]], [0, 1])
    # less the class's mean over images (1/2 for a, 0 for b) the largest cosine is 1/2 for a and 0 for b
    a = np.exp(0.5 / 0.5) / (np.exp(0.5 / 0.5) + 1)
    assert found.metrics["effective_templates"] == pytest.approx(1 / (a**2 + (1 - a) ** 2), abs=1e-6)
    cosine = a / np.hypot(a, 1 - a)
    assert found.predictions["score_1"].to_numpy() == pytest.approx([100 * cosine] * 2, abs=1e-3)
    assert found.metrics["acc1"] == 1.0


def test_weights_by_a_labelled_split() -> None:
    """Template a is always right on four images of x; b is wrong on those. y has no image: its weights are those of all."""
    texts = F.normalize(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0]]), dim=1)
    images = torch.eye(3)[[0, 0, 0, 0]]
    accuracy = torch.tensor([1.0, 0.0])
    for per_class in (False, True):
        found = ran(
            task(weighting="validation", splits=("train", "test"), per_class=per_class, temperature=0.5),
            texts,
            images,
            [0] * 4,
        )
        weights = (accuracy / 0.5).softmax(dim=0)
        assert found.metrics["effective_templates"] == pytest.approx(float(1 / weights.square().sum()), abs=1e-6)
        assert found.metrics["acc1"] == 1.0


@pytest.mark.parametrize(
    "options", [{"weighting": "best"}, {"weighting": "validation"}, {"per_class": True}, {"temperature": 0.0}]
)
def test_settings_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="own/set: weighting"):
        task(**options)


def test_descriptors_become_sentences_as_dclip_makes_them() -> None:
    assert [sentence(d) for d in ("a red comb", "has wings", "used for cutting", "long tail", "amber eyes", "often brown")] == [
        "which is a red comb", "which has wings", "which is used for cutting", "which has long tail", "which is amber eyes",
        "which often brown",
    ]  # fmt: skip
    assert descriptor_prompts({"great_white shark": ["a fin"], "hen": []}) == {
        "great_white shark": ["great white shark, which is a fin."], "hen": ["hen, which has ."],
    }  # fmt: skip


def test_waffle_is_drawn_the_same_from_the_same_seed() -> None:
    names = ["great white shark", "hen", "green iguana"]
    one = waffle_templates(names, 15, 1)
    assert one == waffle_templates(names, 15, 1) != waffle_templates(names, 15, 2)
    assert len(set(one)) == 15 and all(t.startswith("A photo of a {c}, which ") and t.endswith(".") for t in one)
    with_words = waffle_templates(names, 15, 1, ["elephant", "umbrella"])
    assert len(with_words) == 30
    # the class names have 2 words on average, of (5 + 3 + 5.5) / 3 = 4.5 letters, which rounds to 4
    assert any(
        t in (f"A photo of a {{c}}, which has {a} {b}." for a in ("elep", "umbr") for b in ("elep", "umbr"))
        for t in with_words[::2]
    )
