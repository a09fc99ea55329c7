"""What texts begin with in common is computed once, and changes nothing."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from torch.nn import functional

from clipeval.models import resolve
from clipeval.models.prefixes import PrefixSharing, nodes
from scripts.tiny_model import write_tiny_model

PROMPTS = [f"{template} {name}{end}" for template in ("a photo of a", "a blurry photo of the", "art of the", "")
           for name in ("dog", "great white shark", "cat", "dog") for end in (".", ", a type of animal.")]  # fmt: skip
SHARING = ("clip", "custom", "eos", "quickgelu", "resnet")


def test_beginnings_by_hand() -> None:
    tokens = torch.tensor([[9, 1, 2, 8], [9, 1, 3, 8], [9, 1, 2, 8], [9, 4, 8, 0]])
    index, first = nodes(tokens, torch.tensor([4, 4, 4, 3]))
    # 9; 9 1, 9 4; 9 1 2, 9 1 3, 9 4 8; 9 1 2 8, 9 1 3 8
    assert index.tolist() == [[0, 1, 3, 6], [0, 1, 4, 7], [0, 1, 3, 6], [0, 2, 5, 0]]
    assert first.tolist() == [0, 1, 13, 2, 6, 14, 3, 7]


def test_the_same_token_behind_another_beginning_is_another_node() -> None:
    index, first = nodes(torch.tensor([[1, 5], [2, 5]]), torch.tensor([2, 2]))
    assert index.tolist() == [[0, 2], [1, 3]]
    assert len(first) == 4


@pytest.mark.parametrize("kind", SHARING)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_embeddings_are_open_clips(kind: str, precision: str, tmp_path: Path) -> None:
    name = write_tiny_model(tmp_path / "model", kind=kind)
    model = open_clip.create_model(name).eval()
    with torch.no_grad():
        expected = functional.normalize(model.encode_text(open_clip.get_tokenizer(name)(PROMPTS)), dim=-1)
    with resolve({"name": name}, tmp_path / "cache").load(precision=precision) as encoder:
        got = encoder.encode_texts(PROMPTS)
        assert encoder.trims
        assert encoder.shares
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-6 if precision == "fp32" else 3e-2)


@pytest.mark.parametrize("kind", ["siglip", "coca"])
def test_towers_of_another_kind_share_nothing(kind: str, tmp_path: Path) -> None:
    name = write_tiny_model(tmp_path / "model", kind=kind)
    with resolve({"name": name}, tmp_path / "cache").load() as encoder:
        encoder.encode_texts(PROMPTS)
        assert not encoder.shares


def test_a_tower_that_is_not_causal_is_found_out_by_measuring(tmp_path: Path) -> None:
    name = write_tiny_model(tmp_path / "model", kind="clip")
    model = open_clip.create_model(name).eval()
    assert PrefixSharing.of(model) is not None
    model.attn_mask.zero_()
    from clipeval.models import from_memory

    handle = from_memory(model, open_clip.get_tokenizer(name), lambda image: image, name="without-mask")
    with handle.load() as encoder:
        got = encoder.encode_texts(PROMPTS)
        assert not encoder.shares
    with torch.no_grad():
        expected = functional.normalize(model.encode_text(open_clip.get_tokenizer(name)(PROMPTS)), dim=-1)
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-6)
