"""`clipeval compare A B`: two runs, task by task, on the samples that both saw."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from clipeval.configs.errors import ClipevalError
from clipeval.configs.files import write_atomically
from clipeval.results import paired, parquet
from clipeval.results.records import DamagedRecord, Record
from clipeval.results.runs import Run, load, tasks
from clipeval.results.uncertainty import Interval, average_interval, difference_interval
from clipeval.tasks.statistics import Proportion, Statistic, paired_differences

Statistics = Callable[[Record, pd.DataFrame], Mapping[str, Statistic | None]]
"""(record, predictions) -> every metric: `task.statistics(predictions)` of the record's task."""

DRAWS = 10_000
"""Bootstrap worlds: the least p-value is 1 / 10,001, which Holm's correction over 38 tasks leaves below 0.01."""


TRUTHS = ("label", "image", "own", "cue", "associated")
"""What predictions say of a sample itself, in the protocols that say it."""

ANSWERS = ("prediction", "score_1", "answer", "chosen")
"""What predictions say of a model's answer."""


@dataclass(frozen=True)
class TaskComparison:
    """Two runs on one task. Differences are B minus A."""

    task: str
    name: str
    group: str
    metric: str
    a: float
    b: float
    interval: Interval | None
    p: float
    adjusted: float
    test: str
    wins: int
    """Samples on which B does better."""
    losses: int
    samples: int
    paired: bool
    remarks: tuple[str, ...] = ()

    @property
    def difference(self) -> float:
        return self.b - self.a

    @property
    def verdict(self) -> str:
        """Who is better, if one can tell at the 5% level after Holm's correction."""
        if self.adjusted >= 0.05 or self.difference == 0:
            return ""
        return "B" if self.difference > 0 else "A"


@dataclass(frozen=True)
class Comparison:
    """Two runs on all the tasks that both recorded."""

    a: str
    b: str
    tasks: tuple[TaskComparison, ...]
    difference: float | None
    """Mean over the tasks."""
    interval: Interval | None
    p: float | None
    disagreements: pd.DataFrame
    """The samples on which the runs do not do equally well: task, key, score_a, score_b, better, and what each said."""
    remarks: tuple[str, ...] = ()
    apart: tuple[Mapping[str, Any], ...] = ()
    """What both are to hold and cannot be compared: {"task", "name", "group", "metric", "remarks"} of each."""

    @property
    def of(self) -> int:
        """How many tasks there are to compare."""
        return len(self.tasks) + len(self.apart)

    def table(self) -> pd.DataFrame:
        """A row a task, every number unrounded; none in those that could not be compared, whose remarks say why."""
        rows = []
        for item in self.tasks:
            row = {**dataclasses.asdict(item), "difference": item.difference, "verdict": item.verdict}
            row["low"], row["high"] = item.interval or (None, None)
            row["remarks"] = "; ".join(item.remarks)
            rows.append(row)
        rows += [{**item, "test": "", "verdict": ""} for item in self.apart]
        columns = [
            "task",
            "name",
            "group",
            "metric",
            "a",
            "b",
            "difference",
            "low",
            "high",
            "p",
            "adjusted",
            "test",
            *["wins", "losses", "samples", "paired", "verdict", "remarks"],
        ]
        return pd.DataFrame(rows, columns=columns)

    def write(self, folder: str | Path) -> list[Path]:
        """Writes `comparison.csv` and `disagreements.parquet` into a folder."""
        folder = Path(folder)
        csv = self.table().to_csv(index=False, lineterminator="\n")
        write_atomically(folder / "comparison.csv", csv.encode())
        write_atomically(folder / "disagreements.parquet", parquet.encode(self.disagreements))
        return [folder / "comparison.csv", folder / "disagreements.parquet"]


def compare(a: str | Path, b: str | Path, statistics: Statistics, *, draws: int = DRAWS, seed: int = 0) -> Comparison:
    """Compares two run folders.

    Args:
        a: the first run, such as the baseline.
        b: the second; differences are B minus A.
        statistics: how to compute a task's metrics from its stored predictions.
        draws: bootstrap worlds, for the metrics that McNemar's test does not fit.
        seed: of the bootstrap.

    Raises:
        ClipevalError: a folder is no run, or the two share no task with a main metric.
    """
    run_a, run_b = load([a, b])
    comparisons, disagreements = [], []
    remarks: list[str] = []
    left: list[Mapping[str, Any]] = []

    def leave(task: str, spec: Mapping[str, Any], why: str) -> None:
        name = spec.get("name") or task
        about = {"task": task, "name": name, "group": spec.get("group"), "metric": spec.get("metric"), "remarks": why}
        left.append(about)
        remarks.append(f"{name}: {why}")

    for task, spec in tasks([run_a, run_b]).items():
        if spec.get("metric") is None:
            continue
        broken = [error for run in (run_a, run_b) for error in run.damaged if error.path.stem == task]
        if broken:
            remarks.extend(str(error) for error in broken)
            continue
        if task not in run_a.records or task not in run_b.records:
            only = run_a.label if task in run_a.records else run_b.label if task in run_b.records else None
            skipped = [f"{run.label} skipped it ({run.skipped[task]})" for run in (run_a, run_b) if task in run.skipped]
            leave(task, spec, "; ".join([f"recorded by {f'{only} alone' if only else 'neither'}", *skipped]))
            continue
        imported = [run.label for run in (run_a, run_b) if run.records[task].imported is not None]
        if imported:
            leave(task, spec, f"imported in {' and '.join(imported)}; no samples to compare")
            continue
        try:
            item, apart = _compare_task(run_a, run_b, task, statistics, draws, seed)
        except DamagedRecord as error:
            remarks.append(str(error))
            left.append({"task": task, "name": spec.get("name") or task, "remarks": str(error)})
            continue
        if item is None:
            leave(task, spec, "its main metric is undefined in one of the runs")
            continue
        comparisons.append(item)
        disagreements.append(apart)
    if not comparisons:
        if any(record.imported is not None for run in (run_a, run_b) for record in run.records.values()):
            raise ClipevalError(
                "imported results have no samples to pair: `clipeval report RUN_A --against RUN_B` sets the figures side by side"
            )
        raise ClipevalError(
            f"{run_a.folder.place} and {run_b.folder.place} share no recorded task with a main metric: run the same suite in both"
        )
    adjusted = paired.holm([item.p for item in comparisons])
    comparisons = [dataclasses.replace(item, adjusted=value) for item, value in zip(comparisons, adjusted, strict=True)]
    difference, interval, p = _overall(run_a, comparisons)
    everything = pd.concat(disagreements, ignore_index=True)
    return Comparison(
        run_a.label, run_b.label, tuple(comparisons), difference, interval, p, everything, tuple(remarks), tuple(left)
    )


def _compare_task(
    run_a: Run, run_b: Run, task: str, statistics: Statistics, draws: int, seed: int
) -> tuple[TaskComparison | None, pd.DataFrame]:
    record_a, record_b = run_a.records[task], run_b.records[task]
    frame_a, frame_b = run_a.folder.predictions(record_a), run_b.folder.predictions(record_b)
    frame_a, frame_b, matched, remarks = align(frame_a, frame_b)
    metric = str(record_a.metric)
    if record_b.metric != record_a.metric:
        remarks.append(f"B's main metric is {record_b.metric}; both are compared on {metric}")
    all_a, all_b = statistics(record_a, frame_a), statistics(record_b, frame_b)
    a, b = all_a.get(metric), all_b.get(metric)
    if a is None or b is None:
        return None, pd.DataFrame()
    if matched and a.units == b.units:
        interval, p, test = paired_test(a, b, draws, seed)
        wins, losses, apart = _disagreements(task, metric, (frame_a, all_a), (frame_b, all_b))
    else:
        interval, p, test = _unpaired(a, b, seed)
        wins, losses, apart, matched = 0, 0, pd.DataFrame(), False
    item = TaskComparison(
        task=task,
        name=record_a.name,
        group=record_a.group,
        metric=metric,
        a=a.value,
        b=b.value,
        interval=interval,
        p=p,
        adjusted=p,
        test=test,
        wins=wins,
        losses=losses,
        samples=a.units,
        paired=matched,
        remarks=tuple(remarks),
    )
    return item, apart


def align(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, bool, list[str]]:
    """The rows that both runs have, in the same order, matched by `key`; whether they could be matched; remarks.

    A key may occur in several rows (a query of each direction, say): then the keys must be the same, row for row.
    """
    keys_a, keys_b = a["key"].to_numpy(), b["key"].to_numpy()
    remarks: list[str] = []
    if not np.array_equal(keys_a, keys_b):
        if not (a["key"].is_unique and b["key"].is_unique):
            return a, b, False, ["the samples differ: compared as independent"]
        shared = set(keys_a) & set(keys_b)
        if not shared:
            return a, b, False, ["no sample is in both: compared as independent"]
        if len(shared) < max(len(a), len(b)):
            remarks.append(f"compared on the {len(shared):,} samples in both, of {len(a):,} and {len(b):,}")
        a = a[a["key"].isin(shared)].reset_index(drop=True)
        b = b.set_index("key").loc[a["key"]].reset_index()[list(b.columns)]
    if "label" in a.columns and "label" in b.columns and a["label"].dtype != object:
        wrong = int((a["label"].to_numpy() != b["label"].to_numpy()).sum())
        if wrong:
            remarks.append(f"{wrong:,} samples have another label in B: the data differ")
    return a, b, True, remarks


def paired_test(a: Statistic, b: Statistic, draws: int, seed: int) -> tuple[Interval, float, str]:
    """The paired interval of b - a, the p-value, and the test's name."""
    if isinstance(a, Proportion) and isinstance(b, Proportion):
        wins = int(np.count_nonzero(b.values > a.values))
        losses = int(np.count_nonzero(a.values > b.values))
        return paired.difference_of_proportions(wins, losses, a.units), paired.mcnemar(wins, losses), "McNemar mid-p"
    observed = b.value - a.value
    interval, p = paired.bootstrap(paired_differences(a, b, draws, seed), observed)
    return interval, p, "paired bootstrap"


def _unpaired(a: Statistic, b: Statistic, seed: int) -> tuple[Interval, float, str]:
    """For runs that saw different samples: the two are independent."""
    interval = difference_interval(b.value, b.interval(seed=seed), a.value, a.interval(seed=seed))
    return interval, _p_of(b.value - a.value, interval), "unpaired"


def _p_of(difference: float, interval: Interval) -> float:
    """The two-sided p-value of a normal estimate, from its 95% interval on the side of zero."""
    reach = difference - interval[0] if difference > 0 else interval[1] - difference
    if reach <= 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * stats.norm.sf(abs(difference) / reach * stats.norm.ppf(0.975)))


def _disagreements(
    task: str,
    metric: str,
    a: tuple[pd.DataFrame, Mapping[str, Statistic | None]],
    b: tuple[pd.DataFrame, Mapping[str, Statistic | None]],
) -> tuple[int, int, pd.DataFrame]:
    """On how many samples B and A do better, and the samples on which they part.

    By the metric itself; where that is no mean over samples (a worst group, F1) or leaves samples out (an accuracy within one
    group), by the first metric that is a mean over all of them.
    """
    (frame, found_a), (frame_b, found_b) = a, b
    names = [metric, *(name for name in found_a if name != metric)]
    for name in names:
        one, other = found_a.get(name), found_b.get(name)
        if one is None or other is None or one.units != other.units:
            continue
        scores_a, scores_b, keys = one.per_unit_scores(), other.per_unit_scores(), unit_keys(frame, one.units)
        if scores_a is not None and scores_b is not None and keys is not None:
            break
    else:
        return 0, 0, pd.DataFrame()
    # Equal scores may differ in the last bit where a class's weight enters them.
    better = np.where(np.isclose(scores_a, scores_b, rtol=1e-9, atol=1e-12), 0, np.sign(scores_b - scores_a))
    where = np.flatnonzero(better)
    apart = pd.DataFrame({"task": task, "key": keys[where], "better": np.where(better[where] > 0, "B", "A")})
    apart["score_a"], apart["score_b"] = scores_a[where], scores_b[where]
    if len(frame) == len(better):
        for name in TRUTHS:
            if name in frame.columns:
                apart[name] = _rows(frame[name], where)
        for name in ANSWERS:
            if name in frame.columns and name in frame_b.columns:
                apart[f"{name}_a"] = _rows(frame[name], where)
                apart[f"{name}_b"] = _rows(frame_b[name], where)
    return int(np.count_nonzero(better > 0)), int(np.count_nonzero(better < 0)), apart


def _rows(column: pd.Series[Any], where: np.ndarray) -> pd.Series[Any]:
    """Some rows; whole numbers as a nullable type, so that they stay whole beside tasks that have none."""
    selected = column.iloc[where].reset_index(drop=True)
    return selected.astype("Int64") if pd.api.types.is_integer_dtype(selected) else selected


def unit_keys(frame: pd.DataFrame, units: int) -> np.ndarray | None:
    """The key of each unit of a statistic: of each row, or of each distinct sample where rows are queries."""
    if len(frame) == units:
        return frame["key"].to_numpy()
    distinct = pd.unique(frame["key"])
    return np.asarray(distinct) if len(distinct) == units else None


def _overall(run: Run, comparisons: Sequence[TaskComparison]) -> tuple[float, Interval | None, float | None]:
    """The mean difference over tasks, its interval and its p-value."""
    differences = [item.difference for item in comparisons]
    interval = average_interval(
        differences, [item.interval for item in comparisons], [run.images(item.task) for item in comparisons]
    )
    mean = math.fsum(differences) / len(differences)
    return mean, interval, None if interval is None else _p_of(mean, interval)
