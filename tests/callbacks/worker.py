"""One rank of a training run of a few steps.

    python -m torch.distributed.run --standalone --nproc_per_node 2 tests/callbacks/worker.py TRAINER[,TRAINER…] OUT

Each trainer trains twice, without the callback and with it; OUT/TRAINER.json of rank 0 says what came of both.
"""

from __future__ import annotations

import json
import os
import random
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.distributed as dist

from clipeval import evaluate
from clipeval.callbacks.zero_shot import ZeroShot
from scripts.tiny_model import config_of
from tests.models.tiny_hugging_face import CLIP_PROCESSOR, write_hugging_face

WORDS = ["+task@tasks.digits=quickstart_digits", "+task@tasks.emoji=quickstart_emoji_retrieval", "data.limit=40"]
GIVEN: dict[str, Any] = {"suite": "none", "every": 2, "overrides": [*WORDS, "runtime.workers=0"]}
STEPS = 4
KNOWN = "dog,dogs,two,red,two dogs,red dog,red dogs,two red,red two,dogs two"
"""Class names of ten classes in the words that the tiny tokenizer knows: what it does not know is one word, and ties."""


def evaluated(model: Any, tokenizer: Any, transform: Any, overrides: list[str]) -> dict[str, Any]:
    """What one process says alone."""
    table = evaluate(model, tokenizer, transform, "none", overrides=overrides)
    return {row.task: row.metrics for row in table.itertuples()}


def states() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate()[1], np.random.get_state()[1].tolist()]


class Watched:
    """Notes of each evaluation what it changed, and what one process says of the same weights."""

    def __init__(self, callback: ZeroShot, towers: Any) -> None:
        self.changed: list[str] = []
        self.alone: dict[str, Any] = {}
        self.callback, self.towers, self._step = callback, towers, callback.step
        callback.step = self.step  # type: ignore[method-assign]

    def step(self, model: Any, step: int, processor: Any = None) -> Any:
        due = self.callback.due(step)
        before, modes = states(), [part.training for part in model.modules()]
        scores = self._step(model, step, processor)
        self.changed += ["random state"] * (states() != before)
        self.changed += ["modes"] * ([part.training for part in model.modules()] != modes)
        if due:
            sums = self.callback._ranks.ask(sum(float(p.detach().double().sum()) for p in model.parameters()))
            self.changed += [f"weights of the ranks: {sums}"] * (len(set(sums)) > 1)
        if due and self.callback._ranks.first:
            self.alone[str(step)] = evaluated(*self.towers(model), self.callback.overrides)
        return scores

    def report(self) -> dict[str, Any]:
        tables = {str(s): {r.task: r.metrics for r in t.itertuples()} for s, t in self.callback.tables.items()}
        flags = [row.flags for table in self.callback.tables.values() for row in table.itertuples()]
        names = [row.name for table in self.callback.tables.values() for row in table.itertuples()]
        return {
            "changed": self.changed,
            "alone": self.alone,
            "tables": tables,
            "flags": flags,
            "names": names,
            "failures": list(self.callback.failures.values()),
            "ranks": self.callback._ranks.count,
        }


def difference(one: Any, other: Any) -> float:
    assert one.keys() == other.keys()
    return max(float((one[k].float() - other[k].float()).abs().max()) for k in one)


def with_open_clip(out: Path) -> dict[str, Any]:
    from open_clip_train.main import main

    from clipeval.callbacks.open_clip import ZeroShotCallback

    class OnCpu(torch.nn.parallel.DistributedDataParallel):
        """The trainer names the device of each replica, which DistributedDataParallel refuses of CPUs."""

        def __init__(self, module: Any, device_ids: Any = None, **more: Any) -> None:
            super().__init__(module, **more)

    torch.nn.parallel.DistributedDataParallel = OnCpu  # type: ignore[misc]
    (out / "archs").mkdir(exist_ok=True)
    (out / "archs" / "Tiny-Train.json").write_text(json.dumps(config_of()))
    open_clip.add_model_config(out / "archs")
    words = "--model Tiny-Train --dataset-type synthetic --train-num-samples 32 --batch-size 4 --epochs 1 --workers 0 --warmup 1"
    words += f" --lr 0.01 --device cpu --dist-backend gloo --precision fp32 --logs {out / 'logs'} --report-to tensorboard --seed 3"
    main([*words.split(), "--name", "plain"])
    dist.init_process_group = lambda *given, **more: None  # type: ignore[assignment]  # the second training has it already
    callback = ZeroShotCallback(**GIVEN)
    _, _, transform = open_clip.create_model_and_transforms("Tiny-Train")
    watched = Watched(callback, lambda model: (model.module, open_clip.get_tokenizer("Tiny-Train"), transform))
    with callback.attached():
        main([*words.split(), "--name", "watched"])
    weights = [
        torch.load(out / "logs" / name / "checkpoints" / "epoch_1.pt", weights_only=True)["state_dict"]
        for name in ("plain", "watched")
    ]
    lines = (out / "logs" / "watched" / "checkpoints" / "results.jsonl").read_text().splitlines()
    drawn = list((out / "logs" / "watched" / "tensorboard").iterdir())
    return {
        **watched.report(),
        "weights": difference(*weights),
        "logged": [json.loads(line) for line in lines],
        "drawn": len(drawn),
    }


def with_lightning(out: Path) -> dict[str, Any]:
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import CSVLogger
    from open_clip.model import set_model_preprocess_cfg
    from open_clip.transform import PreprocessCfg

    from clipeval.callbacks.lightning import ZeroShotCallback

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.clip = open_clip.model.CLIP(**config_of())
            set_model_preprocess_cfg(self.clip, asdict(PreprocessCfg(size=32)))
            self.drop = torch.nn.Dropout(0.5)

        def training_step(self, batch: Any, index: int) -> Any:
            images = torch.nn.functional.normalize(self.drop(self.clip.encode_image(batch)), dim=-1)
            return (images @ images.T).mean() + self.clip.logit_scale

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=0.01)

    def train(callbacks: list[Any], name: str) -> Module:
        pl.seed_everything(1, verbose=False)
        module, data = Module(), torch.rand(4 * 2 * STEPS, 3, 32, 32)
        logger = CSVLogger(out, name=name, version="0")
        trainer = pl.Trainer(
            accelerator="cpu", devices=2, strategy="ddp_find_unused_parameters_true", max_steps=STEPS, callbacks=callbacks,
            logger=logger, enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1, default_root_dir=out,
        )  # fmt: skip
        trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=4))
        train.metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}  # type: ignore[attr-defined]
        return module

    plain = train([], "plain").state_dict()
    callback = ZeroShotCallback(**GIVEN)
    tokenizer = open_clip.SimpleTokenizer()
    watched = Watched(callback, lambda module: (module.clip, tokenizer, open_clip.image_transform(32, is_train=False)))
    with_it = train([callback], "watched").state_dict()
    file = out / "watched" / "0" / "metrics.csv"
    return {
        **watched.report(),
        "weights": difference(plain, with_it),
        "monitored": train.metrics,  # type: ignore[attr-defined]
        "header": file.read_text().splitlines()[0] if file.exists() else "",
    }


def with_trainer(out: Path) -> dict[str, Any]:
    import transformers

    from clipeval.callbacks.huggingface import ZeroShotCallback
    from clipeval.models import resolve

    folder = out / "hugging_face"
    together = dist.is_initialized()  # then transformers saves on the first rank alone
    if not together or dist.get_rank() == 0:
        folder = folder if together else out / f"hugging_face{os.environ.get('RANK', '')}"
        write_hugging_face(folder, "clip", CLIP_PROCESSOR)
    if together:
        dist.barrier()
    processor = transformers.CLIPProcessor(
        transformers.AutoImageProcessor.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)
    )

    def train(watch: bool, name: str) -> Any:
        transformers.set_seed(2)
        model = transformers.CLIPModel.from_pretrained(folder)
        rows = [{"pixel_values": torch.rand(3, 32, 32), "input_ids": torch.randint(2, 9, (6,))} for _ in range(32)]
        arguments = transformers.TrainingArguments(
            str(out / name), max_steps=STEPS, per_device_train_batch_size=4, use_cpu=True, report_to=[], save_strategy="no",
            logging_steps=1, remove_unused_columns=False, disable_tqdm=True, ddp_backend="gloo", seed=2,
        )  # fmt: skip

        def collate(batch: Any) -> Any:
            return {**{k: torch.stack([row[k] for row in batch]) for k in batch[0]}, "return_loss": True}

        trainer = transformers.Trainer(
            model, arguments, train_dataset=rows, data_collator=collate, processing_class=processor
        )
        if watch:
            words = [*GIVEN["overrides"], f"tasks.digits.data.classnames=[{KNOWN}]"]
            callback = ZeroShotCallback(**{**GIVEN, "overrides": words}, trainer=trainer)
            trainer.add_callback(callback)
            train.watched = Watched(callback, towers)  # type: ignore[attr-defined]
        trainer.train()
        return {k: v.detach().clone() for k, v in model.state_dict().items()}, trainer.state.log_history

    def towers(model: Any) -> Any:
        """As `model=hf_transformers` reads the same checkpoint."""
        model = getattr(model, "module", model)
        saved = out / "saved"
        model.save_pretrained(saved)
        for file in folder.glob("*.json"):
            if file.name != "config.json":
                (saved / file.name).write_bytes(file.read_bytes())
        handle = resolve({"_target_": "clipeval.models.transformers.HuggingFace", "path": str(saved)}, out / "cache")
        encoder = handle.load()
        return encoder.model, encoder.tokenizer, handle.preprocess

    plain, _ = train(False, "plain")
    with_it, history = train(True, "watched")
    return {**train.watched.report(), "weights": difference(plain, with_it), "history": history}  # type: ignore[attr-defined]


if __name__ == "__main__":
    names, place = sys.argv[1].split(","), Path(sys.argv[2])
    torch.set_num_threads(1)
    for trainer in names:
        found = {"open_clip": with_open_clip, "lightning": with_lightning, "trainer": with_trainer}[trainer](place)
        if not dist.is_initialized() or dist.get_rank() == 0:
            (place / f"{trainer}.json").write_text(json.dumps(found))
