"""`data.limit`: a quick subset of a task, the same everywhere, each class by its share, named and flagged."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipeval.cli.main import main
from clipeval.data.subset import chosen_rows, limited
from clipeval.tasks.base import Samples

ROOT = Path(__file__).resolve().parents[2]


class Plain:
    """Images that are their own names."""

    digest = "d"

    def __len__(self) -> int:
        return 6

    def read(self, position: int) -> bytes:
        return b"image %d" % position

    def location(self, position: int) -> str:
        return f"place {position}"


def test_each_class_has_its_share_and_a_smaller_subset_is_part_of_a_larger() -> None:
    keys = [f"s{i:03}" for i in range(100)]
    labels = np.array([0] * 50 + [1] * 30 + [2] * 20)
    assert np.bincount(labels[chosen_rows(keys, labels, 10)]).tolist() == [5, 3, 2]
    assert np.bincount(labels[chosen_rows(keys, labels, 37)]).tolist() == pytest.approx([18.5, 11.1, 7.4], abs=1)
    subsets = [set(chosen_rows(keys, labels, n).tolist()) for n in (1, 10, 37, 100)]
    assert [len(rows) for rows in subsets] == [1, 10, 37, 100]
    assert all(small <= large for small, large in pairwise(subsets))


def test_the_order_of_the_files_does_not_matter() -> None:
    keys, labels = [f"s{i:03}" for i in range(60)], np.arange(60) % 7
    order = np.random.default_rng(1).permutation(60)
    chosen = {keys[i] for i in chosen_rows(keys, labels, 20)}
    shuffled = [keys[i] for i in order]
    assert {shuffled[i] for i in chosen_rows(shuffled, labels[order], 20)} == chosen


def test_questions_bring_their_images_and_what_counts_together_stays_together() -> None:
    questions = [{"id": str(i), "images": [f"k{i}"], "captions": ["a", "b"]} for i in range(6)]
    table = Samples(keys=[f"k{i}" for i in range(6)], instances=questions)
    found = limited(Plain(), table, 2)
    assert found is not None
    images, subset, flag = found
    assert subset.instances is not None
    assert [q["images"][0] for q in subset.instances] == list(subset.keys)
    assert [images.read(i) for i in range(len(images))] == [b"image %s" % key[1:].encode() for key in subset.keys]
    assert (len(images), subset.positions) == (2, None)
    assert flag == "a quick subset, 2 of 6 samples, drawn evenly (data.limit)"
    pairs = [{**q, "sets": {"pair": str(i // 2)}} for i, q in enumerate(questions)]
    found = limited(Plain(), Samples(keys=table.keys, instances=pairs), 1)
    assert found is not None
    assert found[1].instances is not None
    assert len({q["sets"]["pair"] for q in found[1].instances}) == 1
    assert len(found[1].instances) == 2
    assert limited(Plain(), table, 6) is None


def test_a_run_names_and_flags_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"out={tmp_path / 'run'}", f"cache.root={tmp_path / 'cache'}", "data.limit=40", "runtime.workers=0"]
    chosen = [
        "quickstart_digits",
        "quickstart_digits_probe",
        "quickstart_emoji_retrieval",
        "quickstart_emoji_association",
    ]
    tasks = [f"+task@tasks.{name}={name}" for name in chosen]
    assert main(["run", "suite=none", *tasks, *words]) == 0
    table = capsys.readouterr().out
    assert "quick 40" in table
    assert "a quick subset, 40 of 450 samples" in table
    for name in chosen:
        record = json.loads((tmp_path / "run" / "records" / f"{name}.json").read_text())
        assert record["samples"] == 40, name
        assert record["name"].endswith("(quick 40)")
        assert any(flag.startswith("a quick subset, 40 of") for flag in record["flags"])
    frame = pd.read_parquet(tmp_path / "run" / "predictions" / "quickstart_digits.parquet")
    assert frame["label"].value_counts().between(3, 5).all()
    assert main(["report", str(tmp_path / "run"), "--format", "md"]) == 0
    assert "quick 40" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "run")]) == 0
    # Without it the run is another one, and says so.
    assert main(["plan", "suite=none", tasks[0], *words[:2]]) == 0
    assert "the data (" in capsys.readouterr().out
