"""What the callbacks of all trainers share: when it is time, the model is evaluated on all ranks, and the scores are logged."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from clipeval.api import check, evaluate
from clipeval.callbacks.towers import Towers, in_training
from clipeval.cluster.ranks import Ranks
from clipeval.configs.errors import ClipevalError
from clipeval.results.curve import averaged, metric_names

log = logging.getLogger(__name__)

Log = Callable[[Mapping[str, float], int], Any]
"""Told {name: value} and the step."""


class ZeroShot:
    """Evaluates a model in training every so many steps, in all processes of the training, each with a share of the images.

    The model's modes, the random states and the memory are as they were afterwards; so a training gives the same weights with it
    and without. Every process has to call `start` and `step`, at the same steps.

    Args:
        suite: as `suite=` on the command line.
        every: optimizer steps between two evaluations.
        data_root: as `data.root=`.
        overrides: further words of the command line, such as "data.limit=2000" (a quick subset), "runtime.precision=bf16".
        tokenizer: a list of texts to int64 [T, L]; None: the model's own, where it is known.
        transform: a PIL image to float32 [3, H, W]; None: the model's own, where it is known.
        out: a folder, or an address (as text), that keeps a run folder for each evaluated step, `step_1000`; None keeps nothing.
        log: told the scores in the first process, {"zero_shot/imagenet1k/acc1": 0.63, …} and the step. A quick subset's name has
            its size: "zero_shot/imagenet1k_quick2000/acc1".
    """

    def __init__(
        self,
        suite: str = "quickstart",
        every: int = 1000,
        *,
        data_root: str | Path | None = None,
        overrides: Sequence[str] = (),
        tokenizer: Callable[[list[str]], torch.Tensor] | None = None,
        transform: Callable[[Any], torch.Tensor] | None = None,
        out: str | Path | None = None,
        log: Log | None = None,
    ) -> None:
        if every < 1:
            raise ClipevalError(f"every={every}: a number of steps of at least 1 was expected.")
        self.suite, self.every, self.data_root, self.overrides = suite, every, data_root, list(overrides)
        self.tokenizer, self.transform, self.out = tokenizer, transform, out
        self._sink = log  # Lightning gives each of its callbacks a method `log` of its own
        self.tables: dict[int, pd.DataFrame] = {}
        """{step: what `clipeval.evaluate` gave there}."""
        self.failures: dict[int, str] = {}
        """{step: why there is no table}."""
        self._ranks: Ranks | None = None

    def start(self, model: nn.Module, processor: Any = None) -> None:
        """Opens every task of the suite without evaluating it: what is wrong with the words or the data ends no long training.

        Args:
            model: the model in training, as for `step`.
            processor: a transformers processor or tokenizer, of a model of that library.

        Raises:
            ClipevalError: a task cannot run, in this process or another.
        """
        self._ranks = Ranks.of_training()
        with self._ranks.together():
            towers = self._towers(model, processor)
            check(*towers, self.suite, self.data_root, overrides=self.overrides)

    def due(self, step: int) -> bool:
        """Whether the model is to be evaluated after this many optimizer steps; once for each."""
        return step > 0 and step % self.every == 0 and step not in self.tables and step not in self.failures

    def step(self, model: nn.Module, step: int, processor: Any = None) -> Mapping[str, float]:
        """Evaluates the model if it is time, and logs its scores.

        What goes wrong, such as a model that gives NaN, is a warning and a line in `failures`: the training goes on.

        Args:
            model: the model in training; wrapped by DistributedDataParallel or torch.compile or not.
            step: how many optimizer steps it has had.
            processor: as of `start`.

        Returns:
            What was logged, in every process; {} where it was not time.
        """
        if not self.due(step):
            return {}
        ranks = self._ranks = self._ranks or Ranks.of_training()
        started = time.monotonic()
        try:
            with ranks.together():
                towers = self._towers(model, processor)
            out = None if self.out is None else f"{str(self.out).rstrip('/')}/step_{step}"
            name = "in-training" if self.out is None else f"step_{step}"
            words: dict[str, Any] = {"overrides": self.overrides, "out": out, "name": name, "ranks": ranks}
            table = evaluate(*towers, self.suite, self.data_root, **words)
        except ClipevalError as problem:
            self.failures[step] = str(problem)
            log.warning("zero-shot evaluation at step %d: %s", step, problem)
            return {}
        self.tables[step] = table
        scores = metric_names(table)
        if ranks.first:
            log.info("step %d: %s (%.1f s)", step, averaged(table), time.monotonic() - started)
            for row in table[table["flags"] != ""].itertuples():
                log.info("(!) %s: %s", row.name, row.flags)
            if self._sink is not None:
                self._sink(scores, step)
        return scores

    def _towers(self, model: nn.Module, processor: Any) -> Towers:
        return in_training(model, self.tokenizer, self.transform, processor)
