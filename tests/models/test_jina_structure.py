"""A small model of jina-clip's structure: code in a repository of its own, nested configs, an image processor that it brings, and
methods that take anything and make their own mask."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from clipeval.configs.errors import ClipevalError
from clipeval.models import resolve
from tests.models.tiny_hugging_face import CLIP_PROCESSOR, write_hugging_face

HF = "clipeval.models.transformers.HuggingFace"
CONFIGURATION = """
import transformers

class TextConfig(transformers.PretrainedConfig):
    model_type = "small_jina_text"
    def __init__(self, embed_dim=8, vocabulary=64, pad=1, **rest):
        self.embed_dim, self.vocabulary, self.pad = embed_dim, vocabulary, pad
        super().__init__(**rest)

class VisionConfig(transformers.PretrainedConfig):
    model_type = "small_jina_vision"
    def __init__(self, embed_dim=8, image_size=32, **rest):
        self.embed_dim, self.image_size = embed_dim, image_size
        super().__init__(**rest)

class Config(transformers.PretrainedConfig):
    model_type = "small_jina"
    def __init__(self, text_config=None, vision_config=None, **rest):
        self.text_config = TextConfig(**(text_config or {}))
        self.vision_config = VisionConfig(**(vision_config or {}))
        super().__init__(**rest)
"""
MODELING = """
import torch
from torch import nn
from transformers import PreTrainedModel
from .configuration_small import Config
from .towers_small import TextTower, VisionTower

class Base(PreTrainedModel):
    config_class = Config
    base_model_prefix = "clip"
    def _init_weights(self, module):
        pass
    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        if "torch_dtype" not in kwargs:
            kwargs["torch_dtype"] = "auto"
        return super().from_pretrained(*args, **kwargs)

class Model(Base):
    def __init__(self, config):
        super().__init__(config)
        self.text_model = TextTower(config.text_config)
        self.vision_model = VisionTower(config.vision_config)
        self.logit_scale = nn.Parameter(torch.tensor(4.0))
        self.visual_projection, self.text_projection = nn.Identity(), nn.Identity()
        self.post_init()
    def get_text_features(self, input_ids=None, *_, **__):
        return self.text_projection(self.text_model(x=input_ids))
    def get_image_features(self, pixel_values=None, *_, **__):
        return self.visual_projection(self.vision_model(x=pixel_values))
"""
TOWERS = """
import torch
from torch import nn

class TextTower(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.pad = config.pad
        self.words = nn.Embedding(config.vocabulary, config.embed_dim)
    def forward(self, x):
        seen = (x != self.pad).float()[..., None]  # its own mask, whatever it is given
        return (self.words(x) * seen).sum(dim=1) / seen.sum(dim=1)

class VisionTower(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.rows = nn.Linear(3 * config.image_size ** 2, config.embed_dim)
    def forward(self, x):
        return self.rows(x.flatten(1))
"""
PROCESSING = """
import numpy as np
import torch
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

class Processor(BaseImageProcessor):
    model_input_names = ["pixel_values"]
    def __init__(self, size=32, mean=0.5, std=0.5, resize_mode="shortest", interpolation="bicubic", fill_color=0, **rest):
        super().__init__(**rest)
        self.size, self.mean, self.std = size, mean, std
        self.resize_mode, self.interpolation, self.fill_color = resize_mode, interpolation, fill_color
    def preprocess(self, images, **rest):
        images = images if isinstance(images, list) else [images]
        made = [torch.from_numpy(np.array(i.resize((self.size, self.size)))).permute(2, 0, 1) / 255 for i in images]
        return BatchFeature({"pixel_values": [(m - self.mean) / self.std for m in made]})
"""
COMMIT = "0" * 40


@pytest.fixture
def folder(modules: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkpoint; its code lies in the hub's cache, as the repository small/implementation."""
    from safetensors.torch import save_file

    hub = tmp_path / "hub"
    code = hub / "models--small--implementation" / "snapshots" / COMMIT
    code.mkdir(parents=True)
    (hub / "models--small--implementation" / "refs").mkdir()
    (hub / "models--small--implementation" / "refs" / "main").write_text(COMMIT)
    files = {"configuration": CONFIGURATION, "modeling": MODELING, "towers": TOWERS, "processing": PROCESSING}
    for name, content in files.items():
        (code / f"{name}_small.py").write_text(content)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", modules)
    for constant in ("huggingface_hub.constants.HF_HUB_CACHE", "huggingface_hub.file_download.constants.HF_HUB_CACHE"):
        monkeypatch.setattr(constant, str(hub))
    path = write_hugging_face(tmp_path / "small-jina", "clip", CLIP_PROCESSOR)
    start = "small/implementation--"
    mapped = {"AutoConfig": f"{start}configuration_small.Config", "AutoModel": f"{start}modeling_small.Model"}
    text, vision = {"model_type": "small_jina_text", "pad": 0}, {"model_type": "small_jina_vision"}
    config = {"model_type": "small_jina", "auto_map": mapped, "text_config": text, "vision_config": vision}
    (path / "config.json").write_text(json.dumps(config))
    processor = {
        "auto_map": {"AutoImageProcessor": f"{start}processing_small.Processor"},
        "size": 32,
        "mean": 0.5,
        "std": 0.25,
    }
    (path / "preprocessor_config.json").write_text(json.dumps({**processor, "image_processor_type": "Processor"}))
    tokenizer = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "model_max_length": 512}))
    torch.manual_seed(0)
    weights = {
        "text_model.words.weight": torch.randn(64, 8),
        "vision_model.rows.weight": torch.randn(8, 3 * 32 * 32) / 50,
        "vision_model.rows.bias": torch.randn(8),
        "logit_scale": torch.tensor(4.0),
    }
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


def test_it_is_refused_without_the_word(folder: Path) -> None:
    with pytest.raises(
        ClipevalError, match=r"small/implementation--modeling_small.* say model\.trust_remote_code=true"
    ):
        resolve({"_target_": HF, "path": str(folder)}, folder.parent / "cache")


def test_it_gives_what_its_own_code_gives(folder: Path) -> None:
    from safetensors.torch import load_file

    config: dict[str, Any] = {"_target_": HF, "path": str(folder), "trust_remote_code": True}
    handle = resolve(config, folder.parent / "cache")
    assert "(configuration_small.py, modeling_small.py)" in handle.flags[0]
    weights = load_file(folder / "model.safetensors")
    picture = Image.effect_noise((48, 40), 90).convert("RGB")
    with handle.load() as encoder:
        file = io.BytesIO()
        picture.save(file, "PNG")
        pixels = encoder.preprocess.pixels(file.getvalue())
        expected = (
            torch.tensor(list(picture.resize((32, 32)).tobytes())).view(32, 32, 3).permute(2, 0, 1) / 255 - 0.5
        ) / 0.25
        torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)
        row = torch.nn.functional.normalize(
            weights["vision_model.rows.weight"] @ expected.flatten() + weights["vision_model.rows.bias"], dim=0
        )
        torch.testing.assert_close(encoder.encode_images(pixels[None])[0].cpu(), row, rtol=0, atol=1e-5)
        texts = ["a photo of a dog", "two dogs"]
        tokens = encoder.given_tokenizer(texts)
        seen = [line[line != 0] for line in tokens]
        rows = torch.stack([weights["text_model.words.weight"][ids].mean(dim=0) for ids in seen])
        torch.testing.assert_close(
            encoder.encode_texts(texts), torch.nn.functional.normalize(rows, dim=1), rtol=0, atol=1e-5
        )


def test_its_code_is_in_the_fingerprint_and_has_to_be_here(folder: Path) -> None:
    config = {"_target_": HF, "path": str(folder), "trust_remote_code": True}
    before = resolve(config, folder.parent / "cache").weights_digest
    (code,) = folder.parent.glob("hub/models--small--implementation/snapshots/*/towers_small.py")
    code.write_text(TOWERS + "\n# another\n")
    assert resolve(config, folder.parent / "cache").weights_digest != before
    code.with_name("modeling_small.py").unlink()
    missing = resolve(config, folder.parent / "cache").missing
    assert missing is not None and "small/implementation/modeling_small.py, is not on this machine" in missing
