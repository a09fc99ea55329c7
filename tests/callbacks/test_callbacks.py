"""The callbacks in real training runs of a few steps, on two ranks: open_clip's trainer, Lightning, transformers' Trainer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEEDS = {"open_clip": "tensorboard", "lightning": "lightning", "trainer": "accelerate"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one launch, in which every trainer that is installed trains."""
    out = tmp_path_factory.mktemp("trained")
    trainers = [trainer for trainer, package in NEEDS.items() if find_spec(package) is not None]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CLIPEVAL_CACHE": str(out / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(Path(__file__).with_name("worker.py")), ",".join(trainers), str(out)],
        env=environment, capture_output=True, text=True, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return out


@pytest.fixture(scope="module", params=list(NEEDS))
def found(request: pytest.FixtureRequest, trained: Path) -> dict[str, Any]:
    if find_spec(NEEDS[request.param]) is None:
        pytest.skip(f"{NEEDS[request.param]} is not installed: pip install 'clipeval[training]'")
    return {"trainer": request.param, **json.loads((trained / f"{request.param}.json").read_text())}


def test_two_ranks_score_as_one_process_does(found: dict[str, Any]) -> None:
    assert found["ranks"] == 2
    assert found["failures"] == []
    assert sorted(found["tables"]) == sorted(found["alone"]) == ["2", "4"]
    for step, tasks in found["alone"].items():
        for task, metrics in tasks.items():
            assert found["tables"][step][task] == pytest.approx(metrics, nan_ok=True), (step, task)


def test_the_training_does_not_notice(found: dict[str, Any]) -> None:
    assert found["changed"] == []
    assert found["weights"] == 0


def test_a_quick_subset_is_named_and_flagged(found: dict[str, Any]) -> None:
    assert all(name.endswith("(quick 40)") for name in found["names"])
    assert all(flags.startswith("a quick subset, 40 of") for flags in found["flags"])


def test_the_scores_are_where_the_trainer_keeps_its_own(found: dict[str, Any]) -> None:
    name, value = "zero_shot/digits_quick40/acc1", found["tables"]["4"]["digits"]["acc1"]
    if found["trainer"] == "open_clip":
        assert [line["step"] for line in found["logged"]] == [2, 4]
        assert found["logged"][1][name] == pytest.approx(value)
        assert found["drawn"] > 0
    elif found["trainer"] == "lightning":
        assert name in found["header"].split(",")
        assert found["monitored"][name] == pytest.approx(value)
    else:
        logged = {entry["step"]: entry[name] for entry in found["history"] if name in entry}
        assert sorted(logged) == [2, 4]
        assert logged[4] == pytest.approx(value)
