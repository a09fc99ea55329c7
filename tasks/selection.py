"""Caption selection (SugarCrepe, Winoground): which caption is the picture's, which picture the caption's?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from clipeval.tasks import checks
from clipeval.tasks.base import Answers, Samples, Task
from clipeval.tasks.statistics import Proportion, Statistic
from clipeval.tasks.ties import CLOSE

ROWS = 16_384
"""Instances scored at once."""


@dataclass(frozen=True)
class Selection(Task):
    """text_acc: every image's best caption is its own; image_acc: every caption's best image is its own; acc: both.

    The i-th image of an instance belongs to its i-th caption; what has no partner (SugarCrepe's negative caption) is only an
    alternative. As clip_benchmark's image_caption_selection.

    Predictions, a row an instance: key (its id), images and captions (how many), text_choice and image_choice (the best
    caption of each image, the best image of each caption; numbers joined by commas), text_correct, image_correct; and for
    people to read the first image that goes wrong, else the first: image (its key), own (its caption), answer (the one chosen).
    """

    protocol: ClassVar[str] = "selection"

    def prompts(self, samples: Mapping[str, Samples]) -> list[str]:
        instances = self.instances(samples["test"])
        if all(len(one["images"]) == len(one["captions"]) == 1 for one in instances):
            raise ValueError(
                f"{self.key}: every question has one picture and one caption, so that nothing is to be chosen; give wrong captions "
                "or other pictures beside them (of a table, more columns in data.captions or data.images)"
            )
        return [caption for instance in instances for caption in instance["captions"]]

    def instances(self, test: Samples) -> list[Mapping[str, Any]]:
        """The instances, each with captions and with images that exist.

        Without a list of them, each image with its captions is one, its own caption first: so clip_benchmark packs SugarCrepe.
        """
        known = set(test.keys)
        instances = list(test.instances or ())
        if test.instances is None and test.captions is not None:
            instances = [
                {"id": key, "images": [key], "captions": list(captions)}
                for key, captions in zip(test.keys, test.captions, strict=True)
            ]
        if not instances:
            raise ValueError(f"{self.key}: there are no instances; they are the lines of test/instances.jsonl")
        for number, instance in enumerate(instances):
            name = f"{self.key}: instance {instance.get('id', number)!r}"
            for part in ("id", "images", "captions"):
                if part not in instance or (part != "id" and (not instance[part] or isinstance(instance[part], str))):
                    raise ValueError(f"{name} has no {part!r}; it needs an id, a list of images and a list of captions")
            lost = [image for image in instance["images"] if image not in known]
            if lost:
                raise ValueError(f"{name}: image {lost[0]!r} is not among the {len(known)} in test/*.tar")
        return instances

    def predict(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> pd.DataFrame:
        return Selection.answers(self, images, texts, samples).predictions  # its own, whatever a subclass answers

    def answers(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> Answers:
        test = samples["test"]
        checks.check_embeddings(images["test"], test.keys, self.key)
        instances = self.instances(test)
        shapes = shapes_of(instances)
        captions_of: list[list[int]] = [[] for _ in instances]
        images_of: list[list[int]] = [[] for _ in instances]
        # Whether all of an instance's images, and all of its captions, are right: with ties against them, with ties their way.
        bounds = np.zeros((len(instances), 2, 2), dtype=bool)
        for members, scores in by_shape(images["test"], texts, instances, test.keys, self.key):
            pairs = min(scores.shape[1:])
            best = scores.argmax(dim=2)[:, :pairs].tolist(), scores.argmax(dim=1)[:, :pairs].tolist()
            for i, of_images, of_captions in zip(members, *best, strict=True):
                captions_of[i], images_of[i] = of_images, of_captions
            for direction, dim in enumerate((2, 1)):
                bounds[members, direction] = own_is_best(scores, pairs, dim).cpu().numpy()
        shown = [next((i for i, choice in enumerate(found) if choice != i), 0) for found in captions_of]
        answers = [found[i] for i, found in zip(shown, captions_of, strict=True)]
        predictions = pd.DataFrame(
            {
                "key": [str(one["id"]) for one in instances],
                "images": shapes[:, 0],
                "captions": shapes[:, 1],
                "text_choice": [",".join(map(str, found)) for found in captions_of],
                "image_choice": [",".join(map(str, found)) for found in images_of],
                "text_correct": [found == list(range(len(found))) for found in captions_of],
                "image_correct": [found == list(range(len(found))) for found in images_of],
                "image": [str(one["images"][i]) for one, i in zip(instances, shown, strict=True)],
                "own": [str(one["captions"][i]) for one, i in zip(instances, shown, strict=True)],
                "answer": [str(one["captions"][i]) for one, i in zip(instances, answers, strict=True)],
            }
        )
        tied = int((bounds[:, :, 0] != bounds[:, :, 1]).any(axis=1).sum())
        tables = [predictions.assign(text_correct=b[:, 0], image_correct=b[:, 1]) for b in np.moveaxis(bounds, 2, 0)]
        return Answers(predictions, tables if tied else (), tied)

    def statistics(self, predictions: pd.DataFrame) -> dict[str, Statistic | None]:
        checks.require_columns(predictions, ["text_correct", "image_correct"], self.key)
        text = predictions["text_correct"].to_numpy(dtype=bool)
        image = predictions["image_correct"].to_numpy(dtype=bool)
        return {"image_acc": Proportion(image), "text_acc": Proportion(text), "acc": Proportion(text & image)}


def shapes_of(instances: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """int64 [I, 2]: how many images and captions each instance has."""
    return np.array([(len(one["images"]), len(one["captions"])) for one in instances])


def by_shape(
    images: torch.Tensor, texts: torch.Tensor, instances: Sequence[Mapping[str, Any]], keys: Sequence[str], task: str
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """The cosines inside each instance; instances of one shape together.

    Args:
        images: float32 [N, D], a row for each of `keys`.
        texts: float32 [T, D], the captions of the first instance, then those of the second, and so on.
        task: named in errors.

    Returns:
        int64 [m], some instances' places, and float32 [m, images, captions]; every instance once.
    """
    shapes = shapes_of(instances)
    starts = np.cumsum(shapes[:, 1]) - shapes[:, 1]
    if len(texts) != shapes[:, 1].sum():
        raise ValueError(f"{task}: {shapes[:, 1].sum()} captions, but {len(texts)} text embeddings")
    place = {key: i for i, key in enumerate(keys)}
    vectors = images.float()
    texts = texts.float().to(vectors.device)
    for several, count in np.unique(shapes, axis=0):
        alike = np.flatnonzero((shapes == (several, count)).all(axis=1))
        for members in np.split(alike, range(ROWS, len(alike), ROWS)):
            rows = torch.tensor([[place[key] for key in instances[i]["images"]] for i in members])
            columns = torch.from_numpy(starts[members, None] + np.arange(count))
            yield members, vectors[rows.to(vectors.device)] @ texts[columns.to(vectors.device)].transpose(1, 2)


def own_is_best(scores: torch.Tensor, pairs: int, dim: int) -> torch.Tensor:
    """Whether the i-th of one side is the best for the i-th of the other, for all i below `pairs`.

    Args:
        scores: float32 [m, images, captions].
        pairs: how many images and captions belong together.
        dim: 2: each image's best caption; 1: each caption's best image.

    Returns:
        bool [m, 2]: with ties against it, and with ties its way.
    """
    table = (scores if dim == 2 else scores.transpose(1, 2))[:, :pairs]
    own = table.diagonal(dim1=1, dim2=2)[:, :pairs, None]
    ahead, as_good = (table > own + CLOSE).sum(dim=2), (table >= own - CLOSE).sum(dim=2)
    return torch.stack([(as_good == 1).all(dim=1), (ahead == 0).all(dim=1)], dim=1)
