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
import json
import math
import time
from pathlib import Path

import numpy as np
import open_clip
import quickstart_sources as sources
import torch
import torch.nn.functional as F
from quickstart_batches import BATCH, Batches, load_emoji, load_grey, templates, with_article
from quickstart_model import CONFIG, Texts, encode_trimmed, store, train_tokenizer
from quickstart_scores import held_out_accuracies, test_accuracies, write_card
from quickstart_sources import TEMPLATES
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

BUNDLED = Path(__file__).parents[1] / "eval" / "bundled"
HELD_OUT_FASHION, HELD_OUT_DIGITS, HELD_OUT_EMOJI = 2000, 130, 150
BANK_STEPS = 20
"""Steps between two embeddings of all emoji names, against which every emoji is told apart."""


def contrastive_loss(logits: Tensor, holds: Tensor) -> Tensor:
    """CLIP's symmetric loss, in which other captions that hold for an image are not counted against it."""
    own = torch.eye(len(logits), dtype=torch.bool)
    logits = logits.masked_fill(holds & ~own, float("-inf"))
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


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
