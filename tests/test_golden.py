"""Numbers and fingerprints that do not change by accident: the quickstart's records and the prompts of the 40 sets, written down.

python -m tests.test_golden     # writes them anew; say in the commit why they changed
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from clipeval.cli.main import main
from scripts.make_miniature import write_miniature

GOLDEN = Path(__file__).parent / "golden"
FLIPPED = 0.005
"""The largest share of answers that another processor may change, where two scores are equal but for rounding (seen: 1 of 450)."""


def quickstart(place: Path) -> dict[str, Any]:
    """{task: fingerprint, metrics, and the sha256 of each row of predictions, 8 digits} of `clipeval run`, which lies in `run`."""
    if not (place / "run").exists():
        assert main(["run", f"out={place / 'run'}", f"cache.root={place / 'cache'}"]) == 0
    found = {}
    for path in sorted((place / "run" / "records").glob("[!.]*.json")):
        record = json.loads(path.read_text())
        frame = pd.read_parquet(place / "run" / record["predictions"]["file"])
        answers = frame.select_dtypes(exclude="float32").round(3)  # cosines and probabilities differ in their last bits
        found[path.stem] = {
            "fingerprint": record["fingerprint"],
            "metrics": record["metrics"],
            "samples": record["samples"],
            "answers": " ".join(
                hashlib.sha256(row.encode()).hexdigest()[:8] for row in answers.to_csv(index=False).splitlines()
            ),
        }
    return found


def forty(place: Path) -> dict[str, Any]:
    """{task: the parts of its fingerprint that its config and prompts make} of the miniature of the 40 sets."""
    from rich.console import Console

    from clipeval.configs.compose import compose
    from clipeval.engine.evaluation import Evaluation

    write_miniature(place / "data", samples=8)
    config = compose(["suite=datacomp", f"data.root={place / 'data'}", f"cache.root={place / 'cache'}"])
    plan = Evaluation.open(config, Console(quiet=True)).plan()
    assert not plan.problems
    parts = ("preprocess", "precision", "prompts", "protocol")
    return {
        planned.id: {k: v for k, v in planned.fingerprint.to_json().items() if k in parts} for planned in plan.tasks
    }


@pytest.mark.parametrize("what", [quickstart, forty])
def test_nothing_changed(what: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    golden = json.loads((GOLDEN / f"{what.__name__}.json").read_text())
    found = what(request.getfixturevalue("quickstart") if what is quickstart else tmp_path)
    assert found.keys() == golden.keys()
    for task, before in golden.items():
        rows, now = (entry.get("answers", "").split() for entry in (before, found[task]))
        assert len(rows) == len(now), task
        flipped = sum(one != other for one, other in zip(rows, now, strict=True)) / max(len(rows), 1)
        assert flipped <= FLIPPED, f"{task}: {flipped:.2%} of the answers differ"
        for part, value in before.items():
            if part == "metrics":
                assert found[task][part] == pytest.approx(value, abs=3 * flipped + 1e-6, nan_ok=True), task
            elif part != "answers":
                assert found[task][part] == value, f"{task}: {part}"


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for what in (quickstart, forty):
        with tempfile.TemporaryDirectory() as scratch:
            content = json.dumps(what(Path(scratch)), indent=1, sort_keys=True)
        (GOLDEN / f"{what.__name__}.json").write_text(content + "\n")
    sys.exit(0)
