"""One evaluation by all processes of a training run: each embeds its share of the images and texts, the first one scores.

Nothing is kept on disk meanwhile: the rows travel by `torch.distributed`, over a gloo group of their own, whatever the
training itself uses. So no collective of the training waits for an evaluation, and the machines need no common disk but the data.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from clipeval.configs.errors import ClipevalError
from clipeval.engine.runner import ModelRun, RunOptions, decode_jobs, embed_images
from clipeval.engine.stream import ImageStream
from clipeval.models.texts import disable_tokenizer_threads
from clipeval.stores.embeddings import ImageStore, TextStore

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others: for the slowest share, and while the first one scores."""


@dataclass(frozen=True)
class Ranks:
    """The processes that share an evaluation.

    Attributes:
        rank: this process's number, from 0; 0 scores.
        count: how many there are.
        beside: how many of them run on this machine and share its cores.
    """

    rank: int = 0
    count: int = 1
    beside: int = 1
    _group: Any = None

    @classmethod
    def of_training(cls) -> Ranks:
        """Those of the default process group; this process alone where there is none. All of them have to call it."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return cls()
        group: Any = dist.new_group(backend="gloo", timeout=PATIENCE)
        hosts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(hosts, socket.gethostname(), group=group)
        return cls(dist.get_rank(), len(hosts), hosts.count(socket.gethostname()), group)

    @property
    def first(self) -> bool:
        """Whether this process scores."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's part of `count` things in order; the parts differ by one at most."""
        return slice(self.rank * count // self.count, (self.rank + 1) * count // self.count)

    def tell(self, value: Any) -> Any:
        """What the first process says, on every one."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def ask(self, value: Any) -> list[Any]:
        """What every process says, on every one."""
        if self.count == 1:
            return [value]
        answers: list[Any] = [None] * self.count
        dist.all_gather_object(answers, value, group=self._group)
        return answers

    @contextmanager
    def together(self) -> Iterator[None]:
        """What goes wrong in one process goes wrong in all of them: nobody waits for one that has given up.

        Raises:
            ClipevalError: the block failed here, or in another process.
        """
        mine: Exception | None = None
        try:
            yield
        except Exception as problem:  # noqa: BLE001 - whatever it is, it is raised again once the others know
            mine = problem
        said = self.ask(None if mine is None else str(mine) or type(mine).__name__)
        if mine is not None:
            raise mine
        for rank, answer in enumerate(said):
            if answer is not None:
                raise ClipevalError(f"process {rank} of {self.count}: {answer}")

    def gather(self, rows: torch.Tensor) -> torch.Tensor | None:
        """The rows of all processes, one after the other.

        Args:
            rows: float32 [n, D] on the CPU; n may be 0, and D then anything.

        Returns:
            float32 [N, D] in the first process, None in the others.
        """
        if self.count == 1:
            return rows
        shapes = self.ask(tuple(rows.shape))
        most, width = max(n for n, _ in shapes), max((d for n, d in shapes if n), default=0)
        padded = torch.zeros(most, width)
        padded[: len(rows), : rows.shape[1]] = rows
        parts = [torch.empty_like(padded) for _ in shapes] if self.first else None
        dist.gather(padded, parts, dst=0, group=self._group)
        return None if parts is None else torch.cat([p[:n] for p, (n, _) in zip(parts, shapes, strict=True)])


def run_shared(model: ModelRun, options: RunOptions, ranks: Ranks) -> None:
    """Computes the tasks of one model with all processes of a training run; every one of them has to call it.

    Args:
        model: its tasks are the same in every process, and its stores keep nothing on disk.
        options: how to run; `options.stream.workers` are this process's own.
        ranks: the processes.

    Raises:
        ClipevalError: as `clipeval.engine.runner.run_tasks`, in every process, whichever it happened in.
    """
    started = time.monotonic()
    with ThreadPoolExecutor(max_workers=1) as scorer:
        with ranks.together():
            jobs = decode_jobs([model], options)
            model.start(options, scorer, {})
            waiting, model.queue.waiting = model.queue.waiting, []  # nothing is whole before the rows are gathered
            texts = dict(model.missing)
            model.missing = {store: list(asked[ranks.share(len(asked))]) for store, asked in texts.items()}
            mine = [(replace(job, indices=job.indices[ranks.share(len(job.indices))]), stores) for job, stores in jobs]
            mine = [(job, stores) for job, stores in mine if len(job.indices)]
            decoders = [job for job, _ in mine], model.handle.preprocess, options.stream, options.device
            with disable_tokenizer_threads(), ImageStream(*decoders) as stream, ExitStack() as loaded:
                model.load(loaded, options, images=True, owner=model)
                model.embed_texts()
                embed_images(stream, [stores for _, stores in mine], [model])
        for text_store, asked in texts.items():
            _gather_texts(text_store, asked, ranks)
        for job, stores in jobs:
            for store in stores.values():
                _gather_images(store, job.indices, ranks)
        with ranks.together():
            if ranks.first:
                model.queue.waiting = waiting
                model.queue.close()
    model.summary.seconds = time.monotonic() - started


def _gather_texts(store: TextStore, asked: Sequence[str], ranks: Ranks) -> None:
    rows = ranks.gather(store.rows(asked[ranks.share(len(asked))]))
    if rows is not None and ranks.count > 1:
        store.put(asked, rows)


def _gather_images(store: ImageStore, indices: np.ndarray, ranks: Ranks) -> None:
    if ranks.count == 1:
        return
    here = indices[ranks.share(len(indices))]
    read = np.array([index for index in here.tolist() if index not in store.failures], dtype=np.int64)
    rows = ranks.gather(store.rows(read))
    known = ranks.ask((read, store.failures))
    if rows is None:
        store.release()
        return
    store.put(np.concatenate([part for part, _ in known]), rows)
    for _, failures in known[1:]:
        store.skip(list(failures.items()))
