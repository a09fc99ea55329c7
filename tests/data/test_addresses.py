"""Files at an address: fetched once, whole, and every way in which that fails is one sentence."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest

from clipeval.cli.main import main
from clipeval.configs.addresses import is_address, shown
from clipeval.configs.errors import ClipevalError
from clipeval.data import addresses
from clipeval.models import resolve
from clipeval.results.run_folder import RunFolder
from scripts.tiny_model import config_of, write_tiny_model
from tests.data.storage import CONTENT, Quiet


def test_a_file_of_a_bucket_is_fetched_once(bucket: str, tmp_path: Path) -> None:
    address = f"{bucket}/run/model.pt"
    assert addresses.cached(address, tmp_path) is None
    path = addresses.fetch(address, tmp_path)
    assert path.read_bytes() == CONTENT and path.name == "model.pt"
    note = {"address": address, "size": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}
    assert addresses.origin(address, tmp_path) == note
    import boto3

    boto3.client("s3").delete_object(Bucket="weights", Key="run/model.pt")
    assert addresses.fetch(address, tmp_path) == addresses.cached(address, tmp_path) == path


@pytest.mark.parametrize(("name", "said"), [("other.pt", "there is no such file"), ("run", "is a folder")])
def test_what_a_bucket_does_not_hold(bucket: str, tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(ClipevalError, match=said):
        addresses.fetch(f"{bucket}/{name}", tmp_path)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_a_bucket_without_a_log_in(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"AWS_{name}")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(ClipevalError, match=r"may not be read .*AWS_PROFILE.*FSSPEC_S3_ANON"):
        addresses.fetch(f"{bucket}/run/model.pt", tmp_path)


def test_a_file_of_the_web_is_fetched_once(site: str, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    first = addresses.fetch(f"{site}/model.pt", tmp_path)
    assert first.read_bytes() == CONTENT
    count = len(Quiet.given)
    assert addresses.fetch(f"{site}/model.pt", tmp_path) == first and len(Quiet.given) == count
    with pytest.raises(ClipevalError, match="there is no such file"):
        addresses.fetch(f"{site}/other.pt", tmp_path)


def test_a_host_that_is_out_of_reach(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    with pytest.raises(ClipevalError, match=r"http://127\.0\.0\.1:9/x\.pt cannot be read .*reaches it"):
        addresses.fetch("http://127.0.0.1:9/x.pt", tmp_path)


def test_a_file_that_came_incomplete_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.pipe_file("/short.pt", CONTENT)
    monkeypatch.setattr(type(fs), "info", lambda self, path: {"type": "file", "size": len(CONTENT) + 1})
    with pytest.raises(ClipevalError, match=r"7,000 of 7,001 bytes"):
        addresses.fetch("memory://short.pt", tmp_path)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_a_run_fetches_the_weights_that_its_address_names(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once; records say from where, and which content that was."""
    import boto3

    monkeypatch.chdir(tmp_path)
    write_tiny_model(tmp_path / "model", seed=1)
    weights = (tmp_path / "model" / "open_clip_model.safetensors").read_bytes()
    (tmp_path / "architectures").mkdir()
    (tmp_path / "architectures" / "tiny-clip.json").write_text(json.dumps(config_of()))
    boto3.client("s3").put_object(Bucket="weights", Key="epoch_1.safetensors", Body=weights)
    address = f"{bucket}/epoch_1.safetensors"
    words = ["model=open_clip", "model.name=tiny-clip", "model.config_dir=architectures", "cache.root=cache"]
    words += ["suite=none", "+task@tasks.emoji=quickstart_emoji_name", "runtime.workers=0", "runtime.device=cpu"]
    assert main(["run", *words, f"model.pretrained={address}"]) == 0
    assert "fetching the weights of tiny-clip" in capsys.readouterr().err
    boto3.client("s3").delete_object(Bucket="weights", Key="epoch_1.safetensors")
    (folder,) = (tmp_path / "runs").iterdir()
    assert "epoch_1" in folder.name
    record = RunFolder(folder).record("emoji")
    assert record.model["fetched"] == {
        "address": address,
        "size": len(weights),
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    assert main(["run", *words, f"model.pretrained={address}"]) == 0
    assert main(["run", *words, "model.pretrained=model/open_clip_model.safetensors", "out=local"]) == 0
    local = RunFolder(tmp_path / "local").record("emoji")
    assert (local.metrics, local.fingerprint) == (record.metrics, record.fingerprint)
    given = {"name": "tiny-clip", "config_dir": "architectures", "pretrained": f"{bucket}/run/model.pt"}
    assert resolve(given, tmp_path / "cache").on_demand
    assert not resolve(given, tmp_path / "cache", offline=True).on_demand  # as `clipeval rerun` of somebody else's run
    assert main(["run", *words, f"model.pretrained={bucket}/none.pt", "out=none"]) == 1
    assert "s3://weights/none.pt: there is no such file" in capsys.readouterr().err


def test_signatures_and_passwords_are_told_to_nobody(tmp_path: Path) -> None:
    with pytest.raises(ClipevalError) as found:
        addresses.fetch("https://me:secret@example.org/x.pt?token=secret", tmp_path)
    assert "holds a password" in str(found.value) and "secret" not in str(found.value)
    assert shown("https://h:1/x.pt?X-Amz-Signature=secret") == "https://h:1/x.pt"


def test_a_signature_is_not_noted(site: str, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    addresses.fetch(f"{site}/model.pt?signature=secret", tmp_path)
    (note,) = (tmp_path / "remote").glob("*.json")
    assert "secret" not in note.read_text() and json.loads(note.read_text())["address"] == f"{site}/model.pt"


def test_a_protocol_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ClipevalError, match="Unknown protocol 's4'"):
        addresses.fetch("s4://bucket/x.pt", tmp_path)


def test_a_package_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ClipevalError, match=r"gs://b/x\.pt needs a package .*pip install 'clipeval\[remote\]'"):
        addresses.fetch("gs://b/x.pt", tmp_path)


@pytest.mark.parametrize("text", ["/a/b.pt", "hf-hub:org/repo", "local-dir:/x", "C:\\x.pt", None, 3])
def test_what_is_no_address(text: object) -> None:
    assert not is_address(text)
