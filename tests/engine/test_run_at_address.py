"""`clipeval run out=s3://…`: as a folder of this machine, from any machine, and nothing that was computed is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import clipeval
from clipeval.cli.main import main
from clipeval.cluster import slurm, submit
from clipeval.cluster.job import Job
from clipeval.results import mirror
from clipeval.results.address_folder import AddressFolder
from clipeval.results.run_folder import RunFolder
from tests.data.storage import S3

TASKS = ["quickstart_digits", "quickstart_emoji_selection"]
SETS = ["suite=none", *(f"+task@tasks.{task}={task}" for task in TASKS), "runtime.device=cpu", "runtime.workers=0"]
WORDS = [*SETS, "data.limit=60"]
OUT = "s3://weights/runs/mine"

KILLED = """
import os, signal, sys
from clipeval.cli.main import main
from clipeval.results.address_folder import AddressFolder
write, records = AddressFolder.write, []
def killed(self, name, content):
    records.extend([name] if name.startswith("records/") else [])
    if len(records) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(self, name, content)
AddressFolder.write = killed
main(sys.argv[1:])
"""


def run(cache: Path, *words: str) -> int:
    return main(["run", *WORDS, f"out={OUT}", f"cache.root={cache}", *words])


def keys() -> list[str]:
    """What lies at the address."""
    import boto3

    found = boto3.client("s3").list_objects_v2(Bucket="weights", Prefix="runs/mine/")
    return [entry["Key"].removeprefix("runs/mine/") for entry in found.get("Contents", [])]


def recorded() -> list[str]:
    """The tasks that have a record there, in alphabetical order."""
    return [Path(key).stem for key in keys() if key.startswith("records/")]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the embeddings of WORDS and nothing of any address."""
    folder = tmp_path_factory.mktemp("embedded")
    assert main(["run", *WORDS, f"out={folder / 'run'}", f"cache.root={folder / 'cache'}"]) == 0
    return folder / "cache"


@pytest.fixture(autouse=True)
def user(embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with an empty cache in an empty folder; beside it `a`, a cache that has the embeddings."""
    (tmp_path / "work").mkdir()
    shutil.copytree(embedded, tmp_path / "a")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("CLIPEVAL_CACHE", str(tmp_path / "user"))


def test_as_a_folder(bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "a") == 0
    assert f"→ {OUT}" in capsys.readouterr().err
    assert main(["run", *WORDS, "out=here", f"cache.root={tmp_path / 'a'}"]) == 0
    here = sorted(str(p.relative_to("here")) for p in Path("here").rglob("*") if p.is_file() and p.name != ".index")
    assert keys() == here
    there, local = clipeval.load(OUT), clipeval.load("here")
    assert there.table().equals(local.table()) and there.predictions(TASKS[0]).equals(local.predictions(TASKS[0]))
    for task in TASKS:
        assert there.runs[0].folder.record(task).fingerprint == local.runs[0].folder.record(task).fingerprint
    assert there.runs[0].info["config"]["out"] == OUT
    assert not Path("s3:").exists(), "what pathlib makes of an address"
    capsys.readouterr()
    assert main(["status", OUT]) == 0
    assert capsys.readouterr().out.startswith(f"{OUT}: 2 done")
    assert main(["verify", f"{OUT}/"]) == 0
    assert main(["report", OUT, "here", "--format", "csv"]) == 0
    assert "quickstart (mine)" in capsys.readouterr().out
    assert main(["compare", OUT, "here"]) == 0
    assert main(["plan", *WORDS, f"out={OUT}"]) == 0
    assert f"out    {OUT}" in capsys.readouterr().out
    assert main(["rerun", OUT, "--output", f"{OUT}.rerun"]) == 0
    assert main(["status", f"{OUT}.rerun"]) == 0


def test_a_finished_run_is_not_repeated_elsewhere(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "a") == 0
    before = {task: RunFolder(mirror.opened(OUT, tmp_path / "a")).record(task) for task in TASKS}
    capsys.readouterr()
    assert run(tmp_path / "b", "--json") == 0
    said = capsys.readouterr()
    assert "all results are up to date; nothing to compute" in said.err
    assert json.loads(said.out)["runs"][0]["folder"] == OUT
    assert before == {task: RunFolder(mirror.opened(OUT, tmp_path / "b")).record(task) for task in TASKS}
    assert run(tmp_path / "c", "prompts=simple", "resume=refuse") == 1
    assert f"{OUT} holds records of something else, and resume=refuse" in capsys.readouterr().err


def test_a_killed_run_goes_on(bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From an empty cache with what it had sent; from its own with what it had not sent, too."""
    words = ["run", *WORDS, f"out={OUT}", f"cache.root={tmp_path / 'a'}"]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert recorded() == TASKS[:1]
    first = RunFolder(mirror.opened(OUT, tmp_path / "b")).record(TASKS[0])
    assert main(["status", OUT]) == 1
    said = capsys.readouterr().out
    assert "1 done, 1 failed" in said and "may have been killed" in said
    assert run(tmp_path / "a") == 0
    assert "all results are up to date; nothing to compute" in capsys.readouterr().err
    assert recorded() == TASKS
    import boto3

    boto3.client("s3").delete_object(Bucket="weights", Key=f"runs/mine/records/{TASKS[1]}.json")
    assert run(tmp_path / "b") == 0
    said = capsys.readouterr().err
    assert "1 tasks, " in said and "Digits" not in said, "and no other is computed"
    assert RunFolder(mirror.opened(OUT, tmp_path / "c")).record(TASKS[0]) == first
    assert main(["status", OUT]) == 0


def test_a_store_that_goes_away(
    s3: S3, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(mirror, "PAUSES", (0.0,))
    write = AddressFolder.write

    def cut(self: Any, name: str, content: bytes) -> Any:
        if name == f"records/{TASKS[0]}.json":
            s3.stop()
        return write(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(AddressFolder, "write", cut)
        assert run(tmp_path / "a") == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith(f"clipeval: {OUT}/records/{TASKS[0]}.json cannot be written (")
    assert f"is kept in {tmp_path / 'a' / 'runs'}" in said[-1] and "the same command sends it" in said[-1]
    assert sum("cannot be written" in line for line in said) == 1
    assert run(tmp_path / "a") == 1
    assert f"clipeval: {OUT} cannot be read (" in capsys.readouterr().err
    assert main(["cache", "prune", "--keep", "0", "--root", str(tmp_path / "a")]) == 0
    assert f"{OUT} lacks results that are kept in" in capsys.readouterr().out
    s3.start()
    assert recorded() == []
    monkeypatch.setenv("CLIPEVAL_CACHE", str(tmp_path / "a"))
    assert main(["status", OUT]) == 0
    assert recorded() == [], "who only looks sends nothing"
    assert run(tmp_path / "a") == 0
    assert recorded() == TASKS
    assert main(["cache", "prune", "--keep", "0"]) == 0
    assert not any((tmp_path / "a" / "runs").iterdir())
    assert main(["verify", OUT]) == 0


def test_processes_of_one_machine(bucket: str, tmp_path: Path) -> None:
    assert run(tmp_path / "cold", "runtime.devices=2") == 0
    assert RunFolder(mirror.opened(OUT, tmp_path / "b")).tasks() == sorted(TASKS)
    assert not [key for key in keys() if key.startswith("status/")]


def test_shares(bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two machines with a common cache of embeddings, and none but the address otherwise."""
    for share in ("0/2", "1/2"):
        assert run(tmp_path / "cold", "--share", share) == 0
    assert run(tmp_path / "cold") == 0
    assert RunFolder(mirror.opened(OUT, tmp_path / "b")).tasks() == sorted(TASKS)


def test_a_changed_record_there_wins(bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "a") == 0
    assert run(tmp_path / "b", "prompts=simple") == 0  # another machine computes all of it with other prompts
    theirs = RunFolder(mirror.opened(OUT, tmp_path / "b")).record(TASKS[0])
    capsys.readouterr()
    assert run(tmp_path / "a", "prompts=simple") == 0
    assert "nothing to compute" in capsys.readouterr().err
    assert RunFolder(mirror.opened(OUT, tmp_path / "a")).record(TASKS[0]) == theirs


def test_a_sweep(bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = "out='s3://weights/many/${data.limit}'"
    words = [*SETS, f"cache.root={tmp_path / 'a'}", out, "data.limit=40,60"]
    assert main(["run", "-m", *words]) == 0
    assert "s3://weights/many/60" in capsys.readouterr().out
    assert main(["status", "s3://weights/many/40", "s3://weights/many/60"]) == 0
    assert main(["report", "s3://weights/many/40", "s3://weights/many/60"]) == 0


def test_an_array_of_jobs(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Jobs on nodes that share nothing with the machine that has sent them."""
    sent: list[Job] = []

    def send(jobs: Any, options: Any, logs: Path) -> list[tuple[str, Any]]:
        sent.extend(jobs)
        return [("77", jobs)]

    monkeypatch.setattr(slurm, "require", lambda: None)
    monkeypatch.setattr(submit, "send", send)
    assert main(["submit", *WORDS, f"out={OUT}", "slurm.array=2", "slurm.gpus=0"]) == 0
    assert f"follow with: clipeval status {OUT}" in capsys.readouterr().err
    assert keys() == ["jobs/77.json", "run.json"]
    monkeypatch.setenv("CLIPEVAL_CACHE", str(tmp_path / "node"))
    for job in sent:
        job()
    assert recorded() == TASKS
    assert main(["status", OUT]) == 0


def test_an_import(bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *WORDS, "out=here", f"cache.root={tmp_path / 'a'}"]) == 0
    assert main(["import", "here/eval_results.jsonl", "model=quickstart", f"out={OUT}"]) == 0
    assert f"imported into {OUT}" in capsys.readouterr().out
    assert clipeval.load(OUT).tasks["status"].tolist() == ["done", "done"]


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("s3://bucket-of-nobody/run", "s3://bucket-of-nobody/run cannot be read ("),
        ("s4://weights/run", "s4://weights/run: Unknown protocol 's4'"),
        ("'s3://me:secret@weights/run'", "out=s3://weights/run holds a password"),
        ("'s3://weights/run?token=secret'", "out=s3://weights/run holds a ? or #"),
        ("https://example.org/run", "out=https://example.org/run: the web is read, and not written to"),
        ("gs://weights/run", "pip install 'clipeval[remote]'"),
    ],
)
def test_what_cannot_be_written_to(
    bucket: str,
    tmp_path: Path,
    out: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One sentence, before a model is resolved or a set is read."""
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    assert main(["run", *WORDS, f"out={out}", f"cache.root={tmp_path / 'a'}", "data.root=/nowhere"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("clipeval: ")]
    assert line.startswith("clipeval: ") and said in line
    kept = [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert not any("me:secret" in text or "token=secret" in text for text in kept)


def test_without_a_log_in(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from s3fs import S3FileSystem

    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"AWS_{name}")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    S3FileSystem.clear_instance_cache()
    assert run(tmp_path / "a") == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("clipeval: ")]
    assert line.startswith(f"clipeval: {OUT} may not be read (") and "AWS_PROFILE" in line


SCRIPT = """
import sys
from clipeval.cli.main import main
status = main(sys.argv[1:])
print(status, [name for name in ("torch", "fsspec", "s3fs") if name in sys.modules])
"""


def test_what_a_command_imports(bucket: str, tmp_path: Path) -> None:
    """No torch for an address either, and nothing of fsspec's for a folder."""
    assert run(tmp_path / "a") == 0
    assert main(["run", *WORDS, "out=here", f"cache.root={tmp_path / 'a'}"]) == 0
    for words, names in (
        (["status", OUT], "['fsspec', 's3fs']"),
        (["report", OUT], "['fsspec', 's3fs']"),
        (["status", "here"], "[]"),
    ):
        done = subprocess.run([sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, env=os.environ)
        assert done.stdout.splitlines()[-1] == f"0 {names}", done.stdout + done.stderr
