"""A run against figures that others published, or against another run: what differs, and whether by more than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from clipeval.configs.errors import ClipevalError
from clipeval.results import published
from clipeval.results.causes import Cause, causes
from clipeval.results.judgement import Verdict, verdict_of
from clipeval.results.published.table import ROUNDING
from clipeval.results.reproduction import Reproduction, reproduce
from clipeval.results.runs import Run, tasks
from clipeval.results.sheet import averages
from clipeval.results.uncertainty import Interval, average_interval, difference_interval


@dataclass(frozen=True)
class ComparisonRow:
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
    lines: tuple[ComparisonRow, ...]
    average: ComparisonRow | None
    same_model: bool
    """Whether the reference is the same model, so that a reproduction is what is judged."""
    of: int = 0
    """Against published models: how many there are."""
    neighbours: tuple[str, ...] = ()
    imported: bool = False
    """Whether figures of the run were imported, and so reproduce nothing."""
    reproduction: Reproduction | None = None
    """Against published models: every metric that was published of this one; None where nothing was."""
    namesake: str = ""
    """Against published models: one that the run's own weights are called like, and are not known to be."""
    causes: tuple[Cause, ...] = ()
    """Where it does not reproduce: why that may be, the likeliest first."""

    def count(self, *verdicts: Verdict) -> int:
        """How many tasks got one of some verdicts."""
        return sum(line.verdict in verdicts for line in self.lines)


def against_published(run: Run) -> ReferenceComparison:
    """A run beside all that was published of its model, if anything was, and its place among the 121 models of the 38 sets."""
    row = published.find(**published.of_record(run.model))
    rows = published.table()
    # A model's own published row is no rival of its reproduction.
    mine = -1 if row is None else int(str(row.name))
    rivals = pd.Series(rows.index != mine, index=rows.index)
    reproduction = reproduce(run)
    judged = {line.task: line for line in reproduction.mains} if reproduction else {}
    lines, measured, pairs, keys = [], [], [], []
    for task, spec in tasks([run]).items():
        key, record = str(spec.get("key")), run.records.get(task)
        column, metric = published.COLUMNS.get(key, ("", str(spec.get("metric"))))
        line = judged.get(task)
        if not column and line is None:
            continue  # nothing was published for it
        if record is not None and metric not in record.metrics:
            continue  # the same set under another protocol
        value = record.metrics.get(metric) if record else None
        interval = record.intervals.get(metric) if record else None
        place = None if value is None or not column else 1 + int((rows.loc[rivals, column] > value + ROUNDING).sum())
        reference = line.figure.value if line else None
        verdict: Verdict = line.verdict if line else "missing" if value is None else "unknown"
        flagged = bool(record and run.own_flags(record))
        lines.append(
            ComparisonRow(task, str(spec.get("name")), metric, reference, value, interval, verdict, place, flagged, key)
        )
        if value is not None and column:
            measured.append(value)
            pairs.append(interval)
            keys.append(key)
    average: ComparisonRow | None = None
    neighbours: tuple[str, ...] = ()
    if measured:
        average, neighbours = _average(row, rivals, keys, measured, pairs)
    if average is not None and average.reference is None:
        # Not one of the 121, but another source may have all of these tasks.
        theirs = [line.reference for line in lines if line.measured is not None and line.key in published.COLUMNS]
        known = [value for value in theirs if value is not None]
        if len(known) == len(theirs):
            mean = math.fsum(known) / len(known)
            average = replace(average, reference=mean, verdict=verdict_of(mean, average.measured, average.interval))
    name = f"{run.model.get('name')} {run.model.get('pretrained') or ''}".strip()
    imported = any(run.records[line.task].imported is not None for line in lines if line.task in run.records)
    return ReferenceComparison(
        run=run.label,
        reference=name if reproduction else "the published models",
        lines=tuple(lines),
        average=average,
        same_model=reproduction is not None,
        of=int(rivals.sum()),
        neighbours=neighbours,
        imported=imported,
        reproduction=reproduction,
        namesake=published.namesake(run.model),
        causes=tuple(causes(run, reproduction)) if reproduction else (),
    )


def _average(
    row: pd.Series[Any] | None,
    rivals: pd.Series[Any],
    keys: list[str],
    measured: list[float],
    pairs: list[Interval | None],
) -> tuple[ComparisonRow, tuple[str, ...]]:
    averages = published.average(keys)
    mean = math.fsum(measured) / len(measured)
    interval = average_interval(measured, pairs)
    reference = None if row is None else float(averages[int(str(row.name))])
    place = 1 + int((averages[rivals] > mean + ROUNDING).sum())
    verdict: Verdict = "unknown" if reference is None else verdict_of(reference, mean, interval)
    ordered = averages[rivals].sort_values(ascending=False, kind="stable")
    names = published.table().set_index(averages.index)
    beside = []
    for index in (place - 2, place - 1):
        if 0 <= index < len(ordered):
            at = ordered.index[index]
            beside.append(f"{names.loc[at, 'name']} {names.loc[at, 'pretrained']} ({ordered.loc[at]:.4f})")
    return ComparisonRow("", f"Average of {len(keys)}", "", reference, mean, interval, verdict, place), tuple(beside)


def against_run(run: Run, other: Run) -> ReferenceComparison:
    """A run beside another one: differences, with intervals that take the two as independent.

    The same samples make a paired comparison much sharper: that is `compare.py`'s.
    """
    lines = []
    shared: list[tuple[float, Interval | None, float, Interval | None]] = []
    images: list[str] = []
    label, counted = next(iter(averages([run, other]).items()))
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
        lines.append(
            ComparisonRow(task, str(spec.get("name") or task), str(metric), b, a, interval, verdict, None, flagged)
        )
        if a is not None and b is not None and task in counted:
            shared.append((a, pair_a, b, pair_b))
            images.append(run.images(task))
    average = None
    if shared:
        a_mean, b_mean = (math.fsum(item[i] or 0.0 for item in shared) / len(shared) for i in (0, 2))  # type: ignore[misc]
        a_pair = average_interval([item[0] for item in shared], [item[1] for item in shared], images)
        b_pair = average_interval([item[2] for item in shared], [item[3] for item in shared], images)
        interval = difference_interval(a_mean, a_pair, b_mean, b_pair) if a_pair and b_pair else None
        verdict = _distance(a_mean, b_mean, interval)
        suite = label.partition(", ")[2]
        average = ComparisonRow(
            "", f"Average of {len(shared)}{f' ({suite})' if suite else ''}", "", b_mean, a_mean, interval, verdict
        )
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
        comparisons = [against_published(run) for run in runs]
        if not any(item.lines or item.reproduction for item in comparisons):
            raise ClipevalError(
                "--against published: none of these runs' tasks is among the 38 of open_clip's table, and nothing else was "
                "published of their models on their tasks; run suite=datacomp, or a part of it"
            )
        return comparisons
    return [against_run(run, other) for run in runs for other in others]
