"""Zero-shot scores every few steps of a training loop: python examples/training_loop.py

`evaluate` leaves the model, its mode and every random state as they were, so that training goes on as if nothing had happened.
"""

import open_clip
import torch
from torch.nn.functional import normalize

from clipeval import evaluate

STEPS, EVERY, BATCH = 4, 2, 8
# A small architecture with random weights; yours comes from open_clip.create_model_and_transforms(NAME, pretrained=TAG).
CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}

torch.manual_seed(0)
model = open_clip.model.CLIP(**CONFIG)
tokenizer = open_clip.get_tokenizer("ViT-B-32")
transform = open_clip.image_transform(32, is_train=False)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

for step in range(1, STEPS + 1):
    model.train()
    images, texts = torch.rand(BATCH, 3, 32, 32), tokenizer([f"a photo of number {i}." for i in range(BATCH)])
    image_features = normalize(model.encode_image(images), dim=-1)
    text_features = normalize(model.encode_text(texts), dim=-1)
    logits = model.logit_scale.exp() * image_features @ text_features.T
    loss = torch.nn.functional.cross_entropy(logits, torch.arange(BATCH))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % EVERY == 0:
        # One small task here; suite="imagenet", data_root="/data" for the real thing.
        table = evaluate(model, tokenizer, transform, suite="none", overrides=["+task@tasks.digits=quickstart_digits"])
        row = table.iloc[0]
        interval = f"({row['low']:.4f} to {row['high']:.4f})"
        print(f"step {step}: loss {loss.item():.3f}, {row['name']} {row['metric']} {row['value']:.4f} {interval}")
