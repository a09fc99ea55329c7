"""Faults that leave a model better than chance, so that its retrieval alone does not show them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import nn

from clipeval.configs.compose import compose
from clipeval.models import from_memory, resolve
from clipeval.models.check import check
from tests.models.test_check import PREPROCESS, in_memory, matching


def blocks(model: Any, tower: str) -> Any:
    return (model.visual.transformer if tower == "image" else model.transformer).resblocks


def shuffled_layer(tower: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        torch.manual_seed(0)
        for weight in blocks(model, tower)[1].parameters():
            if weight.ndim > 1:
                weight.data = weight.data.flatten()[torch.randperm(weight.numel())].view_as(weight)

    return change


def zeroed_layer(tower: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for weight in blocks(model, tower)[1].parameters():
            weight.data.zero_()

    return change


def fresh_text_tower(model: Any) -> None:
    """The text tower of another start: all of its layers but the normalisation, which is as it was trained."""
    torch.manual_seed(1)
    for layer in blocks(model, "text"):
        for weight in layer.parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=float(weight.std()))


def no_positions(model: Any) -> None:
    model.visual.positional_embedding.data.zero_()


def no_positions_of_texts(model: Any) -> None:
    model.positional_embedding.data.zero_()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (shuffled_layer("image"), r"1 of 6 layers look like noise \(visual.transformer.resblocks.1 first\)"),
        (shuffled_layer("text"), r"1 of 6 layers look like noise \(transformer.resblocks.1 first\)"),
        (zeroed_layer("image"), r"visual.transformer.resblocks.1.attn.in_proj_weight and 3 more are all zero"),
        (zeroed_layer("text"), r"transformer.resblocks.1.attn.in_proj_weight and 3 more are all zero"),
        (fresh_text_tower, r"3 of 6 layers look like noise \(transformer.resblocks.0 first\)"),
        (no_positions, "the weights visual.positional_embedding are all zero"),
        (no_positions_of_texts, "the weights positional_embedding are all zero"),
    ],
)
def test_weights(fault: Callable[[Any], None], said: str, model: Any, tokenizer: Any) -> None:
    with torch.no_grad():
        fault(model)
    matching(in_memory(model, tokenizer, PREPROCESS).doubts, said)


def test_weights_that_are_zero_in_sound_models() -> None:
    class Sound(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token_type_embeddings = nn.Embedding(2, 64)  # RoBERTa's
            self.mask_token = nn.Parameter(torch.zeros(2, 64))
            self.row = nn.Parameter(torch.zeros(1, 1, 64))
            nn.init.zeros_(self.token_type_embeddings.weight)

        def encode_image(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)[:, :8] + 1

        def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
            return tokens[:, :8].float()

    def tokens(texts: Any) -> torch.Tensor:
        return torch.ones(len(texts), 8, dtype=torch.long)

    assert not any("zero" in line for line in in_memory(Sound(), tokens, PREPROCESS).doubts)


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        (PREPROCESS.std, PREPROCESS.mean, "OpenAI's with mean and std in each other's place"),
        (PREPROCESS.mean[::-1], PREPROCESS.std[::-1], "OpenAI's in the order blue, green, red"),
        ((0.5,) * 3, (0.5,) * 3, "fit their captions better normalised with mean .0.48145466"),
        ((0.0,) * 3, (1.0,) * 3, "fit their captions better normalised with mean .0.48145466"),
    ],
)
def test_constants(mean: Any, std: Any, said: str, model: Any, tokenizer: Any) -> None:
    matching(in_memory(model, tokenizer, replace(PREPROCESS, mean=mean, std=std)).doubts, said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda pixels: pixels * 255, "the transform gives pixels from .* see that it divides by 255"),
        (lambda pixels: (pixels - 0.45) / 0.27, "the transform gives pixels from -.* normalises once"),
        (lambda pixels: pixels * 0.27 + 0.45, "fit their captions better once they are normalised"),
    ],
)
def test_a_transform_of_ones_own(change: Any, said: str, folders: tuple[Path, Path], tokenizer: Any) -> None:
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folders[0]}")
    assert in_memory(model, tokenizer, lambda image: transform(image)).doubts == ()
    matching(in_memory(model, tokenizer, lambda image: change(transform(image))).doubts, said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda pixels: pixels.flip(1), "better with red and blue exchanged"),
        (
            lambda pixels: (pixels - 0.5) / 0.5,
            r"better normalised with mean 0 and std 1 \(between 0 and 1\) than with 0.5 and 0.5",
        ),
    ],
)
def test_what_a_model_does_to_pixels_itself(change: Any, said: str, tmp_path: Path) -> None:
    handle = resolve(compose(["suite=none"]).model, tmp_path)
    with handle.load() as encoder:
        inner = encoder.model.visual.forward
        encoder.model.visual.forward = lambda pixels: inner(change(pixels))
        matching(check(encoder).doubts, said)


def test_texts_without_the_start_token(model: Any, tokenizer: Any) -> None:
    def tokens(texts: list[str]) -> torch.Tensor:
        whole = tokenizer(texts)
        return torch.cat([whole[:, 1:], torch.zeros_like(whole[:, :1])], dim=1)

    with from_memory(model, tokens, PREPROCESS).load() as encoder:
        matching(check(encoder).doubts, "texts do not begin with the start token, 49,406")
