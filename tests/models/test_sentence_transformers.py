"""CLIP models as sentence-transformers saves them: the same embeddings as its own `encode`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from clipeval.models import resolve
from tests.models.trained_model import CONFIG, PIXELS, write_as_transformers


def test_what_it_saves_gives_what_it_encodes(tmp_path: Path) -> None:
    library: Any = pytest.importorskip("sentence_transformers")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": PIXELS}))
    torch.manual_seed(0)
    weights = open_clip.create_model(f"local-dir:{tmp_path}", load_weights=False).state_dict()
    clip = write_as_transformers(weights, tmp_path / "clip")
    model = library.SentenceTransformer(str(clip), device="cpu")
    model.save(str(tmp_path / "saved"))
    handle = resolve(
        {"_target_": "clipeval.models.transformers.HuggingFace", "path": str(tmp_path / "saved")}, tmp_path
    )
    assert handle.missing is None
    texts = ["two dogs in the snow", "a red bicycle"]
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    with handle.load() as encoder:
        image = encoder.encode_images(handle.preprocess.pixels(_png(tmp_path, pixels))[None]).cpu()
        text = encoder.encode_texts(texts)
    theirs = torch.from_numpy(model.encode(texts, normalize_embeddings=True))
    torch.testing.assert_close(text, theirs, rtol=0, atol=1e-5)
    theirs = torch.from_numpy(model.encode([Image.fromarray(pixels)], normalize_embeddings=True))
    torch.testing.assert_close(image, theirs, rtol=0, atol=1e-5)


def _png(folder: Path, pixels: np.ndarray) -> bytes:
    Image.fromarray(pixels).save(folder / "x.png")
    return (folder / "x.png").read_bytes()
