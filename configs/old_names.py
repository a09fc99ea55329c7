"""Class names in configs and run folders that were written when clipeval's packages lay at the top: `tasks.Classification`.

Only the names of classes that clipeval had then are read as its own. Any other name in a module `tasks`, `eval`, `configs` or
`results` is the user's own, as everywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PACKAGES = {
    "tasks": "clipeval.tasks",
    "configs": "clipeval.configs",
    "results": "clipeval.results",
    "eval": "clipeval",
}
"""{a package as it was called: as it is called now}."""

_TASKS = {
    "Association": "association",
    "Attributes": "attributes",
    "Captioning": "captioning",
    "Classification": "classification",
    "LinearProbe": "probe",
    "MultiLabel": "multilabel",
    "Retrieval": "retrieval",
    "Selection": "selection",
}
_NAMES = {
    **{f"tasks.{name}": f"clipeval.tasks.{name}" for name in _TASKS},
    **{f"tasks.{module}.{name}": f"clipeval.tasks.{module}.{name}" for name, module in _TASKS.items()},
    "eval.captions.CocoScorer": "clipeval.captioning.scorer.CocoScorer",
    "eval.models.hf.HuggingFace": "clipeval.models.transformers.HuggingFace",
    "eval.models.openclip.OpenClip": "clipeval.models.open_clip.OpenClip",
}

_KEYS = ("_target_", "of")
"""What names a class; `of` in a protocol's config."""


def current(target: str) -> str:
    """A class's name as it is now; a name that was never clipeval's stays.

    >>> current("tasks.Classification"), current("eval.models.hf.HuggingFace"), current("tasks.mine.Own")
    ('clipeval.tasks.Classification', 'clipeval.models.transformers.HuggingFace', 'tasks.mine.Own')
    """
    return _NAMES.get(target, target)


def renamed(content: Any) -> Any:
    """A copy of a config's containers in which the classes have their present names."""
    if isinstance(content, Mapping):
        return {
            key: current(value) if key in _KEYS and isinstance(value, str) else renamed(value)
            for key, value in content.items()
        }
    return [renamed(value) for value in content] if isinstance(content, list) else content


def advice(problem: BaseException) -> str:
    """What an import error of the user's own code hangs on, if that is a package's former name; else nothing."""
    missing = (getattr(problem, "name", None) or "").partition(".")[0]
    if missing not in PACKAGES:
        return ""
    return f"; clipeval's package {missing!r} is called {PACKAGES[missing]!r} now"
