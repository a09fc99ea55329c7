"""The whole contract of a task, on one page.

A task is the texts it asks about and a score over embeddings. The runner embeds the texts that `texts` returns and every
image of the task's splits, hands both to `score`, and writes down what comes back. It knows nothing else of a protocol.
A task may ask for another output of the model than an image's embedding, one that is a row of numbers as well.

Nothing in this package reads a file, opens a socket or looks for a GPU: arrays in, numbers out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from clipeval.tasks.statistics import Statistic
from clipeval.tasks.ties import RULES, Ties, ranges
from clipeval.tasks.tree import Tree
from clipeval.tasks.zero_shot import Pooling, Templates


@dataclass(frozen=True)
class Samples:
    """What one split of a data set says about N of its images: all of them in order, unless `positions` says which."""

    keys: Sequence[str]
    """N names, unique within the split, in the split's one fixed order."""
    labels: np.ndarray | None = None
    """int64 [N], a class index; for multi-label sets int64 [N, C] of 0 and 1."""
    captions: Sequence[Sequence[str]] | None = None
    """Retrieval: the captions of each image."""
    instances: Sequence[Mapping[str, Any]] | None = None
    """Association and caption selection: questions that name images by their keys."""
    metadata: pd.DataFrame = field(default_factory=pd.DataFrame)
    """N rows; one column for each metadata field."""
    classnames: Sequence[str] = ()
    """C names; the position is the label."""
    templates: Templates = ()
    pooling: Pooling = field(default=Pooling())
    """How the prompts of a class become its vector."""
    head: torch.Tensor | None = None
    """float32 [C, D], class vectors that are given, in place of what class names and templates would make."""
    positions: np.ndarray | None = None
    """int64 [N], the places in the split of the images that are spoken of, where a question concerns some of them only."""
    tree: Tree | None = None
    """Where the classes stand in a hierarchy."""


@dataclass(frozen=True)
class Scores:
    """What a task makes of its embeddings."""

    statistics: Mapping[str, Statistic | None]
    """Each metric, under the reference's name, as an estimator that knows its value and its uncertainty. None: undefined."""
    predictions: pd.DataFrame
    """A row for each thing predicted (an image, a query, an instance); enough to compute every metric again."""
    ties: Ties = field(default_factory=Ties)
    """How much of the metrics is the order of equal scores."""

    @property
    def metrics(self) -> dict[str, float | None]:
        """Every metric's value; None where it is undefined (a group with no sample, acc5 under five classes)."""
        return {name: None if s is None else s.value for name, s in self.statistics.items()}


@dataclass(frozen=True)
class Answers:
    """What a model answers, and what it would have answered had equal scores been ordered otherwise."""

    predictions: pd.DataFrame
    otherwise: Sequence[pd.DataFrame] = ()
    """The same table under other orders of equal scores, those that move a metric furthest; empty where nothing ties."""
    ties: int = 0
    """How many answers are right or wrong by that order alone."""


@dataclass(frozen=True)
class Task(ABC):
    """One row of the benchmark: what to ask of a model, and how to score the answers."""

    protocol: ClassVar[str]
    version: ClassVar[int] = 1
    """Part of every record's fingerprint: raise it when a change can alter a score."""
    mixed: ClassVar[bool] = False
    """Whether the published numbers embedded this protocol's images under automatic mixed precision."""
    one_head: ClassVar[bool] = False
    """Whether it asks about one list of classes, so that its class vectors can be kept and given."""
    on_device: ClassVar[bool] = False
    """Whether `predict` is work for the accelerator: its image embeddings then come on the run's device."""
    in_blocks: ClassVar[bool] = False
    """Whether embeddings that its device does not hold may come as `clipeval.tasks.host_rows.HostRows`, those of `test` apart."""
    scaled: ClassVar[bool] = False
    """Whether it turns cosines into probabilities: where its field `logit_scale` is None, `with_scale` sets the model's own."""
    output: ClassVar[str] = "embeddings"
    """What the model makes of an image: `embeddings`; `raw`, the same, not normalised; or `captions`, what it writes about it, as
    `clipeval.tasks.text_rows`."""
    text_output: ClassVar[str] = "embeddings"
    """What the model makes of a text: `embeddings`, or `raw`, the same, not normalised."""

    _: KW_ONLY
    key: str
    """The name in DataComp's tables, `vtab/caltech101`."""
    name: str
    """The name to print, `Caltech-101`."""
    metric: str | None
    """The main metric; None for a task that is reported and not averaged."""
    chance: float | None = None
    """What guessing scores on the main metric."""
    group: str = "other"
    """The column of the report that the task counts in."""
    splits: tuple[str, ...] = ("test",)
    """The splits whose images `score` needs, by their names in the data; the last is the one that is scored."""
    ties: str = "reference"
    """How equal scores are ordered, `first` or `reference`: see `clipeval.tasks.ties`."""

    def __post_init__(self) -> None:
        # Configs give lists; a task is hashable.
        object.__setattr__(self, "splits", tuple(self.splits))
        if self.ties not in RULES:
            raise ValueError(f"{self.key}: ties must be {' or '.join(RULES)}; got {self.ties!r}")

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "predict" in cls.__dict__ and "answers" not in cls.__dict__:
            # Who predicts otherwise than the class above must not be scored by the answers of that one.
            cls.answers = Task.answers  # type: ignore[method-assign]

    @property
    def roles(self) -> dict[str, str]:
        """{what `predict` calls a split: its name in the data}: the last is `test`, the first of several `train`.

        Raises:
            ValueError: there are more than three.
        """
        names = {1: ("test",), 2: ("train", "test"), 3: ("train", "val", "test")}.get(len(self.splits))
        if names is None or len(set(self.splits)) < len(self.splits):
            raise ValueError(f"{self.key}: splits names one to three distinct splits; got {list(self.splits)}")
        return dict(zip(names, self.splits, strict=True))

    def with_scale(self, logit_scale: float) -> Task:
        """The same task with the factor of the cosines that the model was trained with; see `scaled`."""
        raise NotImplementedError(f"{type(self).__name__} has no logit_scale")

    @abstractmethod
    def prompts(self, samples: Mapping[str, Samples]) -> list[str]:
        """The T texts to embed, in the order in which `predict` wants them. Duplicates cost nothing."""

    def name_lists(self, samples: Mapping[str, Samples]) -> dict[str, Sequence[str]]:
        """The lists of class names that the model is asked to tell apart, by what they are lists of; one alone by ""."""
        return {"": samples["test"].classnames} if self.one_head else {}

    @abstractmethod
    def predict(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> pd.DataFrame:
        """What the model answers.

        Args:
            images: for each split, float32 [N, D]: embeddings, L2-normalised, or whatever else `output` names.
            texts: float32 [T, D], L2-normalised, a row for each of `self.prompts(samples)`.
            samples: for each split, its table.

        Returns:
            A DataFrame that `statistics` can be computed from, with nothing else at hand.
        """

    def answers(
        self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]
    ) -> Answers:
        """What `predict` gives, and the same under other orders of equal scores; arguments as of `predict`."""
        return Answers(self.predict(images, texts, samples))

    def from_classification(self, predictions: pd.DataFrame, samples: Mapping[str, Samples]) -> pd.DataFrame | None:
        """The same table, made of what a plain classification predicted for these images; None: it takes the embeddings."""
        return None

    @abstractmethod
    def statistics(self, predictions: pd.DataFrame) -> dict[str, Statistic | None]:
        """Every metric, from stored predictions alone."""

    def dry_run(self, samples: Mapping[str, Samples]) -> list[str]:
        """Every metric's name, found by scoring a few samples with embeddings of no meaning, before hours are spent."""
        width = max([1, *(table.head.shape[1] for table in samples.values() if table.head is not None)])
        images = {split: torch.ones(len(table.keys), width) for split, table in samples.items()}
        return list(self.score(images, torch.ones(len(self.prompts(samples)), width), samples).statistics)

    def score(self, images: Mapping[str, torch.Tensor], texts: torch.Tensor, samples: Mapping[str, Samples]) -> Scores:
        """Answers and their metrics. A pure function: the same arrays give the same numbers, on any device."""
        answers = self.answers(images, texts, samples)
        scores = Scores(self.statistics(answers.predictions), answers.predictions)
        others = [Scores(self.statistics(table), table).metrics for table in answers.otherwise]
        return replace(scores, ties=Ties(answers.ties, ranges(scores.metrics, others)))
