"""The reference is fp32 on the CPU: a GPU gives the same pixels bit for bit, and the same embeddings to 1e-5."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from clipeval.models import resolve
from clipeval.preprocess.transforms import Preprocess
from tests.gpu.towers import ARCHITECTURES, write_tower

TOLERANCE = 1e-5
CONSTANTS = {
    "CLIP": {},
    "SigLIP": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    "ImageNet": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
}
TEXTS = [
    "a",
    "a photo of a cat.",
    "a photo of a dog.",
    "two dogs and a red frisbee on the grass, in the rain; behind them, a white house with 3 windows.",
    "a low resolution photo of the great white shark",
    "word " * 100,
]


def old_switches() -> None:
    """TF32 as training scripts have switched it on for years."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True


def medium() -> None:
    """TF32, and bfloat16 where that is quicker."""
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True


def new_switches() -> None:
    """TF32 by the interface since torch 2.9, for everything."""
    if not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("torch before 2.9")
    torch.backends.fp32_precision = "tf32"


def settings() -> list[str]:
    """As far as torch says: where both interfaces were used, its getters refuse to."""
    found = []
    for ask in (torch.get_float32_matmul_precision, lambda: torch.backends.cudnn.allow_tf32):
        try:
            found.append(str(ask()))
        except RuntimeError:
            found.append("mixed")
    return [*found, getattr(torch.backends, "fp32_precision", "")]


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def name(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tower(tmp_path_factory.mktemp(str(request.param)), request.param)


class Reference(NamedTuple):
    """What the CPU makes of some pictures and TEXTS."""

    pictures: torch.Tensor
    rows: torch.Tensor
    texts: torch.Tensor
    trims: bool
    shares: bool


@pytest.fixture(scope="module")
def reference(name: str, images: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    threads = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # the tests' tiny models leave one
    with resolve({"name": name}, tmp_path_factory.mktemp("cache")).load("cpu") as encoder:
        factor = encoder.preprocess.size[0] // images.shape[2]  # type: ignore[index, union-attr]
        pictures = images[: 24 if factor == 1 else 6].repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
        rows, texts = encoder.encode_images(pictures), encoder.encode_texts(TEXTS)
        found = Reference(pictures, rows, texts, encoder.trims, encoder.shares)
    torch.set_num_threads(threads)
    assert float(torch.pdist(rows).min()) > 100 * TOLERANCE, "a model that tells two images not apart shows nothing"
    return found


@pytest.mark.parametrize("constants", list(CONSTANTS))
def test_normalisation_is_the_cpus_bit_for_bit(constants: str, device: torch.device) -> None:
    preprocess = Preprocess((16, 48), **CONSTANTS[constants])  # type: ignore[arg-type]
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16).repeat(1, 1, 1, 3)
    noise = torch.randint(0, 256, (37, 3, 16, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for batch in (every.contiguous(), noise, noise.contiguous(memory_format=torch.channels_last), noise[:1]):
        mean, std = (torch.tensor(c).view(3, 1, 1) for c in (preprocess.mean, preprocess.std))
        expected = (batch.float() / torch.tensor(255.0) - mean) / std
        assert torch.equal(preprocess.normalise(batch), expected)
        assert torch.equal(preprocess.normalise(batch.to(device)).cpu(), expected)


@pytest.mark.parametrize("outside", [None, old_switches, medium, new_switches], ids=["plain", "tf32", "medium", "new"])
def test_fp32_embeddings_are_the_cpus(
    name: str, reference: Reference, outside: Callable[[], None] | None, device: torch.device, tmp_path: Path
) -> None:
    if outside is not None:
        outside()
    before = settings()
    with resolve({"name": name}, tmp_path).load(device) as encoder:
        assert (encoder.trims, encoder.shares) == (reference.trims, reference.shares)
        for pictures in (reference.pictures, reference.pictures.to(device)):
            rows = encoder.encode_images(pictures)
            assert rows.device == encoder.device
            torch.testing.assert_close(rows.cpu(), reference.rows, rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(encoder.encode_texts(TEXTS), reference.texts, rtol=0, atol=TOLERANCE)
    assert settings() == before


@pytest.mark.parametrize("precision", ["bf16", "fp16", "datacomp", "datacomp_tf32"])
def test_each_precision_is_near_the_reference_and_not_it(
    precision: str, name: str, reference: Reference, device: torch.device, tmp_path: Path
) -> None:
    with resolve({"name": name}, tmp_path).load(device, precision) as encoder:
        rows = encoder.encode_images(reference.pictures, mixed=True)
        assert rows.dtype == torch.float32 and rows.device == encoder.device
        for got, wanted in ((rows.cpu(), reference.rows), (encoder.encode_texts(TEXTS), reference.texts)):
            assert float((got * wanted).sum(dim=1).min()) > 0.99
            assert float((got - wanted).abs().max()) > TOLERANCE, "that was fp32"
        if precision.startswith("datacomp"):  # images of sets that were not published under mixed precision
            full = encoder.encode_images(reference.pictures).cpu()
            near = TOLERANCE if precision == "datacomp" or device.type != "cuda" else 5e-3  # convolutions in TF32
            torch.testing.assert_close(full, reference.rows, rtol=0, atol=near)
            amp = "amp-fp16" if device.type == "cuda" else "amp-bf16"
            assert (encoder.image_precision(True), encoder.text_precision()) == (amp, amp)
