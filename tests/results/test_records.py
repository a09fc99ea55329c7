"""Records vouch for themselves; run folders survive writers that race, die or come from elsewhere."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clipeval.configs.errors import ClipevalError
from clipeval.results import json_io, parquet
from clipeval.results.records import DamagedRecord, Record, read_record
from clipeval.results.run_folder import RunFolder


@pytest.fixture
def folder(factory, tmp_path):
    return factory.run(tmp_path / "run", ["mnist", "imagenet1k", "fairface"], planned=list(factory.SPECS))


def test_a_record_comes_back_as_it_was_written(factory, tmp_path):
    folder = RunFolder(tmp_path)
    frame = factory.predictions("mnist", 0.7, 0)
    model = {"slug": "s", "name": "n", "pretrained": "p"}
    written = folder.write(factory.record("mnist", frame, model, flags=("f",), notes=("n",)), frame)
    assert folder.record("mnist") == written
    assert folder.predictions(written).equals(frame)
    assert written.value == written.metrics["acc1"]
    assert written.interval == written.intervals["acc1"]


def test_the_file_is_plain_json_whose_digest_anyone_can_check(folder):
    data = json.loads((folder.path / "records" / "mnist.json").read_text())
    assert data["schema"] == 1
    assert data["task"] == "mnist"
    stored = data.pop("digest")
    spelled = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert stored == hashlib.sha256(spelled).hexdigest()
    file = folder.path / data["predictions"]["file"]
    assert data["predictions"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert data["predictions"]["rows"] == len(pd.read_parquet(file))


def test_nan_and_infinity_are_null(factory, tmp_path):
    frame = factory.predictions("mnist", 0.7, 0)
    record = factory.record(
        "mnist",
        frame,
        {"slug": "s"},
        metrics={"acc1": np.float32(0.5), "acc5": math.nan, "worst": math.inf},
        intervals={"acc1": (0.4, 0.6), "acc5": (math.nan, 0.5), "worst": None},
    )
    RunFolder(tmp_path).write(record, frame)
    text = (tmp_path / "records" / "mnist.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    back = RunFolder(tmp_path).record("mnist")
    assert back.metrics == {"acc1": 0.5, "acc5": None, "worst": None}
    assert back.intervals == {"acc1": (0.4, 0.6), "acc5": None, "worst": None}


def test_every_flipped_byte_of_a_record_is_noticed(folder):
    path = folder.path / "records" / "mnist.json"
    good = path.read_bytes()
    original = read_record(path)
    for place in range(0, len(good), 7):
        bad = bytearray(good)
        bad[place] ^= 1
        path.write_bytes(bytes(bad))
        try:
            # White space, or a float's seventeenth digit, may change and the meaning not.
            assert read_record(path) == original, f"byte {place} was changed and nobody noticed"
        except ClipevalError:
            continue


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"schema": 1}', b'{"schema": 1, "digest": "0"}'])
def test_rubbish_is_a_damaged_record(folder, content):
    (folder.path / "records" / "mnist.json").write_bytes(content)
    with pytest.raises(DamagedRecord, match=r"mnist\.json is damaged"):
        folder.record("mnist")
    damaged: list[DamagedRecord] = []
    assert [record.task for record in folder.records(damaged=damaged)] == ["imagenet1k", "fairface"]
    assert [error.path.stem for error in damaged] == ["mnist"]
    with pytest.raises(DamagedRecord):
        folder.records()


@pytest.mark.parametrize("harm", ["change", "truncate", "remove"])
def test_damaged_predictions_are_noticed(folder, harm):
    file = folder.path / "predictions" / "mnist.parquet"
    content = file.read_bytes()
    if harm == "remove":
        file.unlink()
    else:
        file.write_bytes(
            content[:-1] if harm == "truncate" else content[:50] + bytes([content[50] ^ 255]) + content[51:]
        )
    with pytest.raises(DamagedRecord, match="predictions"):
        folder.record("mnist")
    assert folder.record("mnist", verify=False) is not None
    with pytest.raises(DamagedRecord):
        folder.predictions(folder.record("mnist", verify=False))


def test_another_schema_is_named(folder):
    path = folder.path / "records" / "mnist.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 2}))
    with pytest.raises(ClipevalError, match="schema 2, and this clipeval reads schema 1") as caught:
        folder.record("mnist")
    assert not isinstance(caught.value, DamagedRecord)


def test_a_folder_of_another_model_is_named(folder):
    folder.check("a" * 64)
    with pytest.raises(ClipevalError, match="ViT-Toy-32__toy_s1m, whose weights are aaaaaaaa, not of mine"):
        folder.check("d" * 64, "mine")
    # The records know, too, when run.json is lost.
    (folder.path / "run.json").unlink()
    folder.check("a" * 64)
    with pytest.raises(ClipevalError, match="whose weights are aaaaaaaa"):
        folder.check("d" * 64)


def test_a_new_folder_is_empty_and_untouched(tmp_path):
    folder = RunFolder(tmp_path / "none")
    assert (folder.tasks(), folder.records(), folder.run(), folder.record("x")) == ([], [], None, None)
    folder.check("a" * 64)
    assert not folder.path.exists()


@pytest.mark.parametrize("task", ["", "../x", "a/b", ".hidden"])
def test_a_task_that_is_no_file_name_is_refused(folder, task):
    with pytest.raises(ClipevalError, match="task's id"):
        folder.record(task)


def test_what_killed_writers_leave_is_ignored(folder):
    (folder.path / "records" / ".cifar10.json.1.abcd.tmp").write_text("{")
    (folder.path / "records" / ".cifar10.json").write_text("{")
    assert folder.tasks() == ["fairface", "imagenet1k", "mnist"]
    assert len(folder.records()) == 3


def test_the_suites_order_is_kept_over_jobs_that_share_a_folder(factory, tmp_path):
    folder = RunFolder(tmp_path)
    spec = factory.spec("mnist")
    folder.write_run({"model": {}, "config": {"tasks": {"c": spec, "a": spec}, "seed": 1}})
    folder.write_run({"model": {}, "config": {"tasks": {"b": spec, "a": spec}, "seed": 2}})
    run = folder.run()
    assert list(run["tasks"]) == ["c", "a", "b"]
    assert list(run["config"]["tasks"]) == ["c", "a", "b"]
    assert (run["config"]["seed"], run["schema"], run["created"][-1]) == (2, 1, "Z")


def test_eval_results_are_datacomps_lines(folder, factory):
    lines = [json.loads(line) for line in (folder.path / "eval_results.jsonl").read_text().splitlines()]
    # The order of the suite, not of the writing or the alphabet.
    assert [line["dataset"] for line in lines] == ["ImageNet 1k", "MNIST", "FairFace"]
    assert [line["key"] for line in lines] == ["imagenet1k", "mnist", "fairness/fairface"]
    assert all(list(line) == ["key", "dataset", "metrics"] for line in lines)
    assert lines[1]["metrics"]["main_metric"] == lines[1]["metrics"]["acc1"] == folder.record("mnist").value
    assert lines[2]["metrics"]["main_metric"] is None


def test_amend_changes_the_main_metric_alone(folder):
    import dataclasses

    record = folder.record("mnist")
    folder.amend(dataclasses.replace(record, metric="acc5"))
    again = folder.record("mnist")
    assert again.value == record.metrics["acc5"]
    assert again.predictions == record.predictions


def test_predictions_give_the_same_bytes_whatever_their_index(factory):
    frame = factory.predictions("mnist", 0.7, 0)
    shifted = frame.set_index(frame.index + 5)
    assert parquet.encode(frame) == parquet.encode(frame) == parquet.encode(shifted)
    nested = pd.DataFrame({"key": ["a", "b"], "ids": [[1, 2], []], "x": [0.5, math.nan], "s": ["ü", None]})
    back = parquet.decode(parquet.encode(nested))
    assert [list(ids) for ids in back["ids"]] == [[1, 2], []]
    assert parquet.encode(back) == parquet.encode(nested)


def _write_often(path: str, seed: int, times: int) -> None:
    """What one of several racing jobs does."""
    frame = pd.DataFrame({"key": ["a"] * 50, "x": np.random.default_rng(seed).random(50)})
    base = read_record(Path(path) / "records" / "mnist.json")
    import dataclasses

    for _ in range(times):
        RunFolder(path).write(dataclasses.replace(base, samples=seed), frame)
        RunFolder(path).rebuild_eval_results()


def test_racing_writers_leave_a_cell_that_agrees_with_itself(folder):
    context = multiprocessing.get_context("fork")
    jobs = [context.Process(target=_write_often, args=(str(folder.path), seed, 15)) for seed in (1, 2, 3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    record = folder.record("mnist")
    expected = np.random.default_rng(record.samples).random(50)
    assert folder.predictions(record)["x"].to_numpy() == pytest.approx(expected, abs=0)
    assert not list(folder.path.rglob("*.tmp"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_writer_killed_at_any_moment_leaves_whole_files(folder):
    context = multiprocessing.get_context("fork")
    for delay in (0.01, 0.03, 0.05, 0.08):
        job = context.Process(target=_write_often, args=(str(folder.path), 1, 10_000))
        job.start()
        time.sleep(delay)
        os.kill(job.pid, signal.SIGKILL)
        job.join()
        read_record(folder.path / "records" / "mnist.json")
        parquet.decode((folder.path / "predictions" / "mnist.parquet").read_bytes())
        for line in (folder.path / "eval_results.jsonl").read_text().splitlines():
            json.loads(line)


def test_fingerprints_say_which_part_differs(factory):
    mine = factory.fingerprint()
    assert mine.differences(factory.fingerprint()) == []
    other = factory.fingerprint(precision="bf16", weights="d" * 64)
    assert mine.differences(other) == ["the weights (aaaaaaaa, not dddddddd)", "the precision (fp32, not bf16)"]
    assert mine.digest != other.digest
    assert type(mine).from_json(mine.to_json()) == mine


def test_canonical_json_has_one_spelling():
    a = {"b": np.int64(1), "a": (0.1, np.float64("nan")), "c": {"ü": np.bool_(True)}}
    b = {"c": {"ü": True}, "a": [0.1, None], "b": 1}
    assert json_io.canonical(a) == json_io.canonical(b) == '{"a":[0.1,null],"b":1,"c":{"ü":true}}'.encode()
    with pytest.raises(TypeError, match="object"):
        json_io.digest({"x": object()})


def test_provenance_is_quick_and_serialisable():
    from clipeval.results.provenance import provenance

    provenance()
    start = time.perf_counter()
    found = provenance()
    assert time.perf_counter() - start < 0.2
    assert json_io.digest(found)
    assert found["packages"]["torch"]
    assert found["hardware"]["cores"] >= 1
    assert set(found["code"]) == {"version", "commit", "dirty"}


def test_ties_are_kept_as_they_were_scored(folder):
    import dataclasses

    ties = {"rule": "first", "count": 3, "ranges": {"acc1": [0.25, 0.5]}}
    record = folder.record("mnist")
    assert record.ties is None
    folder.amend(dataclasses.replace(record, ties=ties))
    assert folder.record("mnist").ties == ties


def test_a_records_fields_are_the_files_fields(folder):
    import dataclasses

    data = json.loads((folder.path / "records" / "mnist.json").read_text())
    # `imported` is written for what was imported alone, `ties` for what a run scored.
    assert set(data) == {field.name for field in dataclasses.fields(Record)} - {"imported", "ties"} | {
        "schema",
        "digest",
    }
