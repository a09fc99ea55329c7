"""How long the intervals of a whole evaluation take: every metric of DataComp's 40 tasks, each at its full size.

    python scripts/benchmark_intervals.py

The predictions are made up, with the columns and the number of rows that each task's own would have; the metrics and their
intervals are computed as a run and `clipeval verify` do. One thread unless OMP_NUM_THREADS says otherwise.
"""

from __future__ import annotations

import csv
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

FACTS = Path(__file__).with_name("datacomp_tasks.csv")


def grow(frame: pd.DataFrame, samples: int, classes: int, rng: np.random.Generator) -> pd.DataFrame:
    """Predictions of a few samples, drawn again up to `samples`; answers are right six times of ten."""
    if "direction" in frame:
        copies = -(-samples // frame["key"].nunique())
        several = [frame.assign(key=frame["key"] + f"_{copy}") for copy in range(copies)]
        sampled = pd.concat(several, ignore_index=True)
        return sampled.assign(rank=rng.integers(0, 20, len(sampled)))
    sampled = frame.iloc[rng.integers(0, len(frame), samples)].reset_index(drop=True)
    sampled["key"] = [f"s{number:07d}" for number in range(samples)]
    if "prediction" in sampled:
        sampled["label"] = rng.integers(0, classes, samples)
        right = rng.random(samples) < 0.6
        sampled["prediction"] = np.where(right, sampled["label"], rng.integers(0, classes, samples))
        sampled["pred_1"] = sampled["prediction"]
    return sampled


def main() -> None:
    """Runs the miniature of the 40 folders, grows its predictions, and times their metrics."""
    from clipeval.cli.main import main as clipeval
    from clipeval.replay.verify import StoredRun
    from clipeval.results.run_folder import RunFolder
    from clipeval.results.uncertainty import intervals
    from scripts.make_miniature import write_miniature

    with FACTS.open(newline="") as file:
        facts = {row["key"]: row for row in csv.DictReader(file)}
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        write_miniature(place / "data")
        words = [
            "suite=datacomp",
            f"data.root={place / 'data'}",
            f"out={place / 'run'}",
            f"cache.root={place / 'cache'}",
        ]
        if clipeval(["run", *words]):
            sys.exit("the miniature did not run; see above")
        folder, stored = RunFolder(place / "run"), StoredRun.read(RunFolder(place / "run"))
        grown = []
        for name in folder.tasks():
            record = folder.record(name)
            assert record is not None
            fact = facts[record.key]
            frame = grow(folder.predictions(record), int(fact["samples"]), int(fact["classes"] or 0), rng)
            grown.append((stored.task(name), frame))
    started, metrics, slowest = time.perf_counter(), 0, (0.0, "")
    for task, frame in grown:
        before = time.perf_counter()
        metrics += len(intervals(task.statistics(frame)))
        slowest = max(slowest, (time.perf_counter() - before, task.name))
    seconds = time.perf_counter() - started
    samples = sum(int(fact["samples"]) for fact in facts.values())
    print(f"{len(grown)} tasks, {samples:,} samples, {metrics} metrics with their intervals: {seconds:.1f} s")
    print(f"the slowest: {slowest[1]}, {slowest[0]:.1f} s")


if __name__ == "__main__":
    main()
