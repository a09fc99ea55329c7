"""Models whose architecture is a Python file beside the weights: refused without the word, and said aloud with it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from clipeval.configs.errors import ClipevalError
from clipeval.models import ModelHandle, resolve
from clipeval.results.trust import NOBODY, check_model, trust
from tests.models.tiny_hugging_face import CLIP_PROCESSOR, write_hugging_face

HF = "clipeval.models.transformers.HuggingFace"
CODE = """
import transformers
from pathlib import Path
from .shared_pair import twice

class PairConfig(transformers.PretrainedConfig):
    model_type = "pair_of_towers"

    def __init__(self, inner=None, **rest):
        self.inner = inner
        super().__init__(**rest)

class Pair(transformers.PreTrainedModel):
    config_class = PairConfig

    def __init__(self, config):
        super().__init__(config)
        self.clip = transformers.CLIPModel(transformers.CLIPConfig(**config.inner))
        self.post_init()

    def get_image_features(self, pixel_values):
        Path("ran").touch()
        return twice(self.clip.get_image_features(pixel_values=pixel_values).pooler_output)

    def get_text_features(self, input_ids, attention_mask=None):
        return twice(self.clip.get_text_features(input_ids=input_ids, attention_mask=attention_mask).pooler_output)
"""


@pytest.fixture
def folder(modules: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CLIP under a class that transformers has not."""
    from safetensors.torch import load_file, save_file

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", modules)
    path = write_hugging_face(tmp_path / "pair", "clip", CLIP_PROCESSOR)
    inner = json.loads((path / "config.json").read_text())
    weights = load_file(path / "model.safetensors")
    save_file({f"clip.{k}": v for k, v in weights.items()}, path / "model.safetensors", metadata={"format": "pt"})
    mapped = {"AutoConfig": "modeling_pair.PairConfig", "AutoModel": "modeling_pair.Pair"}
    config = {"model_type": "pair_of_towers", "architectures": ["Pair"], "auto_map": mapped, "inner": inner}
    (path / "config.json").write_text(json.dumps(config))
    (path / "modeling_pair.py").write_text(CODE)
    (path / "shared_pair.py").write_text("def twice(x):\n    return 2 * x\n")
    tokenizer = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "model_max_length": 12}))
    return path


def handle_of(folder: Path, **more: Any) -> ModelHandle:
    return resolve({"_target_": HF, "path": str(folder), **more}, folder.parent / "cache")


def test_it_is_refused_without_the_word(folder: Path) -> None:
    with pytest.raises(ClipevalError, match=r"which is not run unasked .*say model\.trust_remote_code=true"):
        handle_of(folder)
    with pytest.raises(ClipevalError, match="not run unasked"):
        handle_of(folder, trust_remote_code=False)
    assert not Path("ran").exists()


def test_with_the_word_it_runs_and_every_record_says_so(folder: Path) -> None:
    handle = handle_of(folder, trust_remote_code=True)
    (flag,) = handle.flags
    assert "runs code that comes with the checkpoint (modeling_pair.py)" in flag
    assert handle.describe()["trust_remote_code"] is True
    plain = write_hugging_face(folder.parent / "plain", "clip", CLIP_PROCESSOR)
    pixels = torch.rand(2, 3, 32, 32)
    with handle.load() as one, handle_of(plain).load() as other:
        torch.testing.assert_close(one.encode_images(pixels), other.encode_images(pixels), rtol=0, atol=1e-6)
        texts = ["a photo of a dog", "two dogs"]
        torch.testing.assert_close(one.encode_texts(texts), other.encode_texts(texts), rtol=0, atol=1e-6)
    assert Path("ran").exists()


def test_the_code_is_in_the_fingerprint(folder: Path) -> None:
    before = handle_of(folder, trust_remote_code=True).weights_digest
    (folder / "shared_pair.py").write_text("def twice(x):\n    return 3 * x\n")
    assert handle_of(folder, trust_remote_code=True).weights_digest != before


def test_code_that_is_not_there(folder: Path) -> None:
    (folder / "modeling_pair.py").unlink()
    missing = handle_of(folder, trust_remote_code=True).missing
    assert missing is not None and re.search("the code that its config.json names, modeling_pair.py, is not", missing)


def test_a_model_that_does_not_embed(folder: Path) -> None:
    code = CODE.replace("get_text_features", "texts")
    (folder / "modeling_pair.py").write_text(code)
    with pytest.raises(ClipevalError, match="has no get_text_features"):
        handle_of(folder, trust_remote_code=True).load()


def test_a_stored_run_runs_no_code_unasked(tmp_path: Path) -> None:
    node = {"_target_": HF, "path": "org/evil", "trust_remote_code": True}
    with pytest.raises(ClipevalError, match=r"runs code that comes with .*--trust transformers_modules"):
        check_model(node, tmp_path / "run.json", NOBODY)
    check_model(node, tmp_path / "run.json", trust(["transformers_modules"]))
    check_model({**node, "trust_remote_code": False}, tmp_path / "run.json", NOBODY)
