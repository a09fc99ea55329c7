"""What a run gets wrong on one task: its worst classes with what they are taken for, and examples."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from results.contact_sheet import class_name, thumbnail
from results.records import Record
from results.runs import Run

CLASSES = 8
"""How many worst classes are shown."""

EXAMPLES = 12
"""How many example mistakes are shown."""

SIDE = 112
"""The side of an example's picture, in pixels."""

Pictures = Callable[[str, str, Sequence[str]], Mapping[str, bytes]]


@dataclass(frozen=True)
class WorstClass:
    """A class, how many of its samples are right, and what the others are taken for."""

    name: str
    right: int
    samples: int
    taken_for: tuple[tuple[str, float], ...]

    @property
    def recall(self) -> float:
        return self.right / self.samples


@dataclass(frozen=True)
class Example:
    """A sample that went wrong."""

    key: str
    truth: str
    said: str
    picture: str = ""
    """A data URI; empty where no picture is at hand."""


@dataclass(frozen=True)
class Confusion:
    """Shares of the worst classes' samples: a row a true class, a column a predicted one."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Mistakes:
    """What there is to say of one task."""

    worst: tuple[WorstClass, ...] = ()
    confusion: Confusion | None = None
    examples: tuple[Example, ...] = ()
    remark: str = field(default="")


def mistakes(run: Run, record: Record, pictures: Pictures | None) -> Mistakes:
    """The mistakes of one task, from its stored predictions. Protocols without classes give examples alone."""
    try:
        frame = run.folder.predictions(record)
    except ValueError as error:
        return Mistakes(remark=str(error))
    names = [str(name) for name in record.prompts.get("classnames") or []]
    if {"label", "prediction"} <= set(frame.columns) and pd.api.types.is_integer_dtype(frame["label"]):
        worst, confusion = worst_classes(frame["label"].to_numpy(), frame["prediction"].to_numpy(), names)
        chosen = _choose(frame)
        rows = [
            (str(row["key"]), class_name(row["label"], names), class_name(row["prediction"], names))
            for row in frame.iloc[chosen].to_dict("records")
        ]
        return Mistakes(worst, confusion, _illustrate(run, record, rows, pictures))
    if {"direction", "rank", "top_key"} <= set(frame.columns):
        wrong = frame[(frame["direction"] == "text") & (frame["rank"] > 0)]
        wrong = wrong.sort_values(["rank", "key"], ascending=[False, True], kind="stable").head(EXAMPLES)
        rows = [
            (str(row["key"]), f"image {row['key']}", f"its best caption is only number {int(row['rank']) + 1}")
            for row in wrong.to_dict("records")
        ]
        return Mistakes(examples=_illustrate(run, record, rows, pictures))
    return Mistakes()


def worst_classes(
    labels: np.ndarray, predictions: np.ndarray, names: Sequence[str], count: int = CLASSES
) -> tuple[tuple[WorstClass, ...], Confusion | None]:
    """The classes of least recall, the more frequent first among equals, and their rows of the confusion matrix.

    Args:
        labels, predictions: int64 [N].
        names: the classes' names; where there is none, the index is shown.
        count: how many classes.
    """
    present, totals = np.unique(labels, return_counts=True)
    right = np.array([np.count_nonzero(predictions[labels == c] == c) for c in present]) if len(present) else totals
    order = np.lexsort((present, -totals, right / np.maximum(totals, 1)))[:count]
    worst, rows = [], []
    for index in order:
        label = present[index]
        said, times = np.unique(predictions[labels == label], return_counts=True)
        falling = np.lexsort((said, -times))
        rows.append({int(said[i]): times[i] / totals[index] for i in falling})
        others = [(class_name(said[i], names), float(times[i] / totals[index])) for i in falling if said[i] != label]
        worst.append(WorstClass(class_name(label, names), int(right[index]), int(totals[index]), tuple(others[:3])))
    if not worst:
        return (), None
    # The worst classes themselves, then what they are most often taken for.
    classes = [int(present[index]) for index in order]
    weight: dict[int, float] = {}
    for row in rows:
        for label, share in row.items():
            if label not in classes:
                weight[label] = weight.get(label, 0.0) + share
    columns = [*classes, *sorted(weight, key=lambda label: (-weight[label], label))[: max(0, count + 4 - len(classes))]]
    shares = tuple(tuple(float(row.get(label, 0.0)) for label in columns) for row in rows)
    return tuple(worst), Confusion(
        tuple(item.name for item in worst), tuple(class_name(label, names) for label in columns), shares
    )


def _choose(frame: pd.DataFrame) -> list[int]:
    """The rows of the most confident mistakes, at most two of a class, so that one class does not fill the page."""
    wrong = np.flatnonzero((frame["label"] != frame["prediction"]).to_numpy())
    if "score_1" in frame.columns:
        wrong = wrong[np.argsort(-frame["score_1"].to_numpy()[wrong], kind="stable")]
    labels = frame["label"].to_numpy()
    taken: dict[int, int] = {}
    chosen = []
    for row in wrong:
        label = int(labels[row])
        if taken.get(label, 0) < 2:
            taken[label] = taken.get(label, 0) + 1
            chosen.append(int(row))
        if len(chosen) == EXAMPLES:
            break
    return chosen


def _illustrate(
    run: Run, record: Record, rows: Sequence[tuple[str, str, str]], pictures: Pictures | None
) -> tuple[Example, ...]:
    keys = [key for key, _, _ in rows]
    found = pictures(str(run.folder.path), record.task, keys) if pictures and keys else {}
    return tuple(Example(key, truth, said, data_uri(found.get(key))) for key, truth, said in rows)


def data_uri(content: bytes | None) -> str:
    """A picture small enough to stand in the page itself; empty where there is none."""
    image = thumbnail(content, SIDE)
    if image is None:
        return ""
    sink = io.BytesIO()
    image.save(sink, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(sink.getvalue()).decode("ascii")
