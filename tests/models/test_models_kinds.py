"""Every kind of model against open_clip's or transformers' own functions, which are the oracle."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import nn
from torch.nn import functional

from clipeval.configs.errors import ClipevalError
from clipeval.models import from_memory, resolve
from clipeval.preprocess.transforms import CustomTransform, Preprocess
from scripts.tiny_model import KINDS, write_tiny_model
from tests.models.tiny_hugging_face import CLIP_PROCESSOR, CONSTANTS, SIGLIP_PROCESSOR, write_hugging_face

TEXTS = [
    "a",
    "a photo of a dog",
    "two dogs and a red frisbee on the grass",
    "a photo of a dog",
    "x",
    "the " * 30,
]
TRIMMED = {"clip", "custom", "eos", "first", "quickgelu", "resnet", "scaled"}
"""Causal towers that pool a token at or before the end token: the only ones for which trimming is exact."""


def picture(seed: int = 0, size: tuple[int, int] = (50, 40)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", list(KINDS))
def test_equal_to_open_clip(kind: str, tmp_path: Path) -> None:
    name = write_tiny_model(tmp_path / "model", kind=kind)
    handle = resolve({"name": name}, tmp_path / "cache")
    model = open_clip.create_model(name).eval()
    transform = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    image = picture()
    with torch.no_grad():
        images = functional.normalize(model.encode_image(transform(image)[None]), dim=-1)
        texts = functional.normalize(model.encode_text(open_clip.get_tokenizer(name)(TEXTS)), dim=-1)
    with handle.load() as encoder:
        batch = handle.preprocess.pixels(png(image))[None]
        assert batch.dtype == torch.uint8
        torch.testing.assert_close(encoder.encode_images(batch), images, rtol=0, atol=1e-6)
        torch.testing.assert_close(encoder.encode_images(handle.preprocess.normalise(batch)), images, rtol=0, atol=1e-6)
        torch.testing.assert_close(encoder.encode_texts(TEXTS), texts, rtol=0, atol=2e-6)
        assert encoder.trims == (kind in TRIMMED)
        assert encoder.embed_dim == (32 if kind == "coca" else 16)
        assert encoder.params == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("kind", ["clip", "custom", "siglip", "coca"])
def test_a_run_of_texts_alone_leaves_the_image_tower_out(kind: str, tmp_path: Path) -> None:
    """The same embeddings, from a model of which the image tower was never read and cannot be called."""
    handle = resolve({"name": write_tiny_model(tmp_path / "model", kind=kind)}, tmp_path / "cache")
    with handle.load() as whole, handle.load_text() as texts:
        assert torch.equal(texts.encode_texts(TEXTS), whole.encode_texts(TEXTS))
        assert texts.trims == whole.trims
        assert texts.params == sum(p.numel() for n, p in whole.model.named_parameters() if not n.startswith("visual."))
        with pytest.raises(RuntimeError, match="image tower was not loaded"):
            texts.encode_images(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def hugging_face_text_tower(tmp_path: Path) -> nn.Module:
    """open_clip's adapter around a random RoBERTa of transformers, as in `roberta-ViT-B-32`, without a network."""
    from open_clip.hf_model import HFTextEncoder
    from transformers import RobertaConfig

    config = RobertaConfig(
        vocab_size=600,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=70,
        pad_token_id=1,
    )
    return HFTextEncoder("none", 16, config=config, pooler_type="mean_pooler", proj_type="mlp")


class Words:
    """A tokenizer without a vocabulary: 0 starts, 2 ends, 1 pads; a word is its length and first letter."""

    def __call__(self, texts: list[str]) -> torch.Tensor:
        tokens = torch.ones(len(texts), 64, dtype=torch.long)
        for row, text in zip(tokens, texts, strict=True):
            words = [3 + (ord(w[0]) * 31 + len(w)) % 590 for w in text.split()][:62]
            row[: len(words) + 2] = torch.tensor([0, *words, 2])
        return tokens


class Toy(nn.Module):
    """A model with a Hugging Face text tower whose images are averages of pixels."""

    def __init__(self, text: nn.Module):
        super().__init__()
        self.text, self.image = text, nn.Linear(3, 16)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return self.image(images.mean(dim=(2, 3)))

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.text(tokens)


def test_masked_hugging_face_tower_is_trimmed_and_unmasked_is_not(tmp_path: Path) -> None:
    """RoBERTa masks its padding, so that a short batch is exact; reading the mask away makes the padding visible."""
    model = Toy(hugging_face_text_tower(tmp_path)).eval()
    full = functional.normalize(model.encode_text(Words()(TEXTS)).detach(), dim=-1)
    with from_memory(model, Words(), Preprocess((32, 32))).load() as encoder:
        assert encoder.trims
        torch.testing.assert_close(encoder.encode_texts(TEXTS), full, rtol=0, atol=2e-6)
    model.text.config.pad_token_id = -1
    full = functional.normalize(model.encode_text(Words()(TEXTS)).detach(), dim=-1)
    with from_memory(model, Words(), Preprocess((32, 32))).load() as encoder:
        assert not encoder.trims
        torch.testing.assert_close(encoder.encode_texts(TEXTS), full, rtol=0, atol=2e-6)


def test_padding_that_is_the_end_token(tmp_path: Path) -> None:
    """CLIP's tokenizer in transformers pads with the end token: one of them must stay."""
    name = write_tiny_model(tmp_path / "model")
    model, _, transform = open_clip.create_model_and_transforms(name)
    plain = open_clip.get_tokenizer(name)

    def tokenizer(texts: list[str]) -> torch.Tensor:
        tokens = plain(texts)
        return torch.where(tokens == 0, tokens.max(), tokens)

    expected = functional.normalize(model.eval().encode_text(tokenizer(TEXTS)).detach(), dim=-1)
    with from_memory(model, tokenizer, transform).load() as encoder:
        assert encoder.trims
        assert encoder._text.margin == 1
        torch.testing.assert_close(encoder.encode_texts(TEXTS), expected, rtol=0, atol=2e-6)


# -- a class of one's own -----------------------------------------------------------------------------------------


OWN = """
import torch
from torch import nn
class MyModel(nn.Module):
    def __init__(self, width=8, transform=None):
        super().__init__()
        torch.manual_seed(width)
        self.image, self.words = nn.Linear(3, width), nn.Embedding(128, width)
        self.transform = transform or (lambda image: torch.zeros(3, 4, 4) + image.size[0])
    def encode_image(self, images):
        return self.image(images.mean(dim=(2, 3)))
    def encode_text(self, tokens):
        return self.words(tokens).sum(dim=1)
    def tokenizer(self, texts):
        return {"input_ids": [[ord(c) % 128 for c in t[:6].ljust(6)] for t in texts]}
class NotAModel:
    pass
class Remote(MyModel):
    parameters = None
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_models.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_models", raising=False)
    return "own_models"


def test_own_class(own_module: str, tmp_path: Path) -> None:
    handle = resolve({"_target_": f"{own_module}.MyModel", "name": "Mine", "width": 5}, tmp_path)
    assert isinstance(handle.preprocess, CustomTransform)
    assert handle.preprocess.dtype == torch.float32
    assert handle.slug == "Mine"
    other = resolve({"_target_": f"{own_module}.MyModel", "width": 6}, tmp_path)
    assert handle.weights_digest != other.weights_digest
    assert handle.image_digest != other.image_digest
    again = resolve({"_target_": f"{own_module}.MyModel", "width": 5}, tmp_path)
    assert handle.image_digest == again.image_digest
    assert handle.text_digest == again.text_digest
    pixels = handle.preprocess.pixels(png(picture()))
    assert pixels.shape == (3, 4, 4)
    assert float(pixels[0, 0, 0]) == 40
    with handle.load() as encoder:
        assert encoder.encode_images(pixels[None]).shape == (1, 5)
        assert encoder.encode_texts(["ab", "c"]).norm(dim=1).allclose(torch.ones(2))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("own_models.NotAModel", "encode_image, encode_text, tokenizer, transform"),
        ("own_models.Nobody", "cannot be imported"),
        ("nowhere.MyModel", "cannot be imported"),
        ("MyModel", "package.module.Class"),
    ],
)
def test_own_class_that_is_none(own_module: str, target: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ClipevalError, match=message):
        resolve({"_target_": target}, tmp_path).load()


def test_own_class_wrong_arguments(own_module: str, tmp_path: Path) -> None:
    with pytest.raises(ClipevalError, match="widht"):
        resolve({"_target_": f"{own_module}.MyModel", "widht": 5}, tmp_path).load()


# -- in memory ------------------------------------------------------------------------------------------------------


def test_lent_model_comes_back_as_it_was(tmp_path: Path) -> None:
    name = write_tiny_model(tmp_path / "model")
    model, _, transform = open_clip.create_model_and_transforms(name)
    model.train()
    model.visual.eval()
    model.logit_scale.requires_grad_(False)
    before = {n: p.requires_grad for n, p in model.named_parameters()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    handle = from_memory(model, open_clip.get_tokenizer(name), transform, name="step 1000")
    assert isinstance(handle.preprocess, Preprocess)
    assert handle.slug == "step-1000"
    for precision in ("fp32", "bf16", "datacomp"):
        with handle.load(precision=precision) as encoder:
            assert not model.training
            images = encoder.encode_images(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), mixed=True)
            assert images.dtype == torch.float32
            assert encoder.encode_texts(["a"]).dtype == torch.float32
        assert model.training
        assert model.transformer.training
        assert not model.visual.training
    assert {n: p.requires_grad for n, p in model.named_parameters()} == before
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    digest = handle.weights_digest
    with torch.no_grad():
        model.logit_scale.add_(1)
    assert from_memory(model, open_clip.get_tokenizer(name), transform).weights_digest != digest


def test_lent_model_comes_back_after_an_error(tmp_path: Path) -> None:
    name = write_tiny_model(tmp_path / "model")
    model, _, transform = open_clip.create_model_and_transforms(name)
    model.train()
    with pytest.raises(KeyError), from_memory(model, open_clip.get_tokenizer(name), transform).load():
        raise KeyError
    assert model.training


# -- transformers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "processor"), [("clip", CLIP_PROCESSOR), ("siglip", SIGLIP_PROCESSOR)])
def test_transformers_checkpoint(kind: str, processor: dict[str, Any], tmp_path: Path) -> None:
    import transformers

    folder = write_hugging_face(tmp_path / "hf", kind, processor)
    handle = resolve({"_target_": "clipeval.models.transformers.HuggingFace", "path": str(folder)}, tmp_path / "cache")
    assert isinstance(handle.preprocess, Preprocess)
    assert handle.preprocess.resize_mode == ("shortest" if kind == "clip" else "squash")
    assert handle.preprocess.interpolation == ("bicubic" if kind == "clip" else "bilinear")
    image = picture(size=(64, 48))
    reference = transformers.AutoImageProcessor.from_pretrained(folder)(images=image, return_tensors="pt")[
        "pixel_values"
    ]
    pixels = handle.preprocess.pixels(png(image))
    ours = handle.preprocess.normalise(pixels[None])
    steps = ((ours - reference).abs() * torch.tensor(CONSTANTS["image_std"]).view(3, 1, 1) * 255).max()
    assert float(steps) <= 2.01  # torchvision's resize against Pillow's, in steps of 1/255
    model = transformers.AutoModel.from_pretrained(folder).eval()
    texts = ["a photo of a dog", "a", "two dogs"]
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(
        texts, padding="max_length", max_length=12, return_tensors="pt"
    )["input_ids"]
    with torch.no_grad():
        output = model(input_ids=tokens, pixel_values=ours)
    with handle.load() as encoder:
        torch.testing.assert_close(encoder.encode_images(pixels[None]), output.image_embeds, rtol=0, atol=1e-6)
        torch.testing.assert_close(encoder.encode_texts(texts), output.text_embeds, rtol=0, atol=2e-6)
        assert encoder.trims == (kind == "clip")
        if kind == "siglip":
            assert torch.equal(encoder.encode_texts(["A Photo of a DOG"]), encoder.encode_texts(texts[:1]))


def test_transformers_checkpoint_with_another_processor_runs_it(tmp_path: Path) -> None:
    import transformers

    folder = write_hugging_face(tmp_path / "hf", "clip", {**CLIP_PROCESSOR, "size": {"shortest_edge": 40}})
    handle = resolve({"_target_": "clipeval.models.transformers.HuggingFace", "path": str(folder)}, tmp_path / "cache")
    assert isinstance(handle.preprocess, CustomTransform)
    assert "40" in handle.preprocess.reason
    reference = transformers.AutoImageProcessor.from_pretrained(folder)(images=picture(), return_tensors="pt")
    assert torch.equal(handle.preprocess.pixels(png(picture())), reference["pixel_values"][0])


def test_transformers_folder_that_is_none(tmp_path: Path) -> None:
    target = {"_target_": "clipeval.models.transformers.HuggingFace"}
    with pytest.raises(ClipevalError, match=r"config\.json"):
        resolve({**target, "path": str(tmp_path)}, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ClipevalError, match="BertModel"):
        resolve({**target, "path": str(tmp_path)}, tmp_path)
