"""Attributes (FairFace, UTKFace): several heads over the same images, scored by group.

Class names and templates are lines `objective:text`; an objective's class names and templates make its head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from clipeval.tasks import checks, ties
from clipeval.tasks.base import Answers, Samples, Task
from clipeval.tasks.classification import ROWS, class_logits, top_k_of_logits
from clipeval.tasks.groups import by_group
from clipeval.tasks.statistics import Statistic
from clipeval.tasks.zero_shot import prompt_counts, prompts, zero_shot_classifier


@dataclass(frozen=True)
class Attribute:
    """How often an objective's best class agrees with a metadata field, by group."""

    objective: str
    label: str
    """The metadata column that holds the truth."""
    by: Sequence[str]
    """The metadata columns whose combinations are the groups, in the order in which the names list them."""
    prefix: str | None = None
    """How the names begin; None: `acc_<objective>`."""
    relabel: Mapping[int, int] = field(default_factory=dict, hash=False)
    """{class: label}, where the two are numbered otherwise; a class is its place among the objective's class names."""
    otherwise: int | None = None
    """The label of the classes that `relabel` leaves out; None: their own number."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "by", names(self.by, f"attribute {self.objective!r}"))
        object.__setattr__(self, "relabel", {int(k): int(v) for k, v in self.relabel.items()})

    @property
    def name(self) -> str:
        return self.prefix or f"acc_{self.objective}"

    def hits(self, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """`predictions`: int64 [N], classes of the objective; `labels`: int64 [N]. bool [N]."""
        return np.asarray(self.answers(predictions) == labels)

    def answers(self, predictions: np.ndarray) -> np.ndarray:
        """`predictions`: int64 [N], classes of the objective. int64 [N], the labels that they stand for."""
        answer = predictions.copy() if self.otherwise is None else np.full_like(predictions, self.otherwise)
        for source, label in self.relabel.items():
            answer[predictions == source] = label
        return answer


@dataclass(frozen=True)
class Harm:
    """How often an objective's best class lies in a range of harmful ones, by group.

    `<prefix>_wg` is the least of the groups' rates, as DataComp prints it: the group that is harmed least.
    """

    objective: str
    by: Sequence[str]
    prefix: str
    first: int
    """The first harmful class."""
    last: int | None = None
    """The last one; None: the objective's last."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "by", names(self.by, f"harm {self.prefix!r}"))

    @property
    def name(self) -> str:
        return self.prefix

    def hits(self, predictions: np.ndarray) -> np.ndarray:
        """`predictions`: int64 [N]. bool [N]."""
        return (predictions >= self.first) & (predictions <= (predictions if self.last is None else self.last))


@dataclass(frozen=True)
class Attributes(Task):
    """Accuracy of each attribute and rates of harm, by group.

    Predictions: key, for each objective pred_<objective> (the argmax, a place among its class names) and score_<objective>
    (100 times its cosine), then the metadata.
    """

    protocol: ClassVar[str] = "attributes"
    attributes: Sequence[Attribute | Mapping[str, Any]] = ()
    harms: Sequence[Harm | Mapping[str, Any]] = ()
    meanings: Mapping[str, Sequence[str]] = field(default_factory=dict, hash=False)
    """{metadata field: what its values mean}, for tables; a field with an objective's name has that one's class names."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "meanings", {str(k): tuple(v) for k, v in self.meanings.items()})
        object.__setattr__(self, "attributes", checks.parts(Attribute, self.attributes, f"{self.key}: attributes"))
        object.__setattr__(self, "harms", checks.parts(Harm, self.harms, f"{self.key}: harms"))
        if not self.parts:
            raise ValueError(f"{self.key}: declare at least one attribute (objective, label, by) or harm")

    @property
    def parts(self) -> list[Attribute | Harm]:
        """Everything measured, in its order."""
        return [part for part in (*self.attributes, *self.harms) if isinstance(part, Attribute | Harm)]

    @property
    def objectives(self) -> list[str]:
        """The heads, in the order in which they are first asked for."""
        return list(dict.fromkeys(part.objective for part in self.parts))

    def heads(self, test: Samples) -> dict[str, tuple[list[str], list[str]]]:
        """For each objective its class names and its templates.

        Raises:
            ValueError: a line has no objective, or an objective lacks class names or templates.
        """
        if isinstance(test.templates, Mapping):
            raise ValueError(f"{self.key}: templates must be lines 'objective:template', not prompts for each class")
        parsed = [
            split(lines, what, self.key)
            for lines, what in ((test.classnames, "class name"), (test.templates, "template"))
        ]
        for objective in self.objectives:
            for lines, what in zip(parsed, ("class names", "templates"), strict=True):
                if objective not in lines:
                    raise ValueError(
                        f"{self.key}: objective {objective!r} has no {what}; the folder's objectives are {sorted(lines)}, "
                        f"from lines such as '{objective}:…'"
                    )
        return {objective: (parsed[0][objective], parsed[1][objective]) for objective in self.objectives}

    def name_lists(self, samples: Mapping[str, Samples]) -> dict[str, Sequence[str]]:
        return {f"of {objective}": names for objective, (names, _) in self.heads(samples["test"]).items()}

    def prompts(self, samples: Mapping[str, Samples]) -> list[str]:
        return [text for lines in self.heads(samples["test"]).values() for text in prompts(*lines)]

    def predict(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> pd.DataFrame:
        return Attributes.answers(self, images, texts, samples).predictions  # its own, whatever a subclass answers

    def answers(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> Answers:
        test = samples["test"]
        n = checks.check_embeddings(images["test"], test.keys, self.key)
        for name in self.columns:
            checks.column(test.metadata, name, n, self.key)
        columns: dict[str, np.ndarray] = {"key": np.asarray(test.keys, dtype=object)}
        counts = {objective: prompt_counts(*lines) for objective, lines in self.heads(test).items()}
        if len(texts) != sum(map(sum, counts.values())):
            raise ValueError(f"{self.key}: {sum(map(sum, counts.values()))} prompts, but {len(texts)} text embeddings")
        start, equal = 0, {}
        for objective, each in counts.items():
            logits = torch.cat(
                list(
                    class_logits(
                        images["test"], zero_shot_classifier(texts[start : start + sum(each)], each), ROWS, self.ties
                    )
                )
            )
            best = top_k_of_logits([logits], self.ties)
            columns[f"pred_{objective}"], columns[f"score_{objective}"] = best["prediction"], best["score_1"]
            equal[objective] = (logits >= logits.amax(dim=1, keepdim=True) - 100 * ties.CLOSE).cpu().numpy()
            start += sum(each)
        return self.otherwise(checks.with_metadata(columns, test.metadata, n, self.key), equal)

    def otherwise(self, predictions: pd.DataFrame, equal: Mapping[str, np.ndarray]) -> Answers:
        """The answers, and what each part would count had its ties gone the one way or the other.

        Args:
            predictions: as `predict` gives them.
            equal: for each objective, bool [N, C]: the classes that score as high as the best.
        """
        tables, hanging = [], np.zeros(len(predictions), dtype=bool)
        for part in self.parts:
            classes = equal[part.objective]
            column = f"pred_{part.objective}"
            # hits of every class, [N, C]: few classes, and only rows in which several are equal.
            rows = np.flatnonzero(classes.sum(axis=1) > 1)
            each = np.tile(np.arange(classes.shape[1]), len(rows))
            if isinstance(part, Attribute):
                labels = predictions[part.label].to_numpy()[rows]
                hits = part.hits(each, np.repeat(labels, classes.shape[1]))
            else:
                hits = part.hits(each)
            hits = hits.reshape(len(rows), classes.shape[1])
            some, none = (hits & classes[rows]).any(axis=1), (~hits & classes[rows]).any(axis=1)
            moved = some & none
            hanging[rows[moved]] = True
            for wanted in (~hits, hits) if moved.any() else ():
                table = predictions.copy()
                table.loc[rows[moved], column] = (wanted & classes[rows])[moved].argmax(axis=1)
                tables.append(table)
        return Answers(predictions, tables, int(hanging.sum()))

    @property
    def columns(self) -> list[str]:
        """Every metadata field that a metric needs."""
        labels = [part.label for part in self.parts if isinstance(part, Attribute)]
        return list(dict.fromkeys([*labels, *(name for part in self.parts for name in part.by)]))

    def names(self, classnames: Sequence[str]) -> dict[str, Sequence[str]]:
        """{metadata field: what its values mean}. `classnames`: the set's lines `objective:text`."""
        return {**split(classnames, "class name", self.key), **self.meanings}

    def statistics(self, predictions: pd.DataFrame) -> dict[str, Statistic | None]:
        checks.require_columns(predictions, [f"pred_{objective}" for objective in self.objectives], self.key)
        table = {name: checks.column(predictions, name, len(predictions), self.key) for name in self.columns}
        metrics: dict[str, Statistic | None] = {}
        for part in self.parts:
            answer = predictions[f"pred_{part.objective}"].to_numpy()
            hits = part.hits(answer, table[part.label]) if isinstance(part, Attribute) else part.hits(answer)
            metrics |= by_group(hits, {name: table[name] for name in part.by}, part.name)
        return metrics


def names(values: Sequence[str], where: str) -> tuple[str, ...]:
    """A tuple of at least one field name."""
    names = (values,) if isinstance(values, str) else tuple(str(name) for name in values)
    if not names:
        raise ValueError(f"{where}: `by` must name at least one metadata field")
    return names


def split(lines: Sequence[str], what: str, task: str) -> dict[str, list[str]]:
    """Lines `objective:text`, by objective. Only the first colon counts; a blank text is a class like any other."""
    by_objective: dict[str, list[str]] = {}
    for number, line in enumerate(lines):
        objective, colon, text = line.partition(":")
        if not colon:
            raise ValueError(f"{task}: {what} {number + 1}, {line!r}, does not read 'objective:text'")
        by_objective.setdefault(objective, []).append(text)
    return by_objective
