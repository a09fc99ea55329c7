"""What the bundled model reaches, by open_clip alone, and the card that says so. See train_quickstart.py."""

from __future__ import annotations

import csv
import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import open_clip
import quickstart_sources as sources
import torch
import torch.nn.functional as F
from PIL import Image
from quickstart_model import Texts
from quickstart_sources import GENDERS, TEMPLATES, TONES, Emoji
from torch import Tensor, nn


@torch.inference_mode()
def embed_images(model: nn.Module, images: Sequence[Tensor] | Tensor) -> Tensor:
    """Normalised image embeddings."""
    chunks = [torch.stack(list(images[i : i + 256])) for i in range(0, len(images), 256)]
    return torch.cat([model.encode_image(chunk, normalize=True) for chunk in chunks])


@torch.inference_mode()
def head(model: nn.Module, texts: Texts, names: Sequence[str], kind: str) -> Tensor:
    """Zero-shot head: for each class, the mean over the templates, normalised."""
    rows = [t.format(c=name) for name in names for t in TEMPLATES[kind]]
    features = torch.cat(
        [model.encode_text(texts(rows[i : i + 512]), normalize=True) for i in range(0, len(rows), 512)]
    )
    return F.normalize(features.view(len(names), -1, features.shape[1]).mean(1), dim=1)


def accuracy(features: Tensor, classes: Tensor, labels: Sequence[int] | Tensor) -> float:
    """Top-1."""
    return ((features @ classes.T).argmax(1) == torch.as_tensor(labels)).double().mean().item()


def held_out_accuracies(
    model: nn.Module, texts: Texts, preprocess, emoji: Sequence[Emoji], names: Sequence[str], grey: dict[str, tuple]
) -> dict[str, float]:
    """What the model reaches on the parts of the training data that it was not trained on."""
    found: dict[str, float] = {}
    for kind, (images, labels, classes) in grey.items():
        features = embed_images(model, [preprocess(Image.fromarray(image)) for image in images])
        found[kind] = accuracy(features, head(model, texts, classes, kind), labels)
    features = embed_images(model, [preprocess(sources.on_white(e.path)) for e in emoji])
    found["toned emoji, name"] = accuracy(
        features, head(model, texts, names, "emoji"), [names.index(e.name) for e in emoji]
    )
    found["toned emoji, tone"] = accuracy(features, head(model, texts, TONES, "tone"), [e.tone for e in emoji])
    return found


def read_split(folder: Path, preprocess) -> tuple[Tensor, list[int]]:
    """A split's images as the model wants them, and the labels of its .cls members."""
    images, labels = [], []
    with tarfile.open(folder / "0.tar") as tar:
        for member in tar:
            content = tar.extractfile(member).read()
            if member.name.endswith(".cls"):
                labels.append(int(content))
            else:
                images.append(preprocess(Image.open(BytesIO(content)).convert("RGB")))
    return torch.stack(images), labels


def test_accuracies(folder: Path, data: Path) -> dict[str, float]:
    """Accuracies on the bundled data of the model stored in `folder`, loaded as anyone would load it."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder.resolve()}")
    model.eval()
    texts = Texts(open_clip.get_tokenizer(f"local-dir:{folder.resolve()}"))
    found: dict[str, float] = {}
    for kind, name in (("fashion", "fashion_mnist"), ("digits", "digits")):
        split = data / f"wds_quickstart_{name}_test"
        images, labels = read_split(split / "test", preprocess)
        classes = (split / "classnames.txt").read_text().splitlines()
        if not labels:  # a table beside the tar holds them, by name
            with (split / "test" / "samples.csv").open(newline="", encoding="utf-8") as file:
                labels = [classes.index(row["label"]) for row in csv.DictReader(file)]
        found[kind] = accuracy(embed_images(model, images), head(model, texts, classes, kind), labels)
    columns = {"emoji": {"name": "emoji", "category": "category"}, "emoji_people": {"name": "emoji"}}
    for name, kinds in columns.items():
        split = data / f"wds_quickstart_{name}_test" / "test"
        features = embed_images(model, read_split(split, preprocess)[0])
        with (split / "samples.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for column, kind in kinds.items():
            values = [row[column] for row in rows]
            classes = list(dict.fromkeys(values))
            labels = [classes.index(value) for value in values]
            found[f"{name}, {column}"] = accuracy(features, head(model, texts, classes, kind), labels)
    for column, classes in (("tone", TONES), ("gender", GENDERS)):
        labels = [int(row[column]) for row in rows]
        found[f"emoji_people, {column}"] = accuracy(features, head(model, texts, classes, column), labels)
    return found


def write_card(folder: Path, counts: dict[str, int], facts: dict[str, object], scores: dict[str, dict]) -> None:
    """The model card."""
    lines = ["# clipeval's quickstart model", ""]
    lines += [
        "A small CLIP (a convolutional image tower, open_clip's ModifiedResNet, and a causal text tower), trained by"
    ]
    lines += ["`scripts/train_quickstart.py` on real data."]
    lines += ["It exists so that every protocol of the harness can be run in seconds without a download.", ""]
    lines += [
        "| training data | images |",
        "|---|---|",
        *(f"| {name} | {count} |" for name, count in counts.items()),
        "",
    ]
    lines += ["| fact | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())]
    for title, found in scores.items():
        lines += [
            "",
            f"| {title} | top-1 |",
            "|---|---|",
            *(f"| {name} | {value:.4f} |" for name, value in found.items()),
        ]
    (folder / "README.md").write_text("\n".join(lines) + "\n")
