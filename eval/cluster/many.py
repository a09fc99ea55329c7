"""Many checkpoints of one architecture over a single decoding of the images.

    clipeval run model=open_clip model.name=ViT-B-32 model.pretrained='glob(checkpoints/*.pt)' suite=datacomp

Where decoders are the limit, eight models cost little more than one. Each checkpoint has its run folder and its records, as
if it had been run alone; the sets are opened once, the texts are tokenised once, and each batch of images goes through as
many models as fit in memory at a time. A checkpoint that cannot be loaded fails alone.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from clipeval.configs.compose import compose, override
from clipeval.configs.errors import ClipevalError
from clipeval.engine import runner
from clipeval.engine.evaluation import Evaluation
from clipeval.engine.plan import FeatureSpec, Plan, PlannedTask, compare
from clipeval.engine.progress import Progress
from clipeval.engine.runner import Outcome, RunOptions, ScoringQueue
from clipeval.engine.store import ImageStore, TextStore, key_of
from clipeval.models import Encoder
from clipeval.models.checkpoint_file import files_of
from clipeval.results.heartbeats import working

MOST = 32
"""Models in memory at once, however small they are."""
ROOM = 0.5
"""The part of the free memory that models may take; activations and embeddings need the rest."""
WEIGHT = 2.5
"""Memory that a model takes while it is loaded, in sizes of its file."""


@dataclass
class Checkpoint(Evaluation):
    """A session whose sets were opened for another checkpoint of the same architecture."""

    planned: Plan | None = field(default=None)

    def plan(self) -> Plan:
        """The plan that `like` made, or one of its own."""
        return super().plan() if self.planned is None else self.planned

    def like(self, other: Evaluation, plan: Plan) -> None:
        """Takes over another session's plan, with this checkpoint's weights in place of its.

        Raises:
            ClipevalError: the two see images or texts differently.
        """
        mine, theirs = self.handle, other.handle
        if mine.preprocess != theirs.preprocess or mine.tokenizer_digest != theirs.tokenizer_digest:
            raise ClipevalError(
                f"{mine.slug} and {theirs.slug} differ in preprocessing or tokenizer; run them one by one."
            )
        if mine.missing:
            raise ClipevalError(mine.missing)
        planned_tasks = []
        for planned in plan.tasks:
            needs = {
                split: replace(need, parts={**need.parts, "image": mine.image_digest})
                for split, need in planned.needs.items()
            }
            known = replace(planned.fingerprint, weights=mine.weights_digest)
            copy = replace(planned, needs=needs, fingerprint=known, record=None, state="todo", why=())
            copy.__dict__["texts"] = planned.texts
            compare(copy, self.folder)
            planned_tasks.append(copy)
        self.planned = Plan(planned_tasks, dict(plan.problems), dict(plan.skipped), plan.unopened)


def run_many(
    words: Sequence[str], config_dir: str | None, paths: Sequence[Path], console: Console, at_once: int | None = None
) -> list[Path]:
    """Evaluates checkpoints.

    Args:
        words: as of `clipeval run`; what they say of `model.pretrained` is replaced.
        config_dir: as `--config-dir`.
        paths: the checkpoints.
        console: for progress.
        at_once: how many in memory at a time; None: as many as fit.

    Returns:
        Their run folders, in the order of `paths`.

    Raises:
        ClipevalError: a task cannot run; or, after all others are done, which checkpoints failed and why.
    """
    rest = [word for word in words if not word.startswith("model.pretrained=")]
    sessions: list[Checkpoint] = []
    for path in paths:
        config = compose([*rest, override("model.pretrained", str(path.absolute()))], config_dir)
        session = Checkpoint.open(config, console)
        assert isinstance(session, Checkpoint)
        if session.folder.path.absolute() in {s.folder.path.absolute() for s in sessions}:
            raise ClipevalError(
                f"out={session.folder.path} would hold several checkpoints; leave out= away, or write "
                "out='runs/${model.slug}'."
            )
        sessions.append(session)
    first = sessions[0]
    plan = first.plan()
    first.planned = plan
    for session in sessions[1:]:
        session.like(first, plan)
    failed: list[str] = []
    waiting = [session for session in sessions if session.prepare().open]
    for session in sessions:
        session.announce()
    while waiting:
        count = at_once or fitting(waiting[0])
        group, waiting = waiting[:count], waiting[count:]
        console.print(f"{len(group)} checkpoints at once: {', '.join(s.folder.name for s in group)}", highlight=False)
        failed += _run_group(group, console)
        gc.collect()  # the models, before the next ones are loaded
    for session in sessions:
        session.folder.rebuild_eval_results()
    if failed:
        raise ClipevalError(f"{len(failed)} of {len(sessions)} checkpoints failed:\n" + "\n".join(failed))
    return [session.folder.path for session in sessions]


def fitting(session: Evaluation) -> int:
    """How many models of a session's size fit in the memory that is free."""
    path = session.config.model.get("pretrained")
    size = sum(file.stat().st_size for file in files_of(Path(path))) * WEIGHT if path and Path(path).is_file() else 2e9
    device = session.options().device
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
        free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), 4 << 30)
    return max(1, min(MOST, int(ROOM * free / size)))


class _Models:
    """Several encoders as one for the stream: rows [B, M, D] side by side, as [B, M * D]."""

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        self.encoders, self.preprocess = encoders, encoders[0].preprocess

    def encode(self, output: str, batch: torch.Tensor, mixed: bool = False) -> torch.Tensor:
        batch = batch.to(self.encoders[0].device, non_blocking=True)
        try:
            return torch.cat([encoder.encode(output, batch, mixed) for encoder in self.encoders], dim=1)
        except torch.OutOfMemoryError:
            for encoder in self.encoders:  # those that had room for the batch too: it comes back in smaller ones
                encoder.forget_shape()
            raise

    def encode_images(self, batch: torch.Tensor) -> torch.Tensor:
        return self.encode("embeddings", batch)

    @contextmanager
    def uncompiled(self) -> Iterator[None]:
        """As `Encoder.uncompiled`, of all of them."""
        with ExitStack() as stack:
            for encoder in self.encoders:
                stack.enter_context(encoder.uncompiled())
            yield


@dataclass
class _Seat:
    """One checkpoint at work in a group."""

    session: Checkpoint
    options: RunOptions
    encoder: Encoder
    planned_tasks: list[PlannedTask]
    stores: dict[str, ImageStore]
    texts: dict[str, TextStore]
    failures: dict[str, list[tuple[int, str]]]
    queue: ScoringQueue
    outcome: Outcome


def _run_group(sessions: Sequence[Checkpoint], console: Console) -> list[str]:
    """Computes what is open of several checkpoints; gives a line for each that cannot be loaded."""
    failed: list[str] = []
    with ExitStack() as stack:
        scorer = stack.enter_context(ThreadPoolExecutor(max_workers=1))
        seats: list[_Seat] = []
        for session in sessions:
            planned_tasks = session.plan().open
            try:
                with working(session.folder.path, [planned.id for planned in planned_tasks]):
                    seats.append(_take_seat(session, planned_tasks, scorer, console, stack))
            except ClipevalError as problem:
                failed.append(f"  {session.folder.name}: {problem}")
        if seats:
            try:
                _embed(_share_tokens(seats), stack, console)
                return failed
            except ClipevalError as problem:
                if len(seats) == 1:
                    return [*failed, f"  {seats[0].session.folder.name}: {problem}"]
    if seats:  # one of them spoils it for the others: each alone, with what is done by now
        for seat in seats:
            seat.session.planned = None
            failed += _run_group([seat.session], console) if seat.session.plan().open else []
    return failed


def _take_seat(
    session: Checkpoint,
    planned_tasks: list[PlannedTask],
    scorer: ThreadPoolExecutor,
    console: Console,
    stack: ExitStack,
) -> _Seat:
    options = session.options()
    encoder = session.handle.load(str(options.device), options.precision, options.compile)
    stack.callback(encoder.close)
    stores = runner.image_stores(planned_tasks, options.store)
    texts = runner.text_stores(planned_tasks, session.handle, options)
    failures: dict[str, list[tuple[int, str]]] = {key: [] for key in stores}
    outcome, progress = Outcome(), Progress(console, len(planned_tasks))
    queue = ScoringQueue(
        list(planned_tasks), stores, failures, texts, session.file, progress, scorer, outcome, options.device
    )
    return _Seat(session, options, encoder, planned_tasks, stores, texts, failures, queue, outcome)


def _share_tokens(seats: list[_Seat]) -> list[_Seat]:
    """Lets every model use what the first one's tokenizer made."""
    tokenizer = seats[0].encoder.tokenizer

    @lru_cache(maxsize=64)
    def tokens(texts: tuple[str, ...]) -> torch.Tensor:
        return torch.as_tensor(tokenizer(list(texts)))

    for seat in seats:
        seat.encoder.tokenizer = lambda texts: tokens(tuple(texts))
    return seats


def _embed(seats: list[_Seat], stack: ExitStack, console: Console) -> None:
    for seat in seats:
        stack.enter_context(working(seat.session.folder.path, [planned.id for planned in seat.planned_tasks]))
        stack.enter_context(runner.keeping(seat.stores, seat.options))
    progress = Progress(console)
    jobs, keys, needs = _joint(seats)
    first = seats[0]
    with (
        runner.disable_tokenizer_threads(),
        runner.open_stream(jobs, needs, first.session.handle, first.options) as stream,
    ):
        for seat in seats:
            wanted = runner.wanted_texts(seat.planned_tasks, seat.texts)
            seat.outcome.texts = runner.embed_texts(seat.encoder, wanted, progress, seat.planned_tasks)
            seat.queue.submit_ready()
        if stream is not None:
            models = _Models([seat.encoder for seat in seats])
            order = list(jobs)
            with progress.bar("images", sum(len(job.positions) for job in stream.jobs), "images") as bar:
                for piece in stream.embed(models):  # type: ignore[arg-type]
                    bar.advance(len(piece.positions), stream.jobs[piece.job].name)
                    for number, (seat, key) in enumerate(zip(seats, keys[order[piece.job]], strict=True)):
                        if key is not None and key in seat.stores:
                            width = piece.rows.shape[1] // len(seats) if len(piece.rows) else 0
                            rows = piece.rows[:, number * width : (number + 1) * width] if width else piece.rows
                            mine = replace(piece, rows=rows)
                            runner.store_batch(mine, stream.jobs[piece.job], seat.stores[key], seat.failures[key])
                            if seat.stores[key].complete:
                                seat.queue.submit_ready()
    for seat in seats:
        seat.queue.submit_ready()
        seat.queue.close()


def _joint(
    seats: Sequence[_Seat],
) -> tuple[dict[str, np.ndarray], dict[str, list[str | None]], dict[str, tuple[PlannedTask, FeatureSpec]]]:
    """What any seat lacks of each split, each seat's own store of it, and who needs it."""
    jobs: dict[str, np.ndarray] = {}
    keys: dict[str, list[str | None]] = {}
    needs: dict[str, tuple[PlannedTask, FeatureSpec]] = {}
    for number, seat in enumerate(seats):
        for planned in seat.planned_tasks:
            for need in planned.needs.values():
                joint = key_of({k: v for k, v in need.parts.items() if k != "image"})
                own = key_of(need.parts)
                keys.setdefault(joint, [None] * len(seats))[number] = own
                needs.setdefault(joint, (planned, need))
                jobs[joint] = np.union1d(jobs.get(joint, np.zeros(0, np.int64)), seat.stores[own].missing)
    return {key: places for key, places in jobs.items() if len(places)}, keys, needs
