"""A small run that faults are done to: two tasks, a tiny model, and what an undisturbed run makes of them."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scripts.make_miniature import facts, write_set
from scripts.tiny_model import write_tiny_model
from tests.faults.server import Done, Server

TASKS = ("mnist", "cifar10")
HURT = "cifar10"
"""The task whose data faults damage; the other is done before, and has to stand after."""
SAMPLES = 40


@dataclass
class Bench:
    """Where faults are tried. `fresh` begins each with folders of its own.

    Attributes:
        server: runs the command line.
        root: an empty folder.
        kills: how many random kills the kill faults do.
        seed: of the random moments.
    """

    server: Server
    root: Path
    kills: int = 6
    seed: int = 0
    place: Path = field(init=False)
    seconds: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.model = write_tiny_model(self.root / "model")
        self.pristine = self.root / "pristine"
        rng = np.random.default_rng(0)
        for fact in facts():
            if fact.key in TASKS or fact.key.rsplit("/", 1)[-1] in TASKS:
                write_set(self.pristine / fact.folder, fact, SAMPLES, 40, 2, rng)
        self.number = 0
        self.fresh()
        done = self.run()
        assert done.status == 0, done.err
        self.seconds = done.seconds
        self.truth = self.records()

    def fresh(self) -> Path:
        """A new place: data, nothing run."""
        self.number += 1
        self.place = self.root / str(self.number)
        shutil.copytree(self.pristine, self.place / "data")
        return self.place

    @property
    def hurt(self) -> Path:
        """The data folder of the task that faults damage."""
        return next((self.place / "data").glob(f"*{HURT}*"))

    def words(self, *more: str, tasks: Sequence[str] = TASKS) -> list[str]:
        """The command line of the run at this place. Later words win."""
        given = {word.split("=")[0] for word in more}
        base = [
            "model=open_clip",
            f"model.name={self.model}",
            f"data.root={self.place / 'data'}",
            f"out={self.place / 'run'}",
            f"cache.root={self.place / 'cache'}",
            "runtime.workers=1",
        ]
        chosen = [f"+task@tasks.{task}={task}" for task in tasks]
        return ["run", "suite=none", *chosen, *(word for word in base if word.split("=")[0] not in given), *more]

    def run(self, *more: str, tasks: Sequence[str] = TASKS, **how: Any) -> Done:
        """Runs it."""
        return self.server.run(self.words(*more, tasks=tasks), **how)

    def records(self, run: Path | None = None) -> dict[str, Any]:
        """What counts of the records: scores, samples and predictions, not when and in how many seconds."""
        folder, found = run or self.place / "run", {}
        for path in sorted((folder / "records").glob("[!.]*.json")):
            record = json.loads(path.read_text())
            frame = pd.read_parquet(folder / record["predictions"]["file"])
            scores = [column for column in frame if str(column).startswith("score_")]
            found[path.stem] = {
                **{k: record[k] for k in ("metrics", "intervals", "samples", "flags", "fingerprint")},
                "predictions": frame.drop(columns=scores).to_csv(),
                # Batches are filled anew after a stop, and a sum of float32 in another order differs in its last bits.
                "scores": frame[scores].round(2).abs().sum(axis=None).round(0),
            }
        return found

    def whole(self) -> None:
        """Asserts that the records are those of the undisturbed run."""
        found = self.records()
        assert found.keys() == self.truth.keys(), f"{sorted(found)} recorded"
        for task, record in self.truth.items():
            for part, value in record.items():
                assert found[task][part] == value, f"{task}: {part} differs from the undisturbed run's"

    def kept(self, task: str = TASKS[0]) -> None:
        """Asserts that a task that was finished before the fault still stands."""
        assert self.records().get(task) == self.truth[task], f"{task} was finished before, and does not stand"
