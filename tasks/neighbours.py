"""Classifiers without training: the nearest class mean, and the nearest neighbours, which are a protocol too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from clipeval.tasks import checks
from clipeval.tasks.base import Answers, Samples, Task
from clipeval.tasks.host_rows import NUMBERS, Rows, block_size, blocks
from clipeval.tasks.statistics import GroupMean, Proportion, Statistic
from clipeval.tasks.ties import CLOSE, chosen_otherwise

ROWS = 1024
TEMPERATURE = 0.07


CLOSE_VOTES = 1e-6
"""Sums of votes that differ by less than this share are equal."""


@dataclass(frozen=True)
class NearestNeighbours(Task):
    """knn_acc1 and knn_mean_per_class_recall: the class for which the nearest training samples vote (see `votes`).

    The same as the knn_acc1 of a full linear probe that sets no sample aside, without the probe.

    Predictions: key, label, prediction, then the metadata.
    """

    protocol: ClassVar[str] = "nearest_neighbours"
    on_device: ClassVar[bool] = True
    splits: tuple[str, ...] = ("train", "test")
    neighbours: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if list(self.roles) != ["train", "test"]:
            raise ValueError(f"{self.key}: splits names one to vote and one to score; got {list(self.splits)}")
        if self.neighbours < 1:
            raise ValueError(f"{self.key}: neighbours must be at least 1; got {self.neighbours}")

    def prompts(self, samples: Mapping[str, Samples]) -> list[str]:
        for split in self.roles:
            self._labels(samples[split], split)
        return []

    def _labels(self, table: Samples, split: str) -> np.ndarray:
        return checks.labels(table.labels, len(table.keys), len(table.classnames), table.keys, f"{self.key}, {split}")

    def predict(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> pd.DataFrame:
        return NearestNeighbours.answers(
            self, images, texts, samples
        ).predictions  # its own, whatever a subclass answers

    def answers(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> Answers:
        test, x = samples["test"], {split: rows.float() for split, rows in images.items()}
        n = checks.check_embeddings(x["test"], test.keys, self.key)
        y = {split: torch.from_numpy(self._labels(samples[split], split)).to(x[split].device) for split in self.roles}
        classes = int(max(labels.max() for labels in y.values())) + 1
        label = y["test"].cpu().numpy()
        tables = []
        cast = votes(x["train"], y["train"], x["test"], classes, self.neighbours, y["test"])
        for prediction in choices(map(shares, cast), y["test"], CLOSE_VOTES):
            table = {"key": np.asarray(test.keys, dtype=object), "label": label, "prediction": prediction}
            tables.append(checks.with_metadata(table, test.metadata, n, self.key))
        hanging = (tables[1]["prediction"] == label) != (tables[2]["prediction"] == label)
        return Answers(tables[0], tables[1:] if hanging.any() else (), int(hanging.sum()))

    def statistics(self, predictions: pd.DataFrame) -> dict[str, Statistic | None]:
        checks.require_columns(predictions, ["label", "prediction"], self.key)
        label = predictions["label"].to_numpy()
        hits = predictions["prediction"].to_numpy() == label
        return {"knn_acc1": Proportion(hits), "knn_mean_per_class_recall": GroupMean(hits, label)}


Scores = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""float32 [m, C] thrice: as they are, with all ties against the truth, and with all its way."""


def choices(scores: Iterable[Scores], truth: torch.Tensor, close: float) -> tuple[np.ndarray, ...]:
    """The best class, int64 [M] thrice: of the scores, with all ties against the truth int64 [M], and with all its way.

    Args:
        close: scores no further apart than this are equal.
    """
    found: list[list[np.ndarray]] = [[], [], []]
    start = 0
    for plain, against, towards in scores:
        wanted = truth[start : start + len(plain)]
        start += len(plain)
        found[0].append(plain.argmax(dim=1).cpu().numpy())
        found[1].append(chosen_otherwise(against, wanted, close)[0])
        found[2].append(chosen_otherwise(towards, wanted, close)[1])
    return tuple(map(np.concatenate, found))


def shares(votes: Scores) -> Scores:
    """Votes as shares of each row's most."""
    plain, against, towards = (table / table.amax(dim=1, keepdim=True) for table in votes)
    return plain, against, towards


def mean_cosines(train: Rows, y: torch.Tensor, test: torch.Tensor, classes: int) -> Iterator[torch.Tensor]:
    """Cosines with each class's mean embedding, normalised.

    Args:
        train: float32 [N, D], L2-normalised.
        y: int64 [N].
        test: float32 [M, D], L2-normalised.
        classes: C; one without a sample is never the best.

    Yields:
        float32 [m, C] for some test samples at a time.
    """
    sums, size = torch.zeros(classes, train.shape[1], device=train.device), block_size(train)
    for part, labels in zip(blocks(train, size), torch.split(y, size), strict=True):
        sums.index_add_(0, labels, part)
    means = F.normalize(sums, dim=1)
    empty = torch.bincount(y, minlength=classes) == 0
    for part in torch.split(test, ROWS):
        yield (part @ means.T).masked_fill(empty, -torch.inf)


def votes(
    train: Rows, y: torch.Tensor, test: torch.Tensor, classes: int, k: int, label: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """What the k nearest neighbours vote for, each weighted by exp(cosine / 0.07).

    As Wu et al. (2018, section 3.4) and DINO (Caron et al. 2021) evaluate features; other arguments as of `mean_cosines`.

    Args:
        label: int64 [M], the truth.

    Yields:
        Some test samples at a time, float32 [m, C] thrice: the votes; and those had all ties for the last place among the
        neighbours gone against the label, and all its way.
    """
    k, size = min(k, len(train)), block_size(train)
    rows = max(1, min(ROWS, 4 * NUMBERS // len(train)))
    for part, truth in zip(torch.split(test, rows), torch.split(label, rows), strict=True):
        products = [part @ block.T for block in blocks(train, size)]
        cosines = products[0] if len(products) == 1 else torch.cat(products, dim=1)
        values, places = cosines.topk(k, dim=1)
        tally = _cast(values, y[places], classes)
        worst, best = tally, tally
        tied = ((cosines >= values[:, -1:] - CLOSE).sum(dim=1) > k).nonzero()[:, 0]
        if len(tied):
            given, own = cosines[tied], y[None] == truth[tied, None]
            worst, best = tally.clone(), tally.clone()
            for table, shift in ((worst, -2 * CLOSE), (best, 2 * CLOSE)):
                order = (given + shift * own).topk(k, dim=1).indices
                table[tied] = _cast(given.gather(1, order), y[order], classes)
        yield tally, worst, best


def _cast(cosines: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    empty = torch.zeros(len(cosines), classes, device=cosines.device)
    return empty.scatter_add_(1, labels, (cosines / TEMPERATURE).exp())
