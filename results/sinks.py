"""Where scores go besides the run folder: `clipeval run … --sink wandb=PROJECT`, `clipeval watch FOLDER --sink …`.

    tensorboard=FOLDER      event files there
    wandb=PROJECT           a run of that project; offline with WANDB_MODE=offline
    mlflow=EXPERIMENT       a run of that experiment, at MLFLOW_TRACKING_URI
    trackio=PROJECT         a run of that project, in TRACKIO_DIR or the Space TRACKIO_SPACE_ID

Each is an extra of the same name: pip install 'clipeval[wandb]'. Names are those of `clipeval.results.curve`.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from clipeval.configs.errors import ClipevalError, nearest
from clipeval.configs.files import write_atomically
from clipeval.configs.naming import CHECKPOINT_SUFFIXES
from clipeval.results import mirror
from clipeval.results.curve import scores_of
from clipeval.results.runs import load


class Sink(Protocol):
    """Takes scores."""

    def log(self, scores: Mapping[str, float], step: int) -> None:
        """{name: value} of one checkpoint, and how many steps or epochs it was trained."""

    def close(self) -> None:
        """Writes what is not written yet."""


class TensorBoard:
    """Event files in a folder."""

    def __init__(self, where: str, series: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(where)

    def log(self, scores: Mapping[str, float], step: int) -> None:
        for name, value in scores.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of a project; starting again goes on with it. Steps are an axis of their own: checkpoints come in any order."""

    def __init__(self, where: str, series: str) -> None:
        import wandb

        self._run: Any = wandb.init(project=where, name=series, id=_id_of(series), resume="allow")
        self._run.define_metric("zero_shot/*", step_metric="checkpoint_step")

    def log(self, scores: Mapping[str, float], step: int) -> None:
        self._run.log({**scores, "checkpoint_step": step})

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of an experiment; starting again goes on with it."""

    def __init__(self, where: str, series: str) -> None:
        from mlflow import MlflowClient

        self._client: Any = MlflowClient()
        known = self._client.get_experiment_by_name(where)
        experiment = self._client.create_experiment(where) if known is None else known.experiment_id
        mine = f"tags.`clipeval.series` = '{_id_of(series)}'"
        found = self._client.search_runs([experiment], filter_string=mine, max_results=1)
        tags = {"clipeval.series": _id_of(series)}
        made = found[0] if found else self._client.create_run(experiment, tags=tags, run_name=series)
        self._id = made.info.run_id

    def log(self, scores: Mapping[str, float], step: int) -> None:
        for name, value in scores.items():
            self._client.log_metric(self._id, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._id)


class Trackio:
    """A run of a project in TRACKIO_DIR, or of a Space (TRACKIO_SPACE_ID); starting again goes on with it."""

    def __init__(self, where: str, series: str) -> None:
        with redirect_stdout(sys.stderr):  # it says there what the table is not to be mixed with
            import trackio

            self._run: Any = trackio.init(project=where, name=series, resume="allow", embed=False, auto_log_gpu=False)

    def log(self, scores: Mapping[str, float], step: int) -> None:
        self._run.log(dict(scores), step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self._run.finish()


SINKS: Mapping[str, Callable[[str, str], Sink]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
    "trackio": Trackio,
}


def _id_of(series: str) -> str:
    return hashlib.sha256(series.encode()).hexdigest()[:12]


def check(texts: Sequence[str]) -> None:
    """ClipevalError unless each is KIND=WHERE of a kind there is, whose package is installed."""
    for text in texts:
        kind, _, where = text.partition("=")
        if kind not in SINKS:
            raise ClipevalError(nearest("sink", kind, SINKS))
        if not where:
            raise ClipevalError(
                f"--sink {text}: KIND=WHERE was expected, such as tensorboard=runs/tensorboard or wandb=PROJECT."
            )
        if find_spec(kind) is None:
            raise ClipevalError(f"--sink {text}: {kind} is not installed; pip install 'clipeval[{kind}]'.")


def step_of(path: Path) -> int | None:
    """How long a checkpoint was trained, by the last number in its name: epoch_5.pt is 5."""
    numbers = re.findall(r"\d+", path.stem)
    return int(numbers[-1]) if numbers else None


def tell(texts: Sequence[str], folder: Path) -> None:
    """Tells sinks of a run's scores, at the step that its checkpoint's name says (else 0); of the same scores once.

    Args:
        texts: KIND=WHERE each.
        folder: the run folder, whose name is the series'. Its `sinks.json` remembers what was told.

    Raises:
        ClipevalError: as `Sinks`, or it is no run folder.
    """
    (run,) = load([folder])
    records = list(run.records.values())
    scores = scores_of(records)
    if not scores:
        return
    weights = Path(str(records[0].model.get("pretrained") or ""))
    step = step_of(weights) if weights.suffix in CHECKPOINT_SUFFIXES else None
    content = hashlib.sha256(json.dumps(scores, sort_keys=True).encode()).hexdigest()[:16]
    with Sinks(texts, folder.resolve().name, folder / "sinks.json") as sinks:
        sinks.log(content, scores, step or 0)
    if (kept := mirror.of(folder)) is not None:
        kept.send("sinks.json")


class Sinks(AbstractContextManager["Sinks"]):
    """Several sinks of one series of checkpoints. Each is told of a checkpoint once, however often a watch is started.

    Args:
        texts: KIND=WHERE each.
        series: names the run there.
        memory: the file that remembers what each was told.

    Raises:
        ClipevalError: there is no such kind, or its package is not installed.
    """

    def __init__(self, texts: Sequence[str], series: str, memory: Path) -> None:
        check(texts)
        self._memory, self._series = memory, series
        self._open: dict[str, Sink] = {}
        self._told: dict[str, list[str]] = {text: [] for text in texts}
        if texts and memory.is_file():
            known = json.loads(memory.read_text("utf-8"))
            self._told.update({text: list(known[text]) for text in texts if text in known})
        for text in texts:
            self._open[text] = _opened(text, series)

    def log(self, checkpoint: str, scores: Mapping[str, float], step: int) -> None:
        """Tells each sink that does not know of it."""
        for text, sink in self._open.items():
            if checkpoint not in self._told[text]:
                sink.log(scores, step)
                self._told[text].append(checkpoint)
        if self._open:
            write_atomically(self._memory, json.dumps(self._told, indent=1).encode())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sink in self._open.values():
            sink.close()


def _opened(text: str, series: str) -> Sink:
    kind, _, where = text.partition("=")
    return SINKS[kind](where, series)
