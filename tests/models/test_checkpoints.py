"""Checkpoints as training scripts write them: each loads the very weights, says which of several they are, or is refused."""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import os
import pathlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.factory import load_checkpoint
from safetensors.torch import load_file, save_file

from clipeval.configs.compose import compose
from clipeval.configs.errors import ClipevalError
from clipeval.models import ModelHandle, resolve
from clipeval.models.fitting import architectures_that_fit
from scripts.tiny_model import KINDS, config_of, write_tiny_model
from tests.models.tiny_hugging_face import CLIP_PROCESSOR, SIGLIP_PROCESSOR, write_hugging_face

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An architecture folder with every kind, and the weights of two models of the plain one."""
    root = tmp_path_factory.mktemp("checkpoints")
    (root / "architectures").mkdir()
    for kind in KINDS:
        (root / "architectures" / f"tiny-{kind}.json").write_text(json.dumps(config_of(kind)))
    large = config_of()
    large["vision_cfg"]["layers"] = 3
    (root / "architectures" / "tiny-deeper.json").write_text(json.dumps(large))
    write_tiny_model(root / "one", seed=1)
    write_tiny_model(root / "two", seed=2)
    return root


@pytest.fixture(scope="module")
def one(shared: Path) -> State:
    return load_file(shared / "one" / "open_clip_model.safetensors")


@pytest.fixture(scope="module")
def two(shared: Path) -> State:
    return load_file(shared / "two" / "open_clip_model.safetensors")


def handle_of(shared: Path, path: Path, kind: str = "clip", **more: Any) -> ModelHandle:
    config = {"name": f"tiny-{kind}", "pretrained": str(path), "config_dir": str(shared / "architectures"), **more}
    return resolve(config, path.parent / "cache")


def loaded(handle: ModelHandle) -> State:
    with handle.load() as encoder:
        return {name: tensor.clone() for name, tensor in encoder.model.state_dict().items()}


def holds(state: State, wanted: State) -> bool:
    return state.keys() == wanted.keys() and all(torch.equal(state[name], wanted[name].float()) for name in wanted)


def below(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def inside(name: str, state: State) -> State:
    """As torch.compile and FSDP name parts of a model that are wrapped alone."""
    return {
        key.replace("visual.", f"visual.{name}.").replace("resblocks.0.", f"resblocks.0.{name}."): t
        for key, t in state.items()
    }


PLAIN: dict[str, Callable[[State], Any]] = {
    "compiled": lambda s: below("_orig_mod.", s),
    "ddp": lambda s: below("module.", s),
    "ddp of compiled": lambda s: below("module._orig_mod.", s),
    "compiled ddp": lambda s: {"state_dict": below("_orig_mod.module.", s)},
    "twice compiled": lambda s: below("_orig_mod.module._orig_mod.", s),
    "lightning": lambda s: {
        "epoch": 3,
        "state_dict": below("model.", s),
        "pytorch-lightning_version": "2.1",
        "loops": {},
    },
    "lightning net": lambda s: {"state_dict": below("net._orig_mod.", s)},
    "lightning clip": lambda s: {"state_dict": below("clip_model.module.", s)},
    "student": lambda s: below("student.", s),
    "teacher": lambda s: {"teacher": below("module.", s)},
    "model": lambda s: {"model": s, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}, "step": torch.tensor(5)},
    "model of state_dict": lambda s: {"checkpoint": {"model_state_dict": {"state_dict": s}}},
    "optimizer by names": lambda s: {"model": s, "optimizer": {"exp_avg": s, "exp_avg_sq": s}},
    "deepspeed": lambda s: {"module": s, "optimizer": None, "ds_version": "0.14", "dp_world_size": 8},
    "fsdp": lambda s: {"model": inside("_fsdp_wrapped_module", s)},
    "checkpointing": lambda s: inside("_checkpoint_wrapped_module", s),
    "compiled parts": lambda s: inside("_orig_mod", s),
    "by towers": lambda s: {
        "visual": {k.removeprefix("visual."): v for k, v in s.items() if k.startswith("visual.")},
        **{k: v for k, v in s.items() if not k.startswith("visual.")},
    },
    "twice the same": lambda s: {"model": s, "state_dict": {k: v.clone() for k, v in s.items()}},
    "half precision": lambda s: {"state_dict": {k: v.half() for k, v in s.items()}},
    "rng": lambda s: {"state_dict": s, "rng_state": torch.get_rng_state(), "cuda_rng": [torch.zeros(4)]},
}


@pytest.mark.parametrize("form", PLAIN)
def test_every_wrapping_loads_the_very_weights(form: str, shared: Path, one: State, tmp_path: Path) -> None:
    path = tmp_path / "epoch_1.pt"
    torch.save(PLAIN[form](one), path)
    handle = handle_of(shared, path)
    wanted = {k: v.half() for k, v in one.items()} if form == "half precision" else one
    assert holds(loaded(handle), wanted)
    assert handle.checkpoint_flags() == ()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("resnet", "siglip")])
def test_as_open_clip_loads_it(kind: str, shared: Path, tmp_path: Path) -> None:
    """Each text tower, from its own weights and from the layout before `text.`, as open_clip's own loader has it."""
    write_tiny_model(tmp_path / "m", kind=kind, seed=3)
    state = load_file(tmp_path / "m" / "open_clip_model.safetensors")
    older = {name.removeprefix("text."): tensor for name, tensor in state.items() if name != "logit_bias"}
    for number, given in enumerate([state, older] if "custom_text" in KINDS[kind] and kind != "coca" else [state]):
        path = tmp_path / f"{number}.pt"
        torch.save({"state_dict": below("module.", given)}, path)
        reference = open_clip.create_model(f"local-dir:{tmp_path / 'm'}", load_weights=False)
        load_checkpoint(reference, str(path))
        assert holds(loaded(handle_of(shared, path, kind)), reference.state_dict())


AVERAGED: dict[str, Callable[[State, State], Any]] = {
    "timm": lambda s, e: {"state_dict": s, "state_dict_ema": e},
    "ema": lambda s, e: {"model": s, "ema": e},
    "shadow": lambda s, e: {"model": s, "ema": {"shadow": e, "decay": 0.999}},
    "model_ema": lambda s, e: {"model": s, "model_ema": below("module.", e)},
    "lightning": lambda s, e: {"state_dict": {**below("model.", s), **below("ema_model.", e)}},
    "averaged in lightning": lambda s, e: {
        "state_dict": {**below("net.", s), **below("copy.module.", e), "copy.n_averaged": torch.tensor(7)}
    },
    "AveragedModel": lambda s, e: {"model": s, "slow": {**below("module.", e), "n_averaged": torch.tensor(7)}},
}


class TestEma:
    @pytest.mark.parametrize("form", AVERAGED)
    def test_both(self, form: str, shared: Path, one: State, two: State, tmp_path: Path) -> None:
        path = tmp_path / "last.pt"
        torch.save(AVERAGED[form](one, two), path)
        plain, averaged = handle_of(shared, path), handle_of(shared, path, ema=True)
        assert holds(loaded(plain), one)
        assert holds(loaded(averaged), two)
        assert any("also holds averaged (EMA) weights" in flag for flag in plain.checkpoint_flags())
        assert any(flag.startswith("averaged (EMA) weights") for flag in averaged.checkpoint_flags())
        assert plain.weights_digest != averaged.weights_digest
        assert plain.slug != averaged.slug
        assert averaged.describe()["ema"] is True and "ema" not in plain.describe()

    def test_alone(self, shared: Path, two: State, tmp_path: Path) -> None:
        """AveragedModel's own state dict: averaged, whether that was asked for or not."""
        path = tmp_path / "swa.pt"
        torch.save({**below("module.", two), "n_averaged": torch.tensor(7)}, path)
        handle = handle_of(shared, path)
        assert holds(loaded(handle), two)
        assert "it holds no others" in handle.checkpoint_flags()[0]
        assert holds(loaded(handle_of(shared, path, ema=True)), two)

    def test_none(self, shared: Path, one: State, tmp_path: Path) -> None:
        path = tmp_path / "last.pt"
        torch.save({"state_dict": one}, path)
        with pytest.raises(ClipevalError, match=r"model\.ema=true, and .* holds no averaged .*'state_dict'"):
            handle_of(shared, path, ema=True).load()

    def test_plain_weights_that_are_torn_are_not_passed_over(
        self, shared: Path, one: State, two: State, tmp_path: Path
    ) -> None:
        path = tmp_path / "last.pt"
        torn = {k: v for k, v in one.items() if k != "ln_final.weight"}
        torch.save({"state_dict": torn, "state_dict_ema": two}, path)
        with pytest.raises(ClipevalError, match=r"1 missing \(such as 'ln_final\.weight'"):
            handle_of(shared, path).load()

    def test_flags_of_a_run_that_loads_nothing(self, shared: Path, one: State, two: State, tmp_path: Path) -> None:
        """Where every feature is cached, the model is never loaded: what is to be said is the same."""
        path = tmp_path / "last.pt"
        torch.save({"state_dict": one, "ema": two}, path)
        first = handle_of(shared, path)
        first.load().close()
        again = handle_of(shared, path)
        assert again.checkpoint_flags() == first.checkpoint_flags() != ()
        (memory,) = (tmp_path / "cache" / "checkpoints").iterdir()
        memory.unlink()
        assert handle_of(shared, path).checkpoint_flags() == first.checkpoint_flags()

    def test_words(self, tmp_path: Path) -> None:
        words = [
            "model=open_clip",
            "model.name=ViT-B-32",
            f"model.pretrained={tmp_path}/e.pt",
            "suite=none",
            "task=mnist",
        ]
        words.append(f"data.root={tmp_path}")
        plain, ema = compose(words), compose([*words, "model.ema=true"])
        teacher = compose([*words, "model.state_dict=teacher"])
        assert ema.out == f"{plain.out}__ema" and teacher.out == f"{plain.out}__teacher"


class TestSeveral:
    @pytest.mark.parametrize("form", ["flat", "nested"])
    def test_teacher_and_student(self, form: str, shared: Path, one: State, two: State, tmp_path: Path) -> None:
        path = tmp_path / "dino.pt"
        nested = {"student": below("module.", one), "teacher": below("module.", two)}
        torch.save(nested if form == "nested" else {**below("student.", one), **below("teacher.", two)}, path)
        with pytest.raises(ClipevalError, match=r"model\.state_dict=student or model\.state_dict=teacher"):
            handle_of(shared, path).load()
        teacher = handle_of(shared, path, state_dict="teacher")
        assert holds(loaded(teacher), two)
        assert "'teacher'" in teacher.checkpoint_flags()[0]
        assert holds(loaded(handle_of(shared, path, state_dict="student")), one)
        with pytest.raises(ClipevalError, match="'student', 'teacher'"):
            handle_of(shared, path, state_dict="teacher2").load()

    def test_top_and_below(self, shared: Path, one: State, two: State, tmp_path: Path) -> None:
        """A state dict that holds its own teacher: neither is taken by chance."""
        path = tmp_path / "mixed.safetensors"
        save_file({**one, **below("teacher.", two)}, path)
        with pytest.raises(ClipevalError, match=r"model\.state_dict=teacher"):
            handle_of(shared, path).load()
        assert holds(loaded(handle_of(shared, path, state_dict="teacher")), two)

    def test_a_teacher_of_another_architecture_is_said(self, shared: Path, one: State, tmp_path: Path) -> None:
        write_tiny_model(tmp_path / "resnet", kind="resnet")
        other = load_file(tmp_path / "resnet" / "open_clip_model.safetensors")
        path = tmp_path / "distilled.ckpt"
        torch.save({"state_dict": {**below("model.", one), **below("teacher.", other)}}, path)
        handle = handle_of(shared, path)
        assert holds(loaded(handle), one)
        assert f"{len(other)} tensors outside of 'state_dict.model' were left out" in handle.checkpoint_flags()[0]


class TestFiles:
    def test_shards(self, shared: Path, one: State, two: State, tmp_path: Path) -> None:
        folder = tmp_path / "sharded"
        folder.mkdir()
        names = list(one)
        parts = {"m-00001-of-00002.safetensors": names[:9], "m-00002-of-00002.safetensors": names[9:]}
        for file, keys in parts.items():
            save_file({key: one[key] for key in keys}, folder / file)
        index = folder / "m.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {key: file for file, keys in parts.items() for key in keys}}))
        handle = handle_of(shared, index)
        assert holds(loaded(handle), one)
        assert holds(loaded(handle_of(shared, folder)), one)
        before = handle.weights_digest
        changed = folder / "m-00002-of-00002.safetensors"
        save_file({key: two[key] for key in names[9:]}, changed)
        os.utime(changed, ns=(1, 1))
        assert handle_of(shared, index).weights_digest != before, "a shard is a part of the weights"
        save_file({key: two[key] for key in names[10:]}, changed)
        with pytest.raises(ClipevalError, match="names 1 weights that its shards lack"):
            handle_of(shared, index).load()
        changed.unlink()
        with pytest.raises(ClipevalError, match=r"m-00002-of-00002\.safetensors, which does not lie beside it"):
            handle_of(shared, index).load()

    def test_folders(self, shared: Path, one: State, tmp_path: Path) -> None:
        folder = tmp_path / "global_step10"
        folder.mkdir()
        with pytest.raises(ClipevalError, match="holds no checkpoint"):
            handle_of(shared, folder)
        torch.save({"module": one}, folder / "mp_rank_00_model_states.pt")
        torch.save({"optimizer_state_dict": {}}, folder / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
        assert holds(loaded(handle_of(shared, folder)), one)
        torch.save({"module": one}, folder / "mp_rank_01_model_states.pt")
        with pytest.raises(ClipevalError, match="several checkpoints"):
            handle_of(shared, folder)
        with pytest.raises(ClipevalError, match="one part of a model"):
            handle_of(shared, folder / "mp_rank_00_model_states.pt").load()
        (tmp_path / "dcp").mkdir()
        (tmp_path / "dcp" / "__0_0.distcp").write_bytes(b"")
        with pytest.raises(ClipevalError, match="dcp_to_torch"):
            handle_of(shared, tmp_path / "dcp")

    def test_zero_stage_3(self, shared: Path, one: State, tmp_path: Path) -> None:
        path = tmp_path / "mp_rank_00_model_states.pt"
        torch.save({"module": {name: torch.zeros(0) for name in one}}, path)
        with pytest.raises(ClipevalError, match="zero_to_fp32") as caught:
            handle_of(shared, path).load()
        assert "another architecture" not in str(caught.value)

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("half", [False, True])
    def test_torchscript_archive(self, half: bool, shared: Path, one: State, tmp_path: Path, monkeypatch: Any) -> None:
        """As OpenAI's own files: methods traced, half precision, and three numbers beside the weights."""
        model = open_clip.create_model(f"local-dir:{shared / 'one'}").eval()
        for name, number in (("input_resolution", 32), ("context_length", 77), ("vocab_size", 49408)):
            model.__dict__.pop(name, None)
            model.register_buffer(name, torch.tensor(number))
        examples = {"encode_image": torch.zeros(1, 3, 32, 32), "encode_text": torch.zeros(1, 77, dtype=torch.long)}
        script = torch.jit.trace_module(model, examples, check_trace=False)
        path = tmp_path / "archive.pt"
        (script.half() if half else script).save(str(path))

        def never(*given: Any, **named: Any) -> None:
            raise AssertionError("an archive's code was loaded")

        monkeypatch.setattr(torch.jit, "load", never)
        wanted = {name: tensor.half() for name, tensor in one.items()} if half else one
        assert holds(loaded(handle_of(shared, path)), wanted)
        with pytest.raises(ClipevalError, match=r"of another architecture.*TorchScript"):
            handle_of(shared, path, "deeper").load()

    @pytest.mark.filterwarnings("ignore")
    def test_torchscript_archive_says_quickgelu(self, shared: Path, tmp_path: Path) -> None:
        write_tiny_model(tmp_path / "quick", kind="quickgelu")
        model = open_clip.create_model(f"local-dir:{tmp_path / 'quick'}").eval()
        examples = {"encode_image": torch.zeros(1, 3, 32, 32), "encode_text": torch.zeros(1, 77, dtype=torch.long)}
        torch.jit.trace_module(model, examples, check_trace=False).save(str(tmp_path / "quick.pt"))
        mismatch = [flag for flag in handle_of(shared, tmp_path / "quick.pt").flags if "QuickGELU mismatch" in flag]
        assert len(mismatch) == 1
        assert not any("QuickGELU" in flag for flag in handle_of(shared, tmp_path / "quick.pt", "quickgelu").flags)


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


class OfMine:
    """A class of a training script."""


class TestPickles:
    @pytest.mark.parametrize("new", [True, False])
    def test_plain_data_beside_the_weights(self, new: bool, shared: Path, one: State, tmp_path: Path) -> None:
        path = tmp_path / "epoch_9.pt"
        counts: dict[str, int] = collections.defaultdict(int)
        counts["seen"] = 3
        beside = {
            "args": argparse.Namespace(lr=1e-3, out=pathlib.Path("/tmp")),
            "best": np.float64(0.5),
            "step": np.int64(7),
            "when": datetime.datetime(2026, 1, 1),
            "history": np.arange(4.0),
            "counts": counts,
            "rng": np.random.RandomState(0).get_state(),
        }
        torch.save({"state_dict": one, **beside}, path, _use_new_zipfile_serialization=new)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert holds(loaded(handle_of(shared, path)), one)

    @pytest.mark.parametrize("new", [True, False])
    @pytest.mark.parametrize("location", ["args", "state_dict", "in a namespace"])
    def test_code_is_refused_by_its_name(
        self, location: str, new: bool, shared: Path, one: State, tmp_path: Path
    ) -> None:
        path, mark = tmp_path / "evil.pt", tmp_path / "pwned"
        content: dict[str, Any] = {"state_dict": dict(one), "args": argparse.Namespace()}
        if location == "state_dict":
            content["state_dict"]["extra"] = Evil(mark)
        else:
            content["args"] = Evil(mark) if location == "args" else argparse.Namespace(x=Evil(mark))
        torch.save(content, path, _use_new_zipfile_serialization=new)
        with pytest.raises(ClipevalError, match=r"holds more than weights \((posix|nt)\.system.*refused"):
            handle_of(shared, path).load()
        assert not mark.exists()

    def test_a_class_of_ones_own_is_named(self, shared: Path, one: State, tmp_path: Path) -> None:
        path = tmp_path / "config.pt"
        torch.save({"state_dict": one, "config": OfMine()}, path)
        with pytest.raises(ClipevalError, match=r"OfMine.*Save the state_dict\(\) alone"):
            handle_of(shared, path).load()

    def test_stand_ins_do_not_stay(self, shared: Path, one: State, tmp_path: Path) -> None:
        torch.save({"state_dict": one, "args": argparse.Namespace()}, tmp_path / "a.pt")
        before = torch.serialization.get_safe_globals()
        handle_of(shared, tmp_path / "a.pt").load().close()
        assert torch.serialization.get_safe_globals() == before


class TestMisfits:
    def refused(self, shared: Path, path: Path, content: Any, kind: str = "clip") -> str:
        torch.save(content, path)
        with pytest.raises(ClipevalError) as caught:
            handle_of(shared, path, kind).load()
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
        return str(caught.value)

    def test_a_renamed_weight(self, shared: Path, one: State, tmp_path: Path) -> None:
        renamed = {name.replace("ln_final.weight", "ln_final.gamma_weight"): tensor for name, tensor in one.items()}
        message = self.refused(shared, tmp_path / "a.pt", {"state_dict": renamed})
        assert "another architecture" not in message
        assert "1 missing (such as 'ln_final.weight'; nearest: 'ln_final.gamma_weight')" in message
        assert "1 unexpected (such as 'ln_final.gamma_weight'; nearest: 'ln_final.weight')" in message

    def test_a_weight_too_many(self, shared: Path, one: State, tmp_path: Path) -> None:
        message = self.refused(shared, tmp_path / "a.pt", {**one, "head.weight": torch.zeros(2)})
        assert "1 unexpected (such as 'head.weight')" in message and "another architecture" not in message

    @pytest.mark.parametrize("kind", ["deeper", "resnet"])
    def test_another_architecture(self, kind: str, shared: Path, one: State, tmp_path: Path) -> None:
        message = self.refused(shared, tmp_path / "a.pt", {"state_dict": one}, kind)
        assert "is of another architecture" in message
        offered = message.partition("Its shapes are those of model.name=")[2].split(" or ")
        assert "tiny-clip" in offered and f"tiny-{kind}" not in offered

    def test_the_architecture_that_fits(self) -> None:
        """Of open_clip's own, told from a checkpoint's shapes alone."""
        for name in ("ViT-B-32", "ViT-L-14-336", "coca_ViT-B-32", "ViT-B-16-plus-240"):
            weights = open_clip.create_model(name, device="meta").state_dict()
            assert name in architectures_that_fit(weights)
        assert architectures_that_fit({"visual.trunk.patch_embed.proj.weight": torch.zeros(2)}) == []

    def test_another_width(self, shared: Path, one: State, tmp_path: Path) -> None:
        message = self.refused(shared, tmp_path / "a.pt", {**one, "text_projection": torch.zeros(32, 8)})
        assert "is of another architecture" in message and "[32, 8] in the file, [32, 16] in the model" in message

    def test_transformers_names(self, shared: Path, tmp_path: Path) -> None:
        state = {"vision_model.encoder.layers.0.layer_norm1.weight": torch.zeros(2), "logit_scale": torch.zeros(())}
        message = self.refused(shared, tmp_path / "a.pt", state)
        assert "model=hf_transformers" in message and "another architecture" not in message

    def test_an_adapter(self, shared: Path, one: State, tmp_path: Path) -> None:
        state = below("base_model.model.", {**one, "visual.proj.lora_A.weight": torch.zeros(2)})
        assert "adapter (LoRA)" in self.refused(shared, tmp_path / "a.pt", state)

    @pytest.mark.parametrize(
        "content", [{}, {"epoch": 3}, [1, 2], {"a": torch.zeros(1)}, {"state_dict": {}}, torch.zeros(2)]
    )
    def test_no_weights(self, content: Any, shared: Path, tmp_path: Path) -> None:
        assert "holds no weights" in self.refused(shared, tmp_path / "a.pt", content)

    def test_one_tower(self, shared: Path, one: State, tmp_path: Path) -> None:
        tower = {name: tensor for name, tensor in one.items() if name.startswith("visual.")}
        assert "missing" in self.refused(shared, tmp_path / "a.pt", {"state_dict": tower})


def test_positions_that_are_interpolated_are_said(shared: Path, tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "large", size=64)
    handle = handle_of(shared, tmp_path / "large" / "open_clip_model.safetensors")
    reference = open_clip.create_model(f"local-dir:{shared / 'one'}", load_weights=False)
    load_checkpoint(reference, str(tmp_path / "large" / "open_clip_model.safetensors"))
    assert holds(loaded(handle), reference.state_dict())
    said = [flag for flag in handle.flags if "was interpolated from 4x4 to 2x2 patches" in flag]
    assert said == list(handle.checkpoint_flags()), "once, whoever found it"


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_transformers_folder_is_held_to_the_same(kind: str, tmp_path: Path) -> None:
    folder = write_hugging_face(tmp_path / "hf", kind, CLIP_PROCESSOR if kind == "clip" else SIGLIP_PROCESSOR)
    file = folder / "model.safetensors"
    state = load_file(file)

    def embedding() -> torch.Tensor:
        handle = resolve(
            {"_target_": "clipeval.models.transformers.HuggingFace", "path": str(folder)}, tmp_path / "cache"
        )
        with handle.load() as encoder:
            return encoder.encode_texts(["a photo of two dogs"])

    wanted = embedding()
    for prefix in ("_orig_mod.", "module._orig_mod.", "model."):
        save_file(below(prefix, state), file, {"format": "pt"})
        assert torch.allclose(embedding(), wanted, atol=1e-6), prefix
    name = "text_model.final_layer_norm.weight"
    save_file({key: tensor for key, tensor in state.items() if key != name}, file, {"format": "pt"})
    with pytest.raises(ClipevalError, match=rf"1 missing \(such as '{name}'\)") as caught:
        embedding()
    assert "another architecture" not in str(caught.value) and "hf_transformers" not in str(caught.value)
    save_file({**state, "classifier.weight": torch.zeros(2)}, file, {"format": "pt"})
    with pytest.raises(ClipevalError, match=r"1 weights that a \w+ has not \(such as 'classifier\.weight'\)"):
        embedding()
    save_file({**state, "text_model.embeddings.position_ids": torch.arange(12)[None]}, file, {"format": "pt"})
    assert torch.allclose(embedding(), wanted, atol=1e-6), "older versions of transformers kept these numbers too"
