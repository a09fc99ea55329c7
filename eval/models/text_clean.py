"""What is done to a text before the tokenizer reads it: the policy that a model was trained with, or the one asked for.

    canonicalize  big_vision's clean-up, which SigLIP and SigLIP 2 were trained with: underscores become spaces, punctuation is
                  deleted, lower case, white space collapsed
    lower         OpenAI's, of CLIP: lower case, white space collapsed
    whitespace    white space collapsed; open_clip's for tokenizers of Hugging Face
    none          the text as it is; whatever the tokenizer itself does to it

The first three are open_clip's own functions, which repair the text's encoding (ftfy) and resolve HTML entities first. So one
model gives one number, whether open_clip or transformers has its weights.
"""

from __future__ import annotations

from collections.abc import Callable

from clipeval.configs.errors import ClipevalError, nearest
from clipeval.configs.schema import TEXT_CLEAN

CANONICALIZE, LOWER, WHITESPACE, NONE = TEXT_CLEAN


def clean_function(policy: str) -> Callable[[str], str]:
    """A text to the text that the tokenizer reads.

    Raises:
        ClipevalError: there is no such policy.
    """
    if policy not in TEXT_CLEAN:
        raise ClipevalError(nearest("model.text_clean", policy, TEXT_CLEAN))
    if policy == NONE:
        return _unchanged
    from open_clip.tokenizer import get_clean_fn

    found: Callable[[str], str] = get_clean_fn(policy)
    return found


def _unchanged(text: str) -> str:
    return text


def is_siglip_tokenizer(name: str | None) -> bool:
    """Whether a tokenizer's repository or folder is SigLIP's or SigLIP 2's: `timm/ViT-B-16-SigLIP2`, `google/siglip-…`."""
    return "siglip" in (name or "").lower()
