"""The report as rows and cells, before it is drawn as text, Markdown or LaTeX, so that all of them say the same."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from clipeval.results.records import Record
from clipeval.results.runs import Run, group_name, tasks
from clipeval.results.suites import suites_in, uncounted
from clipeval.results.uncertainty import Interval, average_interval, chance_corrected

Kind = Literal["group", "task", "single", "average", "common"]


@dataclass(frozen=True)
class TableCell:
    """One run's answer in one row."""

    value: float | None = None
    interval: Interval | None = None
    corrected: float | None = None
    corrected_of: int = 0
    """For an average: how many tasks the corrected one counts, those whose chance is known."""
    samples: int | None = None
    flagged: bool = False
    best: bool = False
    of: tuple[int, int] | None = None
    """For an average: how many tasks it counts, of how many."""
    absent: Literal["", "missing", "skipped", "damaged", "not planned"] = ""

    @property
    def partial(self) -> bool:
        """Whether this average leaves out tasks that it should count."""
        return self.of is not None and self.of[0] < self.of[1]


@dataclass(frozen=True)
class TableRow:
    """A task, a group's average, or an average over tasks, for every run."""

    kind: Kind
    label: str
    cells: tuple[TableCell, ...]
    metric: str = ""
    task: str = ""
    marks: tuple[int, ...] = ()
    """Numbers of the footnotes that speak of it."""


@dataclass(frozen=True)
class Footnote:
    """A remark on one or more rows. A flag is a warning; a note is not."""

    number: int
    text: str
    flag: bool


@dataclass(frozen=True)
class ReportTable:
    """The whole table."""

    runs: tuple[str, ...]
    rows: tuple[TableRow, ...]
    footnotes: tuple[Footnote, ...] = ()
    warnings: tuple[str, ...] = ()
    details: tuple[str, ...] = field(default=())
    """A line for each run: precision, prompts, device, version."""

    @property
    def grouped(self) -> bool:
        """Whether tasks stand below their groups."""
        return any(row.kind == "group" for row in self.rows)


def build(runs: Sequence[Run]) -> ReportTable:
    """Lays out the report of some runs, one column of scores for each."""
    rows: list[TableRow] = []
    footnotes = _Footnotes(several=len(runs) > 1)
    union = tasks(runs)
    by_group = groups(runs)
    for group, members in by_group.items():
        # A lone group's average is the average of all, which has a row of its own.
        if len(members) > 1 and len(by_group) > 1:
            rows.append(_average("group", group, members, runs))
        for task in members:
            kind: Kind = "task" if len(members) > 1 else "single"
            rows.append(_task_row(kind, task, union[task], runs, footnotes))
    if len(union) > 1 or not rows:
        rows += [_average("average", label, members, runs) for label, members in averages(runs).items()]
    common = [task for task in union if all(_scored(run, task) for run in runs)]
    if len(runs) > 1 and common and any(sorted(_members(run, list(union))) != sorted(common) for run in runs):
        rows.append(_average("common", f"Average, {len(common)} in common", common, runs))
    return ReportTable(
        runs=tuple(run.label for run in runs),
        rows=tuple(rows),
        footnotes=tuple(footnotes.entries),
        warnings=tuple(warnings(runs)),
        details=tuple(_details(run) for run in runs),
    )


def averages(runs: Sequence[Run]) -> dict[str, list[str]]:
    """{label: the tasks} of the averages over all: of each suite that the runs hold, where they hold more than one suite.

    A task that a suite does not have never joins its average, so that it can be compared with anybody's.
    """
    union = tasks(runs)
    suites = suites_in(union)
    if not suites or (not uncounted(union, suites[0]) and union.keys() >= set(suites[0].tasks)):
        return {"Average": list(union)}
    of_groups = [set(members) for members in groups(runs).values()]  # those have rows already
    shown = [suite for suite in suites if suite is suites[0] or set(suite.tasks) not in of_groups]
    return {f"Average, {suite.name}": list(suite.tasks) for suite in shown}


def groups(runs: Sequence[Run]) -> dict[str, list[str]]:
    """{name to print: the tasks} of the report's groups; tasks that the runs' suite does not have stand apart in them."""
    union = tasks(runs)
    suites = suites_in(union)
    outside = set(uncounted(union, suites[0])) if suites else set()
    named = {str(spec.get("group")) for task, spec in union.items() if suites and task in suites[0].tasks}
    groups: dict[str, list[str]] = {}
    apart: dict[str, list[str]] = {}
    for task, spec in union.items():
        group = str(spec.get("group"))
        if task in outside and group in named:
            apart.setdefault(f"{group_name(group)}, not in {suites[0].name}", []).append(task)
        else:
            groups.setdefault(group_name(group), []).append(task)
    return {**groups, **apart}


class _Footnotes:
    """Numbers remarks in the order in which rows call for them; equal remarks share a number."""

    def __init__(self, several: bool) -> None:
        self.several = several
        self.entries: list[Footnote] = []
        self._numbers: dict[tuple[bool, str], int] = {}

    def add(self, text: str, flag: bool) -> int:
        if (flag, text) not in self._numbers:
            self._numbers[flag, text] = len(self.entries) + 1
            self.entries.append(Footnote(len(self.entries) + 1, text, flag))
        return self._numbers[flag, text]


def _task_row(kind: Kind, task: str, spec: Mapping[str, Any], runs: Sequence[Run], footnotes: _Footnotes) -> TableRow:
    cells, marks = [], []
    metrics = {run.planned[task].get("metric") for run in runs if task in run.planned}
    for run in runs:
        record = run.records.get(task)
        if record is None:
            broken = any(error.path.stem == task for error in run.damaged)
            why: Literal["missing", "skipped", "damaged", "not planned"] = (
                "missing" if task in run.planned else "not planned"
            )
            skipped = task in run.skipped
            cells.append(TableCell(absent="skipped" if skipped else "damaged" if broken else why, flagged=skipped))
            if skipped:
                owner = f"{run.label}: " if footnotes.several else ""
                name = run.planned[task].get("name") or task
                marks.append(footnotes.add(f"{owner}{name}: skipped: {run.skipped[task]}", flag=True))
            continue
        owner = f"{run.label}: " if footnotes.several else ""
        for text in run.own_flags(record):
            # What several tasks share (a model's warning, an import) is said once; the marks tell which.
            shared = sum(text in other.flags for other in run.records.values()) > 1
            marks.append(footnotes.add(f"{owner}{'' if shared else f'{record.name}: '}{text}", flag=True))
        marks += [footnotes.add(_with_values(text, record, owner), flag=False) for text in record.notes]
        cells.append(
            TableCell(
                value=record.value,
                interval=record.interval,
                corrected=chance_corrected(record.value, record.chance),
                samples=record.samples,
                flagged=bool(run.own_flags(record)),
            )
        )
    # Runs that were told different main metrics cannot be ranked on this row.
    if len(metrics) > 1:
        marks.append(footnotes.add(f"{spec.get('name') or task}: the runs differ in the main metric", flag=True))
    elif len({cell.samples for cell in cells if cell.samples is not None}) <= 1:
        cells = _mark_best(cells)
    return TableRow(
        kind=kind,
        label=str(spec.get("name") or task),
        cells=tuple(cells),
        metric=" / ".join(str(metric) for metric in sorted(metrics, key=str) if metric is not None),
        task=task,
        marks=tuple(sorted(set(marks))),
    )


def _with_values(note: str, record: Record, owner: str) -> str:
    """A note with the value of each metric that it names beside the main one: FMoW's corrected worst region."""

    def valued(match: re.Match[str]) -> str:
        name = match[0]
        if name not in record.metrics or name == record.metric:
            return name
        value = record.metrics[name]
        return f"{name} (undefined)" if value is None else f"{name} ({value:.4f})"

    text = re.sub(r"[\w@:-]+", valued, note)
    return text if text == note else owner + text


def _scored(run: Run, task: str) -> bool:
    return task in run.records and run.records[task].value is not None


def _members(run: Run, among: Sequence[str]) -> list[str]:
    """The tasks of a run that an average counts: those planned with a main metric."""
    return [task for task in among if task in run.planned and run.planned[task].get("metric") is not None]


def average_cell(run: Run, among: Sequence[str], of: int | None = None) -> TableCell:
    """A run's average over those of some tasks that have a main metric and a value.

    Args:
        run: the run.
        among: ids of tasks.
        of: how many the average is meant to count; default: those of them that the run planned.
    """
    members = _members(run, among)
    records = [run.records[task] for task in members if _scored(run, task)]
    values = [record.value for record in records if record.value is not None]
    corrected = [c for c in (chance_corrected(record.value, record.chance) for record in records) if c is not None]
    return TableCell(
        value=math.fsum(values) / len(values) if values else None,
        interval=average_interval(values, [r.interval for r in records], [run.images(r.task) for r in records]),
        corrected=math.fsum(corrected) / len(corrected) if corrected else None,
        corrected_of=len(corrected),
        samples=_total([record.samples for record in records]),
        flagged=any(run.own_flags(record) for record in records),
        of=(len(values), max(of or 0, len(members))),
        absent="" if members else "not planned",
    )


def meant_to_count(runs: Sequence[Run], among: Sequence[str]) -> int:
    """How many tasks an average of some runs is meant to count: the same in each of them."""
    union = tasks(runs)
    return sum(union[task].get("metric") is not None if task in union else True for task in among)


def _total(counts: Sequence[int | None]) -> int | None:
    """The sum, where every part of it is known."""
    known = [count for count in counts if count is not None]
    return sum(known) if counts and len(known) == len(counts) else None


def _average(kind: Kind, label: str, among: Sequence[str], runs: Sequence[Run]) -> TableRow:
    cells = [average_cell(run, among, meant_to_count(runs, among)) for run in runs]
    same = len({tuple(sorted(task for task in among if _scored(run, task))) for run in runs}) == 1
    return TableRow(kind=kind, label=label, cells=tuple(_mark_best(cells) if same else cells))


def _mark_best(cells: Sequence[TableCell]) -> list[TableCell]:
    """Marks the highest of several values, to the printed digit; none where all are equal."""
    values = [round(cell.value, 4) for cell in cells if cell.value is not None]
    if len(set(values)) < 2:
        return list(cells)
    top = max(values)
    return [
        TableCell(**{**cell.__dict__, "best": True}) if cell.value is not None and round(cell.value, 4) == top else cell
        for cell in cells
    ]


def warnings(runs: Sequence[Run]) -> list[str]:
    """What a reader has to know before any number: tasks that are not there, files that are damaged."""
    lines = []
    for run in runs:
        owner = f"{run.label}: " if len(runs) > 1 else ""
        if run.skipped:
            names = ", ".join(str(run.planned[task].get("name") or task) for task in run.skipped)
            lines.append(
                f"{owner}PARTIAL: {len(run.records)} of {len(run.planned)} tasks; {len(run.skipped)} skipped, for the data could "
                f"not be opened (data.on_missing=skip): {names}"
            )
        if run.missing:
            names = ", ".join(str(run.planned[task].get("name") or task) for task in run.missing)
            lines.append(f"{owner}INCOMPLETE: {len(run.missing)} of {len(run.planned)} tasks are missing: {names}")
        lines += [f"{owner}{error}" for error in run.damaged]
        lines += [f"{owner}{text}" for text in run.shared_flags]
        # Protocols may have a precision each (the published recipe's have); within one, records must agree.
        by_protocol: dict[str, set[str]] = {}
        for record in run.records.values():
            by_protocol.setdefault(record.protocol, set()).add(record.fingerprint.precision)
        for protocol, several in by_protocol.items():
            if len(several) > 1:
                made = ", ".join(sorted(map(short_precision, several)))
                lines.append(f"{owner}MIXED: its {protocol} records were made under several precisions: {made}")
    return lines


def short_precision(text: str) -> str:
    """`fp32` for `fp32/fp32`, which names images and texts."""
    return text.partition("/")[0] if len(set(text.split("/"))) == 1 else text


def _details(run: Run) -> str:
    """What a run was, in a line."""
    parts = []
    if run.model.get("params_m"):
        parts.append(f"{float(run.model['params_m']):.1f} M parameters")
    config = run.info.get("config") or {}
    asked = (config.get("runtime") or {}).get("precision")
    made = sorted({short_precision(record.fingerprint.precision) for record in run.records.values()})
    # The name of a recipe says more than what it does to each protocol; a run of one precision is what its records say.
    parts += [str(asked)] if asked and len(made) > 1 else made
    how = (config.get("runtime") or {}).get("preprocess")
    if how in ("fast", "nvjpeg"):
        parts.append(f"{how} preprocessing")
    prompts = config.get("prompts")
    if prompts:
        parts.append(
            f"prompts {prompts.get('name') or prompts.get('path') if isinstance(prompts, Mapping) else prompts}"
        )
    devices = sorted({str(record.options["device"]) for record in run.records.values() if record.options.get("device")})
    parts += devices
    code = run.info.get("code") or {}
    if code.get("commit"):
        parts.append(f"clipeval {str(code['commit'])[:8]}{' + changes' if code.get('dirty') else ''}")
    elif code.get("version"):
        parts.append(f"clipeval {code['version']}")
    return ", ".join(parts)
