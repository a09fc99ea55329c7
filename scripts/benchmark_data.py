"""What the benchmark measures on, made once in a cache folder: photographs, a shard, checkpoints of random weights.

Photographs are crops of scikit-learn's two sample pictures, 500 x 375, JPEG. Random weights cost the same time as trained
ones; nothing here says anything of accuracy.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("temple", "flower", "tower", "garden", "roof", "petal", "sky", "leaf", "wall", "bee")
TEMPLATES = ("a photo of a {c}.", "a blurry photo of a {c}.", "a drawing of a {c}.")


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, made by `make` unless it is there; what was begun and not finished is made anew."""
    if not folder.exists():
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        make(partial)
        partial.rename(folder)
    return folder


def checkpoint(cache: Path, name: str) -> str:
    """An architecture of open_clip with random weights (seed 0), as a folder that both sides load: `local-dir:…`."""

    def make(folder: Path) -> None:
        import open_clip

        _write_model(folder, open_clip.get_model_config(name))

    return f"local-dir:{once(cache / name, make)}"


def wide_checkpoint(cache: Path) -> str:
    """The tiny CLIP of tiny_model.py with embeddings as long as those of ViT-B-32."""

    def make(folder: Path) -> None:
        from scripts.tiny_model import config_of

        _write_model(folder, {**config_of(), "embed_dim": 512})

    return f"local-dir:{once(cache / 'wide', make)}"


def _write_model(folder: Path, config: dict[str, Any]) -> None:
    import open_clip
    import torch
    from safetensors.torch import save_file

    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")


def tiny_checkpoint(cache: Path) -> str:
    """The tiny CLIP of tiny_model.py: two layers of width 32 in each tower."""

    def make(folder: Path) -> None:
        from scripts.tiny_model import write_tiny_model

        write_tiny_model(folder)

    return f"local-dir:{once(cache / 'tiny', make)}"


def shard(cache: Path, images: int) -> Path:
    """A data root whose one set, `photos`, is one shard of 500 x 375 JPEGs in ten classes."""

    def make(root: Path) -> None:
        test = root / "photos" / "test"
        test.mkdir(parents=True)
        (test / "nshards.txt").write_text("1\n")
        (root / "photos" / "classnames.txt").write_text("".join(f"{name}\n" for name in CLASSES))
        (root / "photos" / "zeroshot_classification_templates.txt").write_text("".join(f"{t}\n" for t in TEMPLATES))
        with tarfile.open(test / "0.tar", "w") as tar:
            for i, data in enumerate(_photographs(images)):
                _add(tar, f"s{i:07d}.jpg", data)
                _add(tar, f"s{i:07d}.cls", str(i % len(CLASSES)).encode())

    return once(cache / f"photos-{images}", make)


def association(cache: Path, instances: int, pictures: int) -> Path:
    """A set of WinoGAViL's size: `instances` questions of 5, 6, 10 or 12 candidates among `pictures` small pictures."""

    def make(root: Path) -> None:
        rng = np.random.default_rng(0)
        test = root / "wino" / "test"
        test.mkdir(parents=True)
        (test / "nshards.txt").write_text("1\n")
        (root / "wino" / "dataset_type.txt").write_text("association\n")
        with tarfile.open(test / "0.tar", "w") as tar:
            for i in range(pictures):
                buffer = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(buffer, "JPEG")
                _add(tar, f"s{i:07d}.jpg", buffer.getvalue())
        lines = []
        for number in range(instances):
            chosen = [f"s{i:07d}" for i in rng.choice(pictures, (5, 6, 10, 12)[number % 4], replace=False)]
            lines.append({"id": number, "cue": f"cue {number % 900}", "candidates": chosen, "associations": chosen[:2]})
        (test / "instances.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    return once(cache / f"wino-{instances}-{pictures}", make)


def miniature(cache: Path, samples: int = 50) -> Path:
    """DataComp's 40 folders in small, with their full class lists."""

    def make(folder: Path) -> None:
        from scripts.make_miniature import write_miniature

        write_miniature(folder, samples)

    return once(cache / f"miniature-{samples}", make)


def whole(cache: Path) -> Path:
    """DataComp's 40 folders with as many samples as they really have, of small pictures."""

    def make(folder: Path) -> None:
        from scripts.make_miniature import write_whole

        write_whole(folder)

    return once(cache / "whole", make)


def embeddings(images: int, captions: int, width: int = 512) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """float32 unit rows for images and for captions near their image, and how many captions each image has."""
    rng = np.random.default_rng(0)
    counts = [captions // images + (i < captions % images) for i in range(images)]
    base = rng.standard_normal((images, width), dtype=np.float32)
    text = np.repeat(base, counts, axis=0) + 3 * rng.standard_normal((captions, width), dtype=np.float32)
    image, caption = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (base, text))
    return image, caption, counts


def _photographs(count: int) -> list[bytes]:
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    originals = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    photographs = []
    for i in range(count):
        picture = originals[i % len(originals)]
        width = int(rng.integers(400, 569))
        height = width * 3 // 4
        left, top = int(rng.integers(0, picture.width - width + 1)), int(rng.integers(0, picture.height - height + 1))
        crop = picture.crop((left, top, left + width, top + height)).resize((500, 375), Image.Resampling.BICUBIC)
        if i % 4 > 1:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        buffer = io.BytesIO()
        crop.save(buffer, "JPEG", quality=90)
        photographs.append(buffer.getvalue())
    return photographs


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
