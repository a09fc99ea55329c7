"""An evaluation on the ranks of a training run: what `clipeval.evaluate(…, ranks=…)` does once it is opened in each of them."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from clipeval.cluster.ranks import Ranks, run_shared
from clipeval.configs.errors import ClipevalError
from clipeval.decoding.processes import default_workers
from clipeval.engine.evaluation import Evaluation
from clipeval.engine.plan import Plan
from clipeval.results.heartbeats import heartbeat


def run_on_ranks(evaluation: Evaluation, ranks: Ranks) -> None:
    """Runs an evaluation with all processes of a training run; each has opened it, and the first one's folder gets the records.

    Raises:
        ClipevalError: in every process: a task cannot run in one of them, or they do not see the same data.
    """
    config = evaluation.config
    with ranks.together():
        if config.runtime.workers is None:
            workers = default_workers(torch.device(config.runtime.device))
            config.runtime.workers = max(1, workers // ranks.beside)
        plan = evaluation.prepare()
        if int(config.runtime.devices) > 1:
            raise ClipevalError("the ranks of the training run are the devices: leave runtime.devices=1.")
    _agree(plan, ranks)
    model = evaluation.model_run(plan)
    if not ranks.first:
        model.inspect = None
    units = [planned.unit for planned in plan.open]
    with ranks.together():
        if ranks.first:
            evaluation.announce()
            for planned in plan.tasks:
                if planned.state == "done":
                    evaluation.relabel(planned)
    with heartbeat(evaluation.folder.path, units) if ranks.first and units else nullcontext():
        if units:
            run_shared(model, evaluation.options(), ranks)
    if ranks.first:
        evaluation.folder.rebuild_eval_results()


def _agree(plan: Plan, ranks: Ranks) -> None:
    """Has every process do what the first one's folder lacks, of the same data.

    Raises:
        ClipevalError: their data differ.
    """
    todo = ranks.tell([planned.id for planned in plan.open])
    for planned in plan.tasks:
        planned.state = "todo" if planned.id in todo else "done"
    seen = ranks.ask({planned.id: (planned.fingerprint.data, planned.fingerprint.prompts) for planned in plan.tasks})
    for rank, theirs in enumerate(seen):
        differing = sorted(task for task in seen[0].keys() | theirs.keys() if seen[0].get(task) != theirs.get(task))
        if differing:
            raise ClipevalError(
                f"process {rank} of {ranks.count} has other data or prompts than process 0 for {', '.join(differing)}: "
                "give every machine the same data.root."
            )
