"""What `--share I/N` takes of a run: the place of a process among several, and what each task of a config costs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from clipeval.configs.errors import ClipevalError
from clipeval.engine.shards import TASK_COST, TaskCost
from clipeval.engine.store import CHUNK


def parse_share(text: str, environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """`I/N` (I from 0 to N - 1), or `slurm` for this array job's own, as (I, N).

    Raises:
        ClipevalError: neither; or `slurm` outside of an array.
    """
    if text == "slurm":
        return _slurm_share(os.environ if environment is None else environment)
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise ClipevalError(f"--share {text}: expected I/N with I from 0 to N-1, such as 0/16, or the word slurm.")
    return int(found[1]), int(found[2])


def _slurm_share(environment: Mapping[str, str]) -> tuple[int, int]:
    try:
        place, count = int(environment["SLURM_ARRAY_TASK_ID"]), int(environment["SLURM_ARRAY_TASK_COUNT"])
        least, most = int(environment.get("SLURM_ARRAY_TASK_MIN", 0)), int(environment["SLURM_ARRAY_TASK_MAX"])
    except KeyError as missing:
        raise ClipevalError(
            f"--share slurm: {missing.args[0]} is not set. It works in a job of an array (sbatch --array=0-15 …); "
            "elsewhere write --share I/N."
        ) from None
    step = (most - least) // (count - 1) if count > 1 else 1
    if (place - least) % step or (most - least) != step * (count - 1):
        raise ClipevalError(
            f"--share slurm: the array's {count} indices from {least} to {most} are not evenly spaced, so index {place} "
            "has no place among them; use a range such as --array=0-15."
        )
    return (place - least) // step, count


def config_loads(config: DictConfig, run: int = 0) -> list[TaskCost]:
    """What each task of a config costs, by what the config says of it or else by the size of its folder.

    It must not depend on what is done already: each process of a share works it out for itself, at its own time.
    """
    splittable = bool(config.cache.features)
    loads: dict[str, TaskCost] = {}
    for name, node in config.tasks.items():
        samples = node.data.get("samples") or _images_in(config, node)
        classes = node.data.get("classes") or 0
        splits = len(node.get("splits") or ["test"])
        chunks = max(1, -(-samples // CHUNK)) if splittable else 1
        place = str(node.data.get("path") or (node.data.get("root"), node.data.get("folder") or name))
        before = loads.get(place)
        if before is None:
            loads[place] = TaskCost(run, str(name), samples * splits + classes + TASK_COST, chunks)
        else:  # the same images: languages, shots, prompts
            cost = max(before.cost, samples * splits) + classes + TASK_COST
            chunks = max(before.chunks, chunks)
            loads[place] = replace(before, cost=cost, chunks=chunks, others=(*before.others, str(name)))
    return list(loads.values())


def _images_in(config: DictConfig, node: DictConfig) -> int:
    """About how many images a folder or file holds, from its size; 0 where it is not there (the plan will say so)."""
    place = node.data.get("path") or node.data.get("folder")
    root = None if node.data.get("path") else node.data.get("root") or config.data.root
    if not place or (root is None and not node.data.get("path")):
        return 0
    path = Path(root or "").expanduser() / Path(place).expanduser()
    files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
    return sum(file.stat().st_size for file in files if file.is_file()) // 50_000
