"""`clipeval rerun`: a run repeated from what its folder says of it, and compared sample by sample."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from clipeval.cluster import local
from clipeval.configs.addresses import is_address, shown
from clipeval.configs.compose import compose
from clipeval.configs.errors import ClipevalError
from clipeval.configs.resolvers import user_cache
from clipeval.configs.schema import CONFIG, check
from clipeval.engine.evaluation import Evaluation
from clipeval.models import resolve
from clipeval.replay.stored_run import StoredRun
from clipeval.replay.verify import Check
from clipeval.results.run_folder import RunFolder
from clipeval.results.trust import NOBODY, Trust, check_model


def rerun(path: Path, out: str | Path, console: Console, trusted: Trust = NOBODY) -> Iterator[Check]:
    """Repeats a run from its manifest alone, into `out`, with no cache of embeddings, and compares sample by sample.

    Its model and data have to be on this machine: nothing is fetched, and nothing is written but `out` and the user's own cache.

    Raises:
        ClipevalError: the folder holds no run that can be repeated, or names a class that is not trusted.
    """
    old, stored = RunFolder(path), StoredRun.read(RunFolder(path), trusted)
    stored.check()
    check_model(stored.model, stored.file, trusted)
    skipped = old.skipped()
    recorded = {r.task for r in old.records() if r.imported is None and r.task not in skipped}
    if not recorded:
        raise ClipevalError(f"{old.place} holds no result that was computed: there is nothing to repeat.")
    config = _repeatable(stored.config, recorded, out)
    _check_data(config, stored.file)
    config.data.on_missing = "fail"  # what was recorded is repeated, or this says why not
    batches = {r.options.get("batch_size") for r in old.records() if r.task in recorded}
    if config.runtime.batch_size is None and len(batches) == 1:  # as it was found then; another moves the last bits
        config.runtime.batch_size = batches.pop()
    handle = resolve(config.model, Path(config.cache.root), offline=True)
    evaluation = Evaluation.open(config, console, handle)
    local.run(evaluation)
    for name in config.tasks:
        before, after = old.record(name), evaluation.folder.record(name)
        assert before is not None
        assert after is not None
        parts = before.fingerprint.differences(after.fingerprint)
        yield Check(
            name,
            _changed(old.predictions(before), evaluation.folder.predictions(after)),
            f"differs in {', '.join(parts)}" if parts else "",
        )


def _check_data(config: DictConfig, file: Path) -> None:
    """ClipevalError where data lie at an address: a file says it, which may be anybody's."""
    parts = [config.data, *(node.get(part) for node in config.tasks.values() for part in ("data", "outside"))]
    given = [part.get(key) for part in parts if part is not None for key in ("root", "path")]
    if there := [address for address in given if is_address(address)]:
        raise ClipevalError(
            f"{file}: its data lie at {shown(there[0])}, and a rerun downloads nothing. `clipeval run` of the same words "
            "with another out= computes it again, and `clipeval compare` says what differs."
        )


def _repeatable(stored: DictConfig, recorded: Collection[str], out: str | Path) -> DictConfig:
    """The config of a run that repeats another: with the keys of this release, checked, writing where the user lets it."""
    config = compose(["suite=none"])
    OmegaConf.set_struct(config, False)
    for key, value in stored.items():
        if isinstance(value, DictConfig) and key in CONFIG and key != "slurm":
            config[key] = {**config[key], **value}
        elif key != "slurm":
            config[key] = value
    config.out, config.head.save = str(out), None
    config.cache = {"root": user_cache(), "features": False, "pixels": False}
    config.tasks = {name: node for name, node in config.tasks.items() if name in recorded}
    check(config)
    OmegaConf.set_struct(config, True)
    return config


def _changed(before: pd.DataFrame, after: pd.DataFrame) -> str:
    """How many rows answer differently, and the first of them; empty where none does. Scores may differ in the last bits."""
    if len(before) != len(after):
        return f"{len(after):,} rows, where there were {len(before):,}"
    different = np.zeros(len(before), dtype=bool)
    for column in before.columns:
        if column not in after:
            return f"the column {column} is gone"
        one, two = before[column], after[column]
        if pd.api.types.is_float_dtype(one):
            different |= ~np.isclose(one.to_numpy(float), two.to_numpy(float), rtol=0, atol=1e-3, equal_nan=True)
        else:
            different |= [not np.array_equal(a, b) for a, b in zip(one, two, strict=True)]
    if not different.any():
        return ""
    first = before.iloc[int(np.flatnonzero(different)[0])]
    return f"{int(different.sum()):,} of {len(before):,} samples differ, the first {first.get('key', first.name)!r}"
