"""Linear probes: how well a linear classifier, trained on a set's own embeddings, tells its classes apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch

from clipeval.tasks import checks, ties
from clipeval.tasks.base import Answers, Samples, Task
from clipeval.tasks.classification import ROWS, in_top_k, top_k_of_logits
from clipeval.tasks.host_rows import Rows, blocks, join, take
from clipeval.tasks.neighbours import CLOSE_VOTES, choices, mean_cosines, shares, votes
from clipeval.tasks.seeds import Constant, SeedMean
from clipeval.tasks.solvers import LinearClassifier, adamw, lbfgs, sample_few_shot, search_log_grid
from clipeval.tasks.statistics import GroupMean, Proportion, Statistic

RANGES = {"adamw": (-6.0, 2.0), "lbfgs": (-6.0, 6.0)}
"""Exponents of the strengths that are searched: clip_benchmark's weight decays, the CLIP paper's C."""


@dataclass(frozen=True)
class _Answer:
    """Columns of the predictions: as they are, with all ties against the labels, with all their way; and bool [N], whether an
    answer hangs on that."""

    columns: tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]
    hanging: np.ndarray


@dataclass(frozen=True)
class LinearProbe(Task):
    """Few-shot or full linear probe, with the nearest class mean and the nearest neighbours on the same embeddings.

    The strength of the regularisation is found on the split `val` if `splits` names it, else on a share of the training
    samples, set aside first; then a full probe is trained on both together, a few-shot one on its few alone.

    Predictions, a row for each seed and test image: key, seed, label, prediction, pred_1.. and score_1.. (logits) as of
    classification, mean_prediction and knn_prediction, and what the training was: weight_decay or C, epochs, fewshot_k.
    """

    protocol: ClassVar[str] = "linear_probe"
    on_device: ClassVar[bool] = True
    in_blocks: ClassVar[bool] = True
    splits: tuple[str, ...] = ("train", "test")
    shots: int | None = None
    """Training samples of each class; None: all."""
    seeds: Sequence[int] = (0,)
    """A training each: of the few shots, the share set aside, the first weights, the order of batches."""
    solver: str = "adamw"
    """adamw (clip_benchmark's recipe) or lbfgs (the CLIP paper's)."""
    strength: float | None = None
    """Weight decay of adamw, C of lbfgs; None: searched."""
    val_share: float = 0.2
    """The share of the training samples that is set aside for the search, where there is no split `val`."""
    epochs: int = 10
    rate: float = 0.1
    batch_size: int = 64
    neighbours: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "seeds", tuple(int(seed) for seed in self.seeds))
        if self.solver not in RANGES:
            raise ValueError(f"{self.key}: solver must be one of {', '.join(RANGES)}; got {self.solver!r}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"{self.key}: seeds must be one or several distinct numbers; got {list(self.seeds)}")
        if self.shots is not None and self.shots < 1:
            raise ValueError(f"{self.key}: shots must be at least 1, or null for all; got {self.shots}")
        if "train" not in self.roles:
            raise ValueError(
                f"{self.key}: a probe needs two splits, one to train on and one to score; got {list(self.splits)}"
            )
        if self.strength is None and "val" not in self.roles and not 0 < self.val_share < 1:
            raise ValueError(
                f"{self.key}: val_share must lie between 0 and 1, or `strength` be given; got {self.val_share}"
            )

    def prompts(self, samples: Mapping[str, Samples]) -> list[str]:
        for split in self.roles:
            table = samples[split]
            checks.labels(table.labels, len(table.keys), len(table.classnames), table.keys, f"{self.key}, {split}")
        try:
            self.draws(samples)
        except ValueError as problem:
            raise ValueError(f"{self.key}: {problem}") from None
        return []

    def dry_run(self, samples: Mapping[str, Samples]) -> list[str]:
        quick = dataclasses.replace(self, shots=None, seeds=self.seeds[:1], strength=1.0, epochs=1)
        images = {split: torch.ones(len(table.keys), 1) for split, table in samples.items()}
        return list(quick.statistics(quick.predict(images, torch.ones(0, 1), samples)))

    def draws(self, samples: Mapping[str, Samples]) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each seed, the training samples that are used and those set aside for the search, int64 places in `train`."""
        y = np.asarray(samples["train"].labels)
        draws = []
        for seed in self.seeds:
            places, aside = np.arange(len(y)), np.zeros(0, dtype=np.int64)
            if self.strength is None and "val" not in self.roles:
                count = max(1, round(self.val_share * len(y)))
                order = np.random.default_rng(seed).permutation(len(y))
                places, aside = np.sort(order[count:]), np.sort(order[:count])
            draws.append((places[sample_few_shot(y[places], self.shots, seed)], aside))
        return draws

    def predict(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> pd.DataFrame:
        return LinearProbe.answers(self, images, texts, samples).predictions  # its own, whatever a subclass answers

    def answers(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> Answers:
        test = samples["test"]
        n = checks.check_embeddings(images["test"], test.keys, self.key)
        label = checks.labels(test.labels, n, len(test.classnames), test.keys, self.key)
        x = {split: rows.float() for split, rows in images.items()}
        y = {split: torch.from_numpy(np.asarray(samples[split].labels)).to(x[split].device) for split in self.roles}
        classes = int(max(labels.max() for split, labels in y.items() if split != "test")) + 1
        tables: list[list[pd.DataFrame]] = [[], [], []]
        hanging = np.zeros(n, dtype=bool)
        for seed, (chosen, aside) in zip(self.seeds, self.draws(samples), strict=True):
            fit_x, fit_y = take(x["train"], chosen), y["train"][chosen]
            if self.strength is not None:
                strength, last_x, last_y = self.strength, fit_x, fit_y
            else:
                split, rows = ("val", slice(None)) if "val" in self.roles else ("train", aside)
                val_x, val_y = take(x[split], rows), y[split][rows]
                strength = self.search(fit_x, fit_y, val_x, val_y, classes, seed)
                both = self.shots is None
                last_x = join(fit_x, val_x) if both else fit_x
                last_y = torch.cat([fit_y, val_y]) if both else fit_y
            model = self.train(last_x, last_y, classes, [strength], seed)[0]
            answers = self.answer(model, (last_x, last_y, x["test"], classes), label)
            hanging |= answers.hanging
            for found, columns in zip(tables, answers.columns, strict=True):
                table = {
                    "key": np.asarray(test.keys, dtype=object),
                    "seed": np.full(n, seed),
                    "label": label,
                    **columns,
                    self.strength_name: np.full(n, strength),
                    "fewshot_k": np.full(n, -1 if self.shots is None else self.shots),
                }
                if self.solver == "adamw":
                    table["epochs"] = np.full(n, self.epochs)
                found.append(checks.with_metadata(table, test.metadata, n, self.key))
        predictions, *otherwise = (pd.concat(found, ignore_index=True) for found in tables)
        return Answers(predictions, otherwise if hanging.any() else (), int(hanging.sum()))

    def answer(
        self, model: LinearClassifier, known: tuple[Rows, torch.Tensor, torch.Tensor, int], label: np.ndarray
    ) -> _Answer:
        """What the three classifiers answer.

        Args:
            model: the linear one.
            known: training embeddings, their labels, test embeddings, the number of classes.
            label: int64 [N], the test labels.
        """
        test = known[2]
        truth = torch.from_numpy(label).to(test.device)
        places: list[ties.Labelled] = []

        def seen() -> Iterator[torch.Tensor]:
            for part, wanted in zip(torch.split(test, ROWS), torch.split(truth, ROWS), strict=True):
                logits = model(part)
                places.append(ties.locate(logits, wanted, 0.0))
                yield logits

        columns = top_k_of_logits(seen(), self.ties)
        located = ties.join(places)
        ks = [k for k in (1, 5) if f"pred_{k}" in columns]
        hanging = ties.hanging(located, ks)
        plain = pd.DataFrame({"label": label, **columns})
        names = list(columns)
        others = [{name: t[name].to_numpy() for name in names} for t in ties.ranked_otherwise(plain, located)]
        worst, best = others or (dict(columns), dict(columns))
        for name, scores, close in (
            ("mean_prediction", ((cosines,) * 3 for cosines in mean_cosines(*known)), ties.CLOSE),
            ("knn_prediction", map(shares, votes(*known, self.neighbours, truth)), CLOSE_VOTES),
        ):
            columns[name], worst[name], best[name] = choices(scores, truth, close)
            hanging |= (worst[name] == label) != (best[name] == label)
        return _Answer((columns, worst, best), hanging)

    @property
    def strength_name(self) -> str:
        """What the recipe calls its regularisation."""
        return "weight_decay" if self.solver == "adamw" else "C"

    def train(
        self, x: Rows, y: torch.Tensor, classes: int, strengths: Sequence[float], seed: int
    ) -> list[LinearClassifier]:
        """A classifier for each strength."""
        if self.solver == "adamw":
            how = {"epochs": self.epochs, "batch_size": self.batch_size}
            return adamw(x, y, classes, strengths, seed=seed, rate=self.rate, **how)
        models: dict[float, LinearClassifier] = {}
        start: LinearClassifier | None = None
        for strength in sorted(set(strengths)):  # each from the one before it: a path
            start = models[strength] = lbfgs(x, y, classes, strength, start)
        return [models[strength] for strength in strengths]

    def search(self, x: Rows, y: torch.Tensor, val_x: Rows, val_y: torch.Tensor, classes: int, seed: int) -> float:
        """The strength with the best top-1 accuracy on the validation samples."""
        known: dict[float, float] = {}

        def scores(strengths: Sequence[float]) -> list[float]:
            new = [s for s in dict.fromkeys(strengths) if s not in known]
            models = self.train(x, y, classes, new, seed) if new else []
            known.update({s: accuracy(model, val_x, val_y) for s, model in zip(new, models, strict=True)})
            return [known[s] for s in strengths]

        return search_log_grid(scores, *RANGES[self.solver])

    def statistics(self, predictions: pd.DataFrame) -> dict[str, Statistic | None]:
        settings = [name for name in ("weight_decay", "C", "epochs", "fewshot_k") if name in predictions.columns]
        checks.require_columns(predictions, ["seed", "label", "prediction", "pred_1", "fewshot_k"], self.key)
        seeds = [part for _, part in predictions.groupby("seed", sort=False)]
        labels = [part["label"].to_numpy() for part in seeds]

        def right(column: str) -> list[np.ndarray]:
            return [part[column].to_numpy() == label for part, label in zip(seeds, labels, strict=True)]

        def mean(hits: Sequence[np.ndarray]) -> SeedMean:
            return SeedMean([Proportion(h) for h in hits])

        top1 = right("pred_1")
        # As the reference has it: with five classes or fewer, all of them are in the top five.
        top5 = [in_top_k(part, label, 5) for part, label in zip(seeds, labels, strict=True)]
        known5 = [hits for hits in top5 if hits is not None] if labels[0].max() >= 5 else []
        metrics: dict[str, Statistic | None] = {
            "lp_acc1": mean(top1),
            "lp_acc5": mean(known5) if known5 else None,
            "lp_mean_per_class_recall": SeedMean(
                [GroupMean(h, label) for h, label in zip(right("prediction"), labels, strict=True)]
            ),
            "nearest_mean_acc1": mean(right("mean_prediction")),
            "knn_acc1": mean(right("knn_prediction")),
        }
        if len(seeds) > 1:
            metrics |= {
                f"lp_acc1_seed:{part['seed'].iloc[0]}": Proportion(h) for part, h in zip(seeds, top1, strict=True)
            }
        metrics |= {name: Constant(float(np.median([part[name].iloc[0] for part in seeds]))) for name in settings}
        return {**metrics, "seed": Constant(float(predictions["seed"].iloc[0])), "seeds": Constant(len(seeds))}


def accuracy(model: LinearClassifier, x: Rows, y: torch.Tensor) -> float:
    """Top-1 of classes int64 [N] from embeddings float32 [N, D]."""
    answers = torch.cat([model(part).argmax(dim=1) for part in blocks(x, ROWS)])
    return int((answers == y).sum()) / len(y)
