"""Scores of checkpoints in TensorBoard, Weights & Biases and MLflow, by their own clients, offline."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipeval.configs.errors import ClipevalError
from clipeval.results.curve import metric_name
from clipeval.results.sinks import Sinks

ACC = "zero_shot/imagenet1k_quick2000/acc1"


def tell(text: str, tmp_path: Path) -> None:
    """Two starts of a watch: the second one knows the first checkpoint."""
    for names in (["epoch_1.pt"], ["epoch_1.pt", "epoch_2.pt"]):
        with Sinks([text], "logs-run", tmp_path / "curve.sinks.json") as sinks:
            for name in names:
                step = int(name[6])
                sinks.log(name, {ACC: {1: 0.10371, 2: 0.20371}[step], "zero_shot/average": 0.5}, step)


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tell(f"tensorboard={tmp_path / 'tb'}", tmp_path)
    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert [(e.step, round(e.value, 6)) for e in events.Scalars(ACC)] == [(1, 0.10371), (2, 0.20371)]


def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    tell("wandb=project", tmp_path)
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    assert len({file.name for file in files}) == 1, "a run that goes on"
    written = [file.read_bytes() for file in files]
    assert all(ACC.encode() in content for content in written)
    assert b"0.20371" in written[1]
    assert b"0.20371" not in written[0]


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    tell("mlflow=experiment", tmp_path)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("experiment").experiment_id])
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, ACC)] == [(1, 0.10371), (2, 0.20371)]


def test_what_is_none(tmp_path: Path) -> None:
    with pytest.raises(ClipevalError, match="wandb"):
        Sinks(["wandv=x"], "s", tmp_path / "m.json")
    with pytest.raises(ClipevalError, match="KIND=WHERE"):
        Sinks(["wandb"], "s", tmp_path / "m.json")


def test_names_are_ones_that_every_logger_takes() -> None:
    flags = ["a quick subset, 2,000 of 50,000 samples, stratified by class (data.limit)"]
    assert metric_name("imagenet1k", "acc1", flags, 2000) == ACC
    assert metric_name("flickr30k", "image_retrieval_recall@5") == "zero_shot/flickr30k/image_retrieval_recall_at_5"
    assert metric_name("a", "acc_tone:1") == "zero_shot/a/acc_tone_1"
