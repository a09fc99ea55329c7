"""What a task needs embedded, under which key it is kept, and what of it is there already."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from clipeval.data.config import DataConfig
from clipeval.data.images import Images
from clipeval.data.remote import below
from clipeval.data.split import Split
from clipeval.models import ModelHandle, image_precision
from clipeval.preprocess import watermark
from clipeval.preprocess.transforms import Convert
from clipeval.stores.embeddings import ImageStore, key_of
from clipeval.tasks.base import Task

DETERMINISTIC_BATCH = 32
"""The batch of `runtime.deterministic=true` where none is given; it divides the cache's chunk."""


@dataclass(frozen=True)
class FeatureSpec:
    """Images that some tasks need embedded in one way; tasks that agree on all of it share the work.

    Attributes:
        parts: everything that the embeddings depend on.
        images: the split's images.
        convert, mixed, output, max_pixels, max_text_chunk: as in `clipeval.decoding.decoders.DecodeJob`.
        label: for people who look into the cache.
    """

    parts: Mapping[str, Any]
    images: Images
    convert: Convert
    mixed: bool
    output: str
    label: str = ""
    max_pixels: int | None = None
    max_text_chunk: int | None = None

    @cached_property
    def key(self) -> str:
        """Names their store."""
        return key_of(self.parts)

    @cached_property
    def pixels_key(self) -> str:
        """Names what is decoded: the same for models that see the images alike."""
        return key_of({name: part for name, part in self.parts.items() if name != "image"})


def feature_specs(
    task: Task, splits: Mapping[str, Split], data: DataConfig, config: DictConfig, handle: ModelHandle
) -> dict[str, FeatureSpec]:
    """What a task needs of each of its splits."""
    runtime = config.runtime
    convert, drawn = data.convert, data.convert
    if convert == "watermark":
        font = below(config.data.root, data.font or "", Path(config.cache.root).expanduser())
        convert, drawn = watermark.drawn_with(font, handle.preprocess)
    how = {
        **handle.output_parts(task.output),
        "preprocess": runtime.preprocess if handle.preprocess.exact else "own",
        "convert": drawn,
        "precision": image_precision(runtime.precision, task.mixed, runtime.device),
    }
    if runtime.deterministic:  # the same bits want the same batches: kept apart from embeddings made otherwise
        how["batches"] = f"aligned/{runtime.batch_size or DETERMINISTIC_BATCH}"
    label, limits = f"{handle.name}, {task.name}", (data.max_pixels, data.max_text_chunk)
    return {
        role: FeatureSpec(
            {**how, "data": split.images.digest}, split.images, convert, task.mixed, task.output, label, *limits
        )
        for role, split in splits.items()
    }


@dataclass
class FeatureStores:
    """The stores of one model's features, each opened (and its files hashed) once in a process, when it is first asked for.

    Attributes:
        root: `cache.root`; None keeps nothing on disk.
        whole_chunks: whether a chunk that is begun counts for nothing, as with fixed batches (`runtime.deterministic`).
    """

    root: Path | None
    whole_chunks: bool = False
    _open: dict[str, ImageStore] = field(default_factory=dict)
    _writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="chunks"))
    """Its thread begins with the first chunk."""

    def of(self, spec: FeatureSpec) -> ImageStore:
        """The store of some features."""
        if spec.key not in self._open:
            self._open[spec.key] = ImageStore(self.root, spec.parts, len(spec.images), spec.label, self._writer)
        return self._open[spec.key]

    def refresh(self) -> None:
        """Reads what other processes have written meanwhile."""
        for store in self._open.values():
            store.refresh()

    def settle(self) -> None:
        """Waits until all that is complete is written. OSError where a disk did not take it."""
        for store in self._open.values():
            store.settle()

    def flush(self) -> None:
        """Writes what is in memory only, for a run that has to stop."""
        for store in self._open.values() if not self.whole_chunks else ():
            store.flush()
