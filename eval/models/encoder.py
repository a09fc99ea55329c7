"""A loaded model: uint8 images and texts in, float32 embeddings of unit length out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from clipeval.captioning.generate import write_captions
from clipeval.configs.errors import ClipevalError
from clipeval.models.bpe import quicken
from clipeval.models.float32 import full_float32
from clipeval.models.precision import (
    check_precision,
    current,
    image_precision,
    indexed,
    is_recipe,
    mixed_dtype,
    pick_device,
    text_precision,
)
from clipeval.models.small_cpu import keep_freed_memory
from clipeval.models.texts import TextEncoder, Tokenizer
from clipeval.models.trial import device_of
from clipeval.preprocess.transforms import Transform
from clipeval.results.cores import usable_cores
from clipeval.tasks.text_rows import to_rows

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_TOKENS_IN_BATCH = {"cpu": 2048, "cuda": 131072}

RAW = "raw"
"""The output that is an image's embedding as long as the model makes it; every model has it."""


class Encoder:
    """What the runner holds while it embeds. Use it as a context manager, or call `close`.

    Args:
        model: anything with `encode_image` and `encode_text`, each giving [B, D]; normally an nn.Module.
        tokenizer: list of texts to int64 [T, L].
        preprocess: how the model's images are made.
        device: where to run.
        precision: one of `clipeval.models.precision.PRECISIONS`.
        compile: torch.compile the image tower.
        owned: whether the model is ours to move, cast and free. One that a caller lends (`from_memory`) stays where it is:
            half precision is then autocast, and its mode comes back on `close`.
        cast: whether half precision may cast the weights of a model that is ours; else it is autocast.
        on_default_device: whether the model's own code makes tensors on `device` where it does not say where, as in a process
            that has called `torch.set_default_device`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        preprocess: Transform,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        *,
        compile: bool = False,
        owned: bool = True,
        cast: bool = True,
        on_default_device: bool = False,
    ):
        self.precision, self.preprocess = check_precision(precision), preprocess
        self.model: Any = model
        self.given_tokenizer: Any = tokenizer
        """As the model brings it: `tokenizer` may be a quicker one that gives the same tokens."""
        self.owned = owned
        self.params = sum(p.numel() for p in model.parameters()) if isinstance(model, nn.Module) else 0
        self._undo = ExitStack()
        self.device = indexed(pick_device(device))
        if owned and self.device.type == "cpu":
            keep_freed_memory()
            if torch.get_num_threads() > usable_cores():  # torch does not know of a container's quota
                torch.set_num_threads(usable_cores())
        self._dtype = torch.float32
        self._autocast: torch.dtype | None = None
        module = model if isinstance(model, nn.Module) else None
        if module is not None:
            if owned:
                module.to(self.device).eval().requires_grad_(False)
            else:
                self.device = device_of(module) or self.device
                self._undo.enter_context(_lent(module))
        self._default: torch.device | None = self.device if on_default_device else None
        with self._put_back_on_error():
            self._text = TextEncoder(self._encode_text, quicken(tokenizer), module, self.device)
        if precision in _DTYPES:
            if module is not None and owned and cast:
                _ = self.trims  # measured while the weights are float32
                module.to(_DTYPES[precision])
                self._dtype = _DTYPES[precision]
            else:
                self._autocast = _DTYPES[precision]
        self._image: Callable[[torch.Tensor], Any] = model.encode_image
        self._compiled = compile
        self._largest = 0
        if compile:
            self._image = torch.compile(model.encode_image, dynamic=False)
        if not (owned and cast):
            # Code of the user's own may answer anything; better to know before images are decoded.
            with self._put_back_on_error():
                _ = self.embed_dim

    @contextmanager
    def _put_back_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._undo.close()
            raise

    @cached_property
    def trims(self) -> bool:
        """Whether texts are trimmed: measured when texts are first embedded, since a run that has them all needs it not."""
        with self._running(None):
            return self._text.test_trimming()

    @property
    def shares(self) -> bool:
        """Whether what texts begin with in common is computed once; known once `trims` is."""
        return self.trims and self._text.shares

    @cached_property
    def embed_dim(self) -> int:
        """The length of an embedding."""
        return int(self.encode_texts(["a"]).shape[1])

    @property
    def scale(self) -> Any:
        """The model's own logit scale, as it is trained: a logarithm; None if it has none."""
        return getattr(self.model, "logit_scale", None)

    def probabilities(self, cosines: torch.Tensor) -> torch.Tensor:
        """Probabilities of labels from cosines, float32 [N, C], in the way that the model was trained.

        A model with a logit bias (SigLIP) judges each label by itself: sigmoid(scale x cosine + bias). Any other compares
        them: softmax over labels of scale x cosine. A model without a scale takes 100, CLIP's own.
        """
        scale, bias = self.scale, getattr(self.model, "logit_bias", None)
        factor = 100.0 if scale is None else float(torch.as_tensor(scale).detach().float().exp())
        if bias is not None:
            return torch.sigmoid(factor * cosines + float(torch.as_tensor(bias).detach().float()))
        return (factor * cosines).softmax(dim=-1)

    def image_precision(self, mixed: bool = False) -> str:
        """What images are computed in; part of a feature's cache key."""
        return image_precision(self.precision, mixed, self.device)

    def text_precision(self) -> str:
        """What texts are computed in; part of a text embedding's cache key."""
        return text_precision(self.precision, self.device)

    def encode_images(self, batch: torch.Tensor, mixed: bool = False) -> torch.Tensor:
        """Embed a batch.

        Args:
            batch: [B, 3, h, w], uint8 pixels or float32 that `preprocess` has normalised; on any device.
            mixed: under precision=datacomp, whether these images were published under automatic mixed precision.

        Returns:
            float32 [B, D], L2-normalised, on `device`.
        """
        with self._running(None):
            return functional.normalize(self.raw_images(batch, mixed), dim=-1)

    def raw_images(self, batch: torch.Tensor, mixed: bool = False) -> torch.Tensor:
        """As `encode_images`, but as long as the model makes them."""
        rows = len(batch)
        images = batch.to(self.device, non_blocking=True)
        with self._running(mixed_dtype(self.device) if is_recipe(self.precision) and mixed else self._autocast):
            images = self.preprocess.normalise(images) if images.dtype == torch.uint8 else images
            images = images.to(self._dtype)
            if self._compiled:  # one shape: a smaller batch is filled up, so that it is not compiled again
                self._largest = max(self._largest, rows)
                images = functional.pad(images, (0, 0, 0, 0, 0, 0, 0, self._largest - rows))
            try:
                with self._own_default():
                    embeddings = _tensor(self._image(images), "encode_image")[:rows]
            except torch.OutOfMemoryError:
                self.forget_shape()
                raise
            return embeddings.float()

    def forget_shape(self) -> None:
        """Lets a compiled tower be compiled for smaller batches: it fills none up to a size that memory does not hold."""
        self._largest = 0

    @contextmanager
    def uncompiled(self) -> Iterator[None]:
        """The image tower as it is, for trials: each size would be compiled, and all later batches filled up to the largest."""
        compiled, image = self._compiled, self._image
        self._compiled, self._image = False, self.model.encode_image
        try:
            yield
        finally:
            self._compiled, self._image = compiled, image

    @property
    def tokenizer(self) -> Tokenizer:
        """Gives the token ids of a list of texts; whoever shares it between models of one architecture may replace it."""
        return self._text.tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Tokenizer) -> None:
        self._text.tokenizer = tokenizer

    def encode(self, output: str, batch: torch.Tensor, mixed: bool = False) -> torch.Tensor:
        """What the model makes of some images, a row each, by a task's name for it: see `clipeval.tasks.base.Task.output`."""
        how = {"embeddings": self.encode_images, RAW: self.raw_images, "captions": self.caption_images}
        return how[output](batch, mixed)

    def caption_images(self, batch: torch.Tensor, mixed: bool = False) -> torch.Tensor:
        """What the model writes about some images.

        Args:
            batch, mixed: as of `encode_images`.

        Returns:
            float32 [B, 512], on the CPU: texts, as `clipeval.tasks.text_rows` keeps them.
        """
        images = batch.to(self.device, non_blocking=True)
        with self._running(mixed_dtype(self.device) if is_recipe(self.precision) and mixed else self._autocast):
            images = self.preprocess.normalise(images) if images.dtype == torch.uint8 else images
            with self._own_default():
                captions = write_captions(self.model, self.given_tokenizer, images.to(self._dtype))
            return to_rows(captions)

    def encode_texts(
        self,
        texts: Sequence[str],
        mixed: bool = False,
        progress: Callable[[int], None] | None = None,
        output: str = "embeddings",
    ) -> torch.Tensor:
        """Embed texts, each distinct one once; the same text gives the same embedding, to 1e-6, whatever the others.

        Args:
            texts: T texts, in any order.
            mixed: automatic mixed precision; under precision=datacomp it is always on, under the others never.
            progress: told after each batch how many more of the T texts are done.
            output: `embeddings`, L2-normalised, or `raw`, as long as the model makes them.

        Returns:
            float32 [T, D], on the CPU.
        """
        if not texts:
            return torch.empty(0, self.embed_dim)
        autocast = mixed_dtype(self.device) if is_recipe(self.precision) else self._autocast
        _ = self.trims
        budget = _TOKENS_IN_BATCH.get(self.device.type, 16384)
        with self._running(autocast):
            return self._text(texts, budget, progress, share=autocast is None, unit=output != RAW)

    def _encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        with self._own_default():
            return _tensor(self.model.encode_text(tokens), "encode_text")

    def _own_default(self) -> AbstractContextManager[object]:
        return nullcontext() if self._default is None else self._default

    @contextmanager
    def _running(self, autocast: torch.dtype | None) -> Iterator[None]:
        """Inference, in full float32 or under autocast."""
        with ExitStack() as stack:
            stack.enter_context(current(self.device))
            # What a lent model keeps of a forward pass (tables of rotary positions) must serve its next training step.
            stack.enter_context(torch.inference_mode() if self.owned else torch.no_grad())
            stack.enter_context(full_float32(tf32_convolutions=self.precision == "datacomp_tf32"))
            # Off as well as on: a caller's own autocast must not reach in here.
            stack.enter_context(
                torch.autocast(self.device.type, autocast or torch.bfloat16, enabled=autocast is not None)
            )
            yield

    def close(self) -> None:
        """Let the model go, and put a lent one back as it was. Closing twice does nothing."""
        self._undo.close()
        self.model = self._image = self._text = self.given_tokenizer = None  # type: ignore[assignment]
        if self.device.type == "cuda":
            with current(self.device):
                torch.cuda.empty_cache()

    def __enter__(self) -> Encoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _lent(module: nn.Module) -> Iterator[None]:
    """Eval mode for a module that is not ours; afterwards each part is back in its own mode."""
    training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in training.items():
            part.training = mode


def _tensor(output: Any, method: str) -> torch.Tensor:
    """The embeddings in what a model gave: a tensor, or the first of a tuple (CoCa), or pooler_output (Hugging Face)."""
    if isinstance(output, tuple | list):
        output = output[0]
    elif not isinstance(output, torch.Tensor):
        output = getattr(output, "pooler_output", output)
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        shape = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ClipevalError(f"{method} must give a tensor [batch, dimensions], got {shape}")
    return output
