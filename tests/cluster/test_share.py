"""Shares: they tile the tasks, cost about the same, and shares of a run done apart make the records of the whole."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipeval.cli.main import main
from clipeval.cluster.combinations import combinations
from clipeval.cluster.cost import model_cost
from clipeval.cluster.shares import TaskCost, TaskShard, config_costs, missing_costs, parse_share, partition
from clipeval.configs.compose import compose
from clipeval.configs.errors import ClipevalError
from clipeval.engine.features import FeatureSpec, FeatureStores
from clipeval.models.open_clip import OpenClip
from clipeval.results.heartbeats import heartbeat, heartbeats
from clipeval.stores.embeddings import CHUNK, ChunkRange
from tests.cluster.conftest import LARGE, SMALL, words

LOADS = st.lists(
    st.tuples(st.integers(0, 3), st.floats(1, 1e6), st.integers(1, 40)).map(lambda t: t), min_size=1, max_size=30
).map(lambda rows: [TaskCost(run, f"t{i}", cost, chunks) for i, (run, cost, chunks) in enumerate(sorted(rows))])


@given(LOADS, st.integers(1, 40))
def test_shares_tile_the_cells(loads: list[TaskCost], count: int) -> None:
    shares = partition(loads, count)
    assert len(shares) == count
    assert shares == partition(loads, count), "the same on every machine"
    covered: dict[tuple[int, str], list[int]] = {(load.run, load.task): [0] * load.chunks for load in loads}
    for units in shares:
        for unit in units:
            chunks = covered[unit.run, unit.task]
            span = range(len(chunks)) if unit.part is None else unit.part.chunks(len(chunks) * CHUNK)
            for chunk in span:
                chunks[chunk] += 1
    assert all(times == 1 for chunks in covered.values() for times in chunks)


@given(LOADS, st.integers(1, 20))
def test_shares_cost_about_the_same(loads: list[TaskCost], count: int) -> None:
    cost = {(load.run, load.task): load for load in loads}
    size = sum(load.cost for load in loads) / count
    grain = max(load.cost / load.chunks for load in loads)  # what cannot be cut
    for units in partition(loads, count):
        total = 0.0
        for unit in units:
            load = cost[unit.run, unit.task]
            total += load.cost * (1 if unit.part is None else (unit.part.last - unit.part.first) / unit.part.of)
        assert total <= 1.11 * size + 2 * grain + 1e-6


@given(st.integers(1, 200_000), st.integers(1, 60), st.data())
def test_parts_tile_whatever_the_real_count(images: int, of: int, data: st.DataObject) -> None:
    cuts = sorted({0, of, *data.draw(st.lists(st.integers(0, of), max_size=6))})
    chunks = [c for first, last in itertools.pairwise(cuts) for c in ChunkRange(first, last, of).chunks(images)]
    assert chunks == list(range(-(-images // CHUNK)))


def planned(name: str, *stores: str, images: int = 50_000) -> Any:
    specs = {store: FeatureSpec({"data": store}, range(images), "rgb_first", False, "embeddings") for store in stores}  # type: ignore[arg-type]
    return SimpleNamespace(id=name, features=specs, part=None, texts=[f"{name} {i}" for i in range(100)])


def embedded(tasks: list[Any], shares: list[list[TaskShard]]) -> tuple[list[int], int]:
    """How many images each share embeds, and how many there are."""
    by = {task.id: task for task in tasks}
    counts, everything = [], {spec.parts["data"]: len(spec.images) for task in tasks for spec in task.features.values()}
    for share in shares:
        chunks: set[tuple[str, int]] = set()
        for unit in share:
            for store, spec in by[unit.task].features.items():
                count = -(-len(spec.images) // CHUNK)
                span = unit.part.chunks(len(spec.images)) if unit.part else range(count)
                chunks |= {(store, number) for number in span}
        counts.append(sum(min(CHUNK, everything[store] - number * CHUNK) for store, number in chunks))
    return counts, sum(everything.values())


@pytest.mark.parametrize(
    "tasks",
    [
        [planned(f"xtd10_{language}", "photos") for language in "abcd"],
        [planned("probe", "train", "test"), planned("zero-shot", "test"), planned("other", "more")],
        [planned("a", "x"), planned("b", "y"), planned("both", "y", "x"), planned("c", "z", images=100)],
        [planned(f"set{i}", f"data{i}") for i in range(4)],
    ],
)
@pytest.mark.parametrize("count", [1, 3, 8])
def test_no_image_is_embedded_twice(tasks: list[Any], count: int, tmp_path: Path) -> None:
    shares = partition(missing_costs(tasks, FeatureStores(tmp_path)), count)
    counts, distinct = embedded(tasks, shares)
    assert sum(counts) == distinct
    assert max(counts) <= distinct / count + 4 * CHUNK
    assert {unit.task for share in shares for unit in share} == {task.id for task in tasks}


def test_shares_of_a_config_keep_tasks_on_the_same_images_together() -> None:
    config = compose(["suite=none", "+task@tasks.a=mnist", "+task@tasks.b=mnist", "+task@tasks.c=gtsrb"])
    costs = config_costs(config)
    assert [(cost.task, cost.others) for cost in costs] == [("a", ("b",)), ("c", ())]
    units = [str(unit) for share in partition(costs, 3) for unit in share]
    assert len(units) == len({*units}) and {unit.split("[")[0] for unit in units} == {"a", "b", "c"}


def test_which_share() -> None:
    assert parse_share("3/16") == (3, 16)
    variables = {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "5"}
    assert parse_share("slurm", {**variables, "SLURM_ARRAY_TASK_MAX": "11"}) == (2, 4)
    for wrong in ("16/16", "1", "-1/4", "a/b"):
        with pytest.raises(ClipevalError, match="expected I/N"):
            parse_share(wrong)
    with pytest.raises(ClipevalError, match="not set"):
        parse_share("slurm", {})
    with pytest.raises(ClipevalError, match="evenly spaced"):
        parse_share("slurm", {**variables, "SLURM_ARRAY_TASK_MAX": "12"})


def test_combinations_of_words() -> None:
    assert combinations(["model=a,b", "suite=x", "~tasks.y"]) == [
        ("model=a", "suite=x", "~tasks.y"),
        ("model=b", "suite=x", "~tasks.y"),
    ]


def test_larger_models_cost_more(tmp_path: Path) -> None:
    names = ("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-H-14")
    costs = [model_cost(OpenClip(name, "random", cache_root=tmp_path).architecture) for name in names]
    assert costs == sorted(costs)
    assert costs[0] == pytest.approx(1.3, abs=0.02)
    assert model_cost(None) == pytest.approx(1.3)


def test_shares_done_apart_make_the_whole(data: Path, models: list[str], tmp_path: Path, capsys) -> None:
    def go(out: str, cache: str, *more: str) -> int:
        base = (f"model.name={models[0]}", f"out={tmp_path / out}", f"cache.root={tmp_path / cache}")
        # Bit for bit, so that the files can be compared: batches are then the same wherever a run is cut.
        return main(["run", *words(data, *base), "runtime.deterministic=true", *more])

    sizes = [f"tasks.{LARGE}.data.samples=4500", *(f"tasks.{task}.data.samples=24" for task in SMALL)]
    assert go("whole", "cache-1", *sizes) == 0
    for place in (2, 0, 3, 1):  # in any order
        assert go("shared", "cache-2", *sizes, "--share", f"{place}/4") == 0
    assert "who embeds the last one scores it" in capsys.readouterr().err
    assert main(["status", str(tmp_path / "shared")]) == 0
    for task in (*SMALL, LARGE):
        one, other = (
            json.loads((tmp_path / out / "records" / f"{task}.json").read_text()) for out in ("whole", "shared")
        )
        assert one["metrics"] == other["metrics"]
        assert one["predictions"] == other["predictions"], "the same bytes"


def test_predictions_do_not_depend_on_workers_or_batches(data: Path, models: list[str], tmp_path: Path) -> None:
    frames = []
    for number, more in enumerate((("runtime.workers=0", "runtime.batch_size=7"), ("runtime.workers=3",))):
        base = (f"model.name={models[0]}", f"out={tmp_path / str(number)}", f"cache.root={tmp_path / f'c{number}'}")
        kept = [word for word in words(data, *base) if LARGE not in word]
        assert main(["run", *kept, *more]) == 0
        frames.append(
            {task: pd.read_parquet(tmp_path / str(number) / "predictions" / f"{task}.parquet") for task in SMALL}
        )
    for task in SMALL:
        one, other = (frame[task] for frame in frames)
        same = [c for c in one if not c.startswith("score_")]
        pd.testing.assert_frame_equal(one[same], other[same])
        pd.testing.assert_frame_equal(one, other, atol=1e-3)


def test_heartbeats_say_how_it_went(tmp_path: Path) -> None:
    with heartbeat(tmp_path, ["mnist", "fmow[0-1/3]"]):
        (found,) = heartbeats(tmp_path)
        assert (found.state, found.units) == ("running", ("mnist", "fmow[0-1/3]"))
    assert heartbeats(tmp_path) == []
    with pytest.raises(ValueError, match="no good"), heartbeat(tmp_path, ["mnist"]):
        raise ValueError("several lines\nno good")
    assert [(m.state, m.error) for m in heartbeats(tmp_path)] == [("failed", "no good")]
    with pytest.raises(KeyboardInterrupt), heartbeat(tmp_path, ["mnist"]):
        assert [m.state for m in heartbeats(tmp_path)] == ["running"], "what is taken up again is forgotten"
        raise KeyboardInterrupt
    assert [m.state for m in heartbeats(tmp_path)] == ["stopped"]


def test_status_of_a_killed_and_of_a_failed_run(
    data: Path, models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    base = (f"model.name={models[0]}", f"out={run}", f"cache.root={tmp_path / 'cache'}")
    assert main(["run", *words(data, *base)]) == 0
    (run / "records" / "fmow.json").unlink()
    (run / "records" / "gtsrb.json").write_text("{")
    status = run / "status"
    status.mkdir(exist_ok=True)
    about = {"host": "elsewhere", "pid": 1, "started": 0, "job": "7_1", "units": ["fmow"]}
    (status / "a.json").write_text(json.dumps({**about, "state": "failed", "error": "no room"}))
    capsys.readouterr()
    assert main(["status", str(run)]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "2 done, 1 failed, 1 missing" in text
    assert "fmow failed no room" in text
    assert "is damaged" in text


def test_sweep(data: Path, models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kept = [word for word in words(data) if LARGE not in word]
    names = f"model.name={','.join(models)}"
    assert main(["run", "-m", *kept, names, f"cache.root={tmp_path / 'cache'}"]) == 0
    folders = sorted((tmp_path / "runs").glob("m*"))
    assert len(folders) == 2, "a folder for each model"
    for folder in folders:
        assert {path.stem for path in (folder / "records").glob("*.json")} == set(SMALL)
