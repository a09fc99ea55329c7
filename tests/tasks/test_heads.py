"""Prompts and heads, against str.format and clip_benchmark's zero_shot_classifier."""

import pytest
import torch
from clip_benchmark.metrics import zeroshot_classification as zsc
from hypothesis import given
from hypothesis import strategies as st

from clipeval.tasks.zero_shot import prompt_counts, prompts, zero_shot_classifier
from tests.tasks.fakes import model

NAMES = ["tench", "", "crane", "crane", "a {brace}"]
TEMPLATES = ["a photo of a {c}.", "{c}, {c}", "the {c} in the wild"]


def test_prompts_by_hand():
    assert prompts(["cat", "dog"], ["a {c}.", "the {c}"]) == ["a cat.", "the cat", "a dog.", "the dog"]
    assert prompts(["cat", "dog"], {"dog": ["d"], "cat": ["c1", "c2"], "spare": []}) == ["c1", "c2", "d"]
    assert prompt_counts(["cat", "dog"], {"dog": ["d"], "cat": ["c1", "c2"]}) == [2, 1]


@given(st.text(max_size=20), st.text(alphabet=st.characters(exclude_characters="{}"), max_size=20))
def test_a_template_is_what_format_makes_of_it(name, around):
    template = f"{around}{{c}}{around}"
    assert prompts([name], [template]) == [template.format(c=name)]


def test_other_braces_are_text():
    assert prompts(["cat"], ["{c} {} {x} {{"]) == ["cat {} {x} {{"]


@pytest.mark.parametrize(
    "templates",
    [TEMPLATES, TEMPLATES[:1], {name: [f"{name} {i}" for i in range(1 + i)] for i, name in enumerate(NAMES)}],
)
def test_head_agrees_with_clip_benchmark(templates):
    texts = prompts(NAMES, templates)
    fake = model(texts, 16)
    expected = zsc.zero_shot_classifier(fake, fake.tokenizer, NAMES, templates_as_given(templates), "cpu", amp=False)
    found = zero_shot_classifier(fake.texts(texts), prompt_counts(NAMES, templates))
    torch.testing.assert_close(found, expected.T, rtol=0, atol=1e-6)


def templates_as_given(templates):
    return dict(templates) if isinstance(templates, dict) else list(templates)


def test_head_by_hand():
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 4.0]])
    half = 0.5**0.5
    torch.testing.assert_close(zero_shot_classifier(texts, [2, 1]), torch.tensor([[half, half], [0.6, 0.8]]))


@pytest.mark.parametrize(
    ("names", "templates", "message"),
    [
        ([], ["{c}"], "no class names"),
        (["a"], [], "no templates"),
        (["a", "b"], ["a photo"], "holds {c}"),
        (["a", "b"], "a {c}", "list of strings"),
        (["a", "b", "c"], {"a": ["x"]}, "2 of 3 classes have no prompts: 'b', 'c'"),
        (["a"], {"a": "x"}, "must be a list"),
    ],
)
def test_bad_prompts(names, templates, message):
    with pytest.raises(ValueError, match=message):
        prompts(names, templates)


def test_wrong_number_of_embeddings():
    with pytest.raises(ValueError, match="4 prompts were asked for, but there are 3"):
        zero_shot_classifier(torch.ones(3, 2), [2, 2])
