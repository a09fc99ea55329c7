"""`clipeval run -m`: Hydra's own sweeps and launchers over the same runs, such as `hydra/launcher=submitit_slurm`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from configs.compose import CONFIG_DIR, CONFIG_NAME, finish

COMMAND_LINE = "command-line"
"""What Hydra calls the source that --config-dir adds."""


def run_one(config: DictConfig) -> float | None:
    """One job of a sweep. Hydra reports what it raises, goes on with the other jobs, and ends with status 1.

    Returns:
        The mean of the main metrics: what an optimising sweeper (Optuna's, say) is to maximise.
    """
    from eval.session import Session

    about = HydraConfig.get().runtime
    folder = next((source.path for source in about.config_sources if source.provider == COMMAND_LINE), None)
    session = Session.open(finish(config, about.choices, folder), Console(stderr=True))
    session.console.print(f"{session.handle.name} → {session.folder.path}", markup=False, highlight=False)
    session.run()
    records = [session.folder.record(str(task)) for task in session.config.tasks]
    values = [record.value for record in records if record is not None and record.value is not None]
    return sum(values) / len(values) if values else None


def sweep(words: Sequence[str], config_dir: str | None) -> int:
    """Hands the words to Hydra, which composes each combination and launches it."""
    argv = [sys.argv[0], *(["--config-dir", config_dir] if config_dir else []), "--multirun", *words]
    before, sys.argv = sys.argv, argv
    try:
        hydra.main(config_path=str(CONFIG_DIR), config_name=CONFIG_NAME, version_base="1.3")(run_one)()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0
