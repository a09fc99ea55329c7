"""Checkpoints made by the libraries that write them: each loads the very weights of the model that was saved."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import nn

from clipeval.configs.errors import ClipevalError
from clipeval.models import ModelHandle, resolve
from scripts.tiny_model import config_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trainers")
    (root / "tiny-clip.json").write_text(json.dumps(config_of()))
    return root


@pytest.fixture(scope="module")
def gloo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of one, without a network."""
    store = tmp_path_factory.mktemp("gloo") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def made(folder: Path, seed: int = 3) -> Any:
    open_clip.add_model_config(folder)
    torch.manual_seed(seed)
    return open_clip.create_model("tiny-clip")


def handle_of(folder: Path, path: Path, tmp_path: Path, **more: Any) -> ModelHandle:
    return resolve(
        {"name": "tiny-clip", "pretrained": str(path), "config_dir": str(folder), **more}, tmp_path / "cache"
    )


def check(handle: ModelHandle, model: nn.Module) -> None:
    with handle.load() as encoder:
        mine, reference = encoder.model.state_dict(), model.state_dict()
        assert mine.keys() == reference.keys()
        assert all(torch.equal(mine[name], reference[name]) for name in reference)


def test_compiled_and_distributed(folder: Path, gloo: None, tmp_path: Path) -> None:
    model = made(folder)
    wrapped = nn.parallel.DistributedDataParallel(torch.compile(model))  # type: ignore[arg-type]
    names = list(wrapped.state_dict())
    assert names[0].startswith("module._orig_mod.")
    torch.save({"epoch": 3, "state_dict": wrapped.state_dict(), "optimizer": {}}, tmp_path / "epoch_3.pt")
    check(handle_of(folder, tmp_path / "epoch_3.pt", tmp_path), model)


def test_fsdp_full_state_dict(folder: Path, gloo: None, tmp_path: Path) -> None:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.fsdp import fully_shard

    model, sharded = made(folder), made(folder)
    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    for block in (*sharded.visual.transformer.resblocks, *sharded.transformer.resblocks):
        fully_shard(block, mesh=mesh)
    fully_shard(sharded, mesh=mesh, ignored_params={sharded.logit_scale})  # it takes no scalars
    whole = get_model_state_dict(sharded, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    torch.save({"state_dict": whole}, tmp_path / "fsdp.pt")
    check(handle_of(folder, tmp_path / "fsdp.pt", tmp_path), model)


def test_fsdp_in_shards_says_what_joins_them(folder: Path, gloo: None, tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    model = made(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"model": model.state_dict()}, checkpoint_id=str(tmp_path / "shards"))
    with pytest.raises(ClipevalError, match=r"in shards; join them first, with `python -m .*dcp_to_torch "):
        handle_of(folder, tmp_path / "shards", tmp_path)
    dcp_to_torch_save(str(tmp_path / "shards"), str(tmp_path / "joined.pt"))
    check(handle_of(folder, tmp_path / "joined.pt", tmp_path), model)


def test_ema_of_torch_and_of_timm(folder: Path, tmp_path: Path) -> None:
    from timm.utils import ModelEmaV3
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    model = made(folder)
    averages = {
        "ema": AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True),
        "state_dict_ema": ModelEmaV3(model, decay=0.5),
    }
    for name, average in averages.items():
        for _ in range(2):
            for parameter in model.parameters():
                parameter.data.add_(0.01)
            average.update_parameters(model) if name == "ema" else average.update(model)
        path = tmp_path / f"{name}.pt"
        torch.save({"state_dict": model.state_dict(), name: average.state_dict()}, path)
        plain = handle_of(folder, path, tmp_path)
        check(plain, model)
        assert any("also holds averaged (EMA) weights" in flag for flag in plain.checkpoint_flags())
        check(handle_of(folder, path, tmp_path, ema=True), average.module)


def test_lightning(folder: Path, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    model = made(folder)

    class Training(lightning.LightningModule):
        def __init__(self, rate: float = 0.1) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.model = model

        def training_step(self, batch: Any, index: int) -> Any:
            return self.model.logit_scale.sum()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.hparams.rate)

    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = lightning.Trainer(max_steps=1, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(Training(), torch.utils.data.DataLoader([torch.zeros(1)]))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert "model.logit_scale" in content["state_dict"] and "hyper_parameters" in content
    check(handle_of(folder, tmp_path / "last.ckpt", tmp_path), model)


def test_accelerate_and_safetensors_in_shards(folder: Path, tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = made(folder)
    accelerate.Accelerator(cpu=True).save_model(model, str(tmp_path / "out"), max_shard_size="300KB")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    check(handle_of(folder, tmp_path / "out", tmp_path), model)


def test_a_jit_archive(folder: Path, tmp_path: Path) -> None:
    model = made(folder).eval()
    images, texts = torch.zeros(1, 3, 32, 32), torch.zeros(1, 77, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(model, (images, texts), check_trace=False), str(tmp_path / "traced.pt"))
    check(handle_of(folder, tmp_path / "traced.pt", tmp_path), model)


def test_a_distillation(folder: Path, tmp_path: Path) -> None:
    pair = nn.ModuleDict({"student": made(folder), "teacher": made(folder, seed=4)})
    torch.save({"model": pair.state_dict()}, tmp_path / "pair.pt")
    for name in pair:
        check(handle_of(folder, tmp_path / "pair.pt", tmp_path, state_dict=name), pair[name])
    with pytest.raises(ClipevalError, match=r"model\.state_dict=model\.student or model\.state_dict=model\.teacher"):
        handle_of(folder, tmp_path / "pair.pt", tmp_path).load()
