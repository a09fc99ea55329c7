"""What a run does on CUDA devices, simulated on the CPU (`tests.engine.fake_cuda`)."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clipeval.configs.errors import ClipevalError
from clipeval.decoding.decoders import DecodeJob
from clipeval.engine.features import FeatureStores
from clipeval.engine.scoring import ScoringQueue
from clipeval.engine.stream import ImageStream, StreamOptions
from clipeval.models import batch_size, resolve
from clipeval.models.batch_size import default_batch
from clipeval.models.encoder_group import EncoderGroup
from clipeval.models.precision import indexed
from clipeval.preprocess.transforms import CustomTransform, Preprocess
from scripts.tiny_model import write_tiny_model
from tests.engine.fake_cuda import FakeCuda

COUNT = 250


class Squares:
    """Picture n is of the grey n."""

    digest = "squares"

    def __len__(self) -> int:
        return COUNT

    def read(self, place: int) -> bytes:
        data = io.BytesIO()
        Image.new("RGB", (8, 8), (place,) * 3).save(data, "PNG")
        return data.getvalue()

    def location(self, place: int) -> str:
        return str(place)


class GreyEncoder:
    """On one device; gives the grey of each picture."""

    preprocess = Preprocess((8, 8))

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda

    def encode(self, output: str, batch: torch.Tensor, mixed: bool = False) -> torch.Tensor:
        rows = torch.zeros(len(batch), 1)
        self.cuda.push(lambda: rows.__setitem__(slice(None), batch[:, 0, 0, :1].float()))
        return rows


@pytest.mark.parametrize(("device", "now"), [("cuda", 0), ("cuda", 1), ("cuda:0", 0), ("cuda:1", 0), ("cuda:0", 1)])
def test_the_stream_waits_for_the_encoders_device_whichever_is_current(
    monkeypatch: pytest.MonkeyPatch, device: str, now: int
) -> None:
    cuda = FakeCuda(monkeypatch)
    cuda.current = now
    cuda.busy = cuda.index(torch.device(device))
    job = DecodeJob("a", Squares(), np.arange(COUNT), "rgb_first", False)
    stream = ImageStream([job], GreyEncoder.preprocess, StreamOptions(0, 32), torch.device(device))
    cuda_index = cuda.index(torch.device(device))
    cuda.current = 1 - now if device == "cuda" else now  # `cuda` is the one that was current when the stream was made
    got = np.full(COUNT, -1.0)
    for piece in stream.embed(GreyEncoder(cuda)):  # type: ignore[arg-type]
        got[piece.indices] = piece.rows[:, 0].numpy()
    assert (got == np.arange(COUNT)).sum() == COUNT
    assert cuda.pinned == {cuda_index}


def test_cuda_without_an_index_is_the_current_device_once_and_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    cuda.current = 1
    assert indexed(torch.device("cuda")) == torch.device("cuda:1")
    assert indexed(torch.device("cuda:0")) == torch.device("cuda:0")
    assert indexed(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("many", [False, True])
def test_the_batch_size_is_searched_on_the_encoders_device_for_one_model_and_for_many(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, many: bool
) -> None:
    encoder = resolve({"name": write_tiny_model(tmp_path / "model")}, tmp_path / "cache").load()
    zeros, asked, waited, given_back = torch.zeros, [], [], []

    def fake_zeros(*size: Any, device: Any = None, **more: Any) -> torch.Tensor:
        asked.append(device)
        return zeros(*size, **more)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros", fake_zeros)
        patch.setattr(torch.cuda, "synchronize", waited.append)
        patch.setattr(torch.cuda, "device", lambda device: nullcontext(given_back.append(device)))
        patch.setattr(torch.cuda, "empty_cache", lambda: given_back.append("emptied"))
        size = default_batch(EncoderGroup([encoder, encoder]) if many else encoder, torch.device("cuda:1"))  # type: ignore[arg-type]
    assert size >= 32 and set(asked) - {None} == {torch.device("cuda:1")}
    assert waited and None not in waited
    assert given_back[-2:] == [torch.device("cuda:1"), "emptied"]


class Sizes:
    """An encoder that notes how large the batches were; of a transform of the user's own, which gives 336 pixels."""

    preprocess = CustomTransform(lambda image: torch.zeros(3, 336, 336), "own", "a function")

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    @contextmanager
    def uncompiled(self) -> Iterator[None]:
        yield

    def encode_images(self, batch: torch.Tensor) -> torch.Tensor:
        self.seen.append(tuple(batch.shape))
        return torch.zeros(len(batch), 4)

    def encode(self, output: str, batch: torch.Tensor, mixed: bool = False) -> torch.Tensor:
        return torch.zeros(len(batch), 4)


@pytest.mark.parametrize(("images", "most"), [(20, 32), (33, 64), (COUNT, 256)])
def test_the_search_sees_images_as_they_come_and_ends_with_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, images: int, most: int
) -> None:
    cuda, zeros, noted = FakeCuda(monkeypatch), torch.zeros, list[int]()
    monkeypatch.setattr(torch, "zeros", lambda *size, device=None, **more: zeros(*size, **more))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(batch_size, "_rate", lambda encoder, batch: encoder.encode_images(batch).shape[0] ** 2)
    options = StreamOptions(0, None, batch_memo=tmp_path / "memo", note_batch=noted.append)
    for again in range(2):
        encoder = Sizes()
        job = DecodeJob("a", Squares(), np.arange(images), "rgb_first", False)
        stream = ImageStream([job], encoder.preprocess, options, torch.device("cuda:1"))
        list(stream.embed(encoder))  # type: ignore[arg-type]
        assert noted == [most] * (again + 1)
        assert {shape[1:] for shape in encoder.seen} == {(3, 336, 336)}
        assert max(shape[0] for shape in encoder.seen) == most
    assert not list(tmp_path.iterdir()), "what ended with the images says nothing of the device"
    (tmp_path / "memo-1").write_text("48")
    encoder = Sizes()
    list(ImageStream([job], encoder.preprocess, options, torch.device("cuda:1")).embed(encoder))  # type: ignore[arg-type]
    assert not encoder.seen and noted[-1] == min(48, most) and cuda.current == 0


def test_many_models_are_uncompiled_together_and_compiled_again(tmp_path: Path) -> None:
    encoders = [resolve({"name": write_tiny_model(tmp_path / "m")}, tmp_path / "cache").load() for _ in range(2)]
    for encoder in encoders:
        encoder._compiled = True
    with EncoderGroup(encoders).uncompiled():
        assert not any(encoder._compiled for encoder in encoders)
    assert all(encoder._compiled for encoder in encoders)


def test_the_scorers_thread_works_on_the_encoders_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    seen: list[int] = []
    task = SimpleNamespace(
        name="Task",
        on_device=False,
        output="labels",
        text_output="embeddings",
        score=lambda images, texts, samples: seen.append(cuda.current),
    )
    planned = SimpleNamespace(id="a", samples={}, features={}, texts=[], task=task)
    texts: Any = {"a": SimpleNamespace(rows=lambda texts: torch.ones(0, 1), parts={"label": "model"})}
    unused: Any = None
    device = torch.device("cuda:1")
    queue = ScoringQueue([], FeatureStores(None), texts, lambda scored: unused, unused, unused, device)
    queue._score(planned, 0.0)  # type: ignore[arg-type]
    assert seen == [1] and cuda.current == 0


@pytest.mark.parametrize("device", ["cuda:1", "cpu"])
def test_a_task_that_the_device_has_no_memory_for_is_scored_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, device: str
) -> None:
    FakeCuda(monkeypatch)
    emptied, flags, full = list[bool](), list[str](), [True]
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))

    def score(images: object, texts: object, samples: object) -> str:
        if full and full.pop():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.88 GiB")
        return "scores"

    unused: Any = None
    task = SimpleNamespace(name="Probe", on_device=False, score=score)
    queue = ScoringQueue([], FeatureStores(None), {}, unused, unused, unused, torch.device(device))
    planned: Any = SimpleNamespace(task=task)
    if device == "cpu":
        with pytest.raises(ClipevalError, match=r"^Probe: cpu has no memory left .*the same command goes on"):
            queue._scores(planned, {}, torch.ones(0, 1), {}, flags)
    else:
        assert queue._scores(planned, {}, torch.ones(0, 1), {}, flags) == "scores"
        assert emptied and flags == ["scored on the CPU, for cuda:1 had no memory left"] and "4.88 GiB" in caplog.text


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("most", [1, 11, 40])
def test_a_compiled_tower_that_runs_out_of_memory_goes_on_with_smaller_batches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, many: bool, most: int
) -> None:
    """torch.compile without its compiler; of several models, the last one is the one that does not fit."""
    compiled: list[list[int]] = []

    def compile_(function: Callable[[torch.Tensor], torch.Tensor], dynamic: bool) -> Any:
        sizes: list[int] = []
        compiled.append(sizes)
        number = len(compiled)

        def call(images: torch.Tensor) -> torch.Tensor:
            sizes.append(len(images))
            if len(images) > (most if number == 1 + many else 64):
                raise torch.OutOfMemoryError
            return function(images)

        return call

    handle = resolve({"name": write_tiny_model(tmp_path / "model")}, tmp_path / "cache")
    plain = handle.load()
    monkeypatch.setattr(torch, "compile", compile_)
    encoders = [handle.load(compile=True) for _ in range(1 + many)]
    job = DecodeJob("a", Squares(), np.arange(COUNT), "rgb_first", False)
    stream = ImageStream([job], plain.preprocess, StreamOptions(0, 64), torch.device("cpu"))
    rows = torch.zeros(COUNT, plain.embed_dim)
    for piece in stream.embed(EncoderGroup(encoders) if many else encoders[0]):  # type: ignore[arg-type]
        rows[piece.indices] = piece.rows[:, -plain.embed_dim :]
    pixels = torch.stack([plain.preprocess.pixels(Squares().read(place)) for place in range(COUNT)])
    torch.testing.assert_close(rows, plain.encode_images(pixels), rtol=0, atol=1e-6)
    fits = {1: 1, 11: 8, 40: 32}[most]
    tried = [64 >> step for step in range(7) if 64 >> step >= fits]
    for sizes in compiled:
        assert list(dict.fromkeys(sizes)) == tried, "each size is compiled once, and none after the one that fits"
