"""One model by open_clip and by transformers: the same weights, pixels and texts give the same embeddings, to 1e-5."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import _create_vision_transformer

from clipeval.models import resolve
from scripts.tiny_model import config_of, write_tiny_model
from tests.models.tiny_hugging_face import SIGLIP_PROCESSOR
from tests.models.trained_model import block_names, write_as_transformers

HF = "clipeval.models.transformers.HuggingFace"
TEXTS = [
    "a",
    "A photo of a Dog.",
    "hot_dog, two;  dogs!",
    "it's 12 red_birds",
    "rock &amp; roll",
    "naïve “café”",
    "dogs " * 90,
]
TINY = "vit_tiny_siglip_for_tests"


def pictures() -> list[bytes]:
    rng, found = np.random.default_rng(0), []
    for shape in ((50, 40, 3), (33, 90, 3), (32, 32, 3), (64, 64)):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


def agree(one: dict[str, Any], other: dict[str, Any], cache: Path) -> None:
    handles = [resolve(config, cache) for config in (one, other)]
    assert handles[0].preprocess == handles[1].preprocess
    assert handles[0].text_clean == handles[1].text_clean
    found = []
    for handle in handles:
        with handle.load() as encoder:
            pixels = torch.stack([handle.preprocess.pixels(data) for data in pictures()])
            found.append((encoder.encode_images(pixels), encoder.encode_texts(TEXTS)))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    assert float((found[0][1][0] - found[0][1][1]).norm()) > 1e-3  # texts are told apart


@pytest.mark.parametrize("kind", ["clip", "quickgelu"])
def test_clip(kind: str, tmp_path: Path) -> None:
    name = write_tiny_model(tmp_path / "open_clip", kind=kind)
    weights = load_file(tmp_path / "open_clip" / "open_clip_model.safetensors")
    folder = write_as_transformers(weights, tmp_path / "transformers", config_of(kind))
    agree({"name": name}, {"_target_": HF, "path": str(folder)}, tmp_path / "cache")


@timm.models.register_model
def vit_tiny_siglip_for_tests(pretrained: bool = False, **options: Any) -> Any:
    """As timm's `vit_base_patch16_siglip_224`, of a thousandth of its size."""
    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "class_token": False}
    return _create_vision_transformer(
        TINY, pretrained=False, **{**sizes, "global_pool": "map", "act_layer": "gelu_tanh", **options}
    )


def unigram(folder: Path, **options: Any) -> None:
    """A tokenizer of words and letters, as SigLIP's: it ends with </s>, and pads with `pad_token`."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    letters = [chr(c) for c in range(33, 127)]
    vocabulary = {
        t: i for i, t in enumerate(["<pad>", "</s>", "<unk>", *letters, "photo", "dog", "dogs", "red", "birds"])
    }
    built = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    built.pre_tokenizer = pre_tokenizers.Split(" ", behavior="removed")
    built.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=built, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", **options
    ).save_pretrained(folder)


def siglip_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """open_clip's names of a SigLIP (timm's image tower) to transformers'."""
    found: dict[str, torch.Tensor] = {}
    plain = {
        "visual.trunk.patch_embed.proj.": "vision_model.embeddings.patch_embedding.",
        "visual.trunk.norm.": "vision_model.post_layernorm.",
        "visual.trunk.attn_pool.norm.": "vision_model.head.layernorm.",
        "visual.trunk.attn_pool.mlp.": "vision_model.head.mlp.",
        "visual.trunk.attn_pool.proj.": "vision_model.head.attention.out_proj.",
        "text.token_embedding.": "text_model.embeddings.token_embedding.",
        "text.ln_final.": "text_model.final_layer_norm.",
        "text.text_projection.": "text_model.head.",
    }
    blocks = {"norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj"}
    for name, tensor in weights.items():
        start = next((s for s in plain if name.startswith(s)), None)
        if start is not None:
            found[plain[start] + name[len(start) :]] = tensor
        elif name == "visual.trunk.pos_embed":
            found["vision_model.embeddings.position_embedding.weight"] = tensor[0]
        elif name == "visual.trunk.attn_pool.latent":
            found["vision_model.head.probe"] = tensor
        elif name.startswith("visual.trunk.attn_pool.q."):
            kv = weights[name.replace(".q.", ".kv.")]
            found[f"vision_model.head.attention.in_proj_{name.rpartition('.')[2]}"] = torch.cat([tensor, kv])
        elif name.startswith("visual.trunk.blocks."):
            inside = "vision_model.encoder.layers." + name.removeprefix("visual.trunk.blocks.")
            if ".attn.qkv." in inside:
                parts = zip("qkv", tensor.chunk(3), strict=True)
                found |= {inside.replace(".attn.qkv.", f".self_attn.{p}_proj."): t for p, t in parts}
                continue
            for theirs, ours in blocks.items():
                inside = inside.replace(f".{theirs}.", f".{ours}.")
            found[inside] = tensor
        elif name.startswith("text.transformer.resblocks."):
            inside = "text_model.encoder.layers." + name.removeprefix("text.transformer.resblocks.")
            found |= block_names(inside, tensor)
        elif name == "text.positional_embedding":
            found["text_model.embeddings.position_embedding.weight"] = tensor
        elif name in ("logit_scale", "logit_bias"):
            found[name] = tensor.reshape(1)
    return {name: tensor.contiguous() for name, tensor in found.items()}


@pytest.mark.parametrize(("kind", "side"), [("SigLIP", "right"), ("SigLIP2", "left")])
def test_siglip(kind: str, side: str, tmp_path: Path) -> None:
    """SigLIP 2's tokenizer only lower-cases and, in transformers 5, pads at the beginning unless it is told not to."""
    import transformers

    ours, theirs = tmp_path / "open_clip", tmp_path / "transformers"
    ours.mkdir()
    text = {"context_length": 64, "vocab_size": 102, "width": 32, "heads": 2, "layers": 2, "no_causal_mask": True}
    text |= {
        "pool_type": "last",
        "proj_bias": True,
        "norm_kwargs": {"eps": 1e-6},
        "act_kwargs": {"approximate": "tanh"},
    }
    text |= {"hf_tokenizer_name": f"timm/ViT-B-16-{kind}", "tokenizer_kwargs": {"clean": "canonicalize"}}
    vision = {"image_size": 32, "timm_model_name": TINY, "timm_pool": "map", "timm_proj": "none"}
    model = {"embed_dim": 32, "init_logit_bias": -10, "custom_text": True, "vision_cfg": vision, "text_cfg": text}
    pixels = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    (ours / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": pixels}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = open_clip.create_model(f"local-dir:{ours}", load_weights=False)
        for parameter in built.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(std=0.2)
    weights = {name: tensor.contiguous() for name, tensor in built.state_dict().items()}
    save_file(weights, ours / "open_clip_model.safetensors")
    unigram(ours)

    common = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    common |= {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
    config = transformers.SiglipConfig(
        text_config={**common, "vocab_size": 102, "max_position_embeddings": 64, "projection_size": 32},
        vision_config={**common, "image_size": 32, "patch_size": 16},
    )
    converted = transformers.SiglipModel(config)
    converted.load_state_dict(siglip_names(weights), strict=True)
    converted.save_pretrained(theirs)
    unigram(theirs, padding_side=side)
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}
    (theirs / "preprocessor_config.json").write_text(json.dumps({**SIGLIP_PROCESSOR, **half}))
    agree({"name": f"local-dir:{ours}"}, {"_target_": HF, "path": str(theirs)}, tmp_path / "cache")
