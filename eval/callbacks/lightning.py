"""Zero-shot scores while Lightning trains.

    from clipeval.callbacks.lightning import ZeroShotCallback

    callback = ZeroShotCallback(suite="imagenet", every=1000, data_root="/data", overrides=["data.limit=2000"])
    Trainer(callbacks=[callback, ModelCheckpoint(monitor="zero_shot/imagenet1k_quick2000/acc1", mode="max")]).fit(module, loader)

The scores go to the trainer's loggers and into `trainer.callback_metrics`, where ModelCheckpoint and EarlyStopping find them.
"""

from __future__ import annotations

from typing import Any

from clipeval.callbacks.zero_shot import ZeroShot

try:
    from lightning.pytorch import Callback
except ModuleNotFoundError:
    from pytorch_lightning import Callback


class ZeroShotCallback(ZeroShot, Callback):  # type: ignore[misc]
    """See `clipeval.callbacks.zero_shot.ZeroShot` for what it takes. The model is the LightningModule, or a part of it."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Opens the tasks."""
        self.start(pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Evaluates after every so many optimizer steps."""
        scores = self.step(pl_module, trainer.global_step)
        if scores:
            pl_module.log_dict(dict(scores), logger=False, on_step=True, on_epoch=False, sync_dist=False)
            for logger in trainer.loggers:
                logger.log_metrics(dict(scores), step=trainer.global_step)
