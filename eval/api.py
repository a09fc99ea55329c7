"""From Python: evaluate a model that is already in memory, in a notebook or in a training loop.

from clipeval import evaluate

table = evaluate(model, tokenizer, transform, suite="datacomp", data_root="/data/datacomp")
print(table[["name", "metric", "value", "low", "high"]])
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console

from clipeval.cluster.local import run
from clipeval.cluster.ranks import Ranks
from clipeval.cluster.training import run_on_ranks
from clipeval.configs.compose import compose, override
from clipeval.configs.errors import ClipevalError
from clipeval.engine.evaluation import Evaluation
from clipeval.models import from_memory
from clipeval.models.surroundings import has_default_device, plain_surroundings, random_states
from clipeval.models.trial import check_weights, device_of
from clipeval.results.records import Record


def evaluate(
    model: torch.nn.Module,
    tokenizer: Callable[[list[str]], torch.Tensor],
    transform: Callable[[Any], torch.Tensor],
    suite: str = "quickstart",
    data_root: str | Path | None = None,
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    name: str = "in-memory",
    quiet: bool = True,
    ranks: Ranks | None = None,
) -> pd.DataFrame:
    """Evaluates `model` on a suite and leaves it as it was: its mode, its device and every random state.

    What the process has set beside it has no part in the scores, and is left as it was: TF32, autocast, the default dtype and
    device, deterministic algorithms.

    Args:
        model: gives `encode_image` ([B, 3, H, W] float32 to [B, D]) and `encode_text` (tokens to [T, D]).
        tokenizer: a list of T strings to a tensor [T, L] of tokens.
        transform: a PIL image to a float tensor [3, H, W].
        suite: as `suite=` on the command line.
        data_root: as `data.root=`.
        out: a run folder to keep and resume, or the address of one (as text); None leaves nothing behind.
        overrides: further words of the command line, such as "~tasks.sun397" or "runtime.precision=bf16".
        name: the model's name in the records.
        quiet: whether to show no progress.
        ranks: the processes of a training run, all of which call this with the same arguments: each embeds a share, the first
            one writes, and all get the table. None: this process does it all.

    Returns:
        A row for each task: task, key, name, group, metric, value, low, high (95% interval), chance, samples, flags, and
        `metrics`, a dict of every metric. A task that `data.on_missing=skip` left out has no value, and flags that say so.

    Raises:
        ClipevalError: the config, the data or the model is not what it must be: weights in half precision at
            `runtime.precision=fp32`, say. A model that cannot be run as it is is found out before images are decoded.
    """
    words = _words(suite, data_root, overrides)
    ranks = Ranks() if ranks is None else ranks
    with _opened(model, tokenizer, transform, words, out, name, quiet, ranks) as evaluation:
        if ranks.count == 1:
            run(evaluation)
        else:
            run_on_ranks(evaluation, ranks)
        return ranks.tell(_table(evaluation) if ranks.first else None)  # type: ignore[no-any-return]


def check(
    model: torch.nn.Module,
    tokenizer: Callable[[list[str]], torch.Tensor],
    transform: Callable[[Any], torch.Tensor],
    suite: str = "quickstart",
    data_root: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
) -> list[str]:
    """Opens every task as `evaluate` would, and embeds nothing.

    Args:
        model, tokenizer, transform, suite, data_root, overrides: as of `evaluate`.

    Returns:
        The tasks' names.

    Raises:
        ClipevalError: a task cannot run.
    """
    words = _words(suite, data_root, overrides)
    with _opened(model, tokenizer, transform, words, None, "in-memory", True, Ranks()) as evaluation:
        return [planned.id for planned in evaluation.prepare().tasks]


def _words(suite: str, data_root: str | Path | None, overrides: Sequence[str]) -> list[str]:
    if not isinstance(suite, str):
        raise ClipevalError(f"suite={suite!r}: a suite's name was expected; further words go to overrides=[…].")
    # The letters of a text would be words.
    if isinstance(overrides, str) or not all(isinstance(word, str) for word in overrides):
        raise ClipevalError(f'overrides={overrides!r}: a list of words was expected, as ["runtime.precision=bf16"].')
    return [f"suite={suite}", *overrides, *([] if data_root is None else [override("data.root", str(data_root))])]


@contextmanager
def _opened(
    model: torch.nn.Module,
    tokenizer: Callable[[list[str]], torch.Tensor],
    transform: Callable[[Any], torch.Tensor],
    words: list[str],
    out: str | Path | None,
    name: str,
    quiet: bool,
    ranks: Ranks,
) -> Iterator[Evaluation]:
    """An evaluation of a model in memory; what it leaves lies in `out`, or nowhere. Random states are put back."""
    device = _device_of(model)
    if device == "meta":
        check_weights(model, "fp32", name)
    words = [*words, override("runtime.device", device)]
    on_default_device = has_default_device()
    surroundings = plain_surroundings(torch.device(device))
    with tempfile.TemporaryDirectory(prefix="clipeval-") as scratch, surroundings, random_states():
        words.append(override("out", str(out if out is not None and ranks.first else scratch)))
        if out is None or ranks.count > 1:
            words.append("cache.features=false")
        handle = from_memory(model, tokenizer, transform, name=name)
        handle.on_default_device = on_default_device
        yield Evaluation.open(compose(words), Console(quiet=quiet or not ranks.first, stderr=True), handle)


def _table(evaluation: Evaluation) -> pd.DataFrame:
    names = [name for name in evaluation.config.tasks if name not in evaluation.skipped]
    frame = records_frame([r for r in map(evaluation.folder.record, names) if r is not None])
    return pd.concat([frame, _skipped(evaluation)], ignore_index=True) if evaluation.skipped else frame


def _device_of(model: torch.nn.Module) -> str:
    """Where a model is, as `runtime.device` names it: Apple's one GPU has no number."""
    device = device_of(model) or torch.device("cpu")
    return "mps" if device.type == "mps" else str(device)


def _skipped(evaluation: Evaluation) -> pd.DataFrame:
    """A row without a value for each task that `data.on_missing=skip` left out."""
    rows = []
    for task, why in evaluation.skipped.items():
        node = evaluation.config.tasks[task]
        about = {key: node.get(key) for key in ("key", "name", "group", "metric", "chance")}
        rows.append({"task": task, **about, "flags": f"skipped: {why}", "metrics": {}})
    return pd.DataFrame(rows)


def records_frame(records: Sequence[Record]) -> pd.DataFrame:
    """Records as a table, a row for each."""
    rows = []
    for record in records:
        low, high = record.interval or (None, None)
        rows.append(
            {
                "task": record.task,
                "key": record.key,
                "name": record.name,
                "group": record.group,
                "metric": record.metric,
                "value": record.value,
                "low": low,
                "high": high,
                "chance": record.chance,
                "samples": record.samples,
                "flags": "; ".join(record.flags),
                "metrics": dict(record.metrics),
            }
        )
    return pd.DataFrame(rows)
