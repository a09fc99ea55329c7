"""Models that are not open_clip's: any class that a config names, and a model that is already in memory."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clipeval.captioning.generate import writes_captions
from clipeval.configs.errors import ClipevalError
from clipeval.configs.naming import slug_of
from clipeval.configs.old_names import advice
from clipeval.models.encoder import Encoder
from clipeval.models.handle import ModelHandle, digest_of
from clipeval.models.identity import Identity, identify, own_digest
from clipeval.models.own_code import import_fresh
from clipeval.models.texts import PROBES, Tokenizer, tokenise
from clipeval.models.trial import check_weights
from clipeval.preprocess.reading import read_transform
from clipeval.preprocess.transforms import CustomTransform, Preprocess, Transform

_PARTS = ("encode_image", "encode_text", "tokenizer", "transform")


class UserModel(ModelHandle):
    """A class of one's own: `model=custom model._target_=my.module.MyModel +model.checkpoint=PATH`.

    An instance has
        encode_image(images)  float32 [B, 3, h, w], as `transform` gives them, to [B, D]
        encode_text(tokens)   int64 [B, L], as `tokenizer` gives them, to [B, D]
        tokenizer(texts)      a list of texts to int64 [B, L], padded to one length
        transform(image)      a PIL image to float32 [3, h, w]; or a `clipeval.preprocess.transforms.Preprocess`
    and, where it writes captions, generate(images) to int64 [B, L] token ids, and tokenizer.decode(ids) to text.
    Embeddings need no particular length.

    Results are reused while all of this is the same: the arguments, and the files that they name; the source of the class and
    of what it imports from outside of installed packages; the instance's weights and attributes. An attribute `digest`, a text
    that changes with what the instance holds, takes the place of its weights, attributes and files. Without it, an instance
    that is no nn.Module, or whose source cannot be read, is embedded anew by each run.

    >>> class MyModel(nn.Module):
    ...     def __init__(self, checkpoint): ...
    """

    def __init__(
        self,
        target: str,
        arguments: dict[str, Any],
        *,
        name: str | None = None,
        slug: str | None = None,
        cache_root: Path | None = None,
    ):
        self.name, self.pretrained, self.flags = name or target, None, []
        self.slug = slug_of(slug or self.name)
        self._target, self._class, self._arguments, self._cache = target, _find(target), arguments, cache_root
        self._instance: Any = None
        self._preprocess: Transform | None = None
        self._identity: Identity | None = None
        self._digest: str | None = None
        self._tokenizer_digest: str | None = None

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

    def _identified(self) -> Identity:
        """Makes the instance, and looks at it before it is used."""
        if self._identity is None:
            instance = self._made()
            digest = own_digest(instance, "model._target_")
            arguments = {"_target_": self._target, **self._arguments}
            self._identity = _model_identity(instance, self._class, arguments, digest, self._cache)
        return self._identity

    @property
    def preprocess(self) -> Transform:
        """See `ModelHandle.preprocess`. Makes the instance."""
        if self._preprocess is None:
            digest = self.weights_digest
            self._preprocess = read_transform(self._made().transform, digest)
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
        """Of all that is in `identity`; a new one for each handle where the model cannot be told from another."""
        if self._digest is None:
            found = self._identified()
            self._digest = digest_of(dict(found.parts)) if found.problem is None else uuid.uuid4().hex[:16]
        return self._digest

    @property
    def unidentified(self) -> str | None:
        """See `ModelHandle.unidentified`. Makes the instance."""
        return self._identified().problem

    @property
    def evolves(self) -> bool:
        """Yes: its code may have changed since, and its checkpoint."""
        return True

    @property
    def identity(self) -> Mapping[str, str]:
        """See `ModelHandle.identity`. Makes the instance."""
        return {**self._identified().parts, "tokenizer": self.tokenizer_digest}

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `ModelHandle.outputs`. Makes the instance."""
        return ("embeddings", "captions") if writes_captions(self._made()) else ("embeddings",)

    @property
    def tokenizer_digest(self) -> str:
        """What the tokenizer makes of probe texts, and what it holds. Makes the instance."""
        if self._tokenizer_digest is None:
            self._identified()  # before the tokenizer is used
            self._tokenizer_digest = tokens_digest(self._made().tokenizer)
        return self._tokenizer_digest

    def tokenizer(self) -> Tokenizer:
        """See `ModelHandle.tokenizer`. Makes the instance."""
        found: Tokenizer = self._made().tokenizer
        return found

    def require_precision(self, precision: str) -> None:
        """See `ModelHandle.require_precision`. Makes the instance."""
        check_weights(self._made(), precision, self.name)

    def load(self, device: str | torch.device = "cpu", precision: str = "fp32", compile: bool = False) -> Encoder:
        """See `ModelHandle.load`. Half precision is autocast: a class of one's own may not survive a cast."""
        self.require_precision(precision)
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
        seen = Identity({}) if _is_of(transform, model) else _seen(transform)
        self._problem = seen.problem if digest is None else None
        parts = [name, digest or "", dict(seen.parts)] if self._problem is None else [uuid.uuid4().hex]
        self._preprocess = read_transform(transform, digest_of(parts))
        if not isinstance(self._preprocess, CustomTransform):
            self._problem = None  # it was read: its pixels are known
        self._weights: str | None = None
        self._tokens: str | None = None
        self.on_default_device = False
        """Whether its code may count on tensors being made where its weights are (`torch.set_default_device`)."""

    ready = True

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
        """The model as it is at the first call: make a new handle for one that has trained on."""
        if self._weights is None:
            found = _model_identity(self._model, type(self._model), {}, self._given, None)
            self._problem = self._problem or found.problem
            self._weights = digest_of(dict(found.parts)) if found.problem is None else uuid.uuid4().hex[:16]
        return self._weights

    @property
    def unidentified(self) -> str | None:
        """See `ModelHandle.unidentified`."""
        digests = self.weights_digest, self.tokenizer_digest
        return self._problem if all(digests) else None

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `ModelHandle.outputs`."""
        return ("embeddings", "captions") if writes_captions(self._model) else ("embeddings",)

    @property
    def tokenizer_digest(self) -> str:
        """What the tokenizer makes of probe texts, and what it holds."""
        if self._tokens is None:
            found = Identity({}) if _is_of(self._tokenizer, self._model) else _seen(self._tokenizer)
            if found.problem is not None and self._given is None:
                self._problem = self._problem or found.problem
                found = Identity({"": uuid.uuid4().hex})
            self._tokens = digest_of([tokens_digest(self._tokenizer), dict(found.parts)])
        return self._tokens

    def tokenizer(self) -> Tokenizer:
        """See `ModelHandle.tokenizer`."""
        return self._tokenizer

    def require_precision(self, precision: str) -> None:
        """See `ModelHandle.require_precision`."""
        check_weights(self._model, precision, self.name)

    def load(self, device: str | torch.device = "cpu", precision: str = "fp32", compile: bool = False) -> Encoder:
        """An encoder around the model where it is: `device` only counts for a model without parameters."""
        self.require_precision(precision)
        given = self._model, self._tokenizer, self._preprocess, device, precision
        return Encoder(*given, compile=compile, owned=False, on_default_device=self.on_default_device)


def _model_identity(
    instance: Any, target: Any, arguments: Mapping[str, Any], digest: str | None, cache_root: Path | None
) -> Identity:
    """`identify` of a model: what is no torch module may keep its weights where nobody sees them."""
    found = identify(instance, target, arguments, digest, cache_root)
    if found.problem is None and digest is None and not isinstance(instance, nn.Module):
        return Identity(found.parts, f"{type(instance).__name__} is no torch module: its weights are not known")
    return found


def _seen(value: Any) -> Identity:
    return identify(value, value, {}, None, None)


def _is_of(function: Any, model: Any) -> bool:
    """Whether a function is a method of the model, which has a digest already."""
    return getattr(function, "__self__", None) is model


def from_memory(
    model: Any, tokenizer: Tokenizer, transform: Callable[..., Any], name: str = "in-memory", digest: str | None = None
) -> MemoryModel:
    """A handle for a model in memory, such as one in training.

    Args:
        model: has `encode_image` and `encode_text`; its mode, device and dtype are left, or put back, as they were.
        tokenizer: a list of texts to int64 [B, L].
        transform: a PIL image to float32 [3, h, w], or a `Preprocess`.
        name: names it in records, and the run folder.
        digest: a string that changes with the weights; by default they are hashed.

    >>> model, _, transform = open_clip.create_model_and_transforms("ViT-B-32")
    >>> handle = from_memory(model, open_clip.get_tokenizer("ViT-B-32"), transform, name="step-1000")

    Raises:
        ClipevalError: the tokenizer or the transform cannot be called, or they are exchanged.
    """
    for what, value in (("tokenizer", tokenizer), ("transform", transform)):
        if not callable(value) and not isinstance(value, Preprocess):
            raise ClipevalError(f"{what}={value!r}: something that can be called was expected.")
    if not _reads_text(tokenizer) and _reads_text(transform):
        raise ClipevalError("the tokenizer and the transform are exchanged: the tokenizer comes first.")
    return MemoryModel(model, tokenizer, transform, name, digest)


def _reads_text(function: Any) -> bool:
    try:
        return len(tokenise(function, ["a"])) == 1
    except Exception:  # noqa: BLE001 - of a transform anything may come; what a tokenizer raises is said where it is used
        return False


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
    try:
        found = getattr(import_fresh(target), target.rpartition(".")[2])
    except (ImportError, AttributeError, ValueError) as error:
        raise ClipevalError(
            f"model._target_={target} cannot be imported ({error}){advice(error)}; it must be package.module.Class,"
            " with the package installed or in a folder on PYTHONPATH"
        ) from error
    if not callable(found):
        raise ClipevalError(f"model._target_={target} is no class")
    return found  # type: ignore[no-any-return]


def _has(instance: Any, part: str) -> bool:
    value = getattr(instance, part, None)
    return callable(value) or (part == "transform" and isinstance(value, Preprocess | CustomTransform))
