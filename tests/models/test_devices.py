"""Which device `auto` is, and what is said where it is not the one that was expected."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clipeval.configs.errors import ClipevalError
from clipeval.models import precision
from clipeval.models.precision import pick_device

GPU_WORDS = ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS", "SLURM_STEP_GPUS")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """One without a GPU that torch can use; what its drivers make lies in the folder."""
    for name in GPU_WORDS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(precision, "_GPU_FILES", (tmp_path / "nvidia0", tmp_path / "kfd"))
    return tmp_path


def test_auto_is_cuda_then_mps_then_the_cpu(
    machine: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert pick_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert pick_device("auto") == torch.device("cuda")
    assert not caplog.text


@pytest.mark.parametrize("sign", ["nvidia0", "kfd", *GPU_WORDS])
def test_a_gpu_whose_driver_does_not_start_is_not_passed_over_in_silence(
    machine: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, sign: str
) -> None:
    if sign in GPU_WORDS:
        monkeypatch.setenv(sign, "0")
    else:
        (machine / sign).touch()
    assert pick_device("auto") == torch.device("cpu")
    assert "there seems to be a GPU" in caplog.text and sign in caplog.text
    with pytest.raises(ClipevalError, match=r"runtime\.device=cuda is not on this machine \(0 CUDA devices\)"):
        pick_device("cuda")
    caplog.clear()
    assert pick_device("cpu") == torch.device("cpu") and not caplog.text, "asked for"


@pytest.mark.parametrize("hidden", ["", "-1", "NoDevFiles"])
def test_a_gpu_that_is_hidden_on_purpose_is_not_mentioned(
    machine: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, hidden: str
) -> None:
    (machine / "nvidia0").touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert pick_device("auto") == torch.device("cpu") and not caplog.text


@pytest.mark.parametrize("device", ["cuda:1", "cuda:7"])
def test_a_gpu_that_is_not_there_is_one_error(machine: Path, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ClipevalError, match=f"{device} is not on this machine .1 CUDA devices"):
        pick_device(device)
