"""Tries data faults: each in a folder of its own, by the words of the command line, with the colour model."""

from __future__ import annotations

import importlib
import io
import json
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from clipeval.configs.compose import compose
from clipeval.configs.errors import ClipevalError
from clipeval.engine.evaluation import Evaluation
from clipeval.models import from_memory
from tests.data_faults.case import Case, Refused, Scored, check
from tests.data_faults.colours import ColourModel


def all_cases() -> Iterator[Case]:
    """Every case of the modules in tests/data_faults/cases/, each of which has a list CASES."""
    package = importlib.import_module("tests.data_faults.cases")
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
        yield from importlib.import_module(f"{package.__name__}.{module.name}").CASES


def try_case(case: Case, place: Path) -> str:
    """Makes the input in `place`, runs it, and asserts what must come of it; how it ended, in a few words.

    Raises:
        AssertionError: something else came of it.
    """
    place.mkdir(parents=True, exist_ok=True)
    words = list(case.make(place))
    if case.change is not None:
        first, _ = run(words, place, model=case.model)
        assert not isinstance(first, str), f"the run before the change: {first}"
        case.change(place)
    result, said = run(words, place, case.outcome.task if isinstance(case.outcome, Scored) else None, case.model)
    return check(case.outcome, result, said)


def run(
    words: Sequence[str], place: Path, task: str | None = None, model: Callable[[], Any] | None = None
) -> tuple[dict[str, object] | str, str]:
    """One run in this process: (the record's JSON or the error's text, what was said).

    Errors other than ClipevalError, which the command line would show as a traceback, are raised.
    """
    given = {word.split("=")[0] for word in words}
    common = {
        "suite": "none",
        "out": str(place / "run"),
        "cache.root": str(place / "cache"),
        "runtime.workers": "0",
        "runtime.batch_size": "8",
        "runtime.device": "cpu",
    }
    said = io.StringIO()
    console = Console(file=said, width=500)
    made = (model or ColourModel)()
    handle = from_memory(made, made.tokenizer, made.transform, name="colours")
    try:
        config = compose([*(f"{key}={value}" for key, value in common.items() if key not in given), *words])
        session = Evaluation.open(config, console, handle)
        session.run()
    except ClipevalError as problem:
        return str(problem), said.getvalue()
    records = sorted((place / "run" / "records").glob("[!.]*.json"))
    chosen = [path for path in records if task is None or path.stem == task]
    assert len(chosen) == 1, f"records {[path.stem for path in records]}; one was expected"
    return json.loads(chosen[0].read_text()), said.getvalue()


__all__ = ["Case", "Refused", "Scored", "all_cases", "run", "try_case"]
