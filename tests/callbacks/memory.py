"""What evaluations in training leave in memory: python -m tests.callbacks.memory [EVALUATIONS]

The bundled model is trained, two steps between evaluations, in one process on the CPU. Prints a row of JSON: the process's
resident memory in MiB after the training has warmed up, and after the two steps that follow each evaluation; and the bytes of
all tensors that Python holds at these times.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import open_clip
import torch

from clipeval.callbacks.zero_shot import ZeroShot

MODEL = Path(__file__).parents[2] / "eval" / "bundled" / "model"
WORDS = ["+task@tasks.digits=quickstart_digits", "+task@tasks.emoji=quickstart_emoji_retrieval", "data.limit=64"]
WORDS += ["runtime.device=cpu", "cache.features=false"]  # else a model that learns nothing is embedded once
BATCH = 8


def resident() -> float:
    """MiB that the process holds, garbage left out."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def held() -> int:
    """Bytes of all live tensors, storage that several share counted once."""
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in gc.get_objects() if torch.is_tensor(t)
    }
    return sum(storages.values())


def measured(evaluations: int) -> dict[str, Any]:
    """Trains and evaluates."""
    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{MODEL}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{MODEL}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    size = model.visual.image_size if isinstance(model.visual.image_size, int) else model.visual.image_size[0]

    def train() -> None:
        model.train()
        for _ in range(2):
            images, texts = torch.rand(BATCH, 3, size, size), tokenizer([f"number {i}" for i in range(BATCH)])
            image, text = model.encode_image(images, normalize=True), model.encode_text(texts, normalize=True)
            loss = torch.nn.functional.cross_entropy(model.logit_scale.exp() * image @ text.T, torch.arange(BATCH))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    callback = ZeroShot("none", 2, tokenizer=tokenizer, transform=transform, overrides=WORDS)
    callback.start(model)
    train()
    train()
    rows = [(resident(), held())]
    for number in range(1, evaluations + 1):
        assert callback.step(model, 2 * number), callback.failures
        train()
        rows.append((resident(), held()))
    return {"resident": [round(mib, 1) for mib, _ in rows], "tensors": [tensors for _, tensors in rows]}


if __name__ == "__main__":
    print(json.dumps(measured(int(sys.argv[1]) if sys.argv[1:] else 3)))
