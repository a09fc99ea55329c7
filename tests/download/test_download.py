"""`clipeval download` against a hub on loopback: what arrives, what is asked for twice, and every way it can go wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.filesize import decimal

from clipeval.configs.errors import ClipevalError
from clipeval.data import DataConfig, open_split
from clipeval.data.lock import NAME
from clipeval.download import DownloadError, download, expected_digests, fetch, read_lock, verify
from clipeval.download.shards import PARTIAL

REPO = "djghosh/wds_pets_test"
RNG = np.random.default_rng(0)


def image(size: int = 24, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(buffer, form)
    return buffer.getvalue()


def tar(keys: range) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for key in keys:
            for extension, content in (("png", image()), ("cls", str(key % 3).encode())):
                info = tarfile.TarInfo(f"s{key:04d}.{extension}")
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def pets() -> dict[str, bytes]:
    """A repository of two shards, as djghosh/wds_* are laid out."""
    return {
        ".gitattributes": b"*.tar filter=lfs\n",
        "README.md": b"# Pets\n",
        "classnames.txt": b"cat\ndog\nhamster\n",
        "zeroshot_classification_templates.txt": b"a photo of a {c}.\n",
        "test/nshards.txt": b"2\n",
        "test/0.tar": tar(range(6)),
        "test/1.tar": tar(range(6, 10)),
    }


def used(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name not in (".gitattributes", "README.md")}


def config(name: str = "wds_pets_test", hub: str = REPO, **options) -> DataConfig:
    return DataConfig(folder=name, hub=hub, **options)


def on_disk(folder: Path) -> dict[str, bytes]:
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    found.pop(NAME, None)
    return found


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


# ---- what arrives -------------------------------------------------------------------------------------------------


def test_a_set_arrives_whole_and_a_second_call_sends_no_request(hub, tmp_path):
    files = pets()
    commit = hub.push(REPO, files)
    report = download({"pets": config()}, tmp_path, None)
    folder = tmp_path / "wds_pets_test"
    size = sum(map(len, used(files).values()))
    assert on_disk(folder) == used(files)
    assert hub.body_bytes == size == report.transferred
    (row,) = report.rows
    assert (row.name, row.status, row.files, row.size) == ("pets", "fetched", 5, size)
    lock = json.loads((folder / NAME).read_text())
    assert (lock["hub"], lock["requested"], lock["revision"], lock["form"]) == (REPO, None, commit, "webdataset")
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in used(files).items()}
    assert {name: entry["sha256"] for name, entry in lock["files"].items()} == digests == expected_digests(folder)
    assert verify(folder, full=True) == []
    split = open_split(config(), str(tmp_path), "test", None)
    assert len(split.images) == 10
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []

    hub.requests.clear()
    again = download({"pets": config()}, tmp_path, None)
    assert hub.requests == []
    assert [(row.status, row.transferred) for row in again.rows] == [("reused", 0)]


def test_a_dry_run_says_what_would_come_and_under_which_terms(hub, tmp_path, monkeypatch):
    hub.push(REPO, files := pets(), gated=True)
    hub.repos[REPO].licence = "cc-by-4.0"
    report = download({"pets": config()}, tmp_path / "root", None, dry_run=True)
    (row,) = report.rows
    size = sum(map(len, used(files).values()))
    assert (row.status, row.files, row.size, row.transferred) == ("to fetch", len(used(files)), size, size)
    assert row.note == "licence cc-by-4.0; gated"
    assert report.summary() == f"1 to fetch; {decimal(size)} to transfer"
    assert hub.body_bytes == 0 and not (tmp_path / "root").exists()
    hub.tokens.add("hf_secret")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    download({"pets": config()}, tmp_path / "root", None)
    (row,) = download({"pets": config()}, tmp_path / "root", None, dry_run=True).rows
    assert (row.status, row.files, row.size, row.transferred) == ("reused", len(used(files)), size, 0)
    with pytest.raises(DownloadError, match="nowhere"):
        download({"pets": dataclasses.replace(config(), hub="org/nowhere")}, tmp_path / "other", None, dry_run=True)


def test_the_token_goes_to_the_hub_and_not_beyond(hub, tmp_path, monkeypatch):
    hub.push(REPO, pets(), gated=True)
    hub.tokens.add("hf_secret")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    download({"pets": config()}, tmp_path, None)
    to_cdn = [request for request in hub.requests if request.path.startswith("/blobs/")]
    to_hub = [request for request in hub.requests if not request.path.startswith("/blobs/")]
    assert len(to_cdn) == 2
    assert not any("Authorization" in {k.title() for k in request.headers} for request in to_cdn)
    assert all({k.title(): v for k, v in r.headers.items()}["Authorization"] == "Bearer hf_secret" for r in to_hub)


def test_the_revision_is_resolved_once_and_a_pin_moves_only_what_differs(hub, tmp_path):
    first = pets()
    old = hub.push(REPO, first)
    download({"pets": config()}, tmp_path, None)
    new = hub.push(REPO, second := first | {"test/1.tar": tar(range(6, 9))})
    hub.requests.clear()
    download({"pets": config()}, tmp_path, None)
    folder = tmp_path / "wds_pets_test"
    assert hub.requests == []
    assert read_lock(folder).revision == old
    report = download({"pets": config(revision=new)}, tmp_path, None)
    assert hub.body_bytes == len(second["test/1.tar"]) == report.transferred
    assert on_disk(folder) == used(second)
    assert read_lock(folder).revision == new
    download({"pets": config(revision=old)}, tmp_path, None)
    assert on_disk(folder) == used(first)


def test_a_folder_that_datacomp_downloaded_is_taken_as_it_is(hub, tmp_path):
    files = pets()
    hub.push(REPO, files)
    folder = tmp_path / "wds_pets_test"
    write(folder, used(files))
    report = download({"pets": config()}, tmp_path, None)
    assert hub.body_bytes == 0
    assert [(row.status, row.transferred) for row in report.rows] == [("reused", 0)]
    assert verify(folder, full=True) == []


def test_of_an_existing_folder_only_what_is_missing_short_or_damaged_is_fetched(hub, tmp_path):
    files = pets()
    hub.push(REPO, files)
    folder = tmp_path / "wds_pets_test"
    damaged = bytearray(files["test/0.tar"])
    damaged[700] ^= 1
    write(folder, used(files) | {"test/0.tar": bytes(damaged), "test/1.tar": files["test/1.tar"][:-1]})
    (folder / "classnames.txt").unlink()
    download({"pets": config()}, tmp_path, None)
    assert on_disk(folder) == used(files)
    assert hub.body_bytes == sum(len(files[name]) for name in ("classnames.txt", "test/0.tar", "test/1.tar"))


def test_two_tasks_share_a_folder_and_own_data_is_left_alone(hub, tmp_path):
    hub.push(REPO, pets())
    (tmp_path / "mine").mkdir()
    tasks = {"a": config(), "mine": DataConfig(kind="folder", path=str(tmp_path / "mine")), "b": config()}
    report = download(tasks, tmp_path, None)
    assert [(row.name, row.status) for row in report.rows] == [("a, b", "fetched"), ("mine", "local")]
    with pytest.raises(ClipevalError, match=r"the tasks a and b both read .*wds_pets_test"):
        download({"a": config(), "b": config(revision="other")}, tmp_path, None)
    with pytest.raises(DownloadError, match=r"gone does not exist, and the task names no data.hub"):
        download({"own": DataConfig(path=str(tmp_path / "gone"))}, None, None)


def test_only_the_splits_that_tasks_need(hub, tmp_path):
    files = pets() | {"train/nshards.txt": b"1", "train/0.tar": tar(range(20, 24))}
    hub.push(REPO, files)
    download({"pets": config()}, tmp_path, None, splits={"pets": ["test"]})
    folder = tmp_path / "wds_pets_test"
    assert set(on_disk(folder)) == {name for name in used(files) if not name.startswith("train/")}
    hub.requests.clear()
    report = download({"pets": config()}, tmp_path, None, splits={"pets": ["test", "train"]})
    assert on_disk(folder) == used(files)
    assert report.transferred == len(files["train/0.tar"]) + 1
    with pytest.raises(DownloadError, match="has no split 'val'; it has test, train"):
        download({"x": config("other")}, tmp_path, None, splits={"x": ["val"]})


def test_two_downloads_at_once_fetch_a_set_once(hub, tmp_path):
    files = pets()
    hub.push(REPO, files)
    reports = []
    threads = [
        threading.Thread(target=lambda: reports.append(download({"p": config()}, tmp_path, None))) for _ in (1, 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(reports) == 2
    assert hub.body_bytes == sum(map(len, used(files).values()))


# ---- what goes wrong ----------------------------------------------------------------------------------------------


def test_a_transfer_that_is_cut_goes_on_where_it_stopped(hub, tmp_path):
    files = pets()
    hub.push(REPO, files)
    hub.fault(r"/blobs/.*test/0\.tar", "cut", after=5000)
    download({"pets": config()}, tmp_path, None)
    assert on_disk(tmp_path / "wds_pets_test") == used(files)
    assert hub.body_bytes == sum(map(len, used(files).values()))
    resumed = [r.headers.get("Range") or r.headers.get("range") for r in hub.requests if "0.tar" in r.path]
    assert "bytes=5000-" in resumed


def test_after_a_transfer_that_failed_the_next_call_fetches_only_what_is_not_whole(hub, tmp_path):
    files = pets()
    hub.push(REPO, files)
    hub.fault(r"/blobs/.*test/0\.tar", "cut", after=5000)
    hub.fault(r"/blobs/.*test/0\.tar", "status", status=503, times=99)
    with pytest.raises(
        DownloadError, match=r"wds_pets_test, file test/0.tar: .* answers with an error of its own \(503\)"
    ):
        download({"pets": config()}, tmp_path, None)
    folder = tmp_path / "wds_pets_test"
    assert not (folder / NAME).exists()
    assert not (folder / "test/0.tar").exists()
    hub.faults.clear()
    hub.requests.clear()
    assert download({"pets": config()}, tmp_path, None).transferred == len(files["test/0.tar"])
    assert on_disk(folder) == used(files)
    assert hub.body_bytes == len(files["test/0.tar"])


def test_ctrl_c_ends_it_at_once_and_the_next_call_goes_on(hub, tmp_path):
    files = pets()
    hub.push(REPO, files)
    hub.fault(r"/blobs/.*test/0\.tar", "stall", after=5000, times=99)
    program = (  # a shell without job control has its background processes ignore SIGINT, and they hand that on
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import huggingface_hub.constants as c; c.DOWNLOAD_CHUNK_SIZE, c.HF_HUB_DISABLE_XET = 1000, True\n"
        "from pathlib import Path; from clipeval.download import download; from clipeval.data import DataConfig\n"
        "try:\n"
        f"    download({{'pets': DataConfig(folder='wds_pets_test', hub={REPO!r})}}, Path({str(tmp_path)!r}), None)\n"
        "except KeyboardInterrupt:\n"
        "    import os; os._exit(130)"  # the threads have ended; the interpreter's own end would take seconds more
    )
    environment = {**os.environ, "HF_HUB_DOWNLOAD_TIMEOUT": "4", "PYTHONPATH": str(Path(__file__).parents[2])}
    folder = tmp_path / "wds_pets_test"
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE) as process:
        pause = threading.Event()
        while not (folder / PARTIAL / "source/test/1.tar").exists():  # the other shard is whole, and this one hangs
            assert process.poll() is None, process.stderr.read()
            pause.wait(0.05)
        pause.wait(0.5)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(
            timeout=60
        )  # a hanging read ends after its four seconds; a busy machine takes longer
    assert process.returncode == 130, told
    assert not (folder / NAME).exists()
    hub.faults.clear()
    hub.requests.clear()
    assert download({"pets": config()}, tmp_path, None).transferred == len(files["test/0.tar"])
    assert on_disk(folder) == used(files)
    assert hub.body_bytes == len(files["test/0.tar"])


def test_a_set_that_cannot_be_renewed_stays_as_it_was(hub, tmp_path):
    """The new revision's second shard is damaged: nothing of the first is moved into place."""
    commit = hub.push(REPO, first := pets())
    download({"pets": config()}, tmp_path, None)
    new = hub.push(REPO, first | {"test/0.tar": tar(range(20, 26)), "test/1.tar": tar(range(26, 30))})
    hub.fault(r"/blobs/.*test/1\.tar", "corrupt", times=9)
    with pytest.raises(DownloadError, match=r"file test/1.tar: the hub says"):
        download({"pets": config(revision=new)}, tmp_path, None)
    folder = tmp_path / "wds_pets_test"
    there = on_disk(folder)
    assert {name: there[name] for name in used(first)} == used(first)
    assert read_lock(folder).revision == commit
    assert verify(folder, full=True) == []
    hub.faults.clear()
    hub.requests.clear()
    download({"pets": config(revision=new)}, tmp_path, None)
    assert hub.body_bytes == len(first["test/1.tar"])  # what was whole is kept
    assert read_lock(folder).revision == new
    assert not (folder / PARTIAL).exists()


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (503, r"file test/0.tar and 1 more: .* answers with an error of its own \(503\)"),
        (403, r"access is refused \(403\)\. Accept the set's terms"),
        (401, r"knows no data set .* no token is set \(HF_TOKEN\)"),
    ],
)
def test_what_the_hub_says_of_a_file_is_not_lost_in_what_wraps_it(hub, tmp_path, status, message):
    hub.push(REPO, pets())
    hub.fault(r"/resolve/.*\.tar", "status", status=status, times=999)
    with pytest.raises(DownloadError, match=message):
        download({"pets": config()}, tmp_path, None)


def test_a_link_to_shards_elsewhere_is_followed(hub, tmp_path):
    hub.push(REPO, files := pets())
    write(tmp_path / "scratch", used(files))
    folder = tmp_path / "wds_pets_test"
    write(folder, {name: content for name, content in used(files).items() if not name.startswith("test/")})
    (folder / "test").symlink_to(tmp_path / "scratch" / "test")
    assert [row.status for row in download({"pets": config()}, tmp_path, None).rows] == ["reused"]
    assert hub.body_bytes == 0


def test_a_server_without_ranges_is_asked_from_the_start(hub, tmp_path):
    files = pets()
    hub.push(REPO, files)
    hub.fault(r"/blobs/.*test/0\.tar", "cut", after=5000)
    hub.fault(r"/blobs/.*test/0\.tar", "no-range")
    download({"pets": config()}, tmp_path, None)
    assert on_disk(tmp_path / "wds_pets_test") == used(files)


@pytest.mark.parametrize("name", ["test/0.tar", "classnames.txt"])
def test_wrong_content_is_fetched_once_more_and_then_refused(hub, tmp_path, name):
    files = pets()
    hub.push(REPO, files)
    hub.fault(name.replace(".", r"\."), "corrupt", times=1)
    if name.endswith("tar"):  # the redirect takes the first fault and sends no content
        hub.fault(r"/blobs/.*test/0\.tar", "corrupt", times=1)
    download({"pets": config()}, tmp_path, None)
    assert on_disk(tmp_path / "wds_pets_test") == used(files)
    hub.fault(rf"(/blobs/.*|/main/|/resolve/[0-9a-f]*/){name}", "corrupt", times=99)
    with pytest.raises(DownloadError, match=rf"{REPO}, file {name}: the hub says .* sends content of .*, twice"):
        download({"pets": config()}, tmp_path / "other", None)
    folder = tmp_path / "other" / "wds_pets_test"
    assert not (folder / name).exists()
    assert not (folder / NAME).exists()


def test_a_rate_limit_is_waited_out_as_long_as_the_server_says(hub, tmp_path, pauses):
    files = pets()
    hub.push(REPO, files)
    hub.fault(r"/blobs/.*test/0\.tar", "status", status=429, headers={"Retry-After": "7"})
    hub.fault(r"^/api/datasets/.*tree", "status", status=429, headers={"Retry-After": "11"})
    hub.fault(r"^/api/datasets/[^/]*/[^/]*$", "status", status=429, headers={"Retry-After": "13"})
    download({"pets": config()}, tmp_path, None)
    assert on_disk(tmp_path / "wds_pets_test") == used(files)
    # huggingface_hub adds a second where it waits itself, which depends on its version
    assert all({asked, asked + 1} & {int(pause) for pause in pauses} for asked in (7, 11, 13))


def test_errors_of_the_server_are_retried_with_growing_pauses(hub, tmp_path, pauses):
    hub.push(REPO, pets())
    hub.fault(r"/blobs/.*test/1\.tar", "status", status=502, times=3)
    download({"pets": config()}, tmp_path, None, workers=1)
    # Where another file comes after the first or the second failure, as threads will have it, the pauses begin anew.
    assert pauses in ([1.0, 2.0, 4.0], [1.0, 1.0, 2.0], [1.0, 2.0, 1.0])
    hub.fault(r"/blobs/", "status", status=500, times=999)
    with pytest.raises(DownloadError, match=r"answers with an error of its own \(500\)"):
        download({"pets": config("other")}, tmp_path, None)


def test_a_gated_set_says_where_its_terms_are(hub, tmp_path, monkeypatch):
    hub.push(REPO, files := pets(), gated=True)
    page = f"{hub.endpoint}/datasets/{REPO}"
    with pytest.raises(DownloadError, match=f"is gated: accept its terms at {page}, .* set HF_TOKEN"):
        download({"pets": config()}, tmp_path, None)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(DownloadError, match=f"the token in HF_TOKEN may not read it: accept its terms at {page}"):
        download({"pets": config()}, tmp_path, None)
    hub.tokens.add("hf_mine")
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    download({"pets": config()}, tmp_path, None)
    assert on_disk(tmp_path / "wds_pets_test") == used(files)


def test_what_can_be_fetched_is_and_all_that_cannot_is_named(hub, tmp_path):
    hub.push(REPO, pets())
    hub.push("org/empty", {"notes.txt": b"nothing"})
    hub.push("org/evil", pets() | {"../../outside.tar": b"x"})
    tasks = {
        "unknown": config("a", "org/unknown"),
        "pets": config(),
        "branch": config("b", REPO, revision="nowhere"),
        "empty": config("c", "org/empty"),
        "evil": config("d", "org/evil"),
    }
    with pytest.raises(DownloadError) as caught:
        download(tasks, tmp_path, None)
    rows = {row.name: row for row in caught.value.report.rows}
    assert [rows[name].status for name in tasks] == ["failed", "fetched", "failed", "failed", "failed"]
    assert "knows no data set 'org/unknown'" in rows["unknown"].note
    assert "no token is set (HF_TOKEN)" in rows["unknown"].note
    assert f"{REPO} has no revision 'nowhere'" in rows["branch"].note
    assert "neither a webdataset (nshards.txt), nor parquet, nor a CSV with a zip" in rows["empty"].note
    assert "lies outside its folder ('../../outside.tar')" in rows["evil"].note
    assert str(caught.value).startswith("4 of 5 could not be fetched:\n  unknown: ")
    assert not (tmp_path / "outside.tar").exists()


def test_without_a_network_one_sentence_unless_everything_is_there(hub, tmp_path, monkeypatch):
    hub.push(REPO, pets())
    download({"pets": config()}, tmp_path, None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", closed)
    assert download({"pets": config()}, tmp_path, None).rows[0].status == "reused"
    with pytest.raises(ClipevalError, match=f"{closed} cannot be reached .* Check the connection"):
        download({"pets": config(), "other": config("other")}, tmp_path, None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ClipevalError, match="HF_HUB_OFFLINE forbids fetching it"):
        download({"other": config("other")}, tmp_path, None)


def test_what_is_no_hub_and_no_repository(hub, tmp_path, monkeypatch):
    with pytest.raises(DownloadError, match=r"data.hub='a/b/c' is no repository of the hub"):
        download({"x": config(hub="a/b/c")}, tmp_path, None)
    hub.fault(r"^/api/datasets", "status", status=200)
    with pytest.raises(DownloadError, match=rf"{hub.endpoint} does not answer as the hub does .* Check HF_ENDPOINT"):
        download({"x": config()}, tmp_path, None)
    monkeypatch.setenv("HF_ENDPOINT", "localhost:8000")
    with pytest.raises(ClipevalError, match="HF_ENDPOINT is 'localhost:8000'"):
        download({"x": config()}, tmp_path, None)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 kB that is full at 64 kB, not in theory."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_too_small_is_told_before_the_first_byte(hub, small_disk):
    hub.push(REPO, pets() | {"test/1.tar": bytes(200_000)})
    with pytest.raises(ClipevalError, match=rf"2\d\d\.\d kB are needed below {small_disk}, and .* kB are free there"):
        download({"pets": config()}, small_disk, None)
    assert hub.body_bytes == 0


def test_a_disk_that_fills_up_meanwhile(hub, small_disk, monkeypatch):
    files = pets() | {"test/1.tar": bytes(200_000)}
    hub.push(REPO, files)
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "_check_room", lambda plans: None)
        with pytest.raises(ClipevalError, match=r"the disk is too full: \d+\.\d kB are needed below .*wds_pets_test"):
            download({"pets": config()}, small_disk, None, workers=1)
    folder = small_disk / "wds_pets_test"
    assert not (folder / NAME).exists()
    assert not (folder / "test/1.tar").exists()
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    hub.requests.clear()
    download({"pets": config()}, small_disk, None)
    assert on_disk(folder) == used(files)
    kept = len(files["classnames.txt"] + files["test/0.tar"])
    assert hub.body_bytes <= sum(map(len, used(files).values())) - kept


# ---- the lock -----------------------------------------------------------------------------------------------------


def test_verify_finds_what_sizes_do_not_show_and_download_repairs_it(hub, tmp_path):
    files = pets()
    hub.push(REPO, files)
    download({"pets": config()}, tmp_path, None)
    folder = tmp_path / "wds_pets_test"
    damaged = bytearray(files["test/1.tar"])
    damaged[600] ^= 255
    (folder / "test/1.tar").write_bytes(damaged)
    hub.requests.clear()
    assert verify(folder) == []
    assert [problem.split(": ")[0] for problem in verify(folder, full=True)] == [str(folder / "test/1.tar")]
    assert download({"pets": config()}, tmp_path, None).rows[0].status == "reused"
    assert hub.requests == []
    assert download({"pets": config()}, tmp_path, None, verify=True).rows[0].status == "fetched"
    assert hub.body_bytes == len(files["test/1.tar"])
    assert verify(folder, full=True) == []
    (folder / "classnames.txt").unlink()
    assert verify(folder) == [f"{folder / 'classnames.txt'}: missing."]
    assert verify(tmp_path)[0].startswith(f"{tmp_path} has no {NAME}")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("test/1.tar", lambda old: old[:600] + bytes([old[600] ^ 255]) + old[601:]),
        ("classnames.txt", lambda old: b"dog\ncat\nhamster\n"),
        ("zeroshot_classification_templates.txt", None),
    ],
)
def test_a_run_refuses_what_is_not_what_was_downloaded(hub, tmp_path, name, change):
    hub.push(REPO, files := pets())
    download({"pets": config()}, tmp_path, None)
    path = tmp_path / "wds_pets_test" / name
    open_split(config(), str(tmp_path), "test", None)
    path.unlink() if change is None else path.write_bytes(change(files[name]))
    what = "it is missing" if change is None else "its sha256 is"
    with pytest.raises(ClipevalError, match=f"{name} is not what was downloaded: {what}.*--verify"):
        open_split(config(), str(tmp_path), "test", None)
    (tmp_path / "wds_pets_test" / NAME).unlink()  # whoever changes a set knowingly gives up its lock
    open_split(config(), str(tmp_path), "test", None)


def test_a_recorded_commit_that_is_gone(hub, tmp_path):
    commit = hub.push(REPO, files := pets())
    download({"pets": config()}, tmp_path, None)
    hub.push(REPO, files)
    del hub.repos[REPO].commits[commit]
    folder = tmp_path / "wds_pets_test"
    assert download({"pets": config()}, tmp_path, None).rows[0].status == "reused"
    (folder / "test/0.tar").unlink()
    with pytest.raises(DownloadError, match=f"no longer has the commit {commit[:12]} .* Delete that lock file"):
        download({"pets": config()}, tmp_path, None)
    (folder / NAME).unlink()
    download({"pets": config()}, tmp_path, None)
    assert on_disk(folder) == used(files)


def test_a_lock_that_was_edited_or_damaged_is_refused(hub, tmp_path):
    hub.push(REPO, pets())
    download({"pets": config()}, tmp_path, None)
    path = tmp_path / "wds_pets_test" / NAME
    whole = path.read_text()
    for text, reason in (
        (
            whole.replace('"size": 2,', '"size": 3,').replace(
                json.loads(whole)["files"]["test/0.tar"]["sha256"], "0" * 64
            ),
            "edited",
        ),
        (whole[:50], "is damaged"),
        (whole.replace('"schema": 1', '"schema": 2'), "has schema 2, and 1 was expected"),
        (whole.replace('"form"', '"from"'), "lacks or misnames 'form'"),
    ):
        path.write_text(text)
        with pytest.raises(ClipevalError, match=reason):
            read_lock(path.parent)
    assert read_lock(tmp_path) is None


def test_a_read_only_folder_is_used_without_a_lock(hub, tmp_path, monkeypatch):
    hub.push(REPO, files := pets())
    write(tmp_path / "wds_pets_test", used(files))

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(fetch, "write_lock", refuse)
    (row,) = download({"pets": config()}, tmp_path, None).rows
    assert (row.status, row.note) == ("reused", f"the folder is read-only, so {NAME} could not be written")


# ---- the model, and afterwards ------------------------------------------------------------------------------------


class Weights:
    """A model whose weights are somewhere else until they are fetched."""

    name = "tiny"

    def __init__(self) -> None:
        self.missing: str | None = "its weights are not here"

    def fetch(self) -> None:
        self.missing = None


def test_the_model_is_fetched_too_and_only_once(hub, tmp_path):
    hub.push(REPO, pets())
    model = Weights()
    assert [row.status for row in download({"pets": config()}, tmp_path, model).rows] == ["fetched", "fetched"]
    assert [row.status for row in download({"pets": config()}, tmp_path, model).rows] == ["reused", "reused"]

    class Gone(Weights):
        def fetch(self) -> None:
            raise ClipevalError("no such model")

    with pytest.raises(DownloadError, match=r"^no such model$"):
        download({"pets": config()}, tmp_path, Gone())


def test_afterwards_data_are_read_without_a_socket(hub, tmp_path, monkeypatch):
    hub.push(REPO, pets())
    download({"pets": config()}, tmp_path, None)

    def forbid(*_, **__):
        raise AssertionError("a socket was opened")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, forbid)
    assert download({"pets": config()}, tmp_path, None).rows[0].status == "reused"
    split = open_split(config(), str(tmp_path), "test", tmp_path / "cache")
    assert sum(len(split.images.read(i)) for i in range(len(split.images))) > 0


def test_the_table_says_what_became_of_each(hub, tmp_path):
    from rich.console import Console

    hub.push(REPO, pets())
    report = download({"pets": config()}, tmp_path, None)
    out = io.StringIO()
    Console(file=out, width=120).print(report.table())
    assert "1 fetched; " in out.getvalue()
    assert "pets" in out.getvalue()
    with pytest.raises(DownloadError) as caught:
        download(
            {"x": config("[bold]x", revision="[no]branch")},
            tmp_path,
            None,
            console=Console(file=out, force_terminal=True),
        )
    Console(file=out, width=200).print(caught.value.report.table())
    assert "has no revision '[no]branch'" in out.getvalue()
