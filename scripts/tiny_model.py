"""Tiny open_clip models with random weights, as folders that `local-dir:` reads. They know nothing; they are quick."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

torch.set_num_threads(1)  # models this small are slower on more

_CLIP: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
_CONSTANTS = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
KINDS: dict[str, dict[str, Any]] = {
    "clip": {},
    "custom": {"custom_text": True},
    "eos": {"custom_text": True, "text_cfg": {"pool_type": "eos", "eos_id": 49407}},
    "last": {"custom_text": True, "text_cfg": {"pool_type": "last"}},
    "first": {"custom_text": True, "text_cfg": {"pool_type": "first"}},
    "siglip": {
        "custom_text": True,
        "init_logit_bias": -10,
        "text_cfg": {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
    },
    "bidirectional": {"custom_text": True, "text_cfg": {"no_causal_mask": True}},
    "quickgelu": {"quick_gelu": True},
    "resnet": {"vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "head_width": 16, "patch_size": None}},
    "scaled": {"text_cfg": {"qk_norm": True, "scale_heads": True, "scale_attn": True}},
    "coca": {
        "custom_text": True,
        "embed_dim": 32,  # the decoder's width: it reads the image tower's tokens
        "vision_cfg": {
            "attentional_pool": True,
            "attn_pooler_heads": 2,
            "attn_pooler_queries": 4,
            "output_tokens": True,
        },
        "text_cfg": {"context_length": 76, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 76, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    },
}
"""Every text tower that open_clip builds itself, and what its config changes of the plain one."""


def config_of(kind: str = "clip", size: int = 32) -> dict[str, Any]:
    """The architecture of a kind."""
    config = copy.deepcopy(_CLIP)
    config["vision_cfg"]["image_size"] = size
    for key, value in KINDS[kind].items():
        config[key] = {**config[key], **value} if isinstance(config.get(key), dict) else value
    return config


def write_tiny_model(
    folder: Path | str, *, kind: str = "clip", seed: int = 0, size: int = 32, preprocess: dict[str, Any] | None = None
) -> str:
    """Write a model of random weights and return its `model.name`, `local-dir:<folder>`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"model_cfg": config_of(kind, size), "preprocess_cfg": {**_CONSTANTS, **(preprocess or {})}}
    (folder / "open_clip_config.json").write_text(json.dumps(content), "utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
        for (
            parameter
        ) in model.parameters():  # larger than at initialisation, so that towers of every kind tell texts apart
            if parameter.ndim > 1:
                parameter.data.normal_(std=0.2)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"
