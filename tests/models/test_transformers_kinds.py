"""Every type of transformers that embeds images and texts, of random weights, against its own class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from clipeval.configs.errors import ClipevalError
from clipeval.models import resolve
from tests.models.tiny_hugging_face import CLIP_PROCESSOR, write_hugging_face

HF = "clipeval.models.transformers.HuggingFace"
TEXTS = ["a photo of a dog", "a", "two dogs"]
_SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_WORDS = {**_SMALL, "vocab_size": 12, "bos_token_id": 1, "eos_token_id": 9, "pad_token_id": 0}
_VISION = {**_SMALL, "image_size": 32, "patch_size": 16}


def configs() -> dict[str, Any]:
    import transformers as t

    clip_text = {**_WORDS, "max_position_embeddings": 12}
    return {
        "metaclip_2": (
            t.MetaClip2Model,
            t.MetaClip2Config(text_config=clip_text, vision_config=_VISION, projection_dim=8),
        ),
        "clipseg": (t.CLIPSegModel, t.CLIPSegConfig(text_config=clip_text, vision_config=_VISION, projection_dim=8)),
        "altclip": (
            t.AltCLIPModel,
            t.AltCLIPConfig(
                text_config={**_WORDS, "max_position_embeddings": 20, "project_dim": 16},
                vision_config=_VISION,
                projection_dim=8,
            ),
        ),
        "chinese_clip": (
            t.ChineseCLIPModel,
            t.ChineseCLIPConfig(
                text_config={**_WORDS, "max_position_embeddings": 16}, vision_config=_VISION, projection_dim=8
            ),
        ),
        "blip": (
            t.BlipForImageTextRetrieval,
            t.BlipConfig(
                text_config={**_WORDS, "max_position_embeddings": 16, "encoder_hidden_size": 16},
                vision_config=_VISION,
                image_text_hidden_size=8,
            ),
        ),
    }


@pytest.mark.parametrize("kind", ["metaclip_2", "clipseg", "altclip", "chinese_clip", "blip"])
def test_a_type(kind: str, tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(0)
    folder = write_hugging_face(tmp_path / "hf", "clip", CLIP_PROCESSOR)
    built, config = configs()[kind]
    (folder / "config.json").unlink()
    model = built(config).eval()
    model.save_pretrained(folder)
    handle = resolve({"_target_": HF, "path": str(folder)}, tmp_path / "cache")
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    given = tokenizer(TEXTS, padding=True, return_tensors="pt")
    given.pop("token_type_ids", None)
    images = handle.preprocess.normalise(pixels)
    with torch.no_grad():
        if kind == "blip":
            output = model(
                input_ids=given["input_ids"],
                attention_mask=given["attention_mask"],
                pixel_values=images,
                use_itm_head=False,
            )
            cosines = output.itm_score
        else:
            output = model(**given, pixel_values=images)
            cosines = (
                functional.normalize(output.image_embeds, dim=-1) @ functional.normalize(output.text_embeds, dim=-1).T
            )
    with handle.load() as encoder:
        ours = encoder.encode_images(pixels) @ encoder.encode_texts(TEXTS).T
    torch.testing.assert_close(ours, cosines, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "siglip2"}, "NaFlex model, whose images are patches .* google/siglip2-base-patch16-224"),
        ({"model_type": "clip_vision_model"}, "an image tower alone"),
        ({"model_type": "bert"}, "BertModel, which has no get_image_features and no get_text_features"),
        ({"model_type": "nobody_knows"}, "of type nobody_knows, which transformers .* does not know .*model=custom"),
        ({"model_type": "jina_clip", "auto_map": {"AutoModel": "m.M"}}, "asks for code that comes with the checkpoint"),
    ],
)
def test_a_type_that_cannot_be_scored(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = write_hugging_face(tmp_path / "hf", "clip", CLIP_PROCESSOR)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ClipevalError, match=message):
        resolve({"_target_": HF, "path": str(folder)}, tmp_path)
