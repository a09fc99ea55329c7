"""Captions: the beam search by which open_clip's CoCa writes them, and which models can.

open_clip's own `generate` takes its search from `transformers`, whose version 5 has it no longer, and then refuses. This is
the same search, with the defaults of `generate`: 6 beams in 3 groups, which nothing there tells apart, so 2 are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from open_clip.coca_model import CoCa

from clipeval.configs.errors import ClipevalError

BEAMS, SHORTEST, LONGEST = 2, 5, 30
"""Beams, and the least and most tokens of a caption, the start token counted."""

START, END = "<start_of_text>", "<end_of_text>"

Step = Callable[[list[int], torch.Tensor], torch.Tensor]
"""(images, tokens [n * BEAMS, L]) -> logits of the next token, [n * BEAMS, V]."""


def writes_captions(model: Any) -> bool:
    """Whether a model can: open_clip's CoCa, or a class of one's own with `generate(images)`, int64 [B, L] token ids."""
    return isinstance(model, CoCa) or callable(getattr(model, "generate", None))


def write_captions(model: Any, tokenizer: Any, images: torch.Tensor) -> list[str]:
    """What a model writes about some images.

    Args:
        model: one for which `writes_captions`.
        tokenizer: with `decode`, a list of token ids to text.
        images: [B, 3, h, w], normalised, where the model is.
    """
    if not callable(getattr(tokenizer, "decode", None)):
        raise ClipevalError(f"captioning needs a tokenizer with `decode`, and {type(tokenizer).__name__} has none")
    if isinstance(model, CoCa):
        start, end = getattr(tokenizer, "sot_token_id", 49406), getattr(tokenizer, "eot_token_id", 49407)
        latent, tokens = model._encode_image(images)

        def step(which: list[int], text: torch.Tensor) -> torch.Tensor:
            beams = [number for number in which for _ in range(BEAMS)]
            given = model(None, text, image_latent=latent[beams], image_embs=tokens[beams], output_labels=False)
            return given["logits"][:, -1]  # type: ignore[no-any-return]

        written = search(step, len(images), start, end, images.device)
    else:
        written = torch.as_tensor(model.generate(images)).tolist()
    return [tokenizer.decode(ids).split(END)[0].replace(START, "").strip() for ids in written]


@dataclass
class _Kept:
    """The best ended captions of one image: (score, tokens), at most `BEAMS`."""

    beams: list[tuple[float, list[int]]] = field(default_factory=list)
    done: bool = False

    def add(self, tokens: Sequence[int], total: float, length: int) -> None:
        self.beams.append((total / length, list(tokens)))
        if len(self.beams) > BEAMS:
            self.beams.remove(min(self.beams, key=lambda beam: beam[0]))

    def beaten(self, best: float, length: int) -> bool:
        """Whether no open beam can do better than the worst that is kept."""
        return len(self.beams) == BEAMS and min(score for score, _ in self.beams) >= best / length


def search(step: Step, count: int, start: int, end: int, device: torch.device) -> list[list[int]]:
    """Beam search over the sums of logits, each ended caption's divided by its length.

    As open_clip's `_generate_beamsearch` with transformers' BeamSearchScorer: scores are logits and no log-probabilities, an
    end token counts only among the `BEAMS` best continuations, and an image is done when none can overtake its kept ones.

    Returns:
        `count` lists of token ids, the start token first, without an end token.
    """
    kept = [_Kept() for _ in range(count)]
    open_, length = list(range(count)), 1
    tokens = torch.full((count, BEAMS, 1), start, dtype=torch.long, device=device)
    scores = torch.full((count, BEAMS), -1e9, device=device)
    scores[:, 0] = 0  # all beams begin alike: without this they would stay so
    while open_ and length < LONGEST:
        logits = step(open_, tokens.flatten(0, 1)).float()
        if length < SHORTEST:
            logits[:, end] = -torch.inf
        size = logits.shape[1]
        ranked, places = (logits.view(len(open_), BEAMS, size) + scores[:, :, None]).flatten(1).topk(2 * BEAMS, dim=1)
        length += 1
        texts, going = tokens.tolist(), []
        chosen: list[list[tuple[float, int, int]]] = []
        for row, image in enumerate(open_):
            best: list[tuple[float, int, int]] = []
            for rank, (score, place) in enumerate(zip(ranked[row].tolist(), places[row].tolist(), strict=True)):
                beam, token = divmod(place, size)
                if token != end:
                    best.append((score, beam, token))
                elif rank < BEAMS:
                    kept[image].add(texts[row][beam], score, length)
                if len(best) == BEAMS:
                    break
            kept[image].done = kept[image].beaten(float(ranked[row].max()), length)
            if not kept[image].done:
                going.append(row)
                chosen.append(best)
        open_ = [open_[row] for row in going]
        if not open_:
            break
        scores = torch.tensor([[score for score, _, _ in best] for best in chosen], device=device)
        tokens = torch.tensor(
            [[[*texts[row][beam], token] for _, beam, token in best] for row, best in zip(going, chosen, strict=True)],
            device=device,
        )
    for row, image in enumerate(open_):
        for text, score in zip(tokens[row].tolist(), scores[row].tolist(), strict=True):
            kept[image].add(text, score, length)
    return [max(beams_of_caption.beams, key=lambda beam: beam[0])[1] for beams_of_caption in kept]
