"""Models that are not open_clip's: any class that a config names, and a model that is already in memory."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import uuid
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from configs.errors import ClipevalError
from eval.models.captions import writes_captions
from eval.models.encoder import Encoder
from eval.models.handle import ModelHandle, digest_of, slug_of
from eval.models.texts import PROBES, Tokenizer, tokenise
from eval.preprocess import Opaque, Preprocess, Transform, read_transform

_PARTS = ("encode_image", "encode_text", "tokenizer", "transform")


class UserModel(ModelHandle):
    """A class of one's own: `model=custom model._target_=my.module.MyModel +model.checkpoint=PATH`.

    An instance has
        encode_image(images)  float32 [B, 3, h, w], as `transform` gives them, to [B, D]
        encode_text(tokens)   int64 [B, L], as `tokenizer` gives them, to [B, D]
        tokenizer(texts)      a list of texts to int64 [B, L], padded to one length
        transform(image)      a PIL image to float32 [3, h, w]; or an `eval.preprocess.Preprocess`
    where it writes captions, generate(images) to int64 [B, L] token ids, and tokenizer.decode(ids) to text;
    and, unless it is an nn.Module, `digest`, a string that changes with its weights. Embeddings need no particular length.

    >>> class MyModel(nn.Module):
    ...     def __init__(self, checkpoint): ...
    """

    def __init__(self, target: str, arguments: dict[str, Any], *, name: str | None = None, slug: str | None = None):
        self.name, self.pretrained, self.flags = name or target, None, []
        self.slug = slug_of(slug or self.name)
        self._class, self._arguments = _find(target), arguments
        self._instance: Any = None
        self._preprocess: Transform | None = None
        self._digest: str | None = None

    def _made(self) -> Any:
        """The instance, made when it is first needed: what it sees is not known before."""
        if self._instance is None:
            try:
                instance = self._class(**self._arguments)
            except TypeError as error:
                raise ClipevalError(
                    f"model._target_: {self._class.__name__}({', '.join(self._arguments)}): {error}"
                ) from error
            lacking = [part for part in _PARTS if not _has(instance, part)]
            if lacking:
                raise ClipevalError(f"model._target_: {self._class.__name__} has no callable {', '.join(lacking)}")
            self._instance = instance
        return self._instance

    @property
    def preprocess(self) -> Transform:
        """See `ModelHandle.preprocess`. Makes the instance."""
        if self._preprocess is None:
            self._preprocess = read_transform(self._made().transform, self.weights_digest)
        return self._preprocess

    @property
    def missing(self) -> str | None:
        """None: what a class needs, only the class knows."""
        return None

    def fetch(self) -> None:
        """Make the instance, so that it downloads what it wants to."""
        self._made()

    @property
    def weights_digest(self) -> str:
        """The weights' content, or the instance's `digest`, with the class's source. Makes the instance."""
        if self._digest is not None:
            return self._digest
        instance = self._made()
        weights = getattr(instance, "digest", None)
        if weights is None and isinstance(instance, nn.Module):
            weights = state_digest(instance)
        if weights is None:
            raise ClipevalError(
                f"model._target_: {type(instance).__name__} is no torch module, so its weights cannot be told apart;"
                " give it an attribute `digest`, a string that changes with its weights"
            )
        self._digest = digest_of([str(weights), _source(type(instance))])
        return self._digest

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `ModelHandle.outputs`. Makes the instance."""
        return ("embeddings", "captions") if writes_captions(self._made()) else ("embeddings",)

    @property
    def tokenizer_digest(self) -> str:
        """What the tokenizer makes of probe texts. Makes the instance."""
        return tokens_digest(self._made().tokenizer)

    def tokenizer(self) -> Tokenizer:
        """See `ModelHandle.tokenizer`. Makes the instance."""
        found: Tokenizer = self._made().tokenizer
        return found

    def load(self, device: str | torch.device = "cpu", precision: str = "fp32", compile: bool = False) -> Encoder:
        """See `ModelHandle.load`. Half precision is autocast: a class of one's own may not survive a cast."""
        preprocess, instance = self.preprocess, self._made()
        return Encoder(instance, instance.tokenizer, preprocess, device, precision, compile=compile, cast=False)


class MemoryModel(ModelHandle):
    """A model in memory, lent for an evaluation; see `from_memory`."""

    def __init__(self, model: Any, tokenizer: Tokenizer, transform: Callable[..., Any], name: str, digest: str | None):
        self.name, self.pretrained, self.slug, self.flags = name, None, slug_of(name), []
        self._model, self._tokenizer, self._given = model, tokenizer, digest
        for part in _PARTS[:2]:
            if not callable(getattr(model, part, None)):
                raise ClipevalError(f"the model ({type(model).__name__}) has no method {part}")
        self._preprocess = read_transform(transform, digest_of([name, digest or uuid.uuid4().hex]))

    @property
    def preprocess(self) -> Transform:
        """See `ModelHandle.preprocess`."""
        return self._preprocess

    @property
    def missing(self) -> str | None:
        """None: it is all there."""
        return None

    def fetch(self) -> None:
        """Nothing to do."""

    @property
    def weights_digest(self) -> str:
        """The weights as they are at the first call: make a new handle for a model that has trained on."""
        if self._given is None and isinstance(self._model, nn.Module):
            self._given = f"{type(self._model).__qualname__} {state_digest(self._model)}"
        elif self._given is None:
            self._given = uuid.uuid4().hex  # cannot be told apart from another, so nothing of it is ever reused
        return digest_of(self._given)

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `ModelHandle.outputs`."""
        return ("embeddings", "captions") if writes_captions(self._model) else ("embeddings",)

    @property
    def tokenizer_digest(self) -> str:
        """What the tokenizer makes of probe texts."""
        return tokens_digest(self._tokenizer)

    def tokenizer(self) -> Tokenizer:
        """See `ModelHandle.tokenizer`."""
        return self._tokenizer

    def load(self, device: str | torch.device = "cpu", precision: str = "fp32", compile: bool = False) -> Encoder:
        """An encoder around the model where it is: `device` only counts for a model without parameters."""
        return Encoder(self._model, self._tokenizer, self._preprocess, device, precision, compile=compile, owned=False)


def from_memory(
    model: Any, tokenizer: Tokenizer, transform: Callable[..., Any], name: str = "in-memory", digest: str | None = None
) -> ModelHandle:
    """A handle for a model in memory, such as one in training.

    Args:
        model: has `encode_image` and `encode_text`; its mode, device and dtype are left, or put back, as they were.
        tokenizer: a list of texts to int64 [B, L].
        transform: a PIL image to float32 [3, h, w], or a `Preprocess`.
        name: names it in records, and the run folder.
        digest: a string that changes with the weights; by default they are hashed.

    >>> model, _, transform = open_clip.create_model_and_transforms("ViT-B-32")
    >>> handle = from_memory(model, open_clip.get_tokenizer("ViT-B-32"), transform, name="step-1000")
    """
    return MemoryModel(model, tokenizer, transform, name, digest)


def state_digest(module: nn.Module) -> str:
    """16 hex digits of every parameter and buffer, by name, dtype, shape and content; wherever they lie."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):
            digest.update(repr((name, tensor)).encode())
            continue
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def tokens_digest(tokenizer: Tokenizer) -> str:
    """16 hex digits of what a tokenizer makes of probe texts of several lengths, scripts and cases."""
    probes = [*PROBES, "A Photo of 12 CATS!", "naïve café, 東京, Привет", "word " * 300]
    try:
        return digest_of(tokenise(tokenizer, probes).tolist())
    except ClipevalError:  # one that refuses long texts
        return digest_of([_answer(tokenizer, probe) for probe in probes])


def _answer(tokenizer: Tokenizer, text: str) -> Any:
    try:
        return tokenise(tokenizer, [text]).tolist()
    except ClipevalError as problem:
        return str(problem)


def _find(target: str) -> Callable[..., Any]:
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ClipevalError(
            f"model._target_={target} cannot be imported ({error}); it must be package.module.Class,"
            " with the package installed or in a folder on PYTHONPATH"
        ) from error
    if not callable(found):
        raise ClipevalError(f"model._target_={target} is no class")
    return found  # type: ignore[no-any-return]


def _has(instance: Any, part: str) -> bool:
    value = getattr(instance, part, None)
    return callable(value) or (part == "transform" and isinstance(value, Preprocess | Opaque))


def _source(kind: type) -> str:
    """The class's source, or its name where there is none (a notebook, an extension)."""
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return f"{kind.__module__}.{kind.__qualname__}"
