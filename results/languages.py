"""A set asked in many languages as one table: a row a language, its gap to English, and the averages that others print.

The averages are those of open_clip's `docs/openclip_multilingual_retrieval_results.csv` and of Meta CLIP 2's `eval_xm3600.py`: of
each metric the plain mean over a set's languages, English among them. open_clip's one number for a model is the mean of all recalls
of all languages of its two sets. Meta CLIP 2 takes all captions of an image, clip_benchmark, and so clipeval, the first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from clipeval.results.records import Record
from clipeval.results.runs import Run
from clipeval.results.uncertainty import Interval, average_interval

BY_LANGUAGE = " by language"
"""How the group of a task ends that was asked in several languages."""
ENGLISH = ("en", "EN", "eng_Latn")
OPENCLIP = ("crossmodal3600", "multilingual_mscoco_captions")
"""The sets of open_clip's table, whose recalls together are its last column."""
_LOCAL, _TRANSLATED = "cvqa/local", "cvqa/english"


@dataclass(frozen=True)
class LanguageTable:
    """One run's scores on one set.

    Attributes:
        key: the set's key without the language.
        name: the set.
        metric: its main metric, of which the gaps are.
        scores: float64, a row a language in the set's order, a column a metric.
        gaps: float64 [languages], the main metric less English's; NaN where English was not asked.
        mean: of each metric over the languages, the main one included.
        interval: of the main metric's mean.
    """

    key: str
    name: str
    metric: str
    scores: pd.DataFrame
    gaps: pd.Series
    mean: pd.Series
    interval: Interval | None

    def table(self) -> pd.DataFrame:
        """What is printed: the languages, their mean, and their mean without English."""
        rows = self.scores.assign(gap=self.gaps)
        others = rows.loc[[name for name in rows.index if name not in ENGLISH]]
        label = f"mean of {len(rows)}"
        rows.loc[label] = rows.mean()
        if 0 < len(others) < len(self.scores):
            rows.loc[f"mean of {len(others)}, without English"] = others.mean()
        return rows.rename(columns={"gap": f"{self.metric} less English's"})


def language_tables(run: Run) -> list[LanguageTable]:
    """The sets of a run that were asked in several languages, in the run's order."""
    members: dict[str, list[Record]] = {}
    for record in run.records.values():
        if str(record.group).endswith(BY_LANGUAGE) and record.metric is not None:
            members.setdefault(record.key.rpartition("/")[0], []).append(record)
    found = [_of_records(run, key, records) for key, records in members.items()]
    regional = _regional({record.key: record for record in run.records.values()})
    return [*found, *([regional] if regional is not None else [])]


def openclip_average(tables: Sequence[LanguageTable]) -> float | None:
    """The mean of all recalls of all languages of the two sets of open_clip's table; None unless both are there."""
    values = [float(v) for table in tables if table.key in OPENCLIP for v in table.scores.to_numpy().ravel()]
    return math.fsum(values) / len(values) if {table.key for table in tables} >= set(OPENCLIP) else None


def _of_records(run: Run, key: str, records: Sequence[Record]) -> LanguageTable:
    metric = str(records[0].metric)
    names = [name for name in records[0].metrics if name == metric or "recall@" in name or name.startswith("acc")]
    recalls = [name for name in names if re.fullmatch(r"(image|text)_retrieval_recall@\d+", name)]
    shown = sorted(recalls, key=lambda name: (name.split("@")[0], int(name.split("@")[1]))) or names
    rows = {record.key.rpartition("/")[2]: [record.metrics.get(name) for name in shown] for record in records}
    scores = pd.DataFrame.from_dict(rows, orient="index", columns=shown, dtype="float64")
    main = pd.Series({record.key.rpartition("/")[2]: record.value for record in records}, dtype="float64")
    english = next((float(main[name]) for name in ENGLISH if name in main.index), math.nan)
    values = [float(value) for value in main if value == value]
    intervals = [record.intervals.get(metric) for record in records if record.value is not None]
    images = [run.images(record.task) for record in records if record.value is not None]
    interval = average_interval(values, intervals, images) if values else None
    name = str(records[0].group).removesuffix(BY_LANGUAGE)
    mean = pd.Series({**scores.mean().to_dict(), metric: main.mean()}, dtype="float64")
    return LanguageTable(key, name, metric, scores, main - english, mean, interval)


def _regional(by_key: dict[str, Record]) -> LanguageTable | None:
    """CVQA: questions of each place in its language, beside the same in English."""
    local, translated = by_key.get(_LOCAL), by_key.get(_TRANSLATED)
    if local is None or local.metric is None:
        return None
    start = f"{local.metric}_"
    own = pd.Series(
        {n.removeprefix(start): v for n, v in local.metrics.items() if n.startswith(start)}, dtype="float64"
    )
    other = pd.Series(
        {name: (translated.metrics.get(start + name) if translated else None) for name in own.index}, dtype="float64"
    )
    scores = pd.DataFrame({"local": own, "English": other})
    english = translated.value if translated else None
    mean = pd.Series({"local": local.value, "English": english, str(local.metric): local.value}, dtype="float64")
    return LanguageTable(_LOCAL, "CVQA", local.metric, scores, own - other, mean, local.interval)
