"""What is asked of a Slurm cluster, besides submitting: its limit on arrays, and which jobs it still holds."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable

from clipeval.configs.errors import ClipevalError

DEFAULT_MAX_ARRAY = 1001
"""Slurm's own default of MaxArraySize."""
TIMEOUT = 30.0


def require() -> None:
    """ClipevalError where this machine cannot submit."""
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise ClipevalError(
            "sbatch and srun are not on this machine's PATH; `clipeval submit` needs a Slurm login node. Without Slurm, start "
            "`clipeval run … --share I/N` for I from 0 to N-1 on as many machines as there are."
        )


def max_array_size() -> int:
    """How many jobs one array may have here."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config") or "")
    return max(1, int(found[1]) if found else DEFAULT_MAX_ARRAY)


def queued_jobs(jobs: Iterable[str]) -> dict[str, str] | None:
    """{job: state} of those of some jobs (`12`, every element of array 12 as `12_3`) that wait or run.

    None where the queue cannot be asked.
    """
    ids = ",".join(sorted(set(jobs)))
    if not ids:
        return {}
    text = ask("squeue", "--noheader", "--array", "--format=%i %T", f"--jobs={ids}")
    if text is None:  # squeue also fails when it has forgotten every one of these jobs
        return {} if ask("squeue", "--noheader", "--format=%i") is not None else None
    pairs = [line.split() for line in text.splitlines() if line.strip()]
    return {
        pair[0]: pair[1] for pair in pairs if len(pair) == 2 and pair[1] not in ("COMPLETED", "FAILED", "CANCELLED")
    }


def ask(*command: str, timeout: float = TIMEOUT) -> str | None:
    """What a program prints, or None where it fails or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
