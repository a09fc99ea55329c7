"""`clipeval run -m`: Hydra's own sweeps and launchers over the same runs, such as `hydra/launcher=submitit_slurm`.

Every combination is composed, and its folder known, before Hydra starts the first one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from clipeval.cluster.combinations import OUT, Combination, Naming, compose_all, key_of, parsed
from clipeval.configs.catalog import CONFIG_DIR
from clipeval.configs.compose import CONFIG_NAME, finish
from clipeval.configs.group_lists import spell_group_lists
from clipeval.configs.quick_choices import quick_choices
from clipeval.configs.quick_merges import quick_merges

COMMAND_LINE = "command-line"
"""What Hydra calls the source that --config-dir adds."""
SWEEPER = ("hydra/sweeper", "hydra.sweeper")
"""Keys that choose who picks the combinations: of another sweeper they are not known beforehand."""


def run_one(config: DictConfig, naming: Naming = Naming()) -> tuple[str, float | None]:  # noqa: B008  (it is frozen)
    """One job of a sweep. Hydra reports what it raises, goes on with the other jobs, and ends with status 1.

    Args:
        config: as Hydra composed it.
        naming: gives the job's run folder.

    Returns:
        The run folder, and the mean of the main metrics: what an optimising sweeper (Optuna's, say) is to maximise.
    """
    from clipeval.cluster.local import run as run_evaluation
    from clipeval.engine.evaluation import Evaluation

    hydra_config = HydraConfig.get()
    about = hydra_config.runtime
    folder = next((source.path for source in about.config_sources if source.provider == COMMAND_LINE), None)
    done = finish(config, about.choices, folder)
    done.out = naming.out(done, list(hydra_config.overrides.task))
    evaluation = Evaluation.open(done, Console(stderr=True))
    evaluation.say_folder()
    run_evaluation(evaluation)
    records = [evaluation.folder.record(str(task)) for task in evaluation.config.tasks]
    values = [record.value for record in records if record is not None and record.value is not None]
    return str(evaluation.folder.path), sum(values) / len(values) if values else None


def sweep(overrides: Sequence[str], config_dir: str | None) -> int:
    """Hands the overrides to Hydra, which composes each combination and launches it; then prints one table of all.

    Returns:
        The exit status: 0 when every run is done.

    Raises:
        ClipevalError: a combination cannot be composed, or two would share a run folder; nothing has run then.
    """
    from clipeval.results.mirror import opened
    from clipeval.results.sweep_table import print_sweep

    overrides = spell_group_lists(overrides)  # Hydra gets the words as they are
    naming, combinations = _before(overrides, config_dir)
    begun: list[str] = []

    def job(config: DictConfig) -> float | None:
        folder, value = run_one(config, naming)
        begun.append(folder)  # of runs in this process
        return value

    argv = [sys.argv[0], *(["--config-dir", config_dir] if config_dir else []), "--multirun", *overrides]
    before, sys.argv = sys.argv, argv
    status = 0
    try:
        with quick_merges(), quick_choices():  # Hydra composes each combination three times
            hydra.main(config_path=str(CONFIG_DIR), config_name=CONFIG_NAME, version_base="1.3")(job)()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(bool(end.code))
    finally:
        sys.argv = before
    rows = [(one.values, opened(one.config.out, one.config.cache.root)) for one in combinations]
    rows = rows or [({}, Path(folder)) for folder in begun]
    missing = print_sweep(rows)
    return status or int(missing > 0)


def _before(overrides: Sequence[str], config_dir: str | None) -> tuple[Naming, list[Combination]]:
    """What is known before Hydra runs: the combinations, unless another sweeper chooses them."""
    if not any(word.lstrip("+~").startswith(SWEEPER) for word in overrides):
        return compose_all(overrides, config_dir)
    keys = frozenset(key_of(override) for override in map(parsed, overrides) if not override.is_sweep_override())
    return Naming(keys, fixed=OUT in keys), []
