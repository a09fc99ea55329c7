"""What the bundled model is trained on: captions with their weights, batches, changed pictures. See train_quickstart.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from quickstart_sources import GENDERS, TEMPLATES, TONES, Emoji
from torch import Tensor

PIXELS = 64
BATCH = {"emoji": 192, "fashion": 56, "digits": 8}


@dataclass(frozen=True)
class Core:
    """What a caption says, and the kind of template it is said with."""

    text: str
    kind: str


@dataclass
class Source:
    """Training images of one kind and, for each image class, the cores that hold for it with their weights."""

    images: Tensor  # uint8 [N, C, H, W]; C is 1 or 4 (with alpha)
    classes: Tensor  # int64 [N]
    cores: list[dict[Core, float]]  # by class


def emoji_cores(emoji: Emoji) -> dict[Core, float]:
    """Everything that is said of an emoji, and how often."""
    cores = {
        Core(emoji.name, "emoji"): 5.0,
        Core(emoji.category.lower(), "category"): 1.0,
        Core(emoji.subcategory.replace("-", " "), "emoji"): 0.5,
    }
    for group in (emoji.short_names, emoji.words):
        for text in group:
            cores.setdefault(Core(text, "emoji"), 1.0 / len(group))
    if emoji.toned:
        tone = TONES[emoji.tone]
        cores[Core(tone, "tone")] = 1.5
        cores[Core(f"{emoji.name} with {tone} skin tone", "emoji")] = 1.5
    if emoji.gender is not None and emoji.concept is not None:
        cores[Core(GENDERS[emoji.gender], "gender")] = 1.5
        cores.setdefault(Core(emoji.concept, "emoji"), 2.0)
    return cores


def load_emoji(emoji: Sequence[Emoji]) -> Source:
    """Emoji pictures with their transparency, a class each."""
    pictures = [np.array(Image.open(e.path).convert("RGBA").resize((PIXELS, PIXELS))) for e in emoji]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return Source(images, torch.arange(len(emoji)), [emoji_cores(e) for e in emoji])


def load_grey(images: np.ndarray, labels: np.ndarray, names: Sequence[str], kind: str) -> Source:
    """Grey pictures whose classes have names."""
    cores = [{Core(name, kind): 1.0} for name in names]
    return Source(torch.from_numpy(images.copy())[:, None], torch.from_numpy(labels.astype(np.int64)), cores)


def templates(kind: str) -> tuple[str, ...]:
    """The templates a core of this kind is trained with: its own, the bare text, and "a" or "an" as cues have it."""
    return (*TEMPLATES[kind], "{c}", "a {c}") if kind != "tone" else (*TEMPLATES[kind], "{c} skin tone")


def with_article(text: str) -> str:
    """ "a" becomes "an" before a vowel."""
    return f"an {text[2:]}" if text.startswith("a ") and text[2:3] in tuple("aeiou") else text


@dataclass
class Batches:
    """Batches of augmented images, each with one caption, which other captions of the batch also hold for it, and for the
    emoji, which come first, their place in `names`."""

    sources: dict[str, Source]
    generator: np.random.Generator
    core_ids: dict[Core, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.offsets: dict[str, int] = {}
        classes = 0
        for name, source in self.sources.items():
            self.offsets[name] = classes
            classes += len(source.cores)
            for cores in source.cores:
                for core in cores:
                    self.core_ids.setdefault(core, len(self.core_ids))
        self.holds = torch.zeros(len(self.core_ids), classes, dtype=torch.bool)
        for name, source in self.sources.items():
            for index, cores in enumerate(source.cores, start=self.offsets[name]):
                self.holds[[self.core_ids[core] for core in cores], index] = True

    def pick(self, name: str, count: int, hard: np.ndarray) -> np.ndarray:
        """Indices into a source. Half of the emoji come from one group, so that what is alike has to be told apart."""
        everything = len(self.sources[name].images)
        if name != "emoji":
            return self.generator.integers(everything, size=count)
        weights = self.emoji_weights
        half = self.generator.choice(everything, count // 2, p=weights)
        group = np.flatnonzero(hard == self.generator.choice(hard))
        chosen = weights[group] / weights[group].sum()
        other = self.generator.choice(group, min(count - count // 2, len(group)), p=chosen)
        rest = self.generator.choice(everything, count - len(half) - len(other), p=weights)
        return np.concatenate([half, other, rest])

    def prepare(self, emoji: Sequence[Emoji]) -> None:
        """Base emoji count four times as much as each toned variant of theirs."""
        weights = np.array([1.0 if e.tone == 0 else 0.25 for e in emoji])
        self.emoji_weights = weights / weights.sum()
        self.groups = np.unique([e.category for e in emoji], return_inverse=True)[1]

        self.names = list(dict.fromkeys(e.name for e in emoji))
        self.name_ids = torch.tensor([self.names.index(e.name) for e in emoji])

    def __iter__(self) -> Iterator[tuple[Tensor, list[str], Tensor, Tensor]]:
        while True:
            targets = torch.zeros(0, dtype=torch.int64)
            images, texts, core_ids, classes = [], [], [], []
            for name, source in self.sources.items():
                picked = self.pick(name, BATCH[name], self.groups)
                images.append(augment(source.images[picked], name))
                if name == "emoji":
                    targets = self.name_ids[picked]
                for label in source.classes[picked].tolist():
                    cores = source.cores[label]
                    weights = np.fromiter(cores.values(), float)
                    core = list(cores)[self.generator.choice(len(cores), p=weights / weights.sum())]
                    template = str(self.generator.choice(templates(core.kind)))
                    texts.append(with_article(template.format(c=core.text)))
                    core_ids.append(self.core_ids[core])
                    classes.append(label + self.offsets[name])
            yield torch.cat(images), texts, self.holds[core_ids][:, classes].T, targets


def uniform(count: int, low: float, high: float) -> Tensor:
    """`count` draws."""
    return torch.empty(count).uniform_(low, high)


def augment(images: Tensor, name: str) -> Tensor:
    """uint8 pictures to float ones in [-1, 1] at the model's size: moved, bent, recoloured, blurred, partly erased."""
    batch = len(images)
    strength = 1.0 if name == "emoji" else 0.5
    pixels = images.float() / 255
    if pixels.shape[1] == 4:
        pixels = composite(pixels)
    else:
        pixels = F.interpolate(pixels, size=(PIXELS, PIXELS), mode="bicubic", antialias=True, align_corners=False)
        pixels = pixels.expand(-1, 3, -1, -1)
    angle = uniform(batch, -0.3, 0.3) * strength
    zoom = torch.exp(uniform(batch, -0.25, 0.25) * strength)
    stretch = torch.exp(uniform(batch, -0.15, 0.15) * strength)
    shear = uniform(batch, -0.15, 0.15) * strength
    move = uniform(2 * batch, -0.15, 0.15).view(batch, 2) * strength
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = [
        torch.stack([zoom * stretch * cos, zoom * (shear - sin), move[:, 0]], 1),
        torch.stack([zoom * sin, zoom / stretch * cos, move[:, 1]], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(pixels.shape), align_corners=False)
    bend = torch.randn(batch, 2, 4, 4) * (0.05 * strength)
    grid = grid + F.interpolate(bend, size=(PIXELS, PIXELS), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
    # Border pixels are the background, so that it goes on beyond the picture's edge.
    pixels = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    pixels = recolour(pixels, strength)
    if name == "fashion":
        pixels = torch.where(torch.rand(batch, 1, 1, 1) < 0.5, pixels.flip(3), pixels)
    half = batch // 2
    size = int(torch.randint(PIXELS // 3, PIXELS * 7 // 8, ()))
    small = F.interpolate(pixels[:half], size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    pixels[:half] = F.interpolate(small, size=(PIXELS, PIXELS), mode="bilinear", align_corners=False)
    if name != "digits":
        pixels = erase(pixels)
    return pixels.clamp(0, 1) * 2 - 1


def composite(pictures: Tensor) -> Tensor:
    """RGBA over white, mostly; else over another colour."""
    batch = len(pictures)
    colour = torch.where(torch.rand(batch, 1) < 0.7, torch.ones(batch, 3), torch.rand(batch, 3))
    alpha = pictures[:, 3:]
    return pictures[:, :3] * alpha + colour[:, :, None, None] * (1 - alpha)


def recolour(pixels: Tensor, strength: float) -> Tensor:
    """Another contrast, brightness, saturation and mixture of the channels; sometimes grey."""
    batch = len(pixels)
    keep = torch.exp(uniform(batch, -0.4, 0.3) * strength)
    keep = torch.where(torch.rand(batch) < 0.05, torch.zeros(batch), keep)[:, None, None]
    mixing = torch.eye(3) + torch.randn(batch, 3, 3) * (0.06 * strength)
    mixing = mixing / mixing.sum(2, keepdim=True)  # grey stays grey
    mixing = mixing @ (keep * torch.eye(3) + (1 - keep) / 3)
    gain, gamma = torch.exp(uniform(2 * batch, -0.2, 0.15) * strength).view(2, batch, 1, 1, 1)
    mixed = torch.bmm(mixing, pixels.flatten(2)).view_as(pixels)
    return mixed.clamp(1e-4, 1) ** gamma * gain


def erase(pixels: Tensor) -> Tensor:
    """Put a grey rectangle on a third of the pictures."""
    batch = len(pixels)
    size = uniform(2 * batch, PIXELS / 10, PIXELS * 3 / 8).view(batch, 2)
    place = uniform(2 * batch, 0, PIXELS * 9 / 10).view(batch, 2)
    line = torch.arange(PIXELS)
    inside = [(line >= place[:, i : i + 1]) & (line < (place + size)[:, i : i + 1]) for i in (0, 1)]
    chosen = (torch.rand(batch) < 0.33)[:, None, None]
    mask = (inside[0][:, :, None] & inside[1][:, None, :] & chosen)[:, None]
    return torch.where(mask, torch.rand(batch, 1, 1, 1).expand_as(pixels), pixels)
