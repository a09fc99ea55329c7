"""Tasks that are scored from the predictions of another task's record: nothing is embedded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields

from clipeval.configs.errors import ClipevalError
from clipeval.results.fingerprint import Fingerprint, identity_differences
from clipeval.results.records import DamagedRecord, Record
from clipeval.results.run_folder import RunFolder
from clipeval.tasks.base import Samples, Scores, Task
from clipeval.tasks.ties import Ties

PROTOCOL = "classification/1/"
"""How the fingerprint of a classification whose predictions do begins."""


def can_derive(task: Task, splits: Iterable[str]) -> bool:
    """Whether a task of these splits can be made of a classification's predictions."""
    return type(task).from_classification is not Task.from_classification and set(splits) == {"test"}


def find_record(source: Fingerprint, identity: Mapping[str, str], folder: RunFolder) -> Record | None:
    """The record of a classification of the same images by the same model and prompts, its predictions unharmed; or None."""
    same = [field.name for field in fields(source) if field.name != "protocol"]
    for record in folder.records(damaged=[]):
        if record.imported is not None or not record.fingerprint.protocol.startswith(PROTOCOL):
            continue
        known = all(getattr(record.fingerprint, name) == getattr(source, name) for name in same)
        if known and not identity_differences(identity, record.identity):
            try:
                return folder.record(record.task)
            except DamagedRecord:
                continue
    return None


def derived_scores(task: Task, samples: Mapping[str, Samples], record: Record, folder: RunFolder) -> Scores:
    """The scores of a task that is made of the predictions of a record.

    How much hangs on ties is what that record says of its own metrics: which classes tied is not kept.

    Raises:
        ClipevalError: the predictions are not of this task's images.
    """
    try:
        predictions = task.from_classification(folder.predictions(record), samples)
        assert predictions is not None
        return Scores(task.statistics(predictions), predictions, Ties(int((record.ties or {}).get("count", 0))))
    except ValueError as problem:
        raise ClipevalError(f"{folder.place}, predictions of {record.task}: {problem}") from None
