"""PEFT adapters on open_clip and transformers models: the embeddings of the merged weights, or one error that says why not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from clipeval.configs.errors import ClipevalError
from clipeval.models import ModelHandle, resolve
from scripts.tiny_model import write_tiny_model
from tests.models.tiny_hugging_face import CLIP_PROCESSOR, write_hugging_face

peft = pytest.importorskip("peft")
TEXTS = ["a dog", "two red dogs"]
TARGETS = {"open_clip": ["c_fc", "c_proj", "out_proj"], "transformers": ["q_proj", "v_proj", "fc1"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("adapters")
    write_tiny_model(root / "open_clip", seed=1)
    write_tiny_model(root / "wide", seed=1, size=64)
    write_hugging_face(root / "transformers", "clip", CLIP_PROCESSOR)
    return root


def handle_of(folder: Path, route: str, cache: Path, adapter: Path | str | None = None, base: str = "") -> ModelHandle:
    where = folder / (base or route)
    named = (
        {"name": f"local-dir:{where}"}
        if route == "open_clip"
        else {"_target_": "clipeval.models.transformers.HuggingFace", "path": str(where)}
    )
    return resolve({**named, "adapter": None if adapter is None else str(adapter)}, cache)


def raw_model(folder: Path, route: str) -> Any:
    """As its library builds it."""
    if route == "open_clip":
        import open_clip

        return open_clip.create_model(f"local-dir:{folder / route}")
    import transformers

    return transformers.CLIPModel.from_pretrained(folder / route)


def trained(folder: Path, route: str, out: Path, **settings: Any) -> Path:
    """An adapter with weights that are not zero, as peft saves it."""
    torch.manual_seed(0)
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 16, "target_modules": TARGETS[route], **settings})
    model = peft.get_peft_model(raw_model(folder, route), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.data.normal_(std=0.3)
    model.save_pretrained(out)
    return out


def embeddings(handle: ModelHandle) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = torch.rand(2, *handle.preprocess.shape, generator=torch.Generator().manual_seed(0))
    with handle.load() as encoder:
        return encoder.encode_images(pixels), encoder.encode_texts(TEXTS)


def merged_by_hand(weights: dict[str, torch.Tensor], adapter: Path) -> dict[str, torch.Tensor]:
    """W + alpha / r x B A, of plain linear layers (Hu et al. 2021, arXiv:2106.09685)."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    parts = load_file(adapter / "adapter_model.safetensors")
    merged = dict(weights)
    for key in (key for key in parts if key.endswith(".lora_A.weight")):
        name = key.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
        delta = parts[key.replace("lora_A", "lora_B")] @ parts[key]
        merged[name] = weights[name] + config["lora_alpha"] / config["r"] * delta
    return merged


@pytest.mark.parametrize("route", ["open_clip", "transformers"])
def test_lora_gives_the_embeddings_of_merged_weights(folder: Path, route: str, tmp_path: Path) -> None:
    targets = ["c_fc", "c_proj"] if route == "open_clip" else TARGETS[route]
    adapter = trained(folder, route, tmp_path / "lora", target_modules=targets)
    file = "open_clip_model.safetensors" if route == "open_clip" else "model.safetensors"
    copy = tmp_path / "all" / route
    copy.mkdir(parents=True)
    for path in (folder / route).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    save_file(merged_by_hand(load_file(folder / route / file), adapter), copy / file, metadata={"format": "pt"})
    found = embeddings(handle_of(folder, route, tmp_path, adapter))
    plain = embeddings(handle_of(folder, route, tmp_path))
    for mine, reference, before in zip(found, embeddings(handle_of(copy.parent, route, tmp_path)), plain, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-5)
        assert (mine - before).abs().max() > 1e-3


@pytest.mark.parametrize("route", ["open_clip", "transformers"])
@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"use_rslora": True, "bias": "all"},
        {"rank_pattern": {"c_fc": 2, "fc1": 2}, "alpha_pattern": {"c_proj": 3, "q_proj": 3}},
    ],
    ids=["dora", "rslora", "patterns"],
)
def test_kinds_of_lora_as_peft_merges_them(folder: Path, route: str, settings: Any, tmp_path: Path) -> None:
    if settings.get("use_dora"):  # which peft has for no nn.MultiheadAttention, whose output projection that is
        settings = {**settings, "target_modules": [name for name in TARGETS[route] if name != "out_proj"]}
    adapter = trained(folder, route, tmp_path / "lora", **settings)
    model = peft.PeftModel.from_pretrained(raw_model(folder, route), str(adapter)).merge_and_unload()
    handle = handle_of(folder, route, tmp_path, adapter)
    with handle.load() as encoder:
        inner = encoder.model if route == "open_clip" else encoder.model.model
        mine, reference = inner.state_dict(), model.state_dict()
        assert mine.keys() == reference.keys()
        for name in reference:
            torch.testing.assert_close(mine[name], reference[name], rtol=0, atol=1e-6, msg=name)


def test_attention_of_open_clip(folder: Path, tmp_path: Path) -> None:
    """Its nn.MultiheadAttention, which peft adapts as a whole."""
    adapter = trained(folder, "open_clip", tmp_path / "lora", target_modules=["attn"])
    found, plain = (embeddings(handle_of(folder, "open_clip", tmp_path, a)) for a in (adapter, None))
    assert all((one - two).abs().max() > 1e-3 for one, two in zip(found, plain, strict=True))


def test_it_is_recorded_and_part_of_the_fingerprint(folder: Path, tmp_path: Path) -> None:
    one = trained(folder, "open_clip", tmp_path / "one")
    two = trained(folder, "open_clip", tmp_path / "two", lora_alpha=8)
    plain, first, second = (handle_of(folder, "open_clip", tmp_path, a) for a in (None, one, two))
    assert len({handle.weights_digest for handle in (plain, first, second)}) == 3
    assert len({handle.slug for handle in (plain, first, second)}) == 3
    described = first.describe()
    assert described["adapter"]["type"] == "LORA" and len(described["adapter"]["digest"]) == 16
    assert described["pretrained"] == "adapter one" and "adapter" not in plain.describe()
    assert second.describe()["adapter"]["digest"] != described["adapter"]["digest"]


@pytest.mark.parametrize("route", ["open_clip", "transformers"])
def test_missing_target_modules(folder: Path, route: str, tmp_path: Path) -> None:
    other = "transformers" if route == "open_clip" else "open_clip"
    names = TARGETS[other] if route == "transformers" else ["q_proj", "fc1"]
    adapter = trained(folder, other, tmp_path / "lora", target_modules=[n for n in names if n != "out_proj"])
    with pytest.raises(ClipevalError, match=r"has layers for the modules .*the model has none of these: it has "):
        handle_of(folder, route, tmp_path, adapter).load()


def test_another_base(folder: Path, tmp_path: Path) -> None:
    """Of another width, of fewer layers, and of the same shape but another name."""
    adapter = trained(folder, "transformers", tmp_path / "lora")
    config = json.loads((adapter / "adapter_config.json").read_text())
    weights = load_file(adapter / "adapter_model.safetensors")
    wide = {k: torch.zeros(v.shape[0], 64) if "lora_A" in k else v for k, v in weights.items()}
    save_file(wide, adapter / "adapter_model.safetensors")
    config["base_model_name_or_path"] = "org/wide-clip"
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(
        ClipevalError, match=r"is of another base \(trained on org/wide-clip\): its .* is \[4, 64\].*\[4, 16\]"
    ):
        handle_of(folder, "transformers", tmp_path, adapter).load()
    deep = {**weights, **{k.replace("layers.0", "layers.7"): v.clone() for k, v in weights.items() if "vision" in k}}
    save_file(deep, adapter / "adapter_model.safetensors")
    with pytest.raises(ClipevalError, match=r"6 left over \(such as .*layers\.7.*nearest: "):
        handle_of(folder, "transformers", tmp_path, adapter).load()
    save_file(weights, adapter / "adapter_model.safetensors")
    (flag,) = handle_of(folder, "transformers", tmp_path, adapter).flags
    assert "says that it was trained on org/wide-clip, and it is put on transformers" in flag
    config["base_model_name_or_path"] = "/home/me/transformers"
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    assert not handle_of(folder, "transformers", tmp_path, adapter).flags


def test_weights_that_are_lost(folder: Path, tmp_path: Path) -> None:
    adapter = trained(folder, "open_clip", tmp_path / "lora")
    weights = load_file(adapter / "adapter_model.safetensors")
    name = next(iter(weights))
    save_file({k: v for k, v in weights.items() if k != name}, adapter / "adapter_model.safetensors")
    with pytest.raises(ClipevalError, match=rf"1 missing \(such as '{name}'"):
        handle_of(folder, "open_clip", tmp_path, adapter).load()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"future_setting": 3}, r"has the settings future_setting, which peft .* update peft"),
        ({"peft_type": "NONE_SUCH"}, r"is of type NONE_SUCH, which peft .* does not know"),
        ({"peft_type": None}, "names no peft_type"),
        ({"trust_remote_code": True}, "asks for code"),
    ],
)
def test_configs_that_are_refused(folder: Path, change: dict[str, Any], said: str, tmp_path: Path) -> None:
    adapter = trained(folder, "open_clip", tmp_path / "lora")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ClipevalError, match=said):
        handle_of(folder, "open_clip", tmp_path, adapter).load()


def test_what_is_no_adapter(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ClipevalError, match=r"there is no .*adapter_config\.json"):
        handle_of(folder, "open_clip", tmp_path, tmp_path / "nothing")
    adapter = trained(folder, "open_clip", tmp_path / "lora")
    with pytest.raises(ClipevalError, match="is an adapter and no model"):
        resolve({"_target_": "clipeval.models.transformers.HuggingFace", "path": str(adapter)}, tmp_path)
    (adapter / "adapter_model.safetensors").unlink()
    handle = handle_of(folder, "open_clip", tmp_path, adapter)
    assert handle.missing is not None and "holds none of adapter_model.safetensors" in handle.missing


def test_weights_that_are_not_finite(folder: Path, tmp_path: Path) -> None:
    adapter = trained(folder, "open_clip", tmp_path / "lora")
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file({k: v * float("nan") for k, v in weights.items()}, adapter / "adapter_model.safetensors")
    with pytest.raises(ClipevalError, match=r"NaN"):
        handle_of(folder, "open_clip", tmp_path, adapter).load()


def test_peft_is_not_installed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = trained(folder, "open_clip", tmp_path / "lora")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ClipevalError, match=r"pip install 'clipeval\[adapters\]'"):
        handle_of(folder, "open_clip", tmp_path, adapter).load()
