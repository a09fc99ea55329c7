"""Image-text pairs in general: captions and images of which any may belong together, in groups and sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from clipeval.tasks import checks
from clipeval.tasks.base import Answers, Samples
from clipeval.tasks.contests import all_alike, outcomes
from clipeval.tasks.means import Drop, PairedDifference
from clipeval.tasks.selection import Selection, by_shape, shapes_of
from clipeval.tasks.statistics import GroupMean, Proportion, Statistic
from clipeval.tasks.zero_shot import prompts, zero_shot_classifier

GROUPS = 64
"""Groups of which each gets a metric of its own; of more the macro average alone is reported."""


@dataclass(frozen=True)
class Pairs(Selection):
    """text_acc, image_acc and acc over instances (micro), over groups (macro_…) and for each group (…_GROUP).

    An instance has `images` and `captions`, and may have `correct` (for each image the numbers of its captions; without it the
    i-th caption is the i-th image's), `group`, and `sets`, {kind: name}. An image is right if each of its captions scores higher
    than every other; a caption, if each of its images does; an instance, if all that have a partner are. A direction in which
    there is nothing to choose (one image) is not scored. A kind of set gives a metric of its name: the share of its sets
    all of whose instances are right. caption_acc, where an image has several captions: each two of them are
    more alike than either is to any other (SugarCrepe++'s text-only task).

    Ties: of equal scores the first named is the better, so that the order of the captions decides; `strict`: a tie is wrong.

    Predictions, a row an instance: those of `Selection`, with text_correct and image_correct null where nothing is to be chosen;
    caption_correct, group and a column set_KIND for each kind of set, where there are such.
    """

    protocol: ClassVar[str] = "pairs"
    strict: bool = False
    """Whether a correct candidate that only ties with a wrong one is wrong."""
    templated: bool = False
    """Whether captions are class names, each put into the task's prompt templates and averaged."""
    least: int = 1
    """Groups of fewer instances do not count in macro averages."""
    without: Sequence[str] = ()
    """Groups that do not count in them either."""
    drops: Sequence[Drop | Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "without", tuple(str(name) for name in self.without))
        object.__setattr__(self, "drops", checks.parts(Drop, self.drops, f"{self.key}: drops"))

    def prompts(self, samples: Mapping[str, Samples]) -> list[str]:
        captions = super().prompts(samples)
        return prompts(captions, samples["test"].templates) if self.templated else captions

    def predict(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> pd.DataFrame:
        return Pairs.answers(self, images, texts, samples).predictions  # its own, whatever a subclass answers

    def answers(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> Answers:
        test = samples["test"]
        checks.check_embeddings(images["test"], test.keys, self.key)
        instances = self.instances(test)
        if self.templated:
            texts = zero_shot_classifier(texts, [len(test.templates)] * (len(texts) // max(1, len(test.templates))))
        shapes = shapes_of(instances)
        truths = [self._truth(one) for one in instances]
        chosen: list[list[list[int]]] = [[[], []] for _ in instances]
        # By direction: by the rule, with ties against the model, with ties its way; -1 where there is nothing to choose.
        right = np.full((len(instances), 2, 3), -1, dtype=np.int8)
        for members, scores in by_shape(images["test"], texts, instances, test.keys, self.key):
            truth = torch.from_numpy(np.stack([truths[i] for i in members])).to(scores.device)
            for direction, (cosines, fits) in enumerate([(scores, truth), (scores.mT, truth.mT)]):
                asked, best = fits.any(dim=2).tolist(), cosines.argmax(dim=2).tolist()
                for i, ask, answer in zip(members, asked, best, strict=True):
                    chosen[i][direction] = [one for one, wanted in zip(answer, ask, strict=True) if wanted]
                right[members, direction] = outcomes(cosines, fits, self.strict).cpu().numpy()
        first = [next((i for i in range(len(t)) if t[i].any()), 0) for t in truths]
        frame = pd.DataFrame(
            {
                "key": [str(one["id"]) for one in instances],
                "images": shapes[:, 0],
                "captions": shapes[:, 1],
                "text_choice": [",".join(map(str, found)) for found, _ in chosen],
                "image_choice": [",".join(map(str, found)) for _, found in chosen],
                "image": [str(one["images"][i]) for one, i in zip(instances, first, strict=True)],
                "own": [
                    str(one["captions"][int(t[i].argmax())]) for one, i, t in zip(instances, first, truths, strict=True)
                ],
                "answer": [
                    str(one["captions"][(found or [0])[0]]) for one, (found, _) in zip(instances, chosen, strict=True)
                ],
            }
        )
        several = [t.sum(axis=1).max() > 1 for t in truths]
        if any(several):
            starts = np.cumsum(shapes[:, 1]) - shapes[:, 1]
            alike = [
                all_alike(texts[s : s + len(t[0])], t) if more else None
                for s, t, more in zip(starts, truths, several, strict=True)
            ]
            frame["caption_correct"] = pd.array(alike, dtype="boolean")
        if any("group" in one for one in instances):
            frame["group"] = [str(one.get("group", "")) for one in instances]
        for kind in dict.fromkeys(kind for one in instances for kind in one.get("sets") or ()):
            frame[f"set_{kind}"] = [str((one.get("sets") or {}).get(kind, "")) for one in instances]
        outcomes_of = [
            frame.assign(text_correct=_boolean(right[:, 0, k]), image_correct=_boolean(right[:, 1, k]))
            for k in range(3)
        ]
        tied = int((right[:, :, 1] != right[:, :, 2]).any(axis=1).sum())
        return Answers(outcomes_of[0], outcomes_of[1:] if tied else (), tied)

    def statistics(self, predictions: pd.DataFrame) -> dict[str, Statistic | None]:
        checks.require_columns(predictions, ["text_correct", "image_correct"], self.key)
        sides = ("text", "image", *(["caption"] if "caption_correct" in predictions.columns else []))
        hits, known = {}, {}
        for side in sides:
            hits[f"{side}_acc"], known[f"{side}_acc"] = _answers(predictions[f"{side}_correct"])
        hits["acc"] = hits["text_acc"] & hits["image_acc"]
        known["acc"] = known["text_acc"] & known["image_acc"]
        found: dict[str, Statistic | None] = {
            name: Proportion(hits[name][known[name]]) if known[name].any() else None for name in hits
        }
        # All that was to be chosen is right.
        whole = (hits["text_acc"] | ~known["text_acc"]) & (hits["image_acc"] | ~known["image_acc"])
        if "group" in predictions.columns:
            groups = predictions["group"].to_numpy(dtype=str)
            for name in hits:
                found.update(self._by_group(name, hits[name][known[name]], groups[known[name]]))
            found.update((drop.name, self._drop(drop, predictions, groups, whole)) for drop in self._drops)
        for column in predictions.columns:
            if column.startswith("set_") and not any(f"set_{drop.by}" == column for drop in self._drops):
                member = predictions[column].to_numpy(dtype=str)
                all_right = pd.Series(whole[member != ""]).groupby(member[member != ""], sort=True).all()
                found[column.removeprefix("set_")] = Proportion(all_right.to_numpy()) if len(all_right) else None
        return found

    def _by_group(self, name: str, hits: np.ndarray, groups: np.ndarray) -> Iterator[tuple[str, Statistic | None]]:
        names, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
        counted = (counts >= self.least) & ~np.isin(names, self.without)
        inside = counted[index] if len(index) else np.zeros(0, dtype=bool)
        yield f"macro_{name}", GroupMean(hits[inside], index[inside]) if inside.any() else None
        if len(names) <= GROUPS:
            yield from ((f"{name}_{group}", Proportion(hits[index == i])) for i, group in enumerate(names))

    def _drop(self, drop: Drop, predictions: pd.DataFrame, groups: np.ndarray, hits: np.ndarray) -> Statistic | None:
        checks.require_columns(predictions, [f"set_{drop.by}"], self.key)
        member = predictions[f"set_{drop.by}"].to_numpy(dtype=str)
        before, after = (
            pd.Series(hits[groups == group]).groupby(member[groups == group]).mean()
            for group in (drop.before, drop.after)
        )
        both = before.index.intersection(after.index)
        return PairedDifference(before[both].to_numpy(), after[both].to_numpy()) if len(both) else None

    @property
    def _drops(self) -> tuple[Drop, ...]:
        return tuple(drop for drop in self.drops if isinstance(drop, Drop))

    def _truth(self, instance: Mapping[str, Any]) -> np.ndarray:
        """bool [images, captions]: which belong together."""
        images, captions = len(instance["images"]), len(instance["captions"])
        truth = np.eye(images, captions, dtype=bool)
        if "correct" in instance:
            truth[:] = False
            if len(instance["correct"]) != images:
                raise ValueError(
                    f"{self.key}: instance {instance['id']!r}: `correct` needs a list of captions for each image"
                )
            for i, own in enumerate(instance["correct"]):
                if not all(0 <= one < captions for one in own):
                    raise ValueError(
                        f"{self.key}: instance {instance['id']!r}: captions are numbered 0 to {captions - 1}"
                    )
                truth[i, list(own)] = True
        return truth


def _boolean(outcome: np.ndarray) -> Any:
    """Outcomes 1, 0, -1 as true, false, null."""
    return pd.array([None if value < 0 else bool(value) for value in outcome], dtype="boolean")


def _answers(column: pd.Series[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Whether each is right, false where it is null, and where it is not; bool [N] twice."""
    values = column.to_numpy(dtype=object)
    known = ~np.asarray(pd.isna(values), dtype=bool)
    return np.array([bool(k) and bool(v) for k, v in zip(known, values, strict=True)], dtype=bool), known
