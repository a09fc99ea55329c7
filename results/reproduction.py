"""A run against everything that was published of its model: a verdict for each metric, and where one fails, why that may be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from clipeval.results import published
from clipeval.results.judgement import Verdict, drift, precision_effect, rounding, simultaneous, verdict_of
from clipeval.results.records import Record
from clipeval.results.runs import Run, tasks
from clipeval.results.uncertainty import Interval

SAME_SETS: Mapping[str, str] = {
    "mscoco_captions": "retrieval/mscoco_2014_5k_test_image_text_retrieval",
    "flickr30k": "retrieval/flickr_1k_test_image_text_retrieval",
}
"""Keys of clip_benchmark's for sets that were published under DataComp's."""


@dataclass(frozen=True)
class Figure:
    """A published value and where it stands."""

    source: str
    title: str
    value: float
    digits: int
    recipe: str
    remark: str
    """In what the published model differs from the run's; empty where it does not."""


@dataclass(frozen=True)
class Judged:
    """One metric of one task: what was published, what was measured, and whether they agree."""

    task: str
    name: str
    metric: str
    main: bool
    figures: tuple[Figure, ...]
    measured: float | None
    interval: Interval | None
    verdict: Verdict
    record: Record | None

    @property
    def figure(self) -> Figure:
        """The published value that the verdict is about."""
        return self.figures[0]

    @property
    def difference(self) -> float | None:
        """Measured minus published."""
        return None if self.measured is None else self.measured - self.figure.value

    @property
    def disagree(self) -> bool:
        """Whether the sources contradict each other: their values lie further apart than their rounding."""
        first = self.figures[0]
        return any(
            abs(other.value - first.value) > (rounding(other.digits) + rounding(first.digits)) * (1 + 1e-6)
            for other in self.figures[1:]
        )


@dataclass(frozen=True)
class Reproduction:
    """What was published of a run's model, beside the run."""

    lines: tuple[Judged, ...]
    drift: float | None
    """How far the main metrics lie to one side together, in standard deviations, where chance rules it out."""
    remarks: tuple[str, ...]
    """In what published rows differ from the run's model."""

    @property
    def mains(self) -> list[Judged]:
        """The main metrics, a task each; also of those that are not recorded yet."""
        return [line for line in self.lines if line.main]

    def scored(self, main: bool | None = None) -> list[Judged]:
        """The measured ones: of main metrics, of the others, or of all."""
        return [line for line in self.lines if line.measured is not None and main in (None, line.main)]

    @property
    def outside(self) -> list[Judged]:
        """The measured ones that do not agree."""
        return [line for line in self.lines if line.verdict == "outside"]


def figures_of(model: Mapping[str, Any]) -> dict[tuple[str, str], tuple[Figure, ...]]:
    """{(key, metric): the published values} of a record's or a run's `model`; those of the same model first."""
    table = published.rows_of_model(**published.of_record(model))
    order = {source.name: index for index, source in enumerate(published.sources())}
    titles = {source.name: source.title for source in published.sources()}
    figures: dict[tuple[str, str], list[Figure]] = defaultdict(list)
    for row in table.to_dict("records"):
        key, metric, source = str(row["key"]), str(row["metric"]), str(row["source"])
        if metric != "average" and not metric.startswith("count_"):
            value, digits, recipe = float(row["value"]), int(row["digits"]), str(row["recipe"])
            figures[key, metric].append(Figure(source, titles[source], value, digits, recipe, str(row["remark"])))
    return {
        cell: tuple(sorted(values, key=lambda figure: (bool(figure.remark), order[figure.source])))
        for cell, values in figures.items()
    }


def reproduce(run: Run) -> Reproduction | None:
    """A run beside all that was published of its model; None where nothing was, of any of its tasks."""
    figures = figures_of(run.model)
    lines: list[Judged] = []
    for task, spec in tasks([run]).items():
        key = SAME_SETS.get(str(spec.get("key")), str(spec.get("key")))
        metric = published.COLUMNS[key][1] if spec.get("key") in published.COLUMNS else spec.get("metric")
        record = run.records.get(task)
        name = str(spec.get("name") or task)
        wanted = [
            (cell_metric, candidates) for (cell_key, cell_metric), candidates in figures.items() if cell_key == key
        ]
        for cell_metric, candidates in wanted:
            main = cell_metric == metric
            if record is None and not main:
                continue
            if record is not None and cell_metric not in record.metrics:
                continue  # the same set under another protocol, or a metric that we do not compute
            value = record.metrics.get(cell_metric) if record else None
            interval = record.intervals.get(cell_metric) if record else None
            lines.append(Judged(task, name, cell_metric, main, candidates, value, interval, "missing", record))
    if not lines:
        return None
    return _judged(lines)


def _judged(lines: Sequence[Judged]) -> Reproduction:
    """The verdicts: all metrics of a run are judged together, so that many of them do not mean many false alarms."""
    factor = simultaneous(sum(line.interval is not None for line in lines))
    judged = []
    for line in lines:
        figure = line.figure
        samples = line.record.samples if line.record else None
        slack = precision_effect(samples) if line.record and not same_recipe(line.record, figure.recipe) else 0.0
        verdict = verdict_of(
            figure.value, line.measured, line.interval, digits=figure.digits, factor=factor, slack=slack
        )
        judged.append(replace(line, verdict=verdict))
    differences = [
        (
            line.difference,
            (line.measured - line.interval[0], line.interval[1] - line.measured),
            rounding(line.figure.digits),
        )
        for line in judged
        if line.main and line.interval is not None and line.measured is not None and line.difference is not None
    ]
    remarks = dict.fromkeys(line.figure.remark for line in judged if line.figure.remark)
    return Reproduction(tuple(judged), drift(differences), tuple(remarks))


def same_recipe(record: Record, recipe: str) -> bool:
    """Whether a record was computed in the precision of a published recipe, as far as both say.

    A fingerprint's precision is that of images and that of texts: `fp32/amp-fp16`.
    """
    if record.imported is not None:
        return True
    images, _, texts = record.fingerprint.precision.partition("/")
    texts = texts or images
    mixed = images.startswith("amp"), texts.startswith("amp")
    wanted = {
        "datacomp": (record.protocol in ("retrieval", "association", "selection"), True),
        "autocast": (True, True),
        "fp32": (False, False),
    }
    if recipe not in wanted:
        return False
    return mixed == wanted[recipe] and (images in ("fp32", "fp32-tf32conv") or mixed[0])
