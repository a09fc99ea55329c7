"""Models of random weights, wide enough that TF32 and half precision show, in the architectures that open_clip builds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

SIZE = 64
_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 3}
_VIT = {"image_size": SIZE, "layers": 4, "width": 384, "head_width": 64, "patch_size": 16}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "ViT": {"embed_dim": 256, "vision_cfg": _VIT, "text_cfg": _TEXT},
    "ResNet": {
        "embed_dim": 256,
        "vision_cfg": {"image_size": SIZE, "layers": [2, 2, 2, 2], "width": 32, "head_width": 64, "patch_size": None},
        "text_cfg": _TEXT,
    },
    "CoCa": {
        "custom_text": True,
        "embed_dim": 256,
        "vision_cfg": {**_VIT, "attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True},
        "text_cfg": {**_TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 76, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 1},
    },
    "SigLIP": {
        "custom_text": True,
        "embed_dim": 768,
        "init_logit_bias": -10,
        "vision_cfg": {
            "image_size": 256,  # timm builds it for no other
            "timm_model_name": "vit_base_patch32_siglip_256",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {**_TEXT, "context_length": 64, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    },
}


def write_tower(folder: Path, kind: str) -> str:
    """Writes a model, the same each time, and returns its `model.name`."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"model_cfg": ARCHITECTURES[kind], "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(content), "utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
        for key, value in model.named_parameters():
            if key.endswith("text_projection"):  # CoCa leaves its text decoder's as torch.empty made it
                torch.nn.init.normal_(value, std=0.06)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"
