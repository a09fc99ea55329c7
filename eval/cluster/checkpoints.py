"""Many models of one architecture over a single decoding of the images: checkpoints, mixtures of two, lengths of embeddings.

    clipeval run model=open_clip model.name=ViT-B-32 model.pretrained='glob(checkpoints/*.pt)' suite=datacomp
    clipeval run model=vit_b_32_openai model.interpolate=tuned.pt model.alpha=[0,0.5,1] suite=imagenet_robustness
    clipeval run model=nllb_clip_base_siglip_mrl model.dimensions=[64,128,256] task=xtd10

Where decoders are the limit, eight models cost little more than one. Each checkpoint has its run folder and its records, as
if it had been run alone; the sets are opened once, the texts are tokenised once, and each batch of images goes through as
many models as fit in memory at a time. A checkpoint that cannot be loaded fails alone. Lengths of one model's embeddings share
its encoding, too.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from clipeval.cluster.checkpoint_files import replaced
from clipeval.cluster.local import plan_alike, run_on_devices, say_devices, share_encodings
from clipeval.configs.compose import compose
from clipeval.configs.errors import ClipevalError
from clipeval.engine.evaluation import Evaluation, run_planned
from clipeval.engine.plan import Plan
from clipeval.models.checkpoint_file import files_of

MOST = 32
"""Models in memory at once, however small they are."""
ROOM = 0.5
"""The part of the free memory that models may take; activations and embeddings need the rest."""
WEIGHT = 2.5
"""Memory that a model takes while it is loaded, in sizes of its file."""


def run_models(
    overrides: Sequence[str],
    config_dir: str | None,
    models: Sequence[Sequence[str]],
    console: Console,
    at_once: int | None = None,
) -> list[Path]:
    """Evaluates models that see images and texts alike.

    Args:
        overrides: as of `clipeval run`; what they say of the keys in `models` is replaced.
        config_dir: as `--config-dir`.
        models: of each the overrides in which it differs from the others, as `clipeval.cluster.checkpoint_files.several` has them.
        console: for progress.
        at_once: how many in memory at a time; None: as many as fit.

    Returns:
        Their run folders, in the order of `models`.

    Raises:
        ClipevalError: a task cannot run; or, after all others are done, which checkpoints failed and why.
    """
    evaluations: list[Evaluation] = []
    for words in models:
        evaluation = Evaluation.open(compose(replaced(overrides, words), config_dir), console)
        if evaluation.folder.path.absolute() in {other.folder.path.absolute() for other in evaluations}:
            raise ClipevalError(
                f"out={evaluation.folder.place} would hold several models; leave out= away, or write "
                "out='runs/${model.slug}'."
            )
        evaluations.append(evaluation)
    first, plans = evaluations[0], plan_alike(evaluations)
    runs = [(evaluation, evaluation.prepare(plan)) for evaluation, plan in zip(evaluations, plans, strict=True)]
    share_encodings(evaluations)
    first.say_pixels(runs[0][1])
    if any(plan.open for _, plan in runs):
        say_devices(first)
    for evaluation in evaluations:
        evaluation.announce()
    failed: list[str] = []
    waiting = [(evaluation, plan) for evaluation, plan in runs if plan.open]
    run_planned([(evaluation, plan) for evaluation, plan in runs if not plan.open])
    while waiting:
        count = _leading(waiting, at_once or _fitting(waiting[0][0]))
        group, waiting = waiting[:count], waiting[count:]
        names = ", ".join(evaluation.folder.name for evaluation, _ in group)
        console.print(f"{len(group)} models at once: {names}", highlight=False)
        failed += _run_group(group)
        gc.collect()  # the models, before the next ones are loaded
    if failed:
        raise ClipevalError(f"{len(failed)} of {len(runs)} models failed:\n" + "\n".join(failed))
    return [evaluation.folder.path for evaluation in evaluations]


def _leading(waiting: Sequence[tuple[Evaluation, Plan]], most: int) -> int:
    """How many of the first are of no more than `most` encoders."""
    seen: set[int] = set()
    for place, (evaluation, _) in enumerate(waiting):
        seen.add(id(evaluation.stores))
        if len(seen) > most:
            return place
    return len(waiting)


def _run_group(group: Sequence[tuple[Evaluation, Plan]]) -> list[str]:
    """Computes what is open of several checkpoints; gives a line for each that fails."""
    try:
        shared = run_on_devices(group)
        if shared is not None:
            group = [(evaluation, plan) for (evaluation, _), plan in zip(group, shared.plans, strict=True)]
        models = run_planned(group)
    except ClipevalError as problem:
        if len(group) == 1:
            group[0][0].folder.rebuild_eval_results()
            return [f"  {group[0][0].folder.name}: {problem}"]
        # Memory that holds each of them alone, say; what is done by now stands.
        again = [(evaluation, evaluation.plan()) for evaluation, _ in group]
        return [line for one in again if one[1].open for line in _run_group([one])]
    return [
        f"  {evaluation.folder.name}: {model.problem}"
        for (evaluation, _), model in zip(group, models, strict=True)
        if model.problem is not None
    ]


def _fitting(evaluation: Evaluation) -> int:
    """How many models of this size fit in the memory that is free."""
    path = evaluation.config.model.get("pretrained")
    size = sum(file.stat().st_size for file in files_of(Path(path))) * WEIGHT if path and Path(path).is_file() else 2e9
    device = evaluation.options().device
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
        free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), 4 << 30)
    return max(1, min(MOST, int(ROOM * free / size)))
