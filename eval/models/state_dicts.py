"""Which of a checkpoint's tensors are the model's: found by the model's own names, whatever stands before and between them.

Training scripts put a state dict below other names (`state_dict`, `model`, `module`) and wrap its modules (`_orig_mod.`, `module.`,
Lightning's `model.`). None of these is known in advance here: a prefix is whatever stands before a name of the model's, and what
lies below it is the model's state dict if it has each of the model's names with its shape. Where several have, one of them must be
chosen.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from torch import nn

from clipeval.configs.errors import ClipevalError
from clipeval.models.checkpoint_file import tensors_in
from clipeval.models.fitting import architectures_that_fit

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
"""Names that wrappers (DistributedDataParallel, torch.compile, FSDP, activation checkpointing) put among a module's own."""
TOP = "."
"""What `model.state_dict` calls the state dict that stands below no name."""

_TRAINING = re.compile(r"optim|exp_avg|scheduler|momentum|^grad|scaler|^rng|callbacks|^loops$", re.IGNORECASE)
"""Parts of a checkpoint that are named like weights and are none."""
_AVERAGED = re.compile(r"(^|[._/-])(ema|shadow|swa|averaged?)($|[._/-])|modelema|emamodel", re.IGNORECASE)
_BOOKKEEPING = frozenset({"n_averaged", "input_resolution", "context_length", "vocab_size"})
"""Buffers beside a state dict that are no weights: of torch's AveragedModel, and of OpenAI's archives."""
_MASK = ".attn_mask"
"""A causal mask, which OpenAI's archives keep with each block and a model makes by itself."""
_POSITIONS = ("visual.positional_embedding", "positional_embedding", "text.positional_embedding")
_OLD_TEXT = ("text_projection", "positional_embedding", "token_embedding", "transformer", "ln_final")
_BLOCK = re.compile(r"^.*?\b(?:resblocks|blocks|layers?|stages)\.\d+(?:\.\d+)?(?=\.)")
_TRANSFORMERS = re.compile(r"(^|\.)(vision_model|text_model)\.")
_ADAPTER = re.compile(r"\.lora_[AB]\b|\.base_layer\.")


@dataclass
class Found:
    """A state dict in a checkpoint, and how it fits a model.

    Attributes:
        prefix: what stands before the model's names.
        weights: by the model's names.
        averaged: whether it is an average over the training (EMA).
        missing, unexpected: names that the model has and it has not, and the other way round.
        shapes: {name: (its shape, the model's)} where these differ.
        aside: of the same state dict, the names that stand below other prefixes.
    """

    prefix: str
    weights: dict[str, torch.Tensor]
    averaged: bool = False
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)
    aside: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        """Whether the model loads it whole, with nothing left over."""
        return not (self.missing or self.unexpected or self.shapes)

    @property
    def label(self) -> str:
        """How messages and `model.state_dict` name it: the prefix without wrappers at its end."""
        parts = [part for part in self.prefix.split(".") if part]
        while parts and parts[-1] in WRAPPERS:
            parts.pop()
        return ".".join(parts) or TOP


@dataclass(frozen=True)
class Choice:
    """The state dict to load, and what a reader of the scores must know about the choice."""

    found: Found
    flags: tuple[str, ...]


def choose(content: Any, model: nn.Module, path: Path, *, ema: bool = False, name: str | None = None) -> Choice:
    """The model's state dict in a checkpoint.

    Args:
        content: as `read_checkpoint` gives it.
        model: of the architecture that the config names.
        path: of the checkpoint, for messages.
        ema: whether the averaged weights are wanted (`model.ema`).
        name: which state dict is wanted, where several fit (`model.state_dict`).

    Raises:
        ClipevalError: none fits, or several do.
    """
    found = state_dicts(content, model)
    if not found:
        raise ClipevalError(f"{path} holds no weights: {_contents(content)}")
    fitting = _distinct([item for item in found if item.fits])
    if name is not None:
        return Choice(
            _named(found, fitting, name, path, model), (f"of {path.name}, the state dict {name!r} was loaded",)
        )
    if not fitting:
        raise ClipevalError(_misfit(path, found[0], model))
    averaged = [item for item in fitting if item.averaged]
    # One that lacks a name and is of no other architecture may be the one that was meant: it is never passed over.
    whole = {id(tensor) for item in fitting for tensor in item.weights.values()}
    torn = [item for item in found if _torn(item, model) and not any(id(t) in whole for t in item.weights.values())]
    plain = [item for item in (*fitting, *_distinct(torn)) if not item.averaged]
    if ema and not averaged:
        raise ClipevalError(
            f"model.ema=true, and {path} holds no averaged (EMA) weights of this architecture, but only {_labels(plain)}. "
            "Leave model.ema away to evaluate these."
        )
    wanted = averaged if ema or not plain else plain
    if len(wanted) > 1:
        raise ClipevalError(
            f"{path} holds {len(wanted)} state dicts of this architecture: {_labels(wanted)}. Say which one to evaluate: "
            + " or ".join(f"model.state_dict={item.label}" for item in wanted)
        )
    if not wanted[0].fits:
        raise ClipevalError(_misfit(path, wanted[0], model))
    return Choice(wanted[0], tuple(_flags(path, wanted[0], plain, averaged)))


def state_dicts(content: Any, model: nn.Module) -> list[Found]:
    """Every state dict of a checkpoint that has some of the model's names, the best fit first."""
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    named: dict[tuple[str, ...], torch.Tensor] = {
        path: tensor for path, tensor in tensors_in(content) if not any(_TRAINING.search(part) for part in path[:-1])
    }
    flat = {".".join(path): (path[:-1], tensor) for path, tensor in named.items()}
    known = _known(shapes)
    counts: Counter[str] = Counter(prefix for key in flat for prefix in _prefixes(key, known))
    found = [_below(prefix, flat, model, shapes, known) for prefix in counts]
    whole = [item.prefix for item in found if item.prefix and not item.missing and not item.shapes]
    if whole:  # what lies below one is left over from none of those that it stands beside
        found = [_below(prefix, flat, model, shapes, known, whole) for prefix in counts]
    return sorted(found, key=lambda item: (-_matched(item, shapes), len(item.unexpected), item.prefix))


def _known(shapes: Mapping[str, Any]) -> set[str]:
    """The names of a model, and those that open_clip renames to them."""
    old = {
        name.removeprefix("text.") for name in shapes if name.startswith(tuple(f"text.{part}" for part in _OLD_TEXT))
    }
    return {*shapes, *old}


def _prefixes(key: str, known: set[str]) -> Iterable[str]:
    """What stands before a name of the model's in a key, each way to read it."""
    parts = key.split(".")
    for place in range(len(parts)):
        if place and parts[place] in WRAPPERS:
            continue  # it belongs to the prefix
        if (
            _bare(parts[place:]) in known or parts[place] == "image_encoder"
        ):  # Apple's MobileCLIP, which open_clip converts
            yield "".join(f"{part}." for part in parts[:place])


def _bare(parts: Sequence[str]) -> str:
    return ".".join(part for part in parts if part not in WRAPPERS)


def _below(
    prefix: str,
    flat: Mapping[str, tuple[tuple[str, ...], torch.Tensor]],
    model: nn.Module,
    shapes: Mapping[str, list[int]],
    known: set[str],
    whole: Sequence[str] = (),
) -> Found:
    """What lies below a prefix, under the model's names. Only the mappings count in which some of these stand."""
    mine = {key: _bare(key[len(prefix) :].split(".")) for key in flat if key.startswith(prefix)}
    own = {*_BOOKKEEPING, *(name for name, _ in model.named_buffers() if name not in shapes)}
    holders = {flat[key][0] for key, name in mine.items() if name in known or name.startswith("image_encoder.")}
    mine = {
        key: name for key, name in mine.items() if flat[key][0] in holders and not (name in own or name.endswith(_MASK))
    }
    # A wrapper's name may also be a container's ({"module": …}): what has two readings is left to the longer prefix.
    longer = {key for key in mine if key[len(prefix) :].split(".")[0] in WRAPPERS}
    if longer and len(longer) < len(mine):
        mine = {key: name for key, name in mine.items() if key not in longer}
    inner = tuple(other for other in whole if other != prefix and other.startswith(prefix))
    mine = {key: name for key, name in mine.items() if name in known or not (inner and key.startswith(inner))}
    weights = {name: flat[key][1] for key, name in mine.items()}
    container = min(holders, key=len) if holders else ()
    averaged = any(_AVERAGED.search(part) for part in prefix.split(".")) or any(
        key.endswith("n_averaged") and flat[key][0] in holders and prefix.startswith(key.removesuffix("n_averaged"))
        for key in flat
    )
    aside = [key for key in flat if flat[key][0] == container and not key.startswith(prefix) and not _counter(key)]
    found = Found(prefix, _converted(weights, model), averaged, aside=aside)
    found.missing = [name for name in shapes if name not in found.weights]
    found.unexpected = [name for name in found.weights if name not in shapes]
    found.shapes = {
        name: (list(tensor.shape), shapes[name])
        for name, tensor in found.weights.items()
        if name in shapes and list(tensor.shape) != shapes[name] and not _adapts(name, tensor, shapes[name])
    }
    return found


def _counter(key: str) -> bool:
    return key.rpartition(".")[2] in _BOOKKEEPING


def _converted(weights: dict[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """As `open_clip.factory.load_checkpoint` converts what other versions and projects wrote; positions are not resized yet."""
    weights = convert_state_dict(model, weights)
    if "positional_embedding" in weights and not hasattr(model, "positional_embedding"):
        weights = convert_to_custom_text_state_dict(weights)
    for name in ("logit_scale", "logit_bias"):
        here, there = getattr(model, name, None), weights.get(name)
        if here is not None and there is not None and here.ndim != there.ndim and here.numel() == there.numel():
            weights[name] = there.reshape(here.shape)
    if getattr(model, "logit_bias", None) is not None and "logit_bias" not in weights and "logit_scale" in weights:
        weights["logit_bias"] = torch.zeros_like(weights["logit_scale"])
    positions = "text.transformer.embeddings.position_ids"  # transformers before 4.31
    if positions in weights and positions not in model.state_dict():
        del weights[positions]
    return weights


def _adapts(name: str, tensor: torch.Tensor, wanted: list[int]) -> bool:
    """Whether it is a table of positions that open_clip resizes: the width is the same, and of images the grid a square."""
    if name not in _POSITIONS or tensor.ndim != 2 or tensor.shape[1:] != torch.Size(wanted[1:]):
        return False
    return name != "visual.positional_embedding" or round((tensor.shape[0] - 1) ** 0.5) ** 2 == tensor.shape[0] - 1


def _matched(found: Found, shapes: Mapping[str, Any]) -> int:
    return len(shapes) - len(found.missing) - len(found.shapes)


def _torn(found: Found, model: nn.Module) -> bool:
    """Whether it does not fit, though it has most of the names, and all that it has with the model's shapes."""
    names = model.state_dict()
    return not found.fits and not found.shapes and 2 * _matched(found, names) > len(names)


def _distinct(found: Sequence[Found]) -> list[Found]:
    """Without those whose weights are another's, bit for bit: a checkpoint may hold one state dict under two names."""
    kept: list[Found] = []
    for item in found:
        if not any(_same(item.weights, other.weights) for other in kept):
            kept.append(item)
    return kept


def _same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        tensor is other[name] or (tensor.dtype == other[name].dtype and torch.equal(tensor, other[name]))
        for name, tensor in one.items()
    )


def _named(found: Sequence[Found], fitting: Sequence[Found], name: str, path: Path, model: nn.Module) -> Found:
    exact = [item for item in found if name in (item.label, item.prefix.rstrip("."))]
    chosen = exact or [item for item in found if item.label.endswith(f".{name}")]
    fit = _distinct([item for item in chosen if item.fits])
    if len(fit) == 1:
        return fit[0]
    if chosen and not fit:
        raise ClipevalError(f"model.state_dict={name}: {_misfit(path, chosen[0], model)}")
    raise ClipevalError(
        f"model.state_dict={name}: of {path}, these fit this architecture: {_labels(fit or fitting) or 'none'}"
    )


def _labels(found: Sequence[Found]) -> str:
    return ", ".join(repr(item.label) for item in found)


def _flags(path: Path, chosen: Found, plain: Sequence[Found], averaged: Sequence[Found]) -> Iterable[str]:
    if chosen.averaged:
        beside = f"; it also holds {_labels(plain)}, which are not" if plain else "; it holds no others"
        yield f"averaged (EMA) weights, {chosen.label!r} of {path.name}{beside}"
    elif averaged:
        yield (
            f"{path.name} also holds averaged (EMA) weights, {_labels(averaged)}: these scores are of {chosen.label!r}; "
            "model.ema=true evaluates the others"
        )
    others = [item.prefix for item in (*plain, *averaged) if item is not chosen]
    aside = [key for key in chosen.aside if not any(other and key.startswith(other) for other in others)]
    if aside:
        yield f"of {path.name}, {len(aside)} tensors outside of {chosen.label!r} were left out, such as {aside[0]!r}"


def _misfit(path: Path, best: Found, model: nn.Module) -> str:
    """Why a checkpoint cannot be loaded: of another architecture only if shapes or structure say so."""
    theirs = any(_TRANSFORMERS.search(name) for name in model.state_dict())
    if not theirs and any(_TRANSFORMERS.search(f"{best.prefix}{name}") for name in best.unexpected):
        return (
            f"{path} has the names of Hugging Face transformers (such as {_transformers_name(best)!r}), not of open_clip: "
            "evaluate its folder with model=hf_transformers model.path=FOLDER"
        )
    if any(tensor.numel() == 0 for tensor in best.weights.values()):
        return (
            f"{path} holds empty tensors, as DeepSpeed leaves them under ZeRO stage 3: join its parts first, with the "
            "zero_to_fp32.py that lies beside it"
        )
    parts = []
    if best.missing:
        parts.append(
            f"{len(best.missing)} missing (such as {best.missing[0]!r}{_nearest(best.missing[0], best.unexpected)})"
        )
    if best.unexpected:
        parts.append(
            f"{len(best.unexpected)} unexpected (such as {best.unexpected[0]!r}{_nearest(best.unexpected[0], best.missing)})"
        )
    if best.shapes:
        key, (given, wanted) = next(iter(best.shapes.items()))
        parts.append(
            f"{len(best.shapes)} of another shape (such as {key!r}: {given} in the file, {wanted} in the model)"
        )
    below = "" if best.label == TOP else f" below {best.label!r}"
    what = f"weights{below} {'; '.join(parts)}"
    if any(_ADAPTER.search(name) for name in best.unexpected):
        return (
            f"{path} holds an adapter (LoRA) that is not merged into the weights: {what}. Merge it, and save the model"
        )
    if _another(best, model):
        fitting = architectures_that_fit(best.weights)
        hint = f". Its shapes are those of model.name={' or '.join(fitting)}" if fitting else ""
        return f"{path} is of another architecture than model.name says: {what}{hint}"
    return (
        f"{path} does not hold just this model's weights, though the architecture is the same: {what}. Save the model's whole "
        "state_dict() and nothing else"
    )


def _transformers_name(best: Found) -> str:
    return next(name for name in best.unexpected if _TRANSFORMERS.search(f"{best.prefix}{name}"))


def _nearest(name: str, among: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, among, n=1, cutoff=0.8)
    return f"; nearest: {near[0]!r}" if near else ""


def _another(best: Found, model: nn.Module) -> bool:
    """Whether shapes differ, whole blocks are missing or too many, or less than half of the names are there."""
    names = list(model.state_dict())
    blocks, theirs = ({match[0] for name in given if (match := _BLOCK.match(name))} for given in (names, best.weights))
    return bool(best.shapes) or blocks != theirs or 2 * len(best.missing) > len(names)


def _contents(content: Any) -> str:
    names = [".".join(path) for path, _ in tensors_in(content)]
    if any("flat_param" in name for name in names):
        return (
            "it is one process's share under FSDP; save a full state dict (StateDictType.FULL_STATE_DICT) and give that"
        )
    if names:
        return f"none of its {len(names)} tensors has a name that ends as one of the model's (such as {names[0]!r})"
    if isinstance(content, Mapping):
        return f"it holds {', '.join(map(repr, list(content)[:8]))}, and no named tensors among these"
    return f"it holds a {type(content).__name__}, not a state dict"
