"""The two towers, the tokenizer and the transform of a model in training, out of what a trainer hands over."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from clipeval.configs.errors import ClipevalError

Tokenizer = Callable[[list[str]], torch.Tensor]


class Towers(NamedTuple):
    """What `clipeval.evaluate` takes first.

    Attributes:
        model: has `encode_image` and `encode_text`.
        tokenizer: a list of texts to int64 [T, L].
        transform: a PIL image to float32 [3, H, W], or a `Preprocess`.
    """

    model: nn.Module
    tokenizer: Tokenizer
    transform: Callable[..., Any]


def in_training(
    model: nn.Module,
    tokenizer: Tokenizer | None = None,
    transform: Callable[[Any], torch.Tensor] | None = None,
    processor: Any = None,
) -> Towers:
    """Finds the CLIP-like model in what is trained, and its own tokenizer and transform where none are given.

    Args:
        model: the model, or a module that holds one (a LightningModule), in DistributedDataParallel or torch.compile or not.
        tokenizer, transform: given ones come first.
        processor: a transformers processor, or a tokenizer.

    Raises:
        ClipevalError: there is no such model, its parameters are sharded, or its tokenizer or transform cannot be known.
    """
    found = next((part for part in _parts(model) if _embeds(part)), None)
    if found is None:
        raise ClipevalError(
            f"neither {type(model).__name__} nor a part of it has encode_image and encode_text (or transformers' "
            "get_image_features and get_text_features): give it these two methods, images to [B, D] and tokens to [B, D]."
        )
    sharded = next(
        (name for name, p in found.named_parameters() if type(p).__name__ == "DTensor" or not p.numel()), None
    )
    if sharded is not None:
        raise ClipevalError(
            f"{sharded} is sharded over the processes (FSDP), and an evaluation embeds with whole towers in each: train with "
            "DistributedDataParallel, or evaluate the checkpoints as they are written: clipeval watch FOLDER."
        )
    if hasattr(found, "get_image_features") and not hasattr(found, "encode_image"):
        return _of_transformers(found, tokenizer, transform, processor)
    transform = transform or _open_clip_transform(found)
    tokenizer = tokenizer or _open_clip_tokenizer(found)
    if tokenizer is None or transform is None:
        what = "tokenizer" if tokenizer is None else "transform"
        made = (
            "open_clip.get_tokenizer(NAME)"
            if tokenizer is None
            else "the preprocess_val of create_model_and_transforms"
        )
        raise ClipevalError(
            f"the {what} of {type(found).__name__} is not known: give ZeroShotCallback {what}=, such as {made}."
        )
    return Towers(found, tokenizer, transform)


def _parts(model: nn.Module) -> Iterator[nn.Module]:
    """A module without its wrappers, then what it holds, nearest first."""
    todo = [model]
    while todo:
        part = todo.pop(0)
        while isinstance(inner := getattr(part, "_orig_mod", None) or _unwrapped(part), nn.Module):
            part = inner
        yield part
        todo.extend(part.children())


def _unwrapped(part: nn.Module) -> nn.Module | None:
    is_wrapper = isinstance(part, nn.parallel.DistributedDataParallel | nn.DataParallel)
    return part.module if is_wrapper and isinstance(part.module, nn.Module) else None


def _embeds(part: nn.Module) -> bool:
    pairs = (("encode_image", "encode_text"), ("get_image_features", "get_text_features"))
    return any(all(callable(getattr(part, name, None)) for name in names) for names in pairs)


def _open_clip_transform(model: nn.Module) -> Callable[[Any], torch.Tensor] | None:
    """What `create_model_and_transforms` gave beside it: its image tower says so."""
    settings = getattr(getattr(model, "visual", None), "preprocess_cfg", None)
    if not isinstance(settings, dict):
        return None
    from open_clip.transform import PreprocessCfg, image_transform_v2

    return image_transform_v2(PreprocessCfg(**settings), is_train=False)  # type: ignore[no-any-return]


def _open_clip_tokenizer(model: nn.Module) -> Tokenizer | None:
    """OpenAI's, of a text tower of its vocabulary and context."""
    text: Any = getattr(model, "text", model)
    if getattr(text, "vocab_size", None) != 49408 or not isinstance(
        length := getattr(text, "context_length", None), int
    ):
        return None
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(context_length=length)  # type: ignore[no-any-return]


def _of_transformers(
    model: Any, tokenizer: Tokenizer | None, transform: Callable[[Any], torch.Tensor] | None, processor: Any
) -> Towers:
    """As `model=hf_transformers` evaluates the saved checkpoint: the same clean-up of texts, padding and pixels."""
    from clipeval.models.transformers_processor import pixels_of
    from clipeval.models.transformers_towers import HubTokenizer, kind_of, padding_of
    from clipeval.models.transformers_towers import Towers as Pair

    inner: Any = getattr(
        processor, "tokenizer", processor if callable(getattr(processor, "convert_ids_to_tokens", None)) else None
    )
    if tokenizer is None and inner is None:
        raise ClipevalError(
            "the tokenizer is not known: give Trainer processing_class=PROCESSOR, or ZeroShotCallback tokenizer=."
        )
    if transform is None and getattr(processor, "image_processor", None) is None:
        raise ClipevalError(
            "the transform is not known: give Trainer processing_class=PROCESSOR, or ZeroShotCallback transform=."
        )
    kind = kind_of(str(model.config.model_type), type(inner).__name__)
    padding = None
    if tokenizer is None:
        known = model.config.text_config.max_position_embeddings
        context = int(known) if not kind.masked else min(int(inner.model_max_length), int(known) - 2, 512)
        tokenizer = hub = HubTokenizer.of(copy.deepcopy(inner), context, kind.clean)
        padding = padding_of(hub) if kind.masked else None
    pixels: Any = transform or pixels_of(processor.image_processor)
    return Towers(Pair(model, padding), tokenizer, pixels)
