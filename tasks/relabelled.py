"""Classification where several classes may be right, and sets whose images come in several versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from clipeval.tasks import checks
from clipeval.tasks.base import Samples
from clipeval.tasks.classification import Classification
from clipeval.tasks.means import Drop, PairedDifference, RealMean, UnpairedDifference
from clipeval.tasks.statistics import ClusterMean, Proportion, Statistic

ACCEPTED = "accepted"
"""The metadata column of the classes that are right, numbers with spaces between them; empty: the image does not count."""


@dataclass(frozen=True)
class Relabelled(Classification):
    """Right is any of the classes that an image is said to show, as ImageNet ReaL counts (Beyer et al. 2020).

    acc1: the share of images whose best class is among those that are accepted; acc5: whose five best hold one of them;
    acc1_original: the share whose best class is the label of old. Images of which no class is accepted do not count in the first
    two. `only`: the labels whose images count at all; the model still chooses among all classes.

    Predictions: those of `Classification`, and where there are such labels `accepted`.
    """

    protocol: ClassVar[str] = "relabelled"
    only: Sequence[int] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "only", tuple(int(label) for label in self.only))

    def from_classification(self, predictions: pd.DataFrame, samples: Mapping[str, Samples]) -> pd.DataFrame:
        """What a plain classification answered on the same images, with what this task's samples say of them.

        Raises:
            ValueError: an image of the predictions is not among the samples.
        """
        test = samples["test"]
        rows = pd.Series(range(len(test.keys)), index=pd.Index(test.keys)).reindex(predictions["key"])
        if rows.isna().any():
            raise ValueError(
                f"{self.key}: the predictions speak of {predictions['key'][rows.isna().to_numpy()].iloc[0]!r}"
            )
        own = test.metadata.iloc[rows.to_numpy(dtype=np.int64)].reset_index(drop=True)
        kept = [name for name in predictions.columns if name not in own.columns]
        return pd.concat([predictions[kept].reset_index(drop=True), own], axis=1)

    def statistics(self, predictions: pd.DataFrame) -> dict[str, Statistic | None]:
        checks.require_columns(predictions, ["label", "prediction", "pred_1"], self.key)
        predictions = self._counted(predictions)
        hits, known = self.hits(predictions, 1)
        found: dict[str, Statistic | None] = {"acc1": Proportion(hits[known]) if known.any() else None}
        five, _ = self.hits(predictions, 5) if "pred_5" in predictions.columns else (None, None)
        found["acc5"] = Proportion(five[known]) if five is not None and known.any() else None
        if ACCEPTED in predictions.columns:
            found["acc1_original"] = Proportion((predictions["pred_1"] == predictions["label"]).to_numpy())
        return found

    def hits(self, predictions: pd.DataFrame, k: int) -> tuple[np.ndarray, np.ndarray]:
        """bool [N] twice: whether one of the k best classes is accepted, and whether there is any that is."""
        best = predictions[[f"pred_{i}" for i in range(1, k + 1)]].to_numpy()
        if ACCEPTED not in predictions.columns:
            return (best == predictions["label"].to_numpy()[:, None]).any(axis=1), np.ones(len(best), dtype=bool)
        sets = [frozenset(map(int, str(text).split())) for text in predictions[ACCEPTED].fillna("")]
        hits = np.array([not right.isdisjoint(row) for right, row in zip(sets, best.tolist(), strict=True)], dtype=bool)
        return hits, np.array([bool(right) for right in sets], dtype=bool)

    def _counted(self, predictions: pd.DataFrame) -> pd.DataFrame:
        if not self.only:
            return predictions
        counted = predictions[predictions["label"].isin(self.only)].reset_index(drop=True)
        if not len(counted):
            raise ValueError(f"{self.key}: no image has one of the {len(self.only)} labels that count")
        return counted


@dataclass(frozen=True)
class Variants(Relabelled):
    """The same question of several versions of a set: backgrounds, edits, corruptions by their severity.

    acc1, acc5: over all images. acc1_VERSION: over those whose first field of `versions` says VERSION. macro_acc1: the mean over
    the versions, each combination of `versions` one. Each of `drops`: the accuracy in one version less that in another, picture by
    picture where both have the same. With `baseline`, {version: error of AlexNet}: ce_VERSION, the error averaged over the other
    fields (severities) and divided by that, and mce, their mean (Hendrycks and Dietterich 2019). `picture`: the
    field that says what is one picture in all versions: what resampling draws.

    Predictions: those of `Classification` with the fields as columns.
    """

    protocol: ClassVar[str] = "variants"
    versions: Sequence[str] = ()
    picture: str | None = None
    drops: Sequence[Drop | Mapping[str, Any]] = ()
    baseline: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "versions", tuple(self.versions))
        object.__setattr__(self, "drops", checks.parts(Drop, self.drops, f"{self.key}: drops"))
        if self.baseline is not None:
            object.__setattr__(self, "baseline", tuple((str(k), float(v)) for k, v in dict(self.baseline).items()))

    def statistics(self, predictions: pd.DataFrame) -> dict[str, Statistic | None]:
        checks.require_columns(predictions, self.versions, self.key)
        found = super().statistics(predictions)
        predictions = self._counted(predictions)
        hits, known = self.hits(predictions, 1)
        predictions, hits = predictions[known].reset_index(drop=True), hits[known]
        if not self.versions or not len(hits):
            return found
        first = predictions[self.versions[0]].astype(str).to_numpy()
        pictures = pd.factorize(predictions[self.picture] if self.picture else predictions["key"])[0]
        groups = [np.flatnonzero(first == version) for version in np.unique(first)]
        names = [str(first[rows[0]]) for rows in groups]
        found.update((f"acc1_{name}", Proportion(hits[rows])) for name, rows in zip(names, groups, strict=True))
        each = predictions.groupby([predictions[name] for name in self.versions], sort=True).indices
        found["macro_acc1"] = _mean_of_means(hits, [np.asarray(rows) for rows in each.values()], pictures)
        found.update((drop.name, self._drop(drop, predictions, first, hits)) for drop in self._drops)
        if self.baseline is not None:
            found.update(self._errors(predictions, names, groups, ~hits, pictures))
        return found

    def _drop(self, drop: Drop, predictions: pd.DataFrame, first: np.ndarray, hits: np.ndarray) -> Statistic | None:
        checks.require_columns(predictions, [drop.by], self.key)
        member = predictions[drop.by].astype(str).to_numpy()
        sides = [pd.Series(hits[first == one], index=member[first == one]) for one in (drop.before, drop.after)]
        before, after = sides
        if before.empty or after.empty:
            return None
        if before.index.is_unique and after.index.is_unique and set(before.index) == set(after.index):
            return PairedDifference(before.to_numpy(), after[before.index].to_numpy())
        return UnpairedDifference(before.to_numpy(), after.to_numpy())

    def _errors(
        self,
        predictions: pd.DataFrame,
        names: list[str],
        groups: list[np.ndarray],
        wrong: np.ndarray,
        pictures: np.ndarray,
    ) -> Iterator[tuple[str, Statistic | None]]:
        errors = {} if self.baseline is None else dict(self.baseline)
        others = list(self.versions[1:])
        parts: list[np.ndarray] = []
        weights: list[float] = []
        for name, rows in zip(names, groups, strict=True):
            if name not in errors:
                continue
            inside = predictions.iloc[rows]
            within = [rows[i] for i in inside.groupby(others).indices.values()] if others else [rows]
            shares = [1 / (len(within) * errors[name])] * len(within)
            yield f"ce_{name}", _weighted(wrong, within, shares, pictures)
            parts += within
            weights += shares
        # Of a part of the corruptions there is no mCE.
        whole = set(errors) <= set(names)
        weights = [weight / len(errors) for weight in weights]
        yield "mce", _weighted(wrong, parts, weights, pictures) if whole else None

    @property
    def _drops(self) -> tuple[Drop, ...]:
        return tuple(drop for drop in self.drops if isinstance(drop, Drop))


def _weighted(
    values: np.ndarray, groups: Sequence[np.ndarray], weights: Sequence[float], pictures: np.ndarray
) -> RealMean:
    """The weighted sum of group means, as a mean over pictures: those of one picture are drawn together."""
    present = np.unique(np.concatenate([pictures[rows] for rows in groups]))
    each = np.zeros(int(pictures.max()) + 1)
    for rows, weight in zip(groups, weights, strict=True):
        np.add.at(each, pictures[rows], values[rows] * (weight * len(present) / len(rows)))
    return RealMean(each[present])


def _mean_of_means(hits: np.ndarray, groups: Sequence[np.ndarray], pictures: np.ndarray) -> Statistic:
    if len({len(rows) for rows in groups}) == 1:  # then it is the mean over all, and stays inside [0, 1]
        rows = np.concatenate(groups)
        index = np.unique(pictures[rows], return_inverse=True)[1]
        return ClusterMean(hits[rows], index, int(index.max()) + 1)
    return _weighted(hits, groups, [1 / len(groups)] * len(groups), pictures)
