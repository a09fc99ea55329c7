"""A tiny CLIP that has learnt the sixty bundled pictures by heart, as a folder of open_clip's and as one of transformers'."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

from clipeval.models.check_pictures import captioned_pictures

CONFIG: dict[str, Any] = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 64, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 3},
}
PIXELS = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
STEPS = 80


def write_trained_model(folder: Path) -> str:
    """Train it, write it, and return its `model.name`."""
    folder.mkdir(parents=True)
    config = {"model_cfg": CONFIG, "preprocess_cfg": PIXELS}
    (folder / "open_clip_config.json").write_text(json.dumps(config), "utf-8")
    name = f"local-dir:{folder}"
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.set_num_threads(1)
        model, _, transform = open_clip.create_model_and_transforms(name, load_weights=False)
        pairs = captioned_pictures()
        images = torch.stack([transform(Image.open(io.BytesIO(data)).convert("RGB")) for _, data in pairs])
        tokens = open_clip.get_tokenizer(name)([caption for caption, _ in pairs])
        target = torch.arange(len(pairs))
        model.token_embedding.requires_grad_(False)  # the larger part by far, and random rows tell words apart
        model.token_embedding.weight.data.mul_(20)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
        for _ in range(STEPS):
            image, text = (functional.normalize(x, dim=-1) for x in (model.encode_image(images), _short(model, tokens)))
            logits = model.logit_scale.exp() * image @ text.T
            loss = functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.set_num_threads(threads)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return name


def _short(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """`encode_text` over the first 16 positions, of 77: the rest is padding that a causal tower does not see."""
    x = model.token_embedding(tokens[:, :16]) + model.positional_embedding[:16]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:16, :16]))
    return x[torch.arange(len(x)), tokens.argmax(dim=1)] @ model.text_projection


_NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.": "vision_model.embeddings.patch_embedding.",
    "visual.ln_pre.": "vision_model.pre_layrnorm.",
    "visual.ln_post.": "vision_model.post_layernorm.",
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
    "visual.proj": "visual_projection.weight",
    "token_embedding.": "text_model.embeddings.token_embedding.",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "transformer.resblocks.": "text_model.encoder.layers.",
    "ln_final.": "text_model.final_layer_norm.",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}
BLOCKS = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
BLOCKS |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}


def block_names(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """A block's parameter of open_clip under transformers' names: query, key and value are one there, three here."""
    for theirs, ours in BLOCKS.items():
        name = name.replace(f".{theirs}.", f".{ours}.")
    if "attn.in_proj_" not in name:
        return {name: tensor}
    return {
        name.replace("attn.in_proj_", f"self_attn.{p}_proj."): t for p, t in zip("qkv", tensor.chunk(3), strict=True)
    }


def to_transformers(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """open_clip's names of a CLIP to transformers'."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        start = next((s for s in _NAMES if name.startswith(s)), None)
        if start is None:
            continue  # attn_mask
        turned = tensor.T if name in ("visual.proj", "text_projection") else tensor
        found |= block_names(_NAMES[start] + name[len(start) :], turned.contiguous())
    return found


def write_clip_tokenizer(folder: Path) -> None:
    """OpenAI's tokenizer in transformers' form, of open_clip's own vocabulary."""
    from transformers import CLIPTokenizer

    known = SimpleTokenizer()
    merges = [pair for pair, _ in sorted(known.bpe_ranks.items(), key=lambda item: item[1])]
    spelled = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {spelled.get(token, token): number for token, number in known.encoder.items()}
    CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77).save_pretrained(folder)


def write_as_transformers(weights: dict[str, torch.Tensor], folder: Path, config: dict[str, Any] | None = None) -> Path:
    """A CLIP of open_clip's as `save_pretrained` would write it, tokenizer and processor included."""
    import transformers

    config = config or CONFIG
    vision, text = config["vision_cfg"], config["text_cfg"]
    act = "quick_gelu" if config.get("quick_gelu") else "gelu"
    common = {"hidden_act": act, "layer_norm_eps": 1e-5}
    built = transformers.CLIPConfig(
        projection_dim=config["embed_dim"],
        vision_config=common
        | {
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "hidden_size": vision["width"],
            "intermediate_size": 4 * vision["width"],
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision["head_width"],
        },
        text_config=common
        | {
            "vocab_size": text["vocab_size"],
            "max_position_embeddings": text["context_length"],
            "hidden_size": text["width"],
            "intermediate_size": 4 * text["width"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "eos_token_id": 49407,
            "bos_token_id": 49406,
            "pad_token_id": 49407,
        },
    )
    model = transformers.CLIPModel(built)
    missing = model.load_state_dict(to_transformers(weights), strict=True)
    assert not missing.missing_keys
    model.save_pretrained(folder)
    write_clip_tokenizer(folder)
    size = vision["image_size"]
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
        "do_center_crop": True,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "resample": 3,
        "image_mean": PIXELS["mean"],
        "image_std": PIXELS["std"],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder
