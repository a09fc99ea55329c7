"""Exported graphs: the embeddings of the model that was exported, from both layouts, and what bad folders are told."""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from clipeval.configs.compose import compose
from clipeval.configs.errors import ClipevalError
from clipeval.models import ModelHandle, resolve
from tests.models.tiny_hugging_face import CLIP_PROCESSOR, SIGLIP_PROCESSOR, write_hugging_face

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
PROCESSOR = {"clip": CLIP_PROCESSOR, "siglip": SIGLIP_PROCESSOR}
TEXTS = ["a photo of a dog", "two dogs"]
AXES = {
    "input_ids": {0: "text_batch_size", 1: "sequence_length"},
    "pixel_values": {0: "image_batch_size", 1: "num_channels", 2: "height", 3: "width"},
}
"""As optimum leaves them open (optimum-onnx 0.1.0), an image's sides among them, which a graph takes in one size all the same."""


class Half(nn.Module):
    """One tower or both, with the inputs and outputs that optimum gives an export."""

    def __init__(self, model: Any, parts: str) -> None:
        super().__init__()
        self.model, self.parts = model, parts

    def forward(self, input_ids: Any = None, pixel_values: Any = None) -> Any:
        text = None if input_ids is None else self.model.get_text_features(input_ids=input_ids).pooler_output
        image = None if pixel_values is None else self.model.get_image_features(pixel_values=pixel_values).pooler_output
        return tuple(rows for rows in (text, image) if rows is not None)


def export(model: Any, path: Path, parts: str) -> None:
    given = {"input_ids": torch.ones(2, 12, dtype=torch.long), "pixel_values": torch.rand(2, 3, 32, 32)}
    names = [name for name, part in (("input_ids", "text"), ("pixel_values", "image")) if part in parts]
    outputs = [f"{part}_embeds" for part in ("text", "image") if part in parts]
    axes = {name: AXES[name] for name in names}
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Half(model, parts).eval(),
            tuple(given.get(name) if name in names else None for name in ("input_ids", "pixel_values")),
            str(path),
            input_names=names,
            output_names=outputs,
            dynamic_axes=axes,
            dynamo=False,
        )


def exported(tmp_path: Path, kind: str, layout: str) -> tuple[Path, Path]:
    """A transformers folder, and what an export of it holds."""
    import transformers

    source = write_hugging_face(tmp_path / "source", kind, PROCESSOR[kind])
    model = transformers.AutoModel.from_pretrained(source, attn_implementation="eager")
    out = tmp_path / "exported"
    out.mkdir()
    for path in source.glob("*.json"):
        shutil.copy(path, out)
    if layout == "one graph":
        export(model, out / "model.onnx", "text, image")
    else:
        export(model, out / layout / "text_model.onnx", "text")
        export(model, out / layout / "vision_model.onnx", "image")
    return source, out


def handle_of(folder: Path, tmp_path: Path, **more: Any) -> ModelHandle:
    config = compose(["suite=none", "model=onnx", f"model.path={folder}", f"cache.root={tmp_path / 'cache'}"]).model
    return resolve({**OmegaConf.to_container(config), **more}, tmp_path / "cache")


@pytest.mark.parametrize(("kind", "layout"), [("clip", "onnx"), ("clip", "one graph"), ("siglip", "")])
def test_the_embeddings_of_what_was_exported(kind: str, layout: str, tmp_path: Path) -> None:
    source, out = exported(tmp_path, kind, layout)
    reference = resolve(
        {"_target_": "clipeval.models.transformers.HuggingFace", "path": str(source)}, tmp_path / "cache"
    )
    handle = handle_of(out, tmp_path)
    assert handle.missing is None and handle.preprocess == reference.preprocess
    assert handle.tokenizer_digest == reference.tokenizer_digest and handle.weights_digest != reference.weights_digest
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with handle.load() as mine, reference.load() as theirs:
        torch.testing.assert_close(mine.encode_images(pixels), theirs.encode_images(pixels), rtol=0, atol=1e-5)
        torch.testing.assert_close(mine.encode_texts(TEXTS), theirs.encode_texts(TEXTS), rtol=0, atol=1e-5)


def broken(out: Path) -> None:
    (out / "model.onnx").write_bytes(b"no graph")


def nothing(out: Path) -> None:
    (out / "model.onnx").unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (broken, r"model\.onnx is no ONNX graph that can be run"),
        (nothing, r"holds neither model\.onnx nor vision_model\.onnx"),
    ],
)
def test_folders_that_hold_no_model(damage: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    _, out = exported(tmp_path, "clip", "one graph")
    damage(out)
    with pytest.raises(ClipevalError, match=said):
        handle_of(out, tmp_path).load()


def test_what_an_exported_graph_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, out = exported(tmp_path, "clip", "")
    with pytest.raises(ClipevalError, match=r"runtime\.precision=bf16: an exported graph computes as it was exported"):
        handle_of(out, tmp_path).load(precision="bf16")
    with pytest.raises(ClipevalError, match=r"model\.image_size"):
        handle_of(out, tmp_path, image_size=64)
    with pytest.raises(ClipevalError, match="Unknown key of model 'adapter'"):
        handle_of(out, tmp_path, adapter="x")
    (out / "vision_model.onnx").write_bytes((out / "text_model.onnx").read_bytes())
    with pytest.raises(ClipevalError, match="takes input_ids, and pixel_values was expected"):
        handle_of(out, tmp_path).load()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ClipevalError, match=r"pip install 'clipeval\[onnx\]'"):
        handle_of(out, tmp_path).load()
