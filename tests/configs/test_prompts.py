"""Prompt sets against what others published."""

from __future__ import annotations

import importlib.resources
import json
import re

import pytest

from clipeval.configs.catalog import describe, group_options
from clipeval.configs.compose import compose
from clipeval.configs.errors import ClipevalError
from clipeval.data.prompts import prompt_set
from clipeval.tasks import Samples


def packaged(file: str) -> dict[str, object]:
    return json.loads(
        importlib.resources.files("clip_benchmark").joinpath("datasets", file).read_text(encoding="utf-8")
    )


def test_openais_80_are_those_that_clip_benchmark_ships() -> None:
    templates = compose(["suite=none", "prompts=openai_imagenet_80"]).prompts.templates
    assert list(templates) == packaged("en_zeroshot_classification_templates.json")["imagenet1k"]
    assert len(templates) == 80


def test_openais_short_set_is_among_the_80() -> None:
    short = list(compose(["suite=none", "prompts=openai_imagenet_7"]).prompts.templates)
    assert len(set(short)) == 7
    assert set(short) <= set(packaged("en_zeroshot_classification_templates.json")["imagenet1k"])  # type: ignore[call-overload]


def test_simple() -> None:
    assert list(compose(["suite=none", "prompts=simple"]).prompts.templates) == ["a photo of a {c}."]


def test_cupl_is_read_from_the_package() -> None:
    config = compose(["suite=none", "prompts=cupl"]).prompts
    assert "templates" not in config
    assert prompt_set(config).load(Samples(keys=[])) == packaged("cupl_prompts.json")["imagenet1k"]


def test_folder_is_each_sets_own() -> None:
    config = compose(["suite=none", "prompts=folder"]).prompts
    assert prompt_set(config).load(Samples(keys=[], templates=["its own {c}"])) == ["its own {c}"]


def test_a_file_of_ones_own(tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("a {c}\nthe {c}\n")
    config = compose(["suite=none", "prompts=file", f"prompts.path={tmp_path / 'mine.txt'}"]).prompts
    assert list(prompt_set(config).load(Samples(keys=[]))) == ["a {c}", "the {c}"]


@pytest.mark.parametrize("name", group_options("prompts"))
def test_every_set_says_its_name_and_what_it_is(name: str) -> None:
    open_key = {"file": "path", "dclip": "descriptors"}.get(name)
    config = compose(["suite=none", f"prompts={name}", *([f"prompts.{open_key}=/x"] if open_key else [])]).prompts
    assert config.name == name
    assert describe("prompts", name)
    assert all("{c}" in template for template in config.get("templates", ()))


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("m.txt", "a photo of {}\n", "'a photo of {}' has no {c}"),
        ("m.txt", "a {c}\na photo of {class}\n", "'a photo of {class}' has no {c}"),
        ("m.txt", " \n", "holds no template"),
        ("m.json", '["a {c}", "a photo"]', "'a photo' has no {c}"),
        ("m.json", "[]", "holds no template"),
        ("m.json", '["a {c}", ""]', "expected a JSON list of templates"),
        ("m.json", '{"cat": ["a cat", null]}', "the prompts of 'cat' must be a list of texts"),
        ("m.json", '{"cat": "a cat"}', "the prompts of 'cat' must be a list of texts"),
        ("m.json", '{"cat": []}', "the prompts of 'cat' must be a list of texts"),
        ("m.json", '{"cat": ["a"], "cat": ["b"]}', "'cat'"),
    ],
)
def test_a_file_of_prompts_that_would_ask_something_else_is_refused(tmp_path, file, content, said):
    (tmp_path / file).write_text(content)
    config = compose(["suite=none", "prompts=file", f"prompts.path={tmp_path / file}"]).prompts
    with pytest.raises(ClipevalError, match=re.escape(said)):
        prompt_set(config).load(Samples(keys=[]))


def test_a_template_may_hold_what_python_takes_for_a_line_end(tmp_path):
    (tmp_path / "m.txt").write_text("a\u2028{c}\n\x0cthe {c}\n", "utf-8")
    config = compose(["suite=none", "prompts=file", f"prompts.path={tmp_path / 'm.txt'}"]).prompts
    assert list(prompt_set(config).load(Samples(keys=[]))) == ["a\u2028{c}", "the {c}"]
