"""What one job of an array does: its units, one model after the other; what fails does not stop the rest."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from clipeval.cluster.shares import TaskShard
from clipeval.configs.compose import compose
from clipeval.configs.errors import ClipevalError


@dataclass(frozen=True)
class Job:
    """A share of some runs; submitit pickles it, calls it on the cluster, and calls `checkpoint` when its time is up.

    Attributes:
        runs: the overrides of each run, sweeps resolved.
        config_dir: as `--config-dir`.
        units: what to do; `TaskShard.run` is an index of `runs`.
    """

    runs: tuple[tuple[str, ...], ...]
    config_dir: str | None
    units: tuple[TaskShard, ...]

    def __call__(self) -> None:
        """Does everything it can.

        Raises:
            ClipevalError: some units failed; it names each with its reason.
        """
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
        console = Console(stderr=True, width=120)
        problems: list[str] = []
        for run in dict.fromkeys(unit.run for unit in self.units):
            problems += self._run(run, [unit for unit in self.units if unit.run == run], console)
        if problems:
            raise ClipevalError("\n".join(problems))

    def checkpoint(self) -> object:
        """What is submitted again: the same job, which finds what it has done."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _run(self, run: int, units: Sequence[TaskShard], console: Console) -> list[str]:
        from clipeval.cluster.local import run as run_evaluation
        from clipeval.engine.evaluation import Evaluation

        overrides = self.runs[run]
        console.print(f"{' '.join(overrides)}: {', '.join(map(str, units))}", markup=False, highlight=False)
        try:
            evaluation = Evaluation.open(compose(overrides, self.config_dir), console)
            evaluation.parts = {unit.task: unit.part for unit in units}
            summary = run_evaluation(evaluation)
        except (ClipevalError, OSError) as problem:
            if len(units) == 1:
                console.print(f"{units[0]} failed: {problem}", markup=False, highlight=False)
                return [f"{units[0]}: {problem}"]
            return [
                line for unit in units for line in self._run(run, [unit], console)
            ]  # one at a time, to save the rest
        for task in summary.pending:
            console.print(f"{task}: this part is embedded; who embeds the last one scores it", highlight=False)
        return []
