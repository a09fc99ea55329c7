"""What stands in the run folder already, before a run adds to it: of the same model, the same release, the same tasks?"""

from __future__ import annotations

from collections.abc import Container

from clipeval.configs.errors import ClipevalError
from clipeval.engine.plan import Plan
from clipeval.models import ModelHandle
from clipeval.results.fingerprint import identity_differences
from clipeval.results.provenance import code
from clipeval.results.records import DamagedRecord
from clipeval.results.run_folder import RunFolder


def check_folder(folder: RunFolder, handle: ModelHandle, tasks: Container[str]) -> None:
    """A folder holds one model. One that evolves takes the place of what it was, if no record of that stays.

    Args:
        folder: the run folder.
        handle: the model to be run.
        tasks: the names of the tasks to be run.

    Raises:
        ClipevalError: the folder is another model's or another release's; or a task that this run leaves out has a record of
            what the model was.
    """
    if not (handle.evolves and folder.slug() == handle.slug):
        folder.check(handle.weights_digest, handle.slug)
    mine = dict(handle.identity)
    others = [
        record.task
        for record in folder.records(damaged=[])
        if record.imported is None
        and record.task not in tasks
        and (
            record.fingerprint.weights != handle.weights_digest
            or identity_differences(mine, {k: v for k, v in record.identity.items() if k in mine})
        )
    ]
    if others:
        raise ClipevalError(
            f"{folder.place} holds results of {', '.join(others)} by an earlier state of {handle.name}, which would "
            "stand beside those of this one: give this run a folder of its own with out=, evaluate those tasks too, or remove "
            "their records."
        )
    _check_version(folder)


def _check_version(folder: RunFolder) -> None:
    """Scores of two releases are never mixed in one folder; within a release, protocols carry their own versions."""
    try:
        theirs = ((folder.run() or {}).get("code") or {}).get("version")
    except DamagedRecord:  # written anew; the records vouch for themselves
        return
    mine = code()["version"]
    if theirs and theirs != mine:
        raise ClipevalError(
            f"{folder.place} was written by clipeval {theirs}, and this is {mine}, whose scores may differ: "
            f"give this run a folder of its own with out=, or go on with clipeval {theirs}."
        )


def stale_lines(folder: RunFolder, plan: Plan, resume: str) -> list[str]:
    """What to say of the records that no longer hold and are computed again.

    Args:
        folder: the run folder.
        plan: what was found there.
        resume: the config's `resume`.

    Raises:
        ClipevalError: there are such, and `resume=refuse`.
    """
    lines = [f"  {task.id}: {'; '.join(task.why)}" for task in plan.tasks if task.state == "stale"]
    if lines and resume == "refuse":
        raise ClipevalError(
            f"{folder.place} holds records of something else, and resume=refuse:\n" + "\n".join(lines) + "\n"
            "Choose another out=, or replace them with resume=recompute."
        )
    return ["Records that no longer hold, computed again:", *lines] if lines else []
