"""Decoder processes: shared memory that is used again and again, transforms of unknown shape, standing still, orphans."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clipeval.decoding import decoders
from clipeval.decoding.decoders import CHUNK, DecodeJob, Decoders
from clipeval.decoding.processes import default_workers
from clipeval.models.small_cpu import shares_cores
from clipeval.preprocess.transforms import CustomTransform, Preprocess, Transform
from tests.engine.test_stream import Squares

CPU = torch.device("cpu")
COUNT = 20 * CHUNK + 5


class Broken(Squares):
    """Squares of which every seventh is no image; counts what is read, over all processes."""

    def __init__(self, first: int, count: int) -> None:
        super().__init__(first, count)
        self.reads = multiprocessing.Value("q", 0)

    def read(self, position: int) -> bytes:
        with self.reads.get_lock():
            self.reads.value += 1
        return b"no image" if position % 7 == 3 else super().read(position % 256)


def plain(image: Image.Image) -> torch.Tensor:
    """A transform that cannot be read."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[:, :4, :5].float()


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("transform", [Preprocess((8, 6)), CustomTransform(plain, "plain", "a function")])
def test_every_image_arrives_in_order_whole_and_once(transform: Transform, workers: int) -> None:
    """More runs of samples than there are places in shared memory, so that each place is used several times."""
    jobs = [DecodeJob("a", Broken(0, COUNT), np.arange(COUNT), "rgb_first", False)]
    jobs.append(DecodeJob("b", Broken(0, 40), np.arange(39, -1, -1), "rgb_first", False))
    decoders = Decoders(jobs, transform, False, workers, CPU)
    found: list[list[int]] = [[], []]
    failed: list[list[int]] = [[], []]
    try:
        for decoded in decoders:
            assert decoded.pixels.shape[0] == len(decoded.indices)
            assert (decoded.pixels.numpy() == (decoded.indices % 256).reshape(-1, 1, 1, 1)).all()
            found[decoded.job] += decoded.indices.tolist()
            failed[decoded.job] += [index for index, _ in decoded.failures]
    finally:
        decoders.close()
    assert found == [[p for p in job.indices.tolist() if p % 7 != 3] for job in jobs]
    assert failed == [[p for p in job.indices.tolist() if p % 7 == 3] for job in jobs]


def test_images_of_an_unreadable_transform_do_not_pass_through_dev_shm() -> None:
    """Which in a container holds 64 MB: where the transform's size can be seen beforehand, they go the way of all others."""
    transform = CustomTransform(lambda image: plain(image)[:, :2, :3], "plain", "a function")
    decoders = Decoders([DecodeJob("a", Squares(0, 40), np.arange(40), "rgb_first", False)], transform, False, 2, CPU)
    try:
        assert decoders._slots is not None and decoders._slots.shape[2:] == (3, 2, 3)
        assert [int(d.pixels[i, 0, 0, 0]) for d in decoders for i in range(len(d.indices))] == list(range(40))
        bus = RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error.")
        assert "cut short" in str(decoders.died(bus))
        decoders._slots = None
        assert "--shm-size" in str(decoders.died(bus))
    finally:
        decoders.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_transform_of_changing_size_names_the_images(workers: int) -> None:
    """In one run of samples, and from one run to the next."""
    for odd in (5, range(CHUNK, 2 * CHUNK)):
        strange = {odd} if isinstance(odd, int) else set(odd)

        def cut(image: Image.Image, strange: set[int] = strange) -> torch.Tensor:
            pixels = plain(image)
            return pixels[:, :2] if int(pixels[0, 0, 0]) in strange else pixels

        jobs = [DecodeJob("a", Squares(0, 80), np.arange(80), "rgb_first", False)]
        decoders = Decoders(jobs, CustomTransform(cut, "cut", "a function"), False, workers, CPU)
        try:
            given = [(d.indices.tolist(), list(d.pixels.shape), d.failures) for d in decoders]
        finally:
            decoders.close()
        assert [index for _, _, failures in given for index, _ in failures] == sorted(strange)
        assert all("one size" in text for _, _, failures in given for _, text in failures)
        assert sum(len(indices) for indices, _, _ in given) == 80 - len(strange)
        assert all(shape[0] == len(indices) for indices, shape, _ in given)


def test_what_a_users_transform_raises_is_said_of_the_image() -> None:
    def broken(image: Image.Image) -> torch.Tensor:
        raise RuntimeError("no such crop")

    jobs = [DecodeJob("a", Squares(0, 3), np.arange(3), "rgb_first", False)]
    (decoded,) = Decoders(jobs, CustomTransform(broken, "broken", "a function"), False, 0, CPU)
    assert [index for index, _ in decoded.failures] == [0, 1, 2]
    assert "RuntimeError: no such crop" in decoded.failures[0][1]


def test_a_transform_that_cannot_be_sent_to_other_processes_runs_in_this_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where processes are started anew, as on macOS."""
    monkeypatch.setattr(decoders, "sys", SimpleNamespace(platform="darwin"))
    transform = CustomTransform(lambda image: plain(image), "plain", "a function")
    jobs = [DecodeJob("a", Squares(0, 40), np.arange(40), "rgb_first", False)]
    found = [int(d.pixels[i, 0, 0, 0]) for d in Decoders(jobs, transform, False, 2, CPU) for i in range(len(d.indices))]
    assert found == list(range(40))
    assert caplog.text.count("decoded in this process") == 1 and "lambda" in caplog.text


def test_decoders_stand_still_while_an_encoder_runs_on_their_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: len(os.sched_getaffinity(0)))
    images: Any = Broken(0, 100 * CHUNK)
    decoders = Decoders(
        [DecodeJob("a", images, np.arange(len(images)), "rgb_first", False)], Preprocess((8, 8)), False, 2, CPU
    )
    try:
        given = iter(decoders)
        next(given)
        with decoders.paused():
            time.sleep(0.2)  # each may be in the middle of an image
            before = images.reads.value
            time.sleep(0.5)
            assert images.reads.value == before
        assert before < len(images)
        assert sum(1 for _ in given) == 99  # and go on afterwards
    finally:
        decoders.close()


@pytest.mark.parametrize(("threads", "alone"), [(64, True), (1, False)])
def test_an_encoder_with_cores_to_spare_leaves_them_to_decoders(
    monkeypatch: pytest.MonkeyPatch, threads: int, alone: bool
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert shares_cores(CPU) is alone
    assert default_workers(CPU) == (64 if alone else 63)
    assert not shares_cores(torch.device("cuda")) and default_workers(torch.device("cuda")) == 64


ORPHANS = """
import os, signal, sys, numpy as np, torch
torch.get_num_threads = lambda: 10**6
from clipeval.decoding.decoders import Decoders, DecodeJob
from clipeval.preprocess.transforms import Preprocess
from tests.engine.test_stream import Squares
decoders = Decoders([DecodeJob("a", Squares(0, 250), np.arange(250), "rgb_first", False)], Preprocess((8, 8)), False, 2,
                    torch.device("cpu"))
with decoders.paused():
    print(*[worker.pid for worker in decoders._iterator._workers], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_decoders_that_stand_still_end_with_a_main_process_that_is_killed() -> None:
    root = Path(__file__).parent.parent.parent
    found = subprocess.run([sys.executable, "-c", ORPHANS], cwd=root, stdout=subprocess.PIPE, text=True, check=False)
    workers = [int(pid) for pid in found.stdout.split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 60
    while any(_lives(pid) for pid in workers):
        assert time.monotonic() < deadline, f"{workers} live on"
        time.sleep(0.2)


def _lives(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
