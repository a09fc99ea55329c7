"""`clipeval submit`: what is missing of some runs, as a Slurm array, submitted and left."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from clipeval.cluster import slurm
from clipeval.cluster.combinations import compose_all
from clipeval.cluster.cost import model_cost
from clipeval.cluster.job_notes import JOBS, queued_units
from clipeval.configs.compose import override
from clipeval.configs.errors import ClipevalError
from clipeval.configs.files import write_atomically

if TYPE_CHECKING:  # they bring torch with them, which a wrong word need not wait for
    from clipeval.cluster.job import Job
    from clipeval.cluster.shares import TaskCost, TaskShard
    from clipeval.engine.evaluation import Evaluation


@dataclass(frozen=True)
class Run:
    """One model's run among those submitted."""

    overrides: tuple[str, ...]
    evaluation: Evaluation


def submit(overrides: Sequence[str], config_dir: str | None, console: Console) -> int:
    """Submits what is missing and returns.

    Args:
        overrides: as of `clipeval run`, in which `model=a,b,c` (or any key) may have several values; `slurm.…` for the jobs.

    Returns:
        0.

    Raises:
        ClipevalError: no Slurm here; a run cannot be planned; two runs would share a folder.
    """
    slurm.require()
    _, combinations = compose_all(overrides, config_dir)
    from clipeval.cluster.job import Job
    from clipeval.cluster.shares import partition

    runs = [Run((*one.overrides, *_for_jobs(one.config)), _open(one.config, console)) for one in combinations]
    costs = [cost for number, run in enumerate(runs) for cost in _costs(number, run, console)]
    if not costs:
        console.print("nothing is missing: every task is recorded, or in a job that waits or runs", highlight=False)
        return 0
    config = runs[0].evaluation.config
    if int(config.slurm.gpus) > 1:
        console.print(f"each job uses {config.runtime.devices} of its {config.slurm.gpus} GPUs", highlight=False)
    shares = [units for units in partition(costs, int(config.slurm.array)) if units]
    for run in runs:
        run.evaluation.announce()
    absolute = None if config_dir is None else str(Path(config_dir).expanduser().absolute())
    jobs = [Job(tuple(run.overrides for run in runs), absolute, tuple(units)) for units in shares]
    logs = Path(config.slurm.logs).expanduser().absolute() / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    for job_id, part in send(jobs, config.slurm, logs):
        _note(job_id, part, runs, logs)
        _say(job_id, part, logs, console)
    folders = " ".join(run.evaluation.folder.place for run in runs)
    console.print(f"follow with: clipeval status {folders}", markup=False, highlight=False)
    console.print("the same command again sends what is then missing", highlight=False)
    return 0


def _for_jobs(config: DictConfig) -> list[str]:
    """What the jobs are told beside the user's words: where to write, and to use the GPUs that are asked for, or to fail."""
    overrides = [override("out", config.out)]
    gpus = int(config.slurm.gpus)
    if gpus and config.runtime.device == "auto":  # on a node whose driver does not start, auto would be the CPU
        overrides.append("runtime.device=cuda")
    if gpus > 1 and int(config.runtime.devices) == 1 and config.runtime.device in ("auto", "cuda"):
        overrides.append(f"runtime.devices={gpus}")
    return overrides


def _open(config: DictConfig, console: Console) -> Evaluation:
    """The evaluation as its jobs will see it: on a GPU that this machine need not have."""
    from clipeval.engine.evaluation import Evaluation

    gpu = int(config.slurm.gpus) > 0 and config.runtime.device in ("auto", "cuda")
    if gpu:
        config = config.copy()
        config.runtime.device = "cpu"
    evaluation = Evaluation.open(config, console)
    if gpu:
        evaluation.config.runtime.device = "cuda"
        if int(config.slurm.gpus) > 1 and int(config.runtime.devices) == 1:
            evaluation.config.runtime.devices = int(config.slurm.gpus)
    return evaluation


def send(jobs: Sequence[Job], options: DictConfig, logs: Path) -> list[tuple[str, Sequence[Job]]]:
    """Submits jobs as arrays no larger than the cluster takes; (array's id, its jobs) of each."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    logs.mkdir(parents=True)
    executor = submitit.SlurmExecutor(folder=logs, max_num_timeout=int(options.requeues))
    executor.update_parameters(**_parameters(options))
    limit, sent = slurm.max_array_size(), []
    for first in range(0, len(jobs), limit):
        part = jobs[first : first + limit]
        try:
            with executor.batch():
                handles = [executor.submit(job) for job in part]
        except (FailedSubmissionError, FailedJobError) as problem:  # sbatch answered nonsense, or failed
            said = next(reversed(str(problem).strip().splitlines()), "sbatch failed and did not say why")
            raise ClipevalError(f"Slurm refused the jobs: {said}") from None
        sent.append((str(handles[0].job_id).split("_")[0], part))
    return sent


def _parameters(options: DictConfig) -> dict[str, Any]:
    extra = OmegaConf.to_container(options.extra, resolve=True) or {}
    assert isinstance(extra, dict)
    given = {
        "job_name": "clipeval",
        "time": int(options.time),
        "cpus_per_task": int(options.cpus),
        "gpus_per_node": int(options.gpus) or None,
        "mem": options.mem,
        "partition": options.partition,
        "array_parallelism": options.parallel or 100_000,
        "signal_delay_s": int(options.signal),
        # Since Slurm 22.05 srun does not take over --cpus-per-task from the job.
        "setup": [*options.setup, "export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}"],
        "additional_parameters": {"requeue": True, **{str(k): v for k, v in extra.items()}},
    }
    return {key: value for key, value in given.items() if value is not None}


def _costs(number: int, run: Run, console: Console) -> list[TaskCost]:
    """What is missing of a run, and in no job that still waits or runs."""
    from clipeval.cluster.shares import missing_costs

    evaluation = run.evaluation
    plan = evaluation.prepare()
    queued = queued_units(evaluation.folder.path)
    factor = model_cost(evaluation.handle.architecture)
    for planned in plan.open:
        if planned.id in queued:
            console.print(f"{evaluation.folder.place}: {planned.id} is in job {queued[planned.id]}", highlight=False)
    left = [planned for planned in plan.open if planned.id not in queued]
    return missing_costs(left, evaluation.stores, number, factor)


def _note(job_id: str, jobs: Sequence[Job], runs: Sequence[Run], logs: Path) -> None:
    for number, run in enumerate(runs):
        units = {
            str(element) if len(jobs) > 1 else "": [str(unit) for unit in job.units if unit.run == number]
            for element, job in enumerate(jobs)
        }
        units = {element: given for element, given in units.items() if given}
        if units:
            content = {"job": job_id, "units": units, "logs": str(logs), "host": os.uname().nodename}
            path = run.evaluation.folder.path / JOBS / f"{job_id}.json"
            write_atomically(path, json.dumps(content, indent=1).encode())
            run.evaluation.folder.deliver()


def _say(job_id: str, jobs: Sequence[Job], logs: Path, console: Console) -> None:
    units: list[TaskShard] = [unit for job in jobs for unit in job.units]
    planned_tasks = len({(unit.run, unit.task) for unit in units})
    what = f"array job {job_id}, {len(jobs)} jobs" if len(jobs) > 1 else f"job {job_id}"
    console.print(
        f"submitted {what}: {planned_tasks} tasks in {len(units)} parts; logs in {logs}", markup=False, highlight=False
    )
