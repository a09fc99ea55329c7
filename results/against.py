"""A run against figures that others published, or against another run: what differs, and whether by more than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from clipeval.configs.errors import ClipevalError
from clipeval.results import published
from clipeval.results.published.table import ROUNDING
from clipeval.results.runs import Run, tasks
from clipeval.results.uncertainty import Interval, average_interval, difference_interval

Verdict = Literal["exact", "within", "outside", "unknown", "missing"]


@dataclass(frozen=True)
class Line:
    """One task, or the average: the reference's figure beside the run's."""

    task: str
    name: str
    metric: str
    reference: float | None
    measured: float | None
    interval: Interval | None
    """Of the measured figure; against another run, of the difference."""
    verdict: Verdict
    place: int | None = None
    """Among the published models, 1 the best."""
    flagged: bool = False
    key: str = ""

    @property
    def difference(self) -> float | None:
        """Measured minus reference."""
        return None if self.measured is None or self.reference is None else self.measured - self.reference


@dataclass(frozen=True)
class ReferenceComparison:
    """A run beside its reference, task by task and on average."""

    run: str
    reference: str
    lines: tuple[Line, ...]
    average: Line | None
    same_model: bool
    """Whether the reference is the same model, so that a reproduction is what is judged."""
    of: int = 0
    """Against published models: how many there are."""
    neighbours: tuple[str, ...] = ()
    imported: bool = False
    """Whether figures of the run were imported, and so reproduce nothing."""

    def count(self, *verdicts: Verdict) -> int:
        """How many tasks got one of some verdicts."""
        return sum(line.verdict in verdicts for line in self.lines)


def judge(published: float, measured: float | None, interval: Interval | None) -> Verdict:
    """Whether a measured figure agrees with a published one of four digits."""
    if measured is None:
        return "missing"
    # Rounding is decimal, and neither figure need be a decimal that binary can hold.
    if abs(measured - published) <= ROUNDING * (1 + 1e-6):
        return "exact"
    if interval is None:
        return "unknown"
    return "within" if interval[0] - ROUNDING <= published <= interval[1] + ROUNDING else "outside"


def against_published(run: Run) -> ReferenceComparison:
    """A run beside the 121 published models: beside its own row if it has one, and its place among all."""
    row = published.find(run.model.get("name"), run.model.get("pretrained"))
    rows = published.table()
    # A model's own published row is no rival of its reproduction.
    mine = -1 if row is None else int(str(row.name))
    rivals = pd.Series(rows.index != mine, index=rows.index)
    lines, measured, pairs, keys = [], [], [], []
    for task, spec in tasks([run]).items():
        key = str(spec.get("key"))
        if key not in published.COLUMNS:
            continue
        column, metric = published.COLUMNS[key]
        record = run.records.get(task)
        if record is not None and metric not in record.metrics:
            continue  # the same set under another protocol: nothing was published for it
        value = record.metrics.get(metric) if record else None
        interval = record.intervals.get(metric) if record else None
        reference = float(row[column]) if row is not None else None
        place = None if value is None else 1 + int((rows.loc[rivals, column] > value + ROUNDING).sum())
        verdict = "unknown" if reference is None and value is not None else judge(reference or 0.0, value, interval)
        flagged = bool(record and record.flags)
        lines.append(
            Line(task, str(spec.get("name")), metric, reference, value, interval, verdict, place, flagged, key)
        )
        if value is not None:
            measured.append(value)
            pairs.append(interval)
            keys.append(key)
    average: Line | None = None
    neighbours: tuple[str, ...] = ()
    if measured:
        average, neighbours = _average(row, rivals, keys, measured, pairs)
    reference_name = f"{row['name']} {row['pretrained']}" if row is not None else "the published models"
    imported = any(run.records[line.task].imported is not None for line in lines if line.task in run.records)
    return ReferenceComparison(
        run.label, reference_name, tuple(lines), average, row is not None, int(rivals.sum()), neighbours, imported
    )


def _average(
    row: pd.Series[Any] | None,
    rivals: pd.Series[Any],
    keys: list[str],
    measured: list[float],
    pairs: list[Interval | None],
) -> tuple[Line, tuple[str, ...]]:
    averages = published.average(keys)
    mean = math.fsum(measured) / len(measured)
    interval = average_interval(measured, pairs)
    reference = None if row is None else float(averages[int(str(row.name))])
    place = 1 + int((averages[rivals] > mean + ROUNDING).sum())
    verdict = "unknown" if reference is None else judge(reference, mean, interval)
    ordered = averages[rivals].sort_values(ascending=False, kind="stable")
    names = published.table().set_index(averages.index)
    beside = []
    for index in (place - 2, place - 1):
        if 0 <= index < len(ordered):
            at = ordered.index[index]
            beside.append(f"{names.loc[at, 'name']} {names.loc[at, 'pretrained']} ({ordered.loc[at]:.4f})")
    return Line("", f"Average of {len(keys)}", "", reference, mean, interval, verdict, place), tuple(beside)


def against_run(run: Run, other: Run) -> ReferenceComparison:
    """A run beside another one: differences, with intervals that take the two as independent.

    The same samples make a paired comparison much sharper: that is `compare.py`'s.
    """
    lines = []
    shared: list[tuple[float, Interval | None, float, Interval | None]] = []
    images: list[str] = []
    for task, spec in tasks([run, other]).items():
        mine, theirs = run.records.get(task), other.records.get(task)
        metric = spec.get("metric")
        if metric is None:
            continue
        a = mine.metrics.get(metric) if mine else None
        b = theirs.metrics.get(metric) if theirs else None
        pair_a = mine.intervals.get(metric) if mine else None
        pair_b = theirs.intervals.get(metric) if theirs else None
        interval = (
            difference_interval(a, pair_a, b, pair_b) if a is not None and b is not None and pair_a and pair_b else None
        )
        flagged = bool((mine and mine.flags) or (theirs and theirs.flags))
        verdict = _distance(a, b, interval)
        lines.append(Line(task, str(spec.get("name") or task), str(metric), b, a, interval, verdict, None, flagged))
        if a is not None and b is not None:
            shared.append((a, pair_a, b, pair_b))
            images.append(run.images(task))
    average = None
    if shared:
        a_mean, b_mean = (math.fsum(item[i] or 0.0 for item in shared) / len(shared) for i in (0, 2))  # type: ignore[misc]
        a_pair = average_interval([item[0] for item in shared], [item[1] for item in shared], images)
        b_pair = average_interval([item[2] for item in shared], [item[3] for item in shared], images)
        interval = difference_interval(a_mean, a_pair, b_mean, b_pair) if a_pair and b_pair else None
        verdict = _distance(a_mean, b_mean, interval)
        average = Line("", f"Average of {len(shared)}", "", b_mean, a_mean, interval, verdict)
    return ReferenceComparison(run.label, other.label, tuple(lines), average, same_model=False)


def _distance(a: float | None, b: float | None, interval: Interval | None) -> Verdict:
    if a is None or b is None:
        return "missing"
    if round(a, 4) == round(b, 4):
        return "exact"
    if interval is None:
        return "unknown"
    return "within" if interval[0] <= 0 <= interval[1] else "outside"


def compare_with(runs: Sequence[Run], against: str, others: Sequence[Run] = ()) -> list[ReferenceComparison]:
    """Each run beside what `against` names: `published`, or the runs already loaded into `others`."""
    if against == "published":
        found = [against_published(run) for run in runs]
        if not any(item.lines for item in found):
            raise ClipevalError(
                "--against published: none of these runs' tasks is among the 38 of the published table; "
                "run suite=datacomp, or a part of it"
            )
        return found
    return [against_run(run, other) for run in runs for other in others]
