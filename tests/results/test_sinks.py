"""Scores of checkpoints in TensorBoard, Weights & Biases, MLflow and trackio, by their own clients, offline."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from clipeval.cli.main import main
from clipeval.configs.errors import ClipevalError
from clipeval.results.curve import metric_name
from clipeval.results.run_folder import RunFolder
from clipeval.results.sinks import Sinks, check
from clipeval.results.sinks import tell as tell_run

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
    written = [_records(file.read_bytes()) for file in files]
    assert all(ACC.encode() in content for content in written)
    assert b"0.20371" in written[1]
    assert b"0.20371" not in written[0]


def _records(content: bytes) -> bytes:
    """A .wandb file's records without the headers between them: blocks of 32 KiB, as LevelDB's log, may part a text."""
    found, at = b"", 7
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length = int.from_bytes(content[at + 4 : at + 6], "little")
        found += content[at + 7 : at + 7 + length]
        at += 7 + length
    return found


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    tell("mlflow=experiment", tmp_path)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("experiment").experiment_id])
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, ACC)] == [(1, 0.10371), (2, 0.20371)]


def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio")
    tell("trackio=project", tmp_path)
    assert SQLiteStorage.get_runs("project") == ["logs-run"], "a run that goes on"
    assert [(row["step"], row[ACC]) for row in SQLiteStorage.get_logs("project", "logs-run")] == [
        (1, 0.10371),
        (2, 0.20371),
    ]
    assert not capsys.readouterr().out, "standard output is the table's"


def test_a_run_tells_its_scores_once(factory: ModuleType, tmp_path: Path) -> None:
    """At the step that the checkpoint's name says; again where scores have come."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, text = tmp_path / "run", f"tensorboard={tmp_path / 'tb'}"

    factory.run(run, ["mnist"], pretrained="logs/epoch_7.pt")
    for _ in range(2):
        tell_run([text], run)
    factory.run(run, ["mnist", "imagenet1k"], pretrained="logs/epoch_7.pt")
    tell_run([text], run)
    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    value = RunFolder(run).record("mnist").value
    assert [(e.step, e.value) for e in events.Scalars("zero_shot/mnist/acc1")] == [(7, pytest.approx(value))] * 2
    assert [e.step for e in events.Scalars("zero_shot/average")] == [7]


def test_a_package_that_is_not_installed_is_named_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipeval.results.sinks.find_spec", lambda name: None)
    with pytest.raises(ClipevalError, match=r"--sink wandb=x: wandb is not installed; pip install 'clipeval\[wandb\]'"):
        check(["wandb=x"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sink", "wandv=x"], "Unknown sink 'wandv'. Did you mean: wandb"),
        (["--sink", "tensorboard=x", "--share", "0/2"], "not with --share or -m"),
        (["--sink", "tensorboard=x", "-m", "model=a,b"], "not with --share or -m"),
    ],
)
def test_sinks_that_a_run_cannot_have(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "tensorboard=x" in words:
        pytest.importorskip("tensorboard")  # what is not installed is said first
    assert main(["run", *words]) == 1
    assert said in capsys.readouterr().err


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
