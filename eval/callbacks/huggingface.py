"""Zero-shot scores while transformers' Trainer trains.

    from clipeval.callbacks.huggingface import ZeroShotCallback

    trainer = Trainer(model, arguments, processing_class=processor, train_dataset=…)
    trainer.add_callback(ZeroShotCallback(suite="imagenet", every=1000, data_root="/data", trainer=trainer))
    trainer.train()

With `trainer=` the scores go to whatever the Trainer reports to; they stand in `trainer.state.log_history` in any case.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback

from clipeval.callbacks.zero_shot import ZeroShot


class ZeroShotCallback(ZeroShot, TrainerCallback):
    """See `clipeval.callbacks.zero_shot.ZeroShot` for what it takes.

    Args:
        trainer: whose `log` is told the scores.
    """

    def __init__(self, suite: str = "quickstart", every: int = 1000, *, trainer: Any = None, **more: Any) -> None:
        super().__init__(suite, every, **more)
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Opens the tasks."""
        self.start(given["model"], given.get("processing_class"))

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Evaluates after every so many optimizer steps."""
        scores: Mapping[str, float] = self.step(given["model"], state.global_step, given.get("processing_class"))
        if not scores:
            return
        if self._trainer is not None:
            self._trainer.log(dict(scores))
        else:
            state.log_history.append({**scores, "epoch": state.epoch, "step": state.global_step})
