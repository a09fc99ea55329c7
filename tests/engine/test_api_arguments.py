"""What `evaluate()` says of arguments that are none, before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest

from clipeval.api import evaluate
from clipeval.configs.errors import ClipevalError
from scripts.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    name = write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny")
    model, _, transform = open_clip.create_model_and_transforms(name)
    return {"model": model, "tokenizer": open_clip.get_tokenizer(name), "transform": transform}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer": None}, "tokenizer=None: something that can be called"),
        ({"transform": 3}, "transform=3: something that can be called"),
        ({"suite": ["vtab"]}, r"suite=\['vtab'\]: a suite's name"),
        ({"overrides": "runtime.precision=bf16"}, "overrides='runtime.precision=bf16': a list of words"),
        ({"overrides": [3]}, r"overrides=\[3\]: a list of words"),
    ],
)
def test_one_error_of_an_argument(arguments: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ClipevalError, match=message):
        evaluate(**{**arguments, **change})


def test_exchanged_tokenizer_and_transform(arguments: dict[str, Any], tmp_path: Path) -> None:
    exchanged = {"tokenizer": arguments["transform"], "transform": arguments["tokenizer"]}
    with pytest.raises(ClipevalError, match="are exchanged: the tokenizer comes first"):
        evaluate(arguments["model"], **exchanged, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
