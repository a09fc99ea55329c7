"""A checkpoint in the place of a folder's or repository's own weights: what came of training them on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clipeval.configs.compose import compose
from clipeval.configs.errors import ClipevalError
from clipeval.models import resolve
from scripts.tiny_model import write_tiny_model

OTHER = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear"}


@pytest.fixture
def names(tmp_path: Path) -> tuple[str, Path]:
    """A folder with weights and constants of its own, and a checkpoint of other weights as a trainer writes it."""
    name = write_tiny_model(tmp_path / "exported", seed=1, preprocess=OTHER)
    write_tiny_model(tmp_path / "two", seed=2)
    state = load_file(tmp_path / "two" / "open_clip_model.safetensors")
    checkpoint = tmp_path / "epoch_3.pt"
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}, checkpoint)
    return name, checkpoint


def test_the_weights_are_the_files_and_all_else_the_folders(names: tuple[str, Path], tmp_path: Path) -> None:
    name, checkpoint = names
    own = resolve({"name": name}, tmp_path / "cache")
    handle = resolve({"name": name, "pretrained": str(checkpoint)}, tmp_path / "cache")
    assert handle.preprocess == own.preprocess and handle.preprocess.mean == (0.5, 0.5, 0.5)
    assert not any("are assumed" in flag for flag in handle.flags)
    assert handle.weights_digest != own.weights_digest and handle.slug != own.slug and "epoch_3" in handle.slug
    wanted = load_file(tmp_path / "two" / "open_clip_model.safetensors")
    with handle.load() as encoder:
        state = encoder.model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in wanted.items())


def test_a_folder_needs_no_weights_of_its_own_then(names: tuple[str, Path], tmp_path: Path) -> None:
    name, checkpoint = names
    (tmp_path / "exported" / "open_clip_model.safetensors").unlink()
    handle = resolve({"name": name, "pretrained": str(checkpoint)}, tmp_path / "cache")
    assert handle.missing is None
    with pytest.raises(ClipevalError, match=r"holds no \.safetensors"):
        resolve({"name": name}, tmp_path / "cache")


def test_the_config_names_the_folder_as_the_handle_does(names: tuple[str, Path], tmp_path: Path) -> None:
    name, checkpoint = names
    for words in (
        [f"model.name='{name}'"],
        [f"model.name='{name}'", f"model.pretrained={checkpoint}"],
        ["model.name=hf-hub:org/repo", f"model.pretrained={checkpoint}"],
    ):
        config = compose(["model=open_clip", *words, "task=quickstart_digits"])
        if "hf-hub" not in words[0]:
            assert config.model.slug == resolve(dict(config.model, slug=None), tmp_path / "cache").slug
    quickstart = [compose(["model=quickstart", *more]).out for more in ([], [f"model.pretrained={checkpoint}"])]
    assert quickstart[0] != quickstart[1]


@pytest.mark.parametrize(
    ("given", "said"),
    [("openai", "has no tags"), ("gone/epoch_3.pt", "there is no such file"), ("laion2b.pt", "no such")],
)
def test_what_is_no_checkpoint(names: tuple[str, Path], tmp_path: Path, given: str, said: str) -> None:
    with pytest.raises(ClipevalError, match=said):
        resolve({"name": names[0], "pretrained": given}, tmp_path / "cache")
