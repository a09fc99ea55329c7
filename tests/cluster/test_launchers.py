"""`clipeval run -m` over Hydra's own launchers, where they are installed: as docs/guides/many_checkpoints.md has them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clipeval.results.run_folder import RunFolder

LAUNCHERS = {
    "joblib": ["hydra.launcher.n_jobs=2"],
    "ray": ["+hydra.launcher.ray.init.num_cpus=1", "+hydra.launcher.ray.init.include_dashboard=false"],
}
WORDS = ["prompts=simple,openai_imagenet_7", "task=quickstart_digits", "data.limit=20", "cache.root=cache"]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_each_combination_has_its_run(launcher: str, tmp_path: Path) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{launcher}_launcher")
    command = [sys.executable, "-m", "clipeval.cli.main", "run", "-m", f"hydra/launcher={launcher}"]
    words = [*LAUNCHERS[launcher], *WORDS, "runtime.device=cpu", "runtime.workers=0"]
    environment = {**os.environ, "HOME": str(tmp_path)}  # Ray writes a token there
    done = subprocess.run(
        [*command, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    runs = {path.name: RunFolder(path).tasks() for path in (tmp_path / "runs").glob("quickstart*")}
    names = ["simple", "openai_imagenet_7"]
    assert runs == {f"quickstart__prompts-{name}": ["quickstart_digits"] for name in names}
    assert all(name in done.stdout for name in names), "one table of all"
