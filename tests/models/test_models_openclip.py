"""open_clip handles: what a config may name, what a wrong one is told, digests, and checkpoints that must not load."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import pytest
import torch
from huggingface_hub import try_to_load_from_cache
from safetensors.torch import load_file, save_file

from clipeval.configs.errors import ClipevalError
from clipeval.configs.schema import TEXT_CLEAN
from clipeval.models import ModelHandle, resolve
from clipeval.models.handle import file_digest
from clipeval.models.open_clip_build import build
from clipeval.preprocess.transforms import Preprocess, from_open_clip
from clipeval.results import stamp
from scripts.tiny_model import config_of, write_tiny_model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_model(folder)
    return folder


@pytest.fixture(scope="module")
def weights(exported: Path) -> dict[str, torch.Tensor]:
    return load_file(exported / "open_clip_model.safetensors")


@pytest.fixture
def architecture(tmp_path: Path) -> Path:
    folder = tmp_path / "architectures"
    folder.mkdir()
    (folder / "Tiny-Test.json").write_text(json.dumps(config_of()))
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def tiny(architecture: Path, pretrained: Path | str, tmp_path: Path, **more: Any) -> ModelHandle:
    cfg = {"name": "Tiny-Test", "pretrained": str(pretrained), "config_dir": str(architecture), **more}
    return resolve(cfg, tmp_path / "cache")


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".safetensors", "checkpoint.pt"])
def test_checkpoint_file(suffix: str, architecture: Path, weights: Any, exported: Path, tmp_path: Path) -> None:
    """A file of each form gives the embeddings of the same weights in a local-dir."""
    path = tmp_path / f"epoch_1{suffix}"
    if suffix == ".safetensors":
        save_file(weights, path)
    elif suffix == "checkpoint.pt":  # as open_clip's training writes it under DistributedDataParallel
        state = {f"module.{name}": tensor for name, tensor in weights.items()}
        torch.save({"epoch": 1, "state_dict": state, "optimizer": {"lr": 0.1}}, path)
    else:
        torch.save(weights, path)
    handle = tiny(architecture, path, tmp_path)
    assert handle.missing is None
    assert handle.slug.startswith(f"Tiny-Test__{path.stem}-")
    reference = resolve({"name": f"local-dir:{exported}"}, tmp_path)
    with handle.load() as encoder, reference.load() as other:
        assert torch.equal(encoder.encode_texts(["a dog"]), other.encode_texts(["a dog"]))


def test_slugs_of_files_of_one_name_differ(architecture: Path, weights: Any, tmp_path: Path) -> None:
    slugs = set()
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        save_file(weights, tmp_path / run / "last.safetensors")
        slugs.add(tiny(architecture, tmp_path / run / "last.safetensors", tmp_path).slug)
    assert len(slugs) == 2
    assert tiny(architecture, tmp_path / "a" / "last.safetensors", tmp_path, slug="mine").slug == "mine"


def test_known_names_need_no_files() -> None:
    handle = resolve({"name": "ViT-B-32-256", "pretrained": "datacomp_s34b_b86k", "strict_quickgelu": True}, "cache")
    assert handle.slug == "ViT-B-32-256__datacomp_s34b_b86k"
    assert handle.describe() == {
        "slug": "ViT-B-32-256__datacomp_s34b_b86k",
        "name": "ViT-B-32-256",
        "pretrained": "datacomp_s34b_b86k",
    }
    assert handle.preprocess == Preprocess((256, 256))
    assert handle.flags == []
    command = "clipeval download model=open_clip model.name=ViT-B-32-256 model.pretrained=datacomp_s34b_b86k"
    assert handle.missing is not None
    assert command in handle.missing
    for use in (handle.load, lambda: handle.weights_digest, lambda: handle.image_digest):
        with pytest.raises(ClipevalError, match="clipeval download"):
            use()


def test_siglip_constants_come_from_the_tag() -> None:
    preprocess = resolve({"name": "ViT-B-16-SigLIP2", "pretrained": "webli"}, "cache").preprocess
    assert preprocess == Preprocess((224, 224), (0.5,) * 3, (0.5,) * 3, "bicubic", "squash")


def test_every_architecture_builds_and_says_what_it_sees(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All of the installed open_clip, without weights (the meta device): what is used of its private names is still there.

    They are built with one layer a tower, and of timm's one of each family, for depth is nothing that is read. Those with a text
    tower of transformers, whose config is on the hub, are resolved and not built.
    """
    families = set()
    monkeypatch.setattr(open_clip, "create_model", partial(open_clip.create_model, device="meta"))
    for name in open_clip.list_models():
        handle = resolve({"name": name, "pretrained": "random"}, tmp_path)
        seen, architecture = handle.preprocess, handle.architecture
        assert isinstance(seen, Preprocess) and min(seen.size) >= 32, name
        assert architecture is not None and handle.text_clean in TEXT_CLEAN, name
        vision, text = architecture["vision_cfg"], architecture["text_cfg"]
        family = str(vision.get("timm_model_name")).split("_")[0]
        if "timm_model_name" in vision and (family, bool(vision.get("pool"))) in families:
            continue
        families.add((family, bool(vision.get("pool"))))
        if not text.get("hf_model_name"):
            for tower in (vision, text):
                if "layers" in tower:
                    tower["layers"] = [1] * 4 if isinstance(tower["layers"], list) else 1
            model = build(architecture, name, blank=True)
            assert from_open_clip({"size": model.visual.image_size}).size == seen.size, name


def test_a_model_without_one_input_size_is_refused(architecture: Path, tmp_path: Path) -> None:
    config = config_of()
    config["vision_cfg"] = {"timm_model_name": "naflexvit_base_patch16_gap", "image_size": 224}
    (architecture / "Tiny-NaFlex.json").write_text(json.dumps(config))
    with pytest.raises(
        ClipevalError, match="Tiny-NaFlex is a NaFlex model, whose images are patches of any aspect: use one"
    ):
        resolve({"name": "Tiny-NaFlex", "pretrained": "random", "config_dir": str(architecture)}, tmp_path)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"name": "ViT-B-23", "pretrained": "openai"}, "ViT-B-32"),
        ({"name": "ViT-B-32", "pretrained": "openia"}, "openai"),
        ({"name": "ViT-B-32", "pretrained": "laion2b_s34b_b79"}, "laion2b_s34b_b79k"),
        ({"name": "ViT-B-32"}, "needs model.pretrained"),
        ({"pretrained": "openai"}, "model.name is missing"),
        ({"name": "ViT-B-32", "pretrained": "runs/epoch_3.pt"}, "no such file"),
        ({"name": "ViT-B-32", "pretrained": "openai", "pretraind": "x"}, "pretrained"),
        ({"name": "local-dir:/nowhere"}, "open_clip_config.json"),
        ({"name": "hf-hub:org/model"}, "cannot be downloaded"),
        ({"name": "local-dir:x", "pretrained": "openai"}, "open_clip_config.json"),
        ({"name": "ViT-B-32", "pretrained": "openai", "config_dir": "/nowhere"}, "config_dir"),
        ({"_target_": "clipeval.models.transformers.HuggingFace"}, "model.path is missing"),
    ],
)
def test_wrong_configs_are_told_what_is_right(cfg: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ClipevalError, match=message):
        resolve(cfg, tmp_path)


def test_offline_hub_repository(tmp_path: Path) -> None:
    with pytest.raises(ClipevalError, match=r"clipeval download model=open_clip model\.name=hf-hub:org/model"):
        resolve({"name": "hf-hub:org/model"}, tmp_path, offline=True)


def put_in_hub_cache(root: Path, repository: str, files: list[Path]) -> None:
    """Lay files out as huggingface_hub's cache does."""
    folder = root / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc123")
    (folder / "snapshots" / "abc123").mkdir(parents=True)
    for file in files:
        shutil.copy(file, folder / "snapshots" / "abc123" / file.name)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache. (The function's own default folder is bound when it is imported.)"""
    root = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", partial(try_to_load_from_cache, cache_dir=root))
    return root


def test_hub_repository_from_the_cache(exported: Path, architecture: Path, hub_cache: Path, tmp_path: Path) -> None:
    """Once fetched, `hf-hub:` works without a network: as a model, and as the weights of an architecture."""
    put_in_hub_cache(hub_cache, "org/tiny", sorted(exported.iterdir()))
    whole = resolve({"name": "hf-hub:org/tiny"}, tmp_path / "cache", offline=True)
    assert whole.slug == "org-tiny"
    assert whole.missing is None
    part = tiny(architecture, "hf-hub:org/tiny", tmp_path)
    assert part.missing is None
    assert part.slug == "Tiny-Test__org-tiny"
    local = resolve({"name": f"local-dir:{exported}"}, tmp_path / "cache")
    assert whole.weights_digest == local.weights_digest == part.weights_digest
    with part.load() as encoder:
        assert encoder.embed_dim == 16


def test_quickgelu_of_a_hub_repository(exported: Path, architecture: Path, hub_cache: Path, tmp_path: Path) -> None:
    """A repository's config says what its weights were trained with."""
    write_tiny_model(tmp_path / "quick", kind="quickgelu")
    put_in_hub_cache(hub_cache, "org/quick", sorted((tmp_path / "quick").iterdir()))
    assert "QuickGELU mismatch" in tiny(architecture, "hf-hub:org/quick", tmp_path).flags[0]
    with pytest.raises(ClipevalError, match="trained with it"):
        tiny(architecture, "hf-hub:org/quick", tmp_path, strict_quickgelu=True)


def test_hugging_face_tower_and_tokenizer_from_the_cache(hub_cache: Path, tmp_path: Path) -> None:
    """An architecture with a transformers text tower, as roberta-ViT-B-32; each part that is missing is named in turn."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, RobertaConfig

    config = config_of()
    config["text_cfg"] = {"hf_model_name": "org/tower", "hf_tokenizer_name": "org/words", "context_length": 20}
    (tmp_path / "architectures").mkdir()
    (tmp_path / "architectures" / "Tiny-Roberta.json").write_text(json.dumps(config))
    cfg = {"name": "Tiny-Roberta", "pretrained": "random", "config_dir": str(tmp_path / "architectures")}

    handle = resolve(cfg, tmp_path / "cache")
    assert "tokenizer org/words" in str(handle.missing)
    vocabulary = {word: i for i, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", "a", "photo", "of", "dog"])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", sep_token="</s>"
    ).save_pretrained(tmp_path / "words")
    put_in_hub_cache(hub_cache, "org/words", sorted((tmp_path / "words").iterdir()))
    assert "text tower org/tower" in str(handle.missing)
    RobertaConfig(
        vocab_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=24,
    ).save_pretrained(tmp_path / "tower")
    put_in_hub_cache(hub_cache, "org/tower", sorted((tmp_path / "tower").iterdir()))
    assert handle.missing is None
    with handle.load() as encoder:
        assert encoder.trims
        assert encoder.encode_texts(["a photo of a dog", "dog"]).shape == (2, 16)
    before = handle.tokenizer_digest
    snapshot = hub_cache / "models--org--words" / "snapshots" / "abc123" / "tokenizer.json"
    snapshot.write_text(snapshot.read_text().replace('"dog"', '"cat"'))
    assert handle.tokenizer_digest != before


@pytest.mark.parametrize("strict", [True, False])
def test_quickgelu(strict: bool, tmp_path: Path) -> None:
    cfg = {"name": "ViT-B-32", "pretrained": "openai", "strict_quickgelu": strict}
    if strict:
        with pytest.raises(ClipevalError, match=r"trained with it.*model\.name=ViT-B-32-quickgelu"):
            resolve(cfg, tmp_path)
    else:
        assert "QuickGELU mismatch" in resolve(cfg, tmp_path).flags[0]
    right = resolve({**cfg, "name": "ViT-B-32-quickgelu"}, tmp_path)
    assert right.flags == []
    plain = resolve({"name": "ViT-B-32", "pretrained": "laion2b_s34b_b79k", "strict_quickgelu": True}, tmp_path)
    assert plain.flags == []


def test_random_weights_are_flagged_and_the_same(architecture: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    embeddings = []
    for _ in range(2):
        handle = tiny(architecture, "random", tmp_path)
        assert "random weights" in handle.flags[0]
        with handle.load() as encoder:
            embeddings.append(encoder.encode_texts(["a dog"]))
    assert torch.equal(*embeddings)
    assert torch.equal(torch.get_rng_state(), state)


# -- digests ----------------------------------------------------------------------------------------------------------


def test_digests_follow_content(exported: Path, weights: Any, tmp_path: Path) -> None:
    def digests(folder: Path) -> tuple[str, str, str]:
        handle = resolve({"name": f"local-dir:{folder}"}, tmp_path / "cache")
        return handle.weights_digest, handle.image_digest, handle.text_digest

    moved = tmp_path / "moved"
    shutil.copytree(exported, moved)
    assert digests(exported) == digests(moved)
    changed = dict(weights, logit_scale=weights["logit_scale"] + 1)
    save_file(changed, moved / "open_clip_model.safetensors")
    assert all(a != b for a, b in zip(digests(exported), digests(moved), strict=True))
    other = tmp_path / "other"
    shutil.copytree(exported, other)
    config = json.loads((other / "open_clip_config.json").read_text())
    config["preprocess_cfg"] = {"interpolation": "bilinear"}
    (other / "open_clip_config.json").write_text(json.dumps(config))
    before, after = digests(exported), digests(other)
    assert before[0] == after[0]
    assert before[1] != after[1]
    assert before[2] == after[2]
    config["model_cfg"]["quick_gelu"] = True  # the same weights, another architecture
    (other / "open_clip_config.json").write_text(json.dumps(config))
    assert digests(other)[0] != before[0]


def test_file_digest_is_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = tmp_path / "w.pt", tmp_path / "cache"
    path.write_bytes(b"abc")
    sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc", from FIPS 180-2
    assert file_digest(path, cache) == sha
    assert not cache.exists(), "another content could still have the same times"
    monkeypatch.setattr(stamp, "SETTLED", -1.0)
    assert file_digest(path, cache) == sha
    (memo,) = (cache / "digests").iterdir()
    memo.write_text("0" * 64)
    assert file_digest(path, cache) == "0" * 64  # read from the memory
    path.write_bytes(b"abd")
    os.utime(path, ns=(1, 1))
    assert file_digest(path, cache) not in (sha, "0" * 64)
    memo.write_text("damaged")
    path.write_bytes(b"abc")
    assert file_digest(path, cache) == sha
    assert file_digest(path, tmp_path / "w.pt" / "no-folder") == sha  # a cache that cannot be written


def test_a_file_of_the_same_size_and_modification_time_is_read_again(tmp_path: Path) -> None:
    """As `cp -p` or `rsync -t` restore it, over the old file (the same inode) or in its place."""
    path, cache = tmp_path / "w.pt", tmp_path / "cache"
    path.write_bytes(b"abc")
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    before, inode = file_digest(path, cache), path.stat().st_ino
    path.write_bytes(b"abd")
    os.utime(path, ns=times)
    assert (path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ino) == (3, times[1], inode)
    assert file_digest(path, cache) != before
    written = stamp.stamp(path.stat())
    other = tmp_path / "other.pt"
    other.write_bytes(b"abe")
    os.utime(other, ns=times)
    other.replace(path)
    assert stamp.stamp(path.stat()) != written


# -- checkpoints that must not load -------------------------------------------------------------------------------------


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


def refused(architecture: Path, path: Path, tmp_path: Path) -> str:
    with pytest.raises(ClipevalError) as caught:
        tiny(architecture, path, tmp_path).load()
    message = str(caught.value)
    assert str(path) in message
    assert len(message) < 700
    assert "\n" not in message
    return message


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_checkpoint_with_code_is_refused(
    architecture: Path, weights: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pt"
    torch.save({"state_dict": weights, "args": Evil()}, path)
    assert "refused" in refused(architecture, path, tmp_path)
    path.write_bytes(pickle.dumps(Evil()))
    refused(architecture, path, tmp_path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:'torch.load' received")
def test_torchscript_is_refused(architecture: Path, tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    assert "TorchScript" in refused(architecture, path, tmp_path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 100, 0.5])
def test_truncated(suffix: str, kept: float, architecture: Path, weights: Any, tmp_path: Path) -> None:
    path = tmp_path / f"cut{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    refused(architecture, path, tmp_path)


def test_wrong_architecture(architecture: Path, weights: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({k: v for k, v in weights.items() if k != "ln_final.weight"} | {"extra": torch.zeros(1)}, path)
    message = refused(architecture, path, tmp_path)
    assert "1 missing (such as 'ln_final.weight')" in message
    assert "1 unexpected (such as 'extra')" in message
    save_file({**weights, "text_projection": torch.zeros(32, 8)}, path)
    message = refused(architecture, path, tmp_path)
    assert "'text_projection': [32, 8] in the file, [32, 16] in the model" in message
    save_file({"unrelated": torch.zeros(1)}, path)
    refused(architecture, path, tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(value: float, architecture: Path, weights: Any, tmp_path: Path) -> None:
    path = tmp_path / "diverged.safetensors"
    bad = weights["ln_final.weight"].clone()
    bad[3] = value
    save_file({**weights, "ln_final.weight": bad}, path)
    assert "1 of the weights in 'ln_final.weight'" in refused(architecture, path, tmp_path)


def test_bad_folders(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text("{}")
    with pytest.raises(ClipevalError, match="model_cfg"):
        resolve({"name": f"local-dir:{folder}"}, tmp_path)
    shutil.copy(exported / "open_clip_config.json", folder)
    with pytest.raises(ClipevalError, match="holds no"):
        resolve({"name": f"local-dir:{folder}"}, tmp_path)
