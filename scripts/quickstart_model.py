"""The bundled model: its architecture, its tokenizer, its text tower without padding, its file. See train_quickstart.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from quickstart_batches import PIXELS
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

VOCABULARY = 1024
START, END, PAD = "<|startoftext|>", "<|endoftext|>", "<|pad|>"
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


def store(model: nn.Module, folder: Path) -> None:
    """Write the weights: matrices and kernels as fp16, the rest as it is. The mask is rebuilt, not stored."""
    state = {
        name: (t.half() if t.is_floating_point() and t.ndim >= 2 else t).contiguous()
        for name, t in model.state_dict().items()
    }
    save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
