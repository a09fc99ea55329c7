"""Train the bundled model, eval/bundled/model: a small CLIP on Twitter's emoji, Fashion-MNIST and digits.

apt-get install dataset-fashion-mnist
python scripts/make_quickstart_data.py --cache /tmp/quickstart
nice -n 10 python scripts/train_quickstart.py --cache /tmp/quickstart
python scripts/train_quickstart.py --cache /tmp/quickstart --steps 20 --out /tmp/trial    # does it run?

Nothing of the evaluation data is trained on: another vendor's emoji, Fashion-MNIST's test part and a quarter of the digits. Sizes
and schedule were set by the time and space there is. Two models were scored on it: a ViT of 1,100 steps (names of emoji 0.16), and
after it this one, for which convolutions were chosen because they need fewer pictures; its one training is what is bundled.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import open_clip
import quickstart_sources as sources
import torch
import torch.nn.functional as F
from PIL import Image
from quickstart_sources import GENDERS, TEMPLATES, TONES, Emoji
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import PreTrainedTokenizerFast

BUNDLED = Path(__file__).parents[1] / "eval" / "bundled"
PIXELS = 64
VOCABULARY = 1024
START, END, PAD = "<|startoftext|>", "<|endoftext|>", "<|pad|>"
HELD_OUT_FASHION, HELD_OUT_DIGITS, HELD_OUT_EMOJI = 2000, 130, 150
BATCH = {"emoji": 192, "fashion": 56, "digits": 8}
BANK_STEPS = 20
"""Steps between two embeddings of all emoji names, against which every emoji is told apart."""

CONFIG = {
    "model_cfg": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": PIXELS, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64},
        "text_cfg": {
            "context_length": 32,
            "vocab_size": VOCABULARY,
            "hf_tokenizer_name": "quickstart",
            "width": 128,
            "heads": 4,
            "layers": 2,
        },
    },
    "preprocess_cfg": {
        "size": PIXELS,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}


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


def train_tokenizer(texts: Sequence[str], folder: Path) -> None:
    """A lower-casing byte-level BPE, for any text. Its end token has the largest id, so that argmax pools it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 1,
        special_tokens=[PAD, START],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([END])
    start, end = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
    assert end == VOCABULARY - 1, f"the end token is {end}: too few merges in the captions"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, start), (END, end)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONFIG["model_cfg"]["text_cfg"]["context_length"],
    )
    fast.save_pretrained(folder)


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


def contrastive_loss(logits: Tensor, holds: Tensor) -> Tensor:
    """CLIP's symmetric loss, in which other captions that hold for an image are not counted against it."""
    own = torch.eye(len(logits), dtype=torch.bool)
    logits = logits.masked_fill(holds & ~own, float("-inf"))
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class Texts:
    """Tokens of texts, each tokenised once."""

    def __init__(self, tokenizer: open_clip.tokenizer.HFTokenizer) -> None:
        self.tokenizer = tokenizer
        self.known: dict[str, Tensor] = {}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token ids [len(texts), context length]."""
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        if new:
            self.known.update(zip(new, self.tokenizer(new), strict=True))
        return torch.stack([self.known[text] for text in texts])


def encode_trimmed(model: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """`model.encode_text`, normalised, without most of the padding: exact, as the tower is causal.

    The texts are encoded in three parts, from short to long, each cut to its longest.
    """
    ends = tokens.argmax(1)
    order = ends.argsort()
    parts = []
    for rows in order.chunk(3):
        length = int(ends[rows[-1]]) + 1
        x = model.token_embedding(tokens[rows, :length]) + model.positional_embedding[:length]
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
        parts.append(x[torch.arange(len(rows)), ends[rows]] @ model.text_projection)
    return F.normalize(torch.cat(parts)[order.argsort()], dim=1)


def parameter_groups(model: nn.Module) -> list[dict]:
    """Weight decay for matrices and kernels only."""
    flat = [p for p in model.parameters() if p.ndim < 2]
    deep = [p for p in model.parameters() if p.ndim >= 2]
    return [{"params": deep, "weight_decay": 0.1}, {"params": flat, "weight_decay": 0.0}]


def train(model: nn.Module, batches: Batches, texts: Texts, steps: int, learning_rate: float) -> nn.Module:
    """Train for `steps`; return the moving average of the weights."""
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=learning_rate, betas=(0.9, 0.98))
    warmup = min(100, steps // 5 + 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min((s + 1) / warmup, 0.5 * (1 + math.cos(math.pi * s / steps))),
    )
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
    model.train()
    began, mean = time.monotonic(), 0.0
    bank = torch.zeros(0)
    for step, (images, captions, holds, targets) in zip(range(1, steps + 1), batches, strict=False):
        if step % BANK_STEPS == 1:
            template = TEMPLATES["emoji"][step // BANK_STEPS % len(TEMPLATES["emoji"])]
            with torch.no_grad():
                bank = encode_trimmed(model, texts([template.format(c=name) for name in batches.names]))
        distinct = {text: i for i, text in enumerate(dict.fromkeys(captions))}
        image_features = model.encode_image(images.contiguous(memory_format=torch.channels_last), normalize=True)
        text_features = encode_trimmed(model, texts(list(distinct)))
        text_features = text_features[[distinct[text] for text in captions]]
        scale = model.logit_scale.exp()
        loss = contrastive_loss(scale * image_features @ text_features.T, holds)
        # A batch shows 200 of 1,900 names; against all of them, what is alike has to be told apart at every step.
        loss = loss + F.cross_entropy(scale * image_features[: len(targets)] @ bank.T, targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        average.update_parameters(model)
        mean += (loss.item() - mean) / min(step, 50)
        if step % 50 == 0 or step == steps:
            print(f"step {step}/{steps}, loss {mean:.3f}, {time.monotonic() - began:.0f} s", flush=True)
    return average.module.eval()


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


def store(model: nn.Module, folder: Path) -> None:
    """Write the weights: matrices and kernels as fp16, the rest as it is. The mask is rebuilt, not stored."""
    state = {
        name: (t.half() if t.is_floating_point() and t.ndim >= 2 else t).contiguous()
        for name, t in model.state_dict().items()
    }
    save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})


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


def main() -> None:
    """Train, store, load what was stored, and score it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="where fetched packages are kept")
    parser.add_argument("--out", type=Path, default=BUNDLED / "model")
    parser.add_argument("--data", type=Path, default=BUNDLED / "data", help="what to score the stored model on")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--start", type=Path, help="go on from the weights of this folder, with their own warm-up")
    parser.add_argument("--minutes", type=float, help="train nothing: score what is stored, which took so long, anew")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    began = time.monotonic()
    torch.set_num_threads(args.threads)
    torch.manual_seed(sources.SEED)
    rng = np.random.default_rng(sources.SEED)

    everything = sources.read_emoji(sources.TRAIN_VENDOR, args.cache)
    names = list(dict.fromkeys(e.name for e in everything))
    toned = [i for i, e in enumerate(everything) if e.tone > 0]
    held = set(rng.choice(toned, HELD_OUT_EMOJI, replace=False).tolist())
    emoji = [e for i, e in enumerate(everything) if i not in held]
    grey: dict[str, tuple] = {}
    parts = {"emoji": load_emoji(emoji)}
    for kind, (images, labels), classes, count in (
        ("fashion", sources.read_fashion("train"), sources.FASHION_CLASSES, HELD_OUT_FASHION),
        ("digits", sources.read_digits("train"), sources.DIGIT_CLASSES, HELD_OUT_DIGITS),
    ):
        order = rng.permutation(len(labels))
        grey[kind] = (images[order[:count]], labels[order[:count]], classes)
        parts[kind] = load_grey(images[order[count:]], labels[order[count:]], classes, kind)

    batches = Batches(parts, rng)
    batches.prepare(emoji)
    captions = [with_article(t.format(c=core.text)) for core in batches.core_ids for t in templates(core.kind)]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    train_tokenizer(captions, args.out)
    address = f"local-dir:{args.out.resolve()}"
    texts = Texts(open_clip.get_tokenizer(address))
    model = open_clip.create_model(address, load_weights=False)
    size = sum(p.numel() for p in model.parameters())
    print(f"{size} parameters, {len(captions)} captions, images:", {k: len(p.images) for k, p in parts.items()})

    if args.start:
        open_clip.load_checkpoint(model, str(args.start / "open_clip_model.safetensors"))
    held_out = [everything[i] for i in sorted(held)]
    if args.minutes is None:
        model = train(model.to(memory_format=torch.channels_last), batches, texts, args.steps, args.learning_rate)
        store(model, args.out)
    minutes = args.minutes or (time.monotonic() - began) / 60
    # Scored as stored: fp16 weights, and the causal mask rebuilt. Averaging has made the mask's -inf NaN.
    model, _, preprocess = open_clip.create_model_and_transforms(address)
    model.eval()
    scores = {"held out of the training data": held_out_accuracies(model, texts, preprocess, held_out, names, grey)}
    scores["test, never seen, from the stored file"] = test_accuracies(args.out, args.data)
    facts = {
        "parameters": size,
        "captions": len(captions),
        "steps": args.steps,
        "batch": " + ".join(f"{count} {name}" for name, count in BATCH.items()),
        "learning rate": args.learning_rate,
        "seed": sources.SEED,
        "minutes on one core of a busy machine": f"{minutes:.0f}",
        "packages": f"torch {torch.__version__}, open_clip {open_clip.__version__}",
    }
    write_card(args.out, {k: len(p.images) for k, p in parts.items()}, facts, scores)
    print(json.dumps(scores, indent=2))


if __name__ == "__main__":
    main()
