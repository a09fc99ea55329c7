"""A model of your own class, evaluated from the command line: python examples/custom_model.py

The same without this file's last lines: PYTHONPATH=examples clipeval run model=custom model._target_=custom_model.Colours …
"""

import sys
from pathlib import Path

import torch
from torch import nn
from torchvision.transforms.functional import pil_to_tensor


class Colours(nn.Module):
    """Embeds a picture by a random projection of its colours, and a text by its letters. It knows nothing, and scores so."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.image, self.letters = nn.Linear(48, width), nn.Embedding(128, width)

    def transform(self, image):
        """A PIL image to float32 [3, H, W]."""
        return pil_to_tensor(image.convert("RGB").resize((4, 4))).float() / 255

    def tokenizer(self, texts):
        """T texts to an integer tensor [T, L]."""
        return torch.tensor([[ord(letter) % 128 for letter in text[:40].ljust(40)] for text in texts])

    def encode_image(self, images):
        """float32 [B, 3, H, W] to [B, D]; unit length is clipeval's work."""
        return self.image(images.flatten(1))

    def encode_text(self, tokens):
        """[T, L] to [T, D]."""
        return self.letters(tokens).sum(dim=1)


if __name__ == "__main__":
    from clipeval.cli.main import main

    sys.path.insert(0, str(Path(__file__).parent))
    words = ["model=custom", "model._target_=custom_model.Colours", "+model.width=16", "task=quickstart_digits"]
    sys.exit(main(["run", *words, *sys.argv[1:]]))
