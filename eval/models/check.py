"""What is doubtful about a loaded model, before a run believes its numbers: most public reports of a number that cannot be
reproduced are the wrong text clean-up, activation, resize or context length, and a model that is loaded and broken scores
like one that is bad.

Nothing here knows what a model should score. It looks at what contradicts itself (tokens that the text tower has no row for,
pixels of another size than its positions), at what no trained model has (a logit scale as at initialisation, one embedding for
everything), and at whether the pictures that come with the package find their own captions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

from clipeval.configs.errors import ClipevalError, first_line
from clipeval.configs.files import write_atomically
from clipeval.models.check_pictures import captioned_pictures
from clipeval.models.check_pixels import constants_doubts, other_pixels, pixel_doubts
from clipeval.models.check_text import text_doubts
from clipeval.models.check_weights import empty, other_activation, unlearnt, untrained
from clipeval.models.doubt import Doubt
from clipeval.models.encoder import Encoder
from clipeval.models.handle import ModelHandle, digest_of

SCALES = (8.0, 250.0)
"""exp(logit scale) of trained models: CLIP stops at 100, SigLIP ends near 110, a model of few samples below 30."""
AT_START = (1 / 0.07, 10.0)
"""Where CLIP and SigLIP begin."""
ALIKE = 0.9995
"""Cosine over which embeddings of different things are one embedding."""
SURE = 2.6
"""Standard errors that a retrieval has to be better than chance by."""
BETTER = 3.0
"""Standard errors that another activation, or other pixels, have to be better by before the model's own are doubted."""
LESS, LESS_OF_PIXELS = 0.03, 0.1
"""Share of the loss that another activation, or other pixels, have to save."""


VERSION = 2
"""Raised when a check finds other things: what was remembered of earlier ones is forgotten."""


@dataclass(frozen=True)
class Report:
    """What a check has found.

    Attributes:
        doubts: a line each.
        facts: what was measured, in words, whether doubtful or not.
    """

    doubts: tuple[str, ...]
    facts: tuple[str, ...] = ()


def check(encoder: Encoder) -> Report:
    """Looks at a loaded model, its image tower included. It is left as it was, and so are all random states."""
    found: list[str] = []
    facts: list[str] = []
    for part in (_scale, text_doubts, constants_doubts, untrained, empty, unlearnt, _embeddings):
        try:
            for item in part(encoder):
                (found if isinstance(item, Doubt) else facts).append(str(item))
        except (ClipevalError, RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError) as problem:
            line = first_line(problem)[:200]
            found.append(
                str(
                    Doubt(
                        f"it cannot be tried ({line})", "a run would stop at the same", "see what the model was given"
                    )
                )
            )
            break
    return Report(tuple(dict.fromkeys(found)), tuple(facts))


def check_once(handle: ModelHandle, encoder: Encoder, cache: Path | None) -> Report:
    """`check`, or what it found of the same weights, tokenizer and preprocessing before.

    Args:
        handle: the model's.
        encoder: the model.
        cache: where to remember it; None: nowhere.
    """
    found = remembered(handle, cache)
    if found is None:
        found = check(encoder)
        if cache is not None and handle.unidentified is None:
            with suppress(OSError):  # a full or read-only cache costs time, nothing else
                write_atomically(_memory(handle, cache), json.dumps([found.doubts, found.facts]).encode())
    return found


def remembered(handle: ModelHandle, cache: Path | None) -> Report | None:
    """What was found of a model before; None where nothing is known. Loads nothing."""
    if cache is None or handle.missing is not None or handle.unidentified is not None:
        return None
    with suppress(OSError, ValueError, TypeError):  # not there, or damaged: it is found out again
        doubts, facts = json.loads(_memory(handle, cache).read_text("utf-8"))
        return Report(tuple(map(str, doubts)), tuple(map(str, facts)))
    return None


def _memory(handle: ModelHandle, cache: Path) -> Path:
    return cache / "checks" / f"{digest_of([VERSION, handle.image_digest, handle.text_digest])}.json"


def _scale(encoder: Encoder) -> Iterator[Doubt | str]:
    scale = encoder.scale
    if scale is None:
        return
    log = float(torch.as_tensor(scale).detach().float().mean())
    factor = math.exp(min(log, 700.0)) if math.isfinite(log) else math.nan
    yield f"logit scale {factor:.4g}"
    if any(abs(factor - start) < 1e-3 for start in AT_START):
        yield Doubt(
            f"the logit scale is {factor:.4g}, as it is before training",
            "weights that were not loaded, or not trained, score at chance",
            "look at which checkpoint was read",
        )
    elif not SCALES[0] <= factor <= SCALES[1]:
        yield Doubt(
            f"the logit scale is {factor:.4g}, and trained models have {SCALES[0]:g} to {SCALES[1]:g}",
            "probabilities and losses hang on it",
            "it is kept as a logarithm: see whether the checkpoint keeps it so",
        )


def _embeddings(encoder: Encoder) -> Iterator[Doubt | str]:
    """Sixty pictures and their captions, each side by itself and one against the other."""
    pairs = captioned_pictures()
    pixels = torch.stack([encoder.preprocess.pixels(data) for _, data in pairs])
    captions = [caption for caption, _ in pairs]

    def embed_images(pixels: torch.Tensor) -> torch.Tensor:
        with encoder.uncompiled():
            return torch.cat([encoder.encode_images(batch).cpu() for batch in torch.split(pixels, 16)])

    def embed() -> tuple[torch.Tensor, torch.Tensor]:
        return embed_images(pixels), encoder.encode_texts(captions)

    yield from pixel_doubts(pixels)
    images, texts = embed()
    sides = {"image": images, "text": texts}
    for side, rows in sides.items():
        if not torch.isfinite(rows).all():
            yield Doubt(
                f"{side} embeddings are NaN or infinite", "no score can be made of them", "look at the checkpoint"
            )
            return
        if float(rows.norm(dim=1).min()) < 0.5:
            yield Doubt(
                f"{side} embeddings are zero", f"the {side} tower or its projection is empty", "look at the checkpoint"
            )
            return
        least = float((rows @ rows.T).min())
        if least > ALIKE:
            yield Doubt(
                f"{len(rows)} different {side}s have one embedding (cosine {least:.5f} at least)",
                f"the {side} tower does not read its input: every score is chance",
                f"see whether the {side} tower's weights are those of the checkpoint"
                + (", and whether the tokenizer is its own" if side == "text" else ""),
            )
            return
    if images.shape[1] != texts.shape[1]:
        yield Doubt(
            f"image embeddings have {images.shape[1]} numbers and text embeddings {texts.shape[1]}",
            "they cannot be compared: a projection is missing",
            "take the towers with their projections",
        )
        return
    rank, sure = _retrieval(images @ texts.T)
    top = float((images @ texts.T).argmax(dim=1).eq(torch.arange(len(pairs))).float().mean())
    yield f"of {len(pairs)} bundled pictures {top:.0%} find their own caption first"
    if sure < SURE:
        yield Doubt(
            f"of {len(pairs)} bundled pictures the own caption is number {1 + rank * (len(pairs) - 1):.0f} in the mean, of "
            f"{len(pairs)}",
            "that is no better than chance: weights, tokenizer and preprocessing do not belong together",
            "see which checkpoint and tokenizer were read; of a model for another language or kind of picture, this says nothing",
        )
        return
    scale = 100.0
    if encoder.scale is not None:
        scale = min(float(torch.as_tensor(encoder.scale).detach().float().exp().mean()), scale)
    before = _losses(images, texts, scale)
    for what, cure, other in other_pixels(encoder.preprocess, pixels):
        if _better(before, _losses(embed_images(other), texts, scale), LESS_OF_PIXELS):
            yield Doubt(
                f"the bundled pictures fit their captions better {what}",
                "a model fits best the pixels that it was trained with, and others cost points",
                cure,
            )
    if encoder.owned and (doubt := _activation(encoder, embed, before, scale)):
        yield doubt


def _retrieval(cosines: torch.Tensor) -> tuple[float, float]:
    """Of a square of cosines: the mean place of the own caption and picture, 0 best to 1 worst, and by how many standard errors
    that is better than chance."""
    count = len(cosines)
    own = cosines.diagonal()
    above = [(c > own[:, None]).float() + 0.5 * (c == own[:, None]).float() for c in (cosines, cosines.T)]
    places = [(a.sum(dim=1) - 0.5) / (count - 1) for a in above]
    mean = float((places[0].mean() + places[1].mean()) / 2)
    return mean, (0.5 - mean) / math.sqrt(1 / 12 / count)


def _activation(
    encoder: Encoder, embed: Callable[[], tuple[torch.Tensor, torch.Tensor]], before: torch.Tensor, scale: float
) -> Doubt | None:
    """QuickGELU and GELU swapped, for as long as it takes: the one that a model was trained with fits its pictures better."""
    with other_activation(encoder.model) as names:
        if names is None:
            return None
        other = embed()
    if not _better(before, _losses(*other, scale), LESS):
        return None
    return Doubt(
        f"the bundled pictures fit their captions better with {names[1]} than with the {names[0]} of this architecture",
        "a wrong activation loses points (4 of OpenAI's B/16 on ImageNet), and nothing else shows it",
        f"take the architecture with {names[1]} (model.name=…-quickgelu, or without), or hidden_act in config.json",
    )


def _better(before: torch.Tensor, after: torch.Tensor, less: float) -> bool:
    """Whether the losses of the same pairs, [N] each, fall by that share of them, and by more than their spread explains."""
    gain = before - after
    error = float(gain.std() / math.sqrt(len(gain)))
    return float(after.mean()) <= (1 - less) * float(before.mean()) and float(gain.mean()) >= BETTER * error


def _losses(images: torch.Tensor, texts: torch.Tensor, scale: float) -> torch.Tensor:
    """float32 [N]: of each pair, the contrastive loss both ways, at a scale of the cosines."""
    logits, target = scale * images @ texts.T, torch.arange(len(images))
    return functional.cross_entropy(logits, target, reduction="none") + functional.cross_entropy(
        logits.T, target, reduction="none"
    )
