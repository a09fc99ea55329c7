"""Run folders at addresses: what is fetched, what is sent, who wins, and that nothing is lost or mixed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from clipeval.configs.errors import ClipevalError
from clipeval.results import address_folder, heartbeats, mirror
from clipeval.results.heartbeats import heartbeat
from clipeval.results.run_folder import RunFolder

MODEL = {"slug": "s", "name": "n", "pretrained": "p"}


def at(bucket: str, cache: Path) -> RunFolder:
    """The run folder of an address, as a machine with this cache has it."""
    return RunFolder(mirror.opened(f"{bucket}/runs/toy", cache))


def put(folder: RunFolder, factory: ModuleType, task: str, seed: int = 0) -> None:
    frame = factory.predictions(task, 0.7, seed)
    folder.write(factory.record(task, frame, MODEL), frame)


def as_if_killed(
    folder: RunFolder, factory: ModuleType, task: str, monkeypatch: pytest.MonkeyPatch, **how: int
) -> None:
    """Writes a task as a run does that is killed before it sends it."""
    with monkeypatch.context() as patch:
        patch.setattr(mirror, "_opened", {})
        put(folder, factory, task, **how)


def stored(bucket: str, name: str) -> bytes:
    """What lies in the bucket."""
    import boto3

    found = boto3.client("s3").get_object(Bucket=bucket.removeprefix("s3://"), Key=f"runs/toy/{name}")
    return bytes(found["Body"].read())


def _check_stored(bucket: str, task: str) -> None:
    """That a record in the bucket is of the predictions there."""
    record = json.loads(stored(bucket, f"records/{task}.json"))
    digest = hashlib.sha256(stored(bucket, f"predictions/{task}.parquet")).hexdigest()
    assert record["predictions"]["sha256"] == digest


def drop(bucket: str, name: str) -> None:
    import boto3

    boto3.client("s3").delete_object(Bucket=bucket.removeprefix("s3://"), Key=f"runs/toy/{name}")


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many files were read and written at addresses."""
    count: Counter[str] = Counter()
    for name in ("read", "write"):
        original = getattr(address_folder.AddressFolder, name)

        def counted(self: Any, *given: Any, name: str = name, original: Any = original) -> Any:
            count[name] += 1
            return original(self, *given)

        monkeypatch.setattr(address_folder.AddressFolder, name, counted)
    return count


def test_another_machine_sees_the_same(bucket: str, factory: ModuleType, tmp_path: Path, moved: Counter[str]) -> None:
    here = mirror.opened(f"{bucket}/runs/toy", tmp_path / "a")
    written = factory.run(here, ["mnist", "imagenet1k"])
    assert written.place == "s3://weights/runs/toy" and here.name == "toy"
    there = at(bucket, tmp_path / "b")
    for task in ("mnist", "imagenet1k"):
        record = there.record(task)
        assert record == written.record(task)
        assert there.predictions(record).equals(written.predictions(record))
    assert there.run() == written.run()
    assert (there.path / "eval_results.jsonl").read_bytes() == (here / "eval_results.jsonl").read_bytes()
    moved.clear()
    at(bucket, tmp_path / "b"), at(bucket, tmp_path / "a")
    assert not moved, "nothing has changed"
    put(there, factory, "mnist", seed=1)
    moved.clear()
    assert at(bucket, tmp_path / "a").record("mnist") == there.record("mnist")
    assert moved == {"read": 2}, "the task's record and predictions"


def test_what_lies_there_is_the_truth(bucket: str, factory: ModuleType, tmp_path: Path) -> None:
    here = at(bucket, tmp_path / "a")
    put(here, factory, "mnist")
    put(here, factory, "imagenet1k")
    put(at(bucket, tmp_path / "b"), factory, "mnist", seed=1)
    drop(bucket, "records/imagenet1k.json")
    changed = at(bucket, tmp_path / "a")
    assert changed.tasks() == ["mnist"]
    assert changed.record("mnist") == RunFolder(mirror.opened(f"{bucket}/runs/toy", tmp_path / "b")).record("mnist")
    assert (
        changed.record("mnist").predictions["sha256"]
        == hashlib.sha256(stored(bucket, "predictions/mnist.parquet")).hexdigest()
    )


def test_what_was_not_sent_is_sent_by_the_next_run(
    bucket: str,
    factory: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    here = at(bucket, tmp_path / "a")
    put(here, factory, "mnist")
    as_if_killed(here, factory, "imagenet1k", monkeypatch)
    as_if_killed(here, factory, "mnist", monkeypatch, seed=1)  # once more, as another state of a model
    again = at(bucket, tmp_path / "a")
    assert again.tasks() == ["imagenet1k", "mnist"], "finished, so that the run does not repeat it"
    assert mirror.unsent(again.path) == ["records/imagenet1k.json", "records/mnist.json"]
    monkeypatch.setenv("CLIPEVAL_CACHE", str(tmp_path / "a"))
    with caplog.at_level(logging.WARNING):
        assert mirror.read(f"{bucket}/runs/toy") == here.path
    assert "s3://weights/runs/toy does not have records/imagenet1k.json, records/mnist.json yet" in caplog.text
    assert at(bucket, tmp_path / "b").tasks() == ["mnist"], "who reads sends nothing"
    again.deliver()
    assert not mirror.unsent(again.path)
    there = at(bucket, tmp_path / "b")
    assert [there.record(task) for task in again.tasks()] == [again.record(task) for task in again.tasks()]


def test_a_result_that_the_address_got_meanwhile_stays(
    bucket: str, factory: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = at(bucket, tmp_path / "a")
    as_if_killed(here, factory, "mnist", monkeypatch)
    there = at(bucket, tmp_path / "b")
    put(there, factory, "mnist", seed=1)
    again = at(bucket, tmp_path / "a")
    again.deliver()
    assert again.record("mnist") == there.record("mnist") == at(bucket, tmp_path / "c").record("mnist")


def test_predictions_without_a_record_take_no_place(
    bucket: str, factory: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine was killed between the two."""
    here = at(bucket, tmp_path / "a")
    as_if_killed(here, factory, "mnist", monkeypatch)
    there = at(bucket, tmp_path / "b")
    with monkeypatch.context() as patch:
        write = address_folder.AddressFolder.write
        patch.setattr(mirror, "PAUSES", ())

        def killed(self: Any, name: str, content: bytes) -> Any:
            if name.startswith("records/"):
                raise KeyboardInterrupt
            return write(self, name, content)

        patch.setattr(address_folder.AddressFolder, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            put(there, factory, "mnist", seed=1)
    again = at(bucket, tmp_path / "a")
    record = again.record("mnist")
    again.deliver()
    assert record == again.record("mnist") == at(bucket, tmp_path / "c").record("mnist")


def test_a_staged_file_that_is_damaged_is_fetched(bucket: str, factory: ModuleType, tmp_path: Path) -> None:
    here = at(bucket, tmp_path / "a")
    put(here, factory, "mnist")
    record = here.record("mnist")
    (here.path / "predictions" / "mnist.parquet").write_bytes(b"half")
    os.utime(here.path / "predictions" / "mnist.parquet", (1e9, 1e9))  # by nobody who is at work
    assert at(bucket, tmp_path / "a").record("mnist") == record
    (here.path / "records" / "mnist.json").unlink()
    assert at(bucket, tmp_path / "a").record("mnist") == record


def test_two_machines_with_one_task_leave_one_result(bucket: str, factory: ModuleType, tmp_path: Path) -> None:
    """Of other predictions, as no two GPUs need agree in the last bit: never the record of one with those of the other."""
    folders = [at(bucket, tmp_path / name) for name in "abc"]
    failures: list[BaseException] = []

    def work(folder: RunFolder, seed: int) -> None:
        try:
            for number in range(4):
                put(folder, factory, "mnist", seed=10 * seed + number)
        except BaseException as problem:  # noqa: BLE001
            failures.append(problem)

    threads = [threading.Thread(target=work, args=(folder, seed)) for seed, folder in enumerate(folders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    _check_stored(bucket, "mnist")
    assert len({at(bucket, tmp_path / name).record("mnist").predictions["sha256"] for name in "abcd"}) == 1


def test_machines_that_share_a_run_leave_all_of_it(bucket: str, factory: ModuleType, tmp_path: Path) -> None:
    """Each has opened it before the other has written anything."""
    first, second = at(bucket, tmp_path / "a"), at(bucket, tmp_path / "b")
    for folder, task in ((first, "mnist"), (second, "imagenet1k")):
        folder.write_run({"model": MODEL, "config": {"tasks": {task: factory.spec(task)}}})
        put(folder, factory, task)
        folder.rebuild_eval_results()
    lines = [json.loads(line) for line in stored(bucket, "eval_results.jsonl").splitlines()]
    assert [line["key"] for line in lines] == ["mnist", "imagenet1k"]
    assert list(json.loads(stored(bucket, "run.json"))["tasks"]) == ["mnist", "imagenet1k"]
    assert second.tasks() == ["imagenet1k", "mnist"]


def test_one_machine_that_pulls_while_another_process_writes(bucket: str, factory: ModuleType, tmp_path: Path) -> None:
    """Processes of one machine have one staged folder: `clipeval status` beside a run takes nothing away from it."""
    folder, over = at(bucket, tmp_path / "a"), threading.Event()
    failures: list[BaseException] = []

    def look() -> None:
        other = mirror.Mirror(f"{bucket}/runs/toy", tmp_path / "a")
        try:
            while not over.is_set():
                other.pull()
        except BaseException as problem:  # noqa: BLE001
            failures.append(problem)

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(8):
        put(folder, factory, ("mnist", "imagenet1k")[number % 2], seed=number)
        _check_stored(bucket, ("mnist", "imagenet1k")[number % 2])
    over.set()
    thread.join()
    assert not failures
    folder, there = at(bucket, tmp_path / "a"), at(bucket, tmp_path / "b")
    assert [there.record(t) for t in there.tasks()] == [folder.record(t) for t in ("imagenet1k", "mnist")]


def test_who_is_at_work_is_seen_elsewhere(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "BEAT", 0.05)
    here = mirror.opened(f"{bucket}/runs/toy", tmp_path / "a")
    with heartbeat(here, ["mnist"]):
        (beat,) = heartbeats.heartbeats(mirror.opened(f"{bucket}/runs/toy", tmp_path / "b"))
        assert (beat.state, beat.units) == ("running", ("mnist",))
        name = f"status/{beat.path.name}"
        first = mirror.of(here)._there.about(name).modified
        assert abs(beat.path.stat().st_mtime - first) < 1
        deadline = time.monotonic() + 20
        while mirror.of(here)._there.about(name).modified == first:  # S3 has whole seconds
            assert time.monotonic() < deadline, "it is never written again"
            time.sleep(0.1)
    assert not heartbeats.heartbeats(mirror.opened(f"{bucket}/runs/toy", tmp_path / "b"))
    with pytest.raises(ValueError, match="no"), heartbeat(here, ["mnist"]):
        raise ValueError("no")
    (beat,) = heartbeats.heartbeats(mirror.opened(f"{bucket}/runs/toy", tmp_path / "b"))
    assert (beat.state, beat.error) == ("failed", "no")


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_other_file_systems(kind: str, factory: ModuleType, tmp_path: Path) -> None:
    address = f"memory://{tmp_path.name}/runs/toy" if kind == "memory" else f"file://{tmp_path}/there/toy"
    written = factory.run(mirror.opened(address, tmp_path / "a"), ["mnist", "imagenet1k"])
    there = RunFolder(mirror.opened(address, tmp_path / "b"))
    assert [there.record(task) for task in there.tasks()] == [written.record(task) for task in there.tasks()] != []
    put(there, factory, "mnist", seed=1)
    assert RunFolder(mirror.opened(address, tmp_path / "a")).record("mnist") == there.record("mnist")
    if kind == "file":
        names = {path.name for path in (tmp_path / "there").rglob("*")}
        assert not [name for name in names if name.startswith(".")], "nothing half written is left"


def test_only_what_a_run_folder_holds_is_looked_at(bucket: str, factory: ModuleType, tmp_path: Path) -> None:
    import boto3

    put(at(bucket, tmp_path / "a"), factory, "mnist")
    for name in ("records/.hidden.json", "records/deeper/x.json", "records/notes.txt", "large.bin", "records/", ""):
        boto3.client("s3").put_object(Bucket="weights", Key=f"runs/toy/{name}", Body=b"{}" if name else b"")
    there = at(bucket, tmp_path / "b")
    assert there.tasks() == ["mnist"]
    assert sorted(p.name for p in there.path.rglob("*") if p.is_file()) == ["mnist.json", "mnist.parquet"]


def test_a_link_in_the_staged_folder_leads_nowhere(bucket: str, factory: ModuleType, tmp_path: Path) -> None:
    put(at(bucket, tmp_path / "a"), factory, "mnist")
    staged = mirror.Mirror(f"{bucket}/runs/toy", tmp_path / "b").folder
    staged.mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    (staged / "records").symlink_to(tmp_path / "mine")
    with pytest.raises(ClipevalError, match="a link out of the run folder"):
        at(bucket, tmp_path / "b")
    assert not any((tmp_path / "mine").iterdir())


def test_what_cannot_be_sent_is_kept(
    bucket: str, factory: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, tried = at(bucket, tmp_path / "a"), []
    write = address_folder.AddressFolder.write

    def refused(self: Any, name: str, content: bytes) -> Any:
        tried.append(name)
        with address_folder.explained(f"{self.address}/{name}", "written"):
            raise TimeoutError("the store is away")

    monkeypatch.setattr(mirror, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(address_folder.AddressFolder, "write", refused)
    with pytest.raises(ClipevalError) as found:
        put(folder, factory, "mnist")
    assert tried == ["predictions/mnist.parquet"] * 3
    said = str(found.value)
    assert "s3://weights/runs/toy/predictions/mnist.parquet cannot be written (TimeoutError: the store is away)" in said
    assert f"is kept in {folder.path}, and the same command sends it" in said
    assert folder.record("mnist") is not None
    monkeypatch.setattr(address_folder.AddressFolder, "write", write)
    again = at(bucket, tmp_path / "a")
    again.deliver()
    assert at(bucket, tmp_path / "b").record("mnist") == folder.record("mnist")


def test_a_place_that_may_not_be_written_to(
    bucket: str, factory: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is not tried again."""
    from s3fs import S3FileSystem

    tried: list[str] = []

    async def denied(self: Any, path: str, *rest: Any, **more: Any) -> None:
        tried.append(path)
        raise PermissionError("Access Denied")

    monkeypatch.setattr(S3FileSystem, "_pipe_file", denied)
    with pytest.raises(
        ClipevalError, match=r"toy/run\.json may not be written \(PermissionError: Access Denied\): set AWS_PROF"
    ):
        at(bucket, tmp_path / "a").write_run({"model": MODEL, "config": {"tasks": {}}})
    assert len(tried) == 1


def test_a_file_that_comes_incomplete(
    bucket: str, factory: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s3fs import S3FileSystem

    put(at(bucket, tmp_path / "a"), factory, "mnist")
    cat = S3FileSystem.cat_file
    monkeypatch.setattr(S3FileSystem, "cat_file", lambda *a, **k: cat(*a, **k)[:-1])
    S3FileSystem.clear_instance_cache()
    with pytest.raises(ClipevalError, match=r"runs/toy/predictions/mnist\.parquet came incomplete"):
        at(bucket, tmp_path / "b")
    assert not [p for p in (tmp_path / "b").rglob("*") if p.is_file() and p.name != ".address"]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s3://bucket-of-nobody/run", r"s3://bucket-of-nobody/run cannot be read .*bucket does not exist"),
        ("s3://weights/run/model.pt", r"s3://weights/run/model\.pt is a file, and a run folder was expected"),
        ("s3n://weights/run", r"Unknown protocol 's3n'. Did you mean: s3"),
        ("s3://me:secret@weights/run", "holds a password"),
        ("s3://weights/nothing", r"s3://weights/nothing is no run folder: nothing is there"),
    ],
)
def test_what_is_not_there(
    bucket: str, tmp_path: Path, address: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPEVAL_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ClipevalError, match=said) as found:
        mirror.read(address)
    assert "secret" not in str(found.value)


def test_the_same_address_of_another_server_is_another_folder(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def folder() -> Path:
        return mirror.Mirror("s3://weights/run", tmp_path).folder

    one = folder()
    assert mirror.Mirror("s3://weights/run/", tmp_path).folder == one
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert folder() != one
