"""Files that are not what their names say: each is one sentence, with what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipeval.configs.errors import ClipevalError
from clipeval.models import resolve
from scripts.tiny_model import write_tiny_model
from tests.models.tiny_hugging_face import CLIP_PROCESSOR, write_hugging_face

HF = "clipeval.models.transformers.HuggingFace"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:2f0c\nsize 598595372\n"
PAGE = "<!DOCTYPE html><html>404</html>"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("files")
    write_tiny_model(place / "open_clip")
    write_hugging_face(place / "hf", "clip", CLIP_PROCESSOR)
    return place / "open_clip", place / "hf"


def said(config: dict[str, Any], cache: Path) -> str:
    with pytest.raises(ClipevalError) as caught:
        resolve(config, cache).load().close()
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("content", "words"),
    [(POINTER, "a pointer of Git LFS, .*git lfs pull"), (PAGE, "a page of the web .*fetch it anew")],
)
def test_what_stands_in_the_place_of_a_file(
    content: str, words: str, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    import re

    open_clip, hf = (Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in folders)
    (open_clip / "open_clip_model.safetensors").write_text(content)
    assert re.search(words, said({"name": f"local-dir:{open_clip}"}, tmp_path))
    (tmp_path / "epoch_5.pt").write_text(content)
    named = {"name": "ViT-S-32-alt", "pretrained": str(tmp_path / "epoch_5.pt")}
    assert re.search(words, said(named, tmp_path))
    weights = (hf / "model.safetensors").read_bytes()
    (hf / "model.safetensors").write_text(content)
    assert re.search(words, said({"_target_": HF, "path": str(hf)}, tmp_path))
    (hf / "model.safetensors").write_bytes(weights)
    (hf / "tokenizer.json").write_text(content)
    assert re.search(words, said({"_target_": HF, "path": str(hf)}, tmp_path))


def wider(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["hidden_size"] *= 2
    (folder / "config.json").write_text(json.dumps(config))


def half(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def another_index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-2.safetensors"}})
    )


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            wider,
            "23 of its weights have another shape (such as 'vision_model.embeddings.class_embedding': [16] in the file, [32]",
        ),
        (half, "it is truncated, fetch it anew"),
        (another_index, "model-00001-of-2.safetensors of its weights is not on this machine; copy it there"),
        (
            lambda folder: (folder / "preprocessor_config.json").unlink(),
            "has no preprocessor_config.json, which says how",
        ),
        (lambda folder: (folder / "config.json").unlink(), "config.json is not there; expected a folder"),
        (shutil.rmtree, "there is no such folder"),
    ],
)
def test_a_transformers_folder(
    damage: Callable[[Path], Any],
    words: str,
    folders: tuple[Path, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = Path(shutil.copytree(folders[1], tmp_path / "hf"))
    damage(folder)
    assert words in said({"_target_": HF, "path": str(folder)}, tmp_path)
    assert "LOAD REPORT" not in capfd.readouterr().err  # nothing but the sentence


def test_a_folder_in_the_other_form(folders: tuple[Path, Path], tmp_path: Path) -> None:
    open_clip, hf = folders
    assert f"model=open_clip model.name=local-dir:{open_clip}" in said(
        {"_target_": HF, "path": str(open_clip)}, tmp_path
    )
    assert f"model=hf_transformers model.path={hf}" in said({"name": f"local-dir:{hf}"}, tmp_path)
    assert "hf-hub:ORG/REPO was expected" in said({"name": "hf-hub:org"}, tmp_path)


def test_sizes_that_do_not_fit_a_patch(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for config in ({"name": f"local-dir:{folders[0]}"}, {"_target_": HF, "path": str(folders[1])}):
        assert "model.image_size=8 is less than a patch" in said({**config, "image_size": 8}, tmp_path)
        flags = resolve({**config, "image_size": 33}, tmp_path).flags
        assert any("no multiple of the patches, of 16 pixels: the last 1 rows" in flag for flag in flags)


def test_more_dimensions_than_a_transformers_model_has(folders: tuple[Path, Path], tmp_path: Path) -> None:
    found = said({"_target_": HF, "path": str(folders[1]), "dimensions": 4096}, tmp_path)
    assert found == "model.dimensions=4096: the embeddings of hf have 8 numbers"
