"""What the guides tell people to write: their files as they stand there, run on bundled data."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from clipeval.cli.main import main

ROOT = Path(__file__).parents[1]
BUNDLED = ROOT / "eval" / "bundled"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `mine/` of the guides, its places on a disk replaced by ones that exist."""
    text = "".join((ROOT / "docs" / "guides" / f"{name}.md").read_text("utf-8") for name in ("own_task", "own_model"))
    blocks = re.findall(r"```(?:yaml|python)\n# (mine/[\w/.]+)[^\n]*\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 5
    for name, content in blocks:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = content.replace("/data/wds_flags_test", str(BUNDLED / "data" / "wds_quickstart_digits_test"))
        content = content.replace("wds_mnist_test, samples: 10000", "wds_quickstart_digits_test, samples: 450")
        path.write_text(content, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "mine")
    monkeypatch.delitem(sys.modules, "polarity", raising=False)
    return tmp_path / "mine"


@pytest.mark.parametrize("task", ["flags", "polarity"])
def test_a_task_and_a_protocol_of_ones_own_run_and_verify(mine, tmp_path, task):
    places = [f"out={tmp_path / 'run'}", f"cache.root={tmp_path / 'cache'}", f"data.root={BUNDLED / 'data'}"]
    assert main(["run", f"task={task}", "--config-dir", str(mine), *places]) == 0
    record = json.loads((tmp_path / "run" / "records" / f"{task}.json").read_text())
    low, high = record["intervals"][record["metric"]]
    assert low <= record["metrics"][record["metric"]] <= high
    assert low < high
    assert record["flags"] == []
    assert main(["verify", str(tmp_path / "run"), "--config-dir", str(mine)]) == 0


def test_a_model_of_ones_own_is_a_preset(mine, tmp_path, capsys):
    words = ["plan", "model=mine", "task=flags", "--config-dir", str(mine), f"out={tmp_path / 'run'}"]
    assert main([*words, f"cache.root={tmp_path / 'cache'}"]) == 1
    assert "/checkpoints/epoch_32.pt" in "".join(capsys.readouterr())


def test_the_pictures_are_there_and_small():
    for name in re.findall(r"docs/pictures/[\w.]+", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert 1_000 < (ROOT / name).stat().st_size < 300_000
