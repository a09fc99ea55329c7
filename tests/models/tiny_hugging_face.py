"""Tiny CLIP and SigLIP checkpoints in the layout of Hugging Face transformers, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

CONSTANTS = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3], "do_normalize": True, "do_rescale": True}
CLIP_PROCESSOR = {
    **CONSTANTS,
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 32},
    "crop_size": {"height": 32, "width": 32},
    "do_center_crop": True,
    "do_resize": True,
    "resample": 3,
}
SIGLIP_PROCESSOR = {
    **CONSTANTS,
    "image_processor_type": "SiglipImageProcessor",
    "size": {"height": 32, "width": 32},
    "do_resize": True,
    "resample": 2,
}


def write_hugging_face(folder: Path, kind: str, processor: dict[str, Any]) -> Path:
    """A tiny transformers checkpoint with a tokenizer of whole words, made without a network."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(0)
    vocabulary = {
        w: i for i, w in enumerate(["<pad>", "<unk>", "a", "photo", "of", "dog", "two", "dogs", "red", "<end>"])
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 9)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<end>"
    ).save_pretrained(folder)
    text = {
        "vocab_size": 10,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    text |= {"max_position_embeddings": 12, "eos_token_id": 9, "pad_token_id": 0, "bos_token_id": 1}
    vision = {"image_size": 32, "patch_size": 16, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"intermediate_size": 32}
    if kind == "clip":
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        transformers.CLIPModel(config).save_pretrained(folder)
    else:
        text["projection_size"] = 16
        transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(
            folder
        )
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder
