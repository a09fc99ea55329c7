"""What a config's `model:` names, before any weights are loaded: who it is, what it sees, and whether it is here."""

from __future__ import annotations

import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from clipeval.configs.errors import ClipevalError
from clipeval.configs.files import sha256_of
from clipeval.models.cuts import Cuts
from clipeval.models.encoder import RAW, Encoder
from clipeval.models.texts import Tokenizer
from clipeval.preprocess.transforms import Transform
from clipeval.results.stamp import settled, stamp


class ModelHandle(ABC):
    """A model that may be loaded. `resolve` and `from_memory` make it; the plan reads it; the runner loads it."""

    name: str
    """As the config says it: `ViT-B-32-256`."""
    pretrained: str | None
    """Which weights: a tag, a file, a repository."""
    slug: str
    """Names the run folder: safe for file systems, and the same for the same config."""
    text_clean: str | None = None
    """What is done to a text before the tokenizer reads it, a policy of `clipeval.models.text_clean`; None: the user's own."""
    dimensions: int | None = None
    """How many numbers of its embeddings are read, from the first on; None: all. The rest is kept with them all the same."""
    flags: list[str]
    """Warnings for whoever reads a score of this model; every record repeats them."""
    ready: bool = False
    """Whether it is in memory already: it is then tried before images are decoded for it."""

    @property
    @abstractmethod
    def preprocess(self) -> Transform:
        """How the model's images are made; known without loading it."""

    @property
    @abstractmethod
    def missing(self) -> str | None:
        """None if every file is on this machine; else a sentence that says which is not, and how to fetch it."""

    @property
    def on_demand(self) -> bool:
        """Whether a run fetches what is missing by itself: an address says where from, and there is nothing to choose."""
        return False

    @abstractmethod
    def fetch(self) -> None:
        """Download what is missing. ClipevalError, with the reason, if that fails."""

    def bring(self, say: Callable[[str], None]) -> None:
        """Sees to it that every file is here; fetches what a run may fetch by itself.

        Args:
            say: told before anything is fetched.

        Raises:
            ClipevalError: something is missing, with the command that fetches it, or cannot be fetched.
        """
        if self.missing and self.on_demand:
            say(f"fetching the weights of {self.name}, {self.pretrained or ''}, into the cache")
            self.fetch()
        if self.missing:
            raise ClipevalError(self.missing)

    @property
    @abstractmethod
    def weights_digest(self) -> str:
        """16 hex digits of the weights and the architecture. ClipevalError if files are missing."""

    @property
    @abstractmethod
    def tokenizer_digest(self) -> str:
        """16 hex digits of the tokenizer. ClipevalError if files are missing."""

    @abstractmethod
    def load(self, device: str | torch.device = "cpu", precision: str = "fp32", compile: bool = False) -> Encoder:
        """Build the model and load its weights. ClipevalError names the file and what is wrong with it."""

    @abstractmethod
    def tokenizer(self) -> Tokenizer:
        """What makes tokens of texts; the model is not loaded for it. ClipevalError if files are missing."""

    @cached_property
    def cuts(self) -> Cuts:
        """Which texts are longer than the model's context."""
        return Cuts(self.tokenizer())

    def load_text(self, device: str | torch.device = "cpu", precision: str = "fp32") -> Encoder:
        """As `load`, for a run that embeds texts alone: the image tower may be left out."""
        return self.load(device, precision)

    @cached_property
    def logit_scale(self) -> float | None:
        """The factor of cosines that the model was trained with, the exponential of its parameter; None: it has none.

        It is read of the loaded model, whose text tower is loaded for it on the CPU. ClipevalError if files are missing.
        """
        with self.load_text() as encoder:
            return scale_of(encoder)

    @property
    def identity(self) -> Mapping[str, str]:
        """{part of the model: its digest}, of what scores depend on beside the weights' digest, or in more detail than it."""
        clean = {} if self.text_clean is None else {"text clean-up": self.text_clean}
        return {"tokenizer": self.tokenizer_digest, **clean}

    @property
    def text_mark(self) -> str:
        """What a fingerprint says of the preprocessing of texts; nothing where it is what it was before there was a choice."""
        return ""

    @property
    def unidentified(self) -> str | None:
        """Why this model cannot be told from another of the same name; None where it can.

        Of such a model nothing is kept between runs, and its digests are new ones each time.
        """
        return None

    @property
    def evolves(self) -> bool:
        """Whether its name stands for what changes, such as code in the making: a run then replaces all records of the last."""
        return self.unidentified is not None

    @property
    def outputs(self) -> tuple[str, ...]:
        """What it makes of an image: see `clipeval.tasks.base.Task.output`."""
        return ("embeddings",)

    @property
    def architecture(self) -> Mapping[str, Any] | None:
        """open_clip's `model_cfg`; None for a model of another kind."""
        return None

    @property
    def embed_dim(self) -> int | None:
        """The length of an embedding, as the architecture or config says it; None where it is not known before a load."""
        width = (self.architecture or {}).get("embed_dim")
        return width if isinstance(width, int) else None

    def require(self, output: str, task: str) -> None:
        """ClipevalError where the model has no such output."""
        if output not in (RAW, *self.outputs):
            raise ClipevalError(
                f"{task} asks for {output}, and {self.name} gives {' and '.join(self.outputs)} only: take a model with a text "
                "decoder, such as model=open_clip model.name=coca_ViT-B-32 model.pretrained=laion2b_s13b_b90k"
            )

    def require_precision(self, precision: str) -> None:
        """ClipevalError where the weights cannot be computed with in that precision, as far as that is known before loading."""
        return

    def output_parts(self, output: str) -> dict[str, Any]:
        """What an image's output depends on, but for the image, the precision and the preprocessing mode."""
        if output == "embeddings":
            return {"image": self.image_digest}
        if output == RAW:
            return {"image": self.image_digest, "output": output}
        return {"image": self.image_digest, "output": output, "tokenizer": self.tokenizer_digest}

    def checkpoint_flags(self) -> tuple[str, ...]:
        """Warnings about what was loaded of a checkpoint, for every record; complete once the files are here."""
        return ()

    @property
    def image_digest(self) -> str:
        """Names an image's features, but for the image, the precision and the preprocessing mode."""
        return digest_of({"weights": self.weights_digest, "preprocess": self.preprocess.digest})

    @property
    def text_digest(self) -> str:
        """Names a text's embedding, but for the text and the precision."""
        return digest_of({"weights": self.weights_digest, "tokenizer": self.tokenizer_digest})

    def describe(self) -> dict[str, Any]:
        """The `model` of a record."""
        about = {"slug": self.slug, "name": self.name, "pretrained": self.pretrained}
        return {**about, "own_weights": True} if self.own_weights else about

    @property
    def own_weights(self) -> bool:
        """Whether the weights are others than those that someone published under the model's name, or may be."""
        return True


def scale_of(encoder: Encoder) -> float | None:
    """The factor of cosines of a loaded model; None: it has none."""
    return None if encoder.scale is None else float(torch.as_tensor(encoder.scale).detach().float().exp())


def digest_of(value: Any) -> str:
    """16 hex digits of anything JSON can say, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def path_mark(path: Path) -> str:
    """8 hex digits of where a file lies, so that two checkpoints of one name do not share a slug."""
    return hashlib.sha256(str(path.expanduser().resolve()).encode()).hexdigest()[:8]


def file_digest(path: Path, cache_root: Path | None) -> str:
    """sha256 of a file's content, in hex.

    Remembered under `cache_root` by path, size, times and inode, so that a checkpoint of gigabytes is read once. The memory
    is only a short cut: where it cannot be written, or the file has just changed, it is hashed again the next time.
    """
    stat = path.stat()
    identity = digest_of([str(path.resolve()), *stamp(stat)])
    memo = (cache_root or Path(os.devnull)) / "digests" / identity
    try:
        known = memo.read_text("ascii").strip()
        if re.fullmatch(r"[0-9a-f]{64}", known):
            return known
    except (OSError, UnicodeDecodeError):
        known = ""
    digest = sha256_of(path)
    if cache_root is None or not settled(stat):
        return digest
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        partial = memo.with_name(f"{memo.name}.{os.getpid()}")
        partial.write_text(digest, "ascii")
        partial.replace(memo)
    except OSError:
        return digest  # a full or read-only cache costs time, nothing else
    return digest


def digest_files(paths: Iterable[Path], cache_root: Path, extra: Mapping[str, Any], names: bool = True) -> str:
    """16 hex digits of some files, by content and (unless `names` is false) by name, and of whatever else matters."""
    files = [[path.name if names else "", file_digest(path, cache_root)] for path in paths]
    return digest_of({"files": files, **extra})
