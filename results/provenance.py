"""Where a number came from: packages, the code's commit, the machine. It takes milliseconds and asks no network."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

from clipeval.results.cores import usable_cores

PACKAGES = (
    "torch",
    "torchvision",
    "open_clip_torch",
    "timm",
    "transformers",
    "tokenizers",
    "huggingface_hub",
    "safetensors",
    "numpy",
    "pandas",
    "pyarrow",
    "pillow",
    "hydra-core",
    "omegaconf",
    "ftfy",
    "scikit-learn",
    "scipy",
    "pycocoevalcap",
)
"""Those whose version can change a score, or the reading of one."""


def provenance() -> dict[str, Any]:
    """The part of `run.json` that describes the code and the machine."""
    return {
        "packages": dict(packages()),
        "code": dict(code()),
        "hardware": hardware(),
        "python": platform.python_version(),
        "os": platform.platform(),
        "hostname": socket.gethostname(),
    }


@cache
def packages() -> Mapping[str, str]:
    """The versions of those of `PACKAGES` that are installed: read once a process, as they are imported once."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return MappingProxyType(versions)


@cache
def code() -> Mapping[str, Any]:
    """clipeval's version, and the commit of its source: None for both `commit` and `dirty` in an installed wheel.

    `dirty`: whether tracked files differ from the commit. Read once a process: every record of a run says the same.
    """
    try:
        version: str | None = metadata.version("clipeval")
    except metadata.PackageNotFoundError:
        version = None
    root = Path(__file__).resolve().parent.parent
    commit = dirty = None
    # An installed wheel may lie inside some other repository (a .venv in a project): only our own root counts.
    if (root / ".git").exists():
        commit = _git(root, "rev-parse", "HEAD")
        status = _git(root, "status", "--porcelain", "--untracked-files=no")
        dirty = None if status is None else bool(status)
    return MappingProxyType({"version": version, "commit": commit, "dirty": dirty})


def _git(root: Path, *words: str) -> str | None:
    """What git answers, or None where it cannot (not installed, no commit yet, a folder of another owner)."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        answer = subprocess.run(
            ["git", *words], cwd=root, env=environment, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def hardware() -> dict[str, Any]:
    """The processor, the cores that this process may use, the memory in GiB, the GPUs, and torch's threads."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": _cpu(),
        "cores": usable_cores(),
        "memory_gib": _memory(),
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
        "torch_threads": torch.get_num_threads(),
    }


def _cpu() -> str:
    """The processor's model, as Linux prints it; elsewhere what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> float | None:
    """Physical memory in GiB, None where the system does not tell."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    return round(total / 2**30, 1)
