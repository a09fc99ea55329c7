"""`clipeval classify`: zero-shot on one's own pictures, what a model card's widget does."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clipeval.configs.errors import ClipevalError
from clipeval.data.account import Account
from clipeval.data.pictures import find_pictures
from clipeval.models import Encoder
from clipeval.models.unsound import CAUSES, first_unsound
from clipeval.preprocess.transforms import Transform
from clipeval.tasks.zero_shot import prompts, zero_shot_classifier

WIDGET_TEMPLATE = "This is a photo of {c}."
"""What the Hugging Face widget asks where no template is given."""

TOP = 5
"""Labels shown of each picture where there is no room for all."""


def classify(
    encoder: Encoder,
    images: torch.Tensor,
    labels: Sequence[str],
    templates: Sequence[str],
    names: Sequence[str] | None = None,
) -> torch.Tensor:
    """Probabilities of each label for each image; see `Encoder.probabilities`.

    Args:
        encoder: the model.
        images: as its preprocessing gives them, [N, 3, H, W].
        labels: C of them.
        templates: with `{c}`; their embeddings are averaged.
        names: what the images are called in errors; None: their numbers.

    Returns:
        float32 [N, C].
    """
    asked = prompts(labels, templates)
    texts = encoder.encode_texts(asked)
    rows = encoder.encode_images(images).cpu()
    called = names or [f"image {i + 1}" for i in range(len(rows))]
    for given, what in ((texts, asked), (rows, called)):
        if unsound := first_unsound(given):
            raise ClipevalError(f"the embedding of {what[unsound[0]]!r} is {unsound[1]}: {CAUSES}.")
    weights = zero_shot_classifier(texts, [len(templates)] * len(labels))
    return encoder.probabilities(rows @ weights.T)


def read_pictures(words: Sequence[str]) -> list[tuple[str, bytes]]:
    """(name, encoded bytes) of every picture named: a file, each picture of a folder, or standard input for `-`.

    Raises:
        ClipevalError: no picture is named, a name is neither file nor folder, or a folder holds no picture.
    """
    if not words:
        raise ClipevalError("no picture is named: give files, folders, or - for standard input.")
    pictures: list[tuple[str, bytes]] = []
    for word in words:
        path = Path(word).expanduser()
        if word == "-":
            pictures.append(("-", sys.stdin.buffer.read()))
        elif path.is_dir():
            account = Account()
            inside = find_pictures(path, account)
            if not inside:
                raise ClipevalError(f"{path} holds no picture that Pillow opens.")
            for remark in (*account.flags, *account.remarks):
                print(f"{path}: {remark}", file=sys.stderr)
            pictures += [(str(p), p.read_bytes()) for p in inside]
        elif path.is_file():
            pictures.append((word, path.read_bytes()))
        else:
            raise ClipevalError(f"{word} is neither a picture, a folder of pictures, nor - for standard input.")
    return pictures


def decode(pictures: Sequence[tuple[str, bytes]], transform: Transform) -> torch.Tensor:
    """Every picture as the model wants it, [N, 3, H, W]."""
    images = []
    for name, data in pictures:
        try:
            images.append(transform.pixels(data, "as_decoded"))
        except ValueError as problem:
            raise ClipevalError(f"{name}: {problem}.") from None
    return torch.stack(images)


def print_probabilities(names: Sequence[str], labels: Sequence[str], rows: np.ndarray, as_json: bool) -> None:
    """A table, the best label bold; or a JSON object a line, labels by falling probability."""
    if as_json:
        for name, row in zip(names, rows, strict=True):
            order = np.argsort(-row, kind="stable")
            print(json.dumps({"image": name, "scores": [{"label": labels[i], "score": float(row[i])} for i in order]}))
        return
    Console(highlight=False).print(_table(names, labels, rows, Console().width))


def _table(names: Sequence[str], labels: Sequence[str], rows: np.ndarray, width: int) -> Table:
    """A column a label; where they do not fit, a line for each of a picture's best labels."""
    table = Table("image", box=None, header_style="bold")
    if max(map(len, names)) + sum(max(len(label), 6) + 2 for label in labels) <= width:
        for label in labels:
            table.add_column(Text(label), justify="right", no_wrap=True)
        for name, row in zip(names, rows, strict=True):
            best = int(row.argmax())
            table.add_row(Text(name), *(Text(f"{v:.1%}", style="bold" if i == best else "") for i, v in enumerate(row)))
        return table
    table.add_column("label")
    table.add_column("probability", justify="right", no_wrap=True)
    for name, row in zip(names, rows, strict=True):
        for place, i in enumerate(np.argsort(-row, kind="stable")[:TOP]):
            style = "" if place else "bold"
            table.add_row(Text("" if place else name), Text(labels[i], style=style), Text(f"{row[i]:.1%}", style=style))
    return table
