"""Models of transformers by the name of their repository, on a hub of our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from clipeval.cli.main import main
from clipeval.configs.errors import ClipevalError
from clipeval.models import ModelHandle, resolve
from scripts.tiny_model import config_of, write_tiny_model
from tests.models.tiny_hugging_face import CLIP_PROCESSOR, SIGLIP_PROCESSOR, write_hugging_face

HF = "clipeval.models.transformers.HuggingFace"


@pytest.fixture
def models(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The hub, as huggingface_hub's own functions see it, and an empty cache."""
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return hub


def push(hub: Any, name: str, folder: Path, within: str = "", **options: Any) -> str:
    return str(hub.push(name, {within + file.name: file.read_bytes() for file in folder.iterdir()}, **options))


def handle_of(path: str, tmp_path: Path, **options: Any) -> ModelHandle:
    return resolve({"_target_": HF, "path": path}, tmp_path / "cache", **options)


@pytest.mark.parametrize(("kind", "processor"), [("clip", CLIP_PROCESSOR), ("siglip", SIGLIP_PROCESSOR)])
def test_a_repository_is_the_folder_of_its_files(kind: str, processor: Any, models: Any, tmp_path: Path) -> None:
    folder = write_hugging_face(tmp_path / "folder", kind, processor)
    commit = push(models, f"org/{kind}-tiny", folder)
    handle = handle_of(f"org/{kind}-tiny", tmp_path)
    assert handle.missing is not None
    assert f"clipeval download model=hf_transformers model.path=org/{kind}-tiny" in handle.missing
    assert not any(request.path.endswith(".safetensors") for request in models.requests)  # only what says what it is
    handle.fetch()
    assert handle.missing is None
    assert handle.describe()["revision"] == commit
    assert (handle.name, handle.slug) == (f"{kind}-tiny", f"org-{kind}-tiny")
    local = handle_of(str(folder), tmp_path)
    assert handle.weights_digest == local.weights_digest
    assert handle.tokenizer_digest == local.tokenizer_digest
    with handle.load() as one, local.load() as other:
        assert torch.equal(one.encode_texts(["a dog"]), other.encode_texts(["a dog"]))
    before = len(models.requests)
    again = handle_of(f"org/{kind}-tiny", tmp_path, offline=True)
    assert again.missing is None
    assert len(models.requests) == before  # nothing is asked of what is here


def test_the_command_fetches(models: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    push(models, "org/tiny", write_hugging_face(tmp_path / "folder", "clip", CLIP_PROCESSOR))
    words = ["model=hf_transformers", "model.path=org/tiny", f"cache.root={tmp_path / 'cache'}", "runtime.device=cpu"]
    assert main(["check", *words]) == 1
    assert "clipeval download model=hf_transformers model.path=org/tiny" in capsys.readouterr().err
    assert main(["download", "suite=none", *words]) == 0
    assert main(["check", *words]) == 1  # random weights are doubtful
    assert "no better than chance" in capsys.readouterr().out


def test_sharded_weights(models: Any, tmp_path: Path) -> None:
    import transformers

    folder = write_hugging_face(tmp_path / "folder", "clip", CLIP_PROCESSOR)
    whole = handle_of(str(folder), tmp_path)
    with whole.load() as encoder:
        expected = encoder.encode_texts(["a photo of a dog"])
    transformers.CLIPModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="6KB")
    (folder / "model.safetensors").unlink()
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    push(models, "org/sharded", folder)
    handle = handle_of("org/sharded", tmp_path)
    handle.fetch()
    with handle.load() as encoder:
        torch.testing.assert_close(encoder.encode_texts(["a photo of a dog"]), expected, rtol=0, atol=1e-6)
    next(iter(sorted((folder).glob("model-*.safetensors")))).unlink()
    assert "of its weights is not on this machine" in str(handle_of(str(folder), tmp_path).missing)


def test_sentence_transformers(models: Any, tmp_path: Path) -> None:
    """Its CLIP models keep transformers' files one folder down."""
    inner = write_hugging_face(tmp_path / "st" / "0_CLIPModel", "clip", CLIP_PROCESSOR)
    push(models, "sentence-transformers/clip-tiny", inner, within="0_CLIPModel/")
    local, remote = handle_of(str(tmp_path / "st"), tmp_path), handle_of("sentence-transformers/clip-tiny", tmp_path)
    remote.fetch()
    assert remote.weights_digest == local.weights_digest
    assert remote.describe()["revision"] == models.repos["sentence-transformers/clip-tiny"].branches["main"]
    with local.load() as encoder:
        assert encoder.encode_texts(["a dog"]).shape == (1, 8)


def test_a_file_of_a_repository(models: Any, tmp_path: Path) -> None:
    """hf://ORG/NAME/FILE, of a branch too: the checkpoint itself, whatever the repository is."""
    for seed, branch in ((1, "main"), (2, "late")):
        write_tiny_model(tmp_path / branch, seed=seed)
        content = (tmp_path / branch / "open_clip_model.safetensors").read_bytes()
        models.push("org/runs", {"a/epoch.safetensors": content}, **({} if branch == "main" else {"branch": branch}))
    (tmp_path / "architectures").mkdir()
    (tmp_path / "architectures" / "tiny-clip.json").write_text(json.dumps(config_of()))

    def handle(pretrained: str) -> ModelHandle:
        given = {"name": "tiny-clip", "config_dir": str(tmp_path / "architectures"), "pretrained": pretrained}
        return resolve(given, tmp_path / "cache")

    for address, folder in (
        ("hf://org/runs/a/epoch.safetensors", "main"),
        ("hf://org/runs@late/a/epoch.safetensors", "late"),
    ):
        found = handle(address)
        assert found.missing is not None and f"model.pretrained={address}" in found.missing
        found.fetch()
        local = handle(str(tmp_path / folder / "open_clip_model.safetensors"))
        assert found.weights_digest == local.weights_digest
        assert any("a checkpoint file says nothing of the mean and std" in flag for flag in found.flags)
    with pytest.raises(ClipevalError, match=r"org/runs has none of a/none\.pt"):
        handle("hf://org/runs/a/none.pt").fetch()
    with pytest.raises(ClipevalError, match=r"hf://ORG/NAME/FILE was expected.*hf-hub:org/runs"):
        handle("hf://org/runs")
    models.push("org/closed", {"x.pt": b""}, gated=True)
    with pytest.raises(ClipevalError, match="org/closed is gated: accept its terms"):
        handle("hf://org/closed/x.pt").fetch()


def test_an_adapter_of_the_hub(models: Any, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    import transformers

    folder = write_hugging_face(tmp_path / "folder", "clip", CLIP_PROCESSOR)
    built = peft.get_peft_model(
        transformers.CLIPModel.from_pretrained(folder),
        peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False),
    )
    built.save_pretrained(tmp_path / "lora")
    push(models, "org/lora", tmp_path / "lora")
    given = {"_target_": HF, "path": str(folder)}
    remote, local = (resolve({**given, "adapter": a}, tmp_path) for a in ("org/lora", str(tmp_path / "lora")))
    assert remote.missing is not None and "model.adapter=org/lora" in remote.missing
    remote.fetch()
    assert remote.weights_digest == local.weights_digest
    with remote.load() as one, local.load() as other:
        assert torch.equal(one.encode_texts(["a dog"]), other.encode_texts(["a dog"]))


def test_what_cannot_be_fetched_says_why(models: Any, tmp_path: Path) -> None:
    push(models, "org/gated", write_hugging_face(tmp_path / "folder", "clip", CLIP_PROCESSOR), gated=True)
    with pytest.raises(
        ClipevalError, match=r"org/gated is gated: accept its terms at https://huggingface.co/org/gated"
    ):
        handle_of("org/gated", tmp_path)
    with pytest.raises(ClipevalError, match=r"org/nothing is no folder here, and of the hub org/nothing is not there"):
        handle_of("org/nothing", tmp_path)
    with pytest.raises(ClipevalError, match=r"not on this machine; run `clipeval download model=hf_transformers"):
        handle_of("org/nothing", tmp_path, offline=True)
    models.push("org/empty", {"README.md": b""})
    with pytest.raises(ClipevalError, match=r"has no config\.json"):
        handle_of("org/empty", tmp_path)


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}"
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(
        ClipevalError, match=r"org/tiny is no folder here, and of the hub .*out of reach|cannot be downloaded"
    ):
        handle_of("org/tiny", tmp_path)


@pytest.mark.parametrize("route", ["transformers", "open_clip"])
def test_a_revision_of_a_repository_stays_what_it_was(route: str, models: Any, tmp_path: Path) -> None:
    commits = []
    folder = tmp_path / "folder"
    if route == "transformers":
        write_hugging_face(folder, "clip", CLIP_PROCESSOR)
    else:
        write_tiny_model(folder)
    (weights,) = folder.glob("*.safetensors")
    for factor in (1, 2):
        save_file({name: tensor * factor for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
        commits.append(push(models, "org/tiny", folder))

    def handle(revision: str) -> ModelHandle:
        path = f"org/tiny{revision}"
        config = {"_target_": HF, "path": path} if route == "transformers" else {"name": f"hf-hub:{path}"}
        found = resolve(config, tmp_path / "cache")
        found.fetch()
        return found

    old, new, newest = handle(f"@{commits[0]}"), handle(f"@{commits[1]}"), handle("")
    assert old.weights_digest != new.weights_digest == newest.weights_digest
    assert old.slug != new.slug != newest.slug
    if route == "transformers":
        assert old.describe()["revision"] == commits[0]
    with pytest.raises(ClipevalError, match=r"org/tiny has no revision v9"):
        handle("@v9")


def test_a_pinned_repository_brings_the_tokenizer_of_that_revision(models: Any, tmp_path: Path) -> None:
    """A repository in open_clip's form names itself as the place of its tokenizer, without a revision."""
    folder = tmp_path / "folder"
    write_tiny_model(folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "org/tiny"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    words = write_hugging_face(tmp_path / "words", "clip", CLIP_PROCESSOR)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((words / name).read_bytes())
    old = push(models, "org/tiny", folder)
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    push(models, "org/tiny", folder)
    handles = [resolve({"name": f"hf-hub:org/tiny{at}"}, tmp_path / "cache") for at in (f"@{old}", "")]
    for handle in handles:
        handle.fetch()
        assert handle.missing is None
    assert handles[0].weights_digest == handles[1].weights_digest
    assert handles[0].tokenizer_digest != handles[1].tokenizer_digest
