"""What a run gets wrong on one task: its worst classes with what they are taken for, and examples."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image

from clipeval.results.contact_sheet import class_name, montage
from clipeval.results.records import Record
from clipeval.results.runs import Run

CLASSES = 8
"""How many worst classes are shown."""

LEAST = 0.005
"""The least share of a class's samples worth naming: it would be printed as 0%."""

EXAMPLES = 12
"""How many example mistakes are shown."""

SIDE = 112
"""The side of an example's picture, in pixels."""

FOUND, MISSED, FALSE = "#1a8f4b", "#e0a100", "#c62f26"
"""Frames of pictures that were rightly chosen, wrongly left, wrongly chosen."""

Pictures = Callable[[str, str, Sequence[str]], Mapping[str, bytes]]
"""(run folder, task id, keys of samples) -> {key: an encoded image}. Keys whose image is not at hand are left out."""


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
    remark: str = ""
    legend: str = ""
    """What the examples show, where it does not go without saying."""


@dataclass(frozen=True)
class _Row:
    """An example before it has its picture: which pictures, and the colour of each one's frame where there are several."""

    key: str
    truth: str
    said: str
    keys: tuple[str, ...]
    frames: tuple[str, ...] = ()


def mistakes(run: Run, record: Record, pictures: Pictures | None) -> Mistakes:
    """The mistakes of one task, from its stored predictions. Protocols without classes give examples alone."""
    try:
        frame = run.folder.predictions(record)
    except ValueError as error:
        return Mistakes(remark=str(error))
    try:
        return _of_frame(run, record, frame, pictures)
    except (
        KeyError,
        TypeError,
        ValueError,
        IndexError,
        AttributeError,
    ) as problem:  # another program's, or tampered with
        return Mistakes(remark=f"its predictions are not those of its protocol ({type(problem).__name__}: {problem})")


def _of_frame(run: Run, record: Record, frame: pd.DataFrame, pictures: Pictures | None) -> Mistakes:
    names = [str(name) for name in record.prompts.get("classnames") or []]
    columns = set(frame.columns)
    legend = ""
    if record.protocol.startswith("attributes"):
        frame, names, legend = _attribute(run, record, frame, names)
        columns = set(frame.columns)
    if {"label", "prediction"} <= columns and pd.api.types.is_integer_dtype(frame["label"]):
        worst, confusion = worst_classes(frame["label"].to_numpy(), frame["prediction"].to_numpy(), names)
        rows = [
            _Row(key, class_name(row["label"], names), class_name(row["prediction"], names), (key,))
            for row in frame.iloc[_choose(frame)].to_dict("records")
            if (key := str(row["key"]))
        ]
        return Mistakes(worst, confusion, _illustrate(run, record, rows, pictures), legend=legend)
    if {"rank", "own", "answer"} <= columns:
        rows, legend = _captions(frame), "The image's own caption, and the one that the model puts first."
    elif {"image", "own", "answer"} <= columns:
        wrong = frame[~frame["text_correct"].astype(bool)].head(EXAMPLES).to_dict("records")
        rows = [_Row(str(r["key"]), str(r["own"]), str(r["answer"]), (str(r["image"]),)) for r in wrong]
        legend = "The image's own caption, and the one that the model prefers."
    elif {"cue", "associated", "chosen"} <= columns:
        rows = _associations(frame)
        legend = (
            "Pictures framed in green belong to the cue and were found; in amber, were missed; in red, do not belong."
        )
    elif {"label_0", "logit_0"} <= columns:
        rows, legend = _labels(frame, names), "The image's labels, and the absent one that the model is surest of."
    else:
        return Mistakes()
    return Mistakes(examples=_illustrate(run, record, rows, pictures), legend=legend)


def _captions(frame: pd.DataFrame) -> list[_Row]:
    """The images whose own captions are ranked worst."""
    wrong = frame[(frame["direction"] == "text") & (frame["rank"] > 0)]
    wrong = wrong.sort_values(["rank", "key"], ascending=[False, True], kind="stable").head(EXAMPLES)
    return [
        _Row(str(r["key"]), f"{r['own']} (number {int(r['rank']) + 1:,})", str(r["answer"]), (str(r["key"]),))
        for r in wrong.to_dict("records")
    ]


def _associations(frame: pd.DataFrame) -> list[_Row]:
    """The cues whose pictures are found worst."""
    rows = []
    wrong = frame[frame["jaccard"] < 1].sort_values(["jaccard", "key"], kind="stable").head(EXAMPLES)
    for row in wrong.to_dict("records"):
        own, chosen = str(row["associated"]).split(" "), str(row["chosen"]).split(" ")
        keys = [*own, *(key for key in chosen if key not in own)]
        frames = [FOUND if key in own and key in chosen else MISSED if key in own else FALSE for key in keys]
        said = f"{int(row['correct'])} of {len(own)} found"
        rows.append(_Row(str(row["key"]), f"cue: {row['cue']}", said, tuple(keys), tuple(frames)))
    return rows


def _labels(frame: pd.DataFrame, names: Sequence[str]) -> list[_Row]:
    """Of several labels at once: the images whose best class is none of theirs, by falling logit."""
    count = sum(name.startswith("logit_") for name in frame.columns)
    logits = frame[[f"logit_{c}" for c in range(count)]].to_numpy()
    truth = frame[[f"label_{c}" for c in range(count)]].to_numpy().astype(bool)
    best = logits.argmax(axis=1)
    place = np.arange(len(frame))
    wrong = np.flatnonzero(~truth[place, best])
    wrong = wrong[np.argsort(-logits[wrong, best[wrong]], kind="stable")][:EXAMPLES]
    keys = frame["key"].astype(str).to_numpy()
    return [
        _Row(
            keys[i],
            ", ".join(class_name(c, names) for c in np.flatnonzero(truth[i])) or "none",
            class_name(best[i], names),
            (keys[i],),
        )
        for i in wrong
    ]


def _attribute(
    run: Run, record: Record, frame: pd.DataFrame, lines: Sequence[str]
) -> tuple[pd.DataFrame, list[str], str]:
    """Attributes as labels and predictions: those of the main metric's, else of the first that the config declares."""
    from clipeval.tasks.attributes import Attribute  # it loads torch, which no other part of a report needs

    config = ((run.info.get("config") or {}).get("tasks") or {}).get(record.task) or {}
    parts = [Attribute(**given) for given in config.get("attributes") or []]
    parts = [part for part in parts if {part.label, f"pred_{part.objective}"} <= set(frame.columns)]
    if not parts:
        return frame, list(lines), ""
    part = next((one for one in parts if str(record.metric).startswith(one.name)), parts[0])
    classes = [text for objective, _, text in (line.partition(":") for line in lines) if objective == part.objective]
    stands_for = part.answers(np.arange(len(classes)))
    names = [
        " / ".join(text for text, label in zip(classes, stands_for, strict=True) if label == wanted) or str(wanted)
        for wanted in range(int(max(stands_for, default=-1)) + 1)
    ]
    answers = pd.DataFrame({"key": frame["key"], "label": frame[part.label]})
    answers["prediction"] = part.answers(frame[f"pred_{part.objective}"].to_numpy())
    answers["score_1"] = frame[f"score_{part.objective}"]
    return answers, names, f"Shown for {part.objective}."


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
        others = [(said[i], float(times[i] / totals[index])) for i in falling if said[i] != label]
        named = [(class_name(one, names), share) for one, share in others if share >= LEAST]
        worst.append(WorstClass(class_name(label, names), int(right[index]), int(totals[index]), tuple(named[:3])))
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


def _illustrate(run: Run, record: Record, rows: Sequence[_Row], pictures: Pictures | None) -> tuple[Example, ...]:
    keys = [key for row in rows for key in row.keys]
    shown = pictures(str(run.folder.path), record.task, keys) if pictures and keys else {}
    return tuple(
        Example(row.key, row.truth, row.said, data_uri(montage([shown.get(key) for key in row.keys], SIDE, row.frames)))
        for row in rows
    )


def data_uri(image: Image.Image | None) -> str:
    """A picture as it stands in the page itself; empty where there is none."""
    if image is None:
        return ""
    sink = io.BytesIO()
    image.save(sink, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(sink.getvalue()).decode("ascii")
