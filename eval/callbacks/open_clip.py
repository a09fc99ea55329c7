"""Zero-shot scores while open_clip's own trainer trains, which has no callbacks.

    # train.py: torchrun --nproc_per_node 8 train.py --model ViT-B-32 --train-data …   (the words of open_clip_train.main)
    import sys
    from clipeval.callbacks.open_clip import ZeroShotCallback
    from open_clip_train.main import main

    with ZeroShotCallback(suite="imagenet", every=1000, data_root="/data").attached():
        main(sys.argv[1:])

The scores go to where the trainer's own go: its log, `results.jsonl`, TensorBoard and Weights & Biases.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clipeval.callbacks.zero_shot import ZeroShot
from clipeval.results.json_io import to_jsonable


class ZeroShotCallback(ZeroShot):
    """See `clipeval.callbacks.zero_shot.ZeroShot` for what it takes."""

    @contextmanager
    def attached(self) -> Iterator[None]:
        """While this is open, every training of open_clip_train in this process is evaluated.

        Its `train_one_epoch` is called with a hook on the optimizer's step, which is the only sign that the trainer gives.
        """
        from open_clip_train import main

        own = main.train_one_epoch

        def train_one_epoch(
            model: Any, data: Any, loss: Any, epoch: int, optimizer: Any, *rest: Any, tb_writer: Any = None
        ) -> Any:
            args = rest[-1]
            self._prepare(model, args)
            steps = data["train"].dataloader.num_batches // args.accum_freq * epoch
            count = 0

            def stepped(*_: Any) -> None:
                nonlocal count
                count += 1
                scores = self.step(model, steps + count)
                if scores and args.rank == 0:
                    _report(scores, steps + count, args, tb_writer)

            handle = optimizer.register_step_post_hook(stepped)
            try:
                return own(model, data, loss, epoch, optimizer, *rest, tb_writer=tb_writer)
            finally:
                handle.remove()

        main.train_one_epoch = train_one_epoch
        try:
            yield
        finally:
            main.train_one_epoch = own

    def _prepare(self, model: Any, args: Any) -> None:
        """Before the first epoch: the tokenizer of `--model`, and every task opened."""
        if self._ranks is not None:
            return
        if self.tokenizer is None:
            from open_clip import get_tokenizer

            self.tokenizer = get_tokenizer(
                args.model, cache_dir=args.cache_dir, context_length=args.force_context_length
            )
        self.start(model)


def _report(scores: Mapping[str, float], step: int, args: Any, tb_writer: Any) -> None:
    """As `open_clip_train.train.evaluate` reports."""
    if args.save_logs:
        if tb_writer is not None:
            for name, value in scores.items():
                tb_writer.add_scalar(name, value, step)
        with (Path(args.checkpoint_path) / "results.jsonl").open("a+") as file:
            file.write(json.dumps(to_jsonable({**scores, "step": step})) + "\n")
    if args.wandb:
        import wandb

        if wandb.run is None:
            logging.getLogger(__name__).warning(
                "Weights & Biases has no run; the scores of step %d are not there", step
            )
        else:
            wandb.log({**scores, "step": step}, step=step)
