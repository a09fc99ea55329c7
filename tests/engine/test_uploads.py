"""Copies to a GPU that take their time: from the decoders' own memory, or from pinned buffers where CUDA does not register it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clipeval.decoding import decoders, uploads
from clipeval.decoding.decoders import DecodeJob
from clipeval.decoding.uploads import Uploads
from clipeval.engine.stream import ImageStream, StreamOptions
from clipeval.models.precision import stream_of_its_own
from tests.engine.fake_cuda import FakeCuda
from tests.engine.test_device_faults import COUNT, GreyEncoder, Squares

DEVICE = torch.device("cuda:1")


@pytest.mark.parametrize("registered", [True, False])
def test_memory_is_filled_anew_once_it_was_copied(monkeypatch: pytest.MonkeyPatch, registered: bool) -> None:
    cuda = FakeCuda(monkeypatch)
    cuda.busy = 1
    place = torch.zeros(1 << 16, dtype=torch.uint8)
    sender = Uploads(DEVICE)
    if registered:
        sender.register(place)
        assert cuda.registered == {place.data_ptr(): place.nbytes}
    sent = []
    for number in range(1, 20):
        place[: 100 * number] = number
        there, free = sender.send(place[: 100 * number].view(-1, 10))
        assert (free is not None) is registered
        if free is not None:
            free.synchronize()
        place.zero_()
        sent.append(there)
    if not registered:
        assert sum(cuda.done.values()) >= len(sent) - uploads.STAGED, (
            "no more than those on their way lie in pinned memory"
        )
        assert cuda.pinned == {1}
    cuda.run((1, 0))  # what the encoder's stream was given waits for the copies
    for number, there in enumerate(sent, 1):
        assert there.shape == (10 * number, 10) and bool((there == number).all())
    assert {there.data_ptr() for there in sent} <= cuda.handed_over
    sender.close()
    sender.close()
    assert not cuda.registered


def test_other_memory_than_the_registered_one_is_staged(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch)
    whole = torch.zeros(64, dtype=torch.uint8)
    sender = Uploads(DEVICE)
    sender.register(whole[16:48])
    inside = [sender.send(part)[1] is not None for part in (whole[16:48], whole[20:30], whole[:20], whole[40:], whole)]
    assert inside == [True, True, False, False, False]


@pytest.mark.parametrize("why", ["refused", "no such function"])
def test_what_cuda_does_not_register_is_said_and_copied_otherwise(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    cuda = FakeCuda(monkeypatch)
    if why == "refused":
        cuda.refuses = 2
        zeros, asked = torch.zeros, list[object]()

        def fails(*size: int, device: object) -> torch.Tensor:
            asked.append(device)
            raise RuntimeError("CUDA error: out of memory")  # the refusal, reported a second time

        monkeypatch.setattr(torch, "zeros", fails)
    else:
        monkeypatch.setattr(torch.cuda, "cudart", lambda: object())
    sender = Uploads(DEVICE)
    sender.register(torch.ones(3 << 20, dtype=torch.uint8))
    assert "copied once more on their way to cuda:1" in caplog.text and not cuda.registered
    if why == "refused":
        assert asked == [DEVICE] and "3 MB" in caplog.text and "error 2" in caplog.text
        monkeypatch.setattr(torch, "zeros", zeros)
    assert sender.send(torch.ones(5))[1] is None
    sender.close()


@pytest.mark.parametrize("refuses", [0, 2])
@pytest.mark.parametrize("size", [24, 40])
def test_decoders_wait_with_memory_that_a_gpu_still_copies(
    monkeypatch: pytest.MonkeyPatch, refuses: int, size: int
) -> None:
    """Four slots for 32 runs; batches that end within a run."""
    cuda = FakeCuda(monkeypatch)
    cuda.busy, cuda.refuses = 1, refuses
    monkeypatch.setattr(decoders, "CHUNK", 8)
    monkeypatch.setattr(decoders, "AHEAD", {"cuda": 1})
    job = DecodeJob("a", Squares(), np.arange(COUNT), "rgb_first", False)
    got = np.full(COUNT, -1.0)
    with ImageStream([job], GreyEncoder.preprocess, StreamOptions(2, size), DEVICE) as stream:
        for piece in stream.embed(GreyEncoder(cuda)):  # type: ignore[arg-type]
            got[piece.indices] = piece.rows[:, 0].numpy()
        assert len(cuda.registered) == (0 if refuses else 1)
    assert not cuda.registered and (got == np.arange(COUNT)).all()


def test_a_device_without_room_for_a_batch_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch)

    def full(*given: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.2 GiB")

    monkeypatch.setattr(Uploads, "empty", full)
    job = DecodeJob("a", Squares(), np.arange(8), "rgb_first", False)
    stream = ImageStream([job], GreyEncoder.preprocess, StreamOptions(0, 8), DEVICE)
    with pytest.raises(
        Exception, match=r"batch: cuda:1 has no memory left .*1\.2 GiB\)\. Set runtime\.batch_size lower"
    ):
        list(stream.embed(GreyEncoder))  # type: ignore[arg-type]


def test_a_score_is_computed_beside_the_encoder_and_done_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, done = FakeCuda(monkeypatch), list[str]()
    cuda.busy = 1
    cuda.push(lambda: done.append("a batch"))
    with stream_of_its_own(DEVICE):
        cuda.push(lambda: done.append("a score"))
        assert cuda.stream_of(1) != (1, 0)
    assert done == ["a score"] and cuda.stream_of(1) == (1, 0)
    with stream_of_its_own(torch.device("cpu")):
        assert cuda.made == 1
