"""One split of a data set, opened: its images, what is said of them, and whether it is what the task's config expects."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from clipeval.configs.addresses import shown
from clipeval.configs.errors import ClipevalError, nearest
from clipeval.data.account import Account
from clipeval.data.config import DataConfig
from clipeval.data.images import Images, digest_of
from clipeval.data.same_pictures import contents_of, twice_flag
from clipeval.data.subset import SubsetImages, limited
from clipeval.data.text_table import decode, parse_lines
from clipeval.tasks.base import Samples


@dataclass(frozen=True)
class Split:
    """One split: N images and the table of what is said of them.

    Attributes:
        images: random access to the encoded images.
        samples: keys, labels, captions, instances, metadata, class names, templates.
        digest: sha256 of everything that a score depends on, prompts left out.
        flags: what a reader of the scores must know.
        remarks: what is said once, when the data is read.
        limited: whether it is a quick subset (`data.limit`).
        contents: uint64 [N], equal for equal pictures of any split; None where their digests are not at hand.
    """

    images: Images
    samples: Samples
    digest: str
    flags: tuple[str, ...] = field(default=())
    remarks: tuple[str, ...] = field(default=())
    limited: bool = False
    contents: np.ndarray | None = field(default=None, repr=False)


Reader = Callable[[DataConfig, Path, str, Path | None, Account], tuple[Images, Samples]]


def open_split(
    config: DataConfig,
    root: str | None,
    split: str,
    cache: Path | None,
    strict: bool = False,
    on_error: str = "fail",
) -> Split:
    """Opens one split and checks it against the config.

    Args:
        config: the task's `data`.
        root: `data.root`.
        split: test, train, val.
        cache: where indices are kept; None keeps none.
        strict: whether a sample or class count other than the config's is an error (else a flag).
        on_error: `data.on_error`: fail, or skip: samples that cannot be scored are left out, counted and flagged.

    Raises:
        ClipevalError: something is missing, damaged or contradictory; names what, where and the cure.
    """
    readers = _readers()
    if config.kind not in readers:
        raise ClipevalError(nearest("data.kind", config.kind, readers))
    address, account = config.address(root), Account(on_error)
    location = config.location(root) if address is None else _copy_of(address, config, cache)

    def named(text: str) -> str:  # a reader sees a copy in the cache, a person knows the address
        return text if address is None else text.replace(str(location), shown(address).rstrip("/"))

    try:
        images, samples = readers[config.kind](config, location, split, cache, account)
        if len(images) == 0:
            raise ClipevalError(f"{location}: the split {split!r} holds no image.")
        _check_labels(samples, location)
    except ClipevalError as problem:
        raise problem if address is None else type(problem)(named(str(problem))) from None
    flags = _count_flags(config, samples, split)
    if flags and strict:
        raise ClipevalError(f"{config.place(root)}: {'; '.join(flags)} (data.strict=true makes this an error).")
    digests: np.ndarray | None = getattr(images, "contents", None)
    # A benchmark's own repetitions are part of its published numbers: one's own data alone is looked through.
    contents = contents_of(images) if config.samples is None else None
    subset = limited(images, samples, config.limit) if config.limit else None
    if subset is not None:
        images, samples, flag = subset
        flags.append(flag)
    if samples.positions is not None or subset is not None:
        rows = images.rows if isinstance(images, SubsetImages) else samples.positions
        digests, contents = (None if each is None else each[rows] for each in (digests, contents))
    known = contents is not None and len(contents) == len(samples.keys)
    twice = twice_flag(contents, samples) if contents is not None and known else None
    return Split(
        images,
        samples,
        split_digest(images, samples),
        (*flags, *map(named, account.flags), *([twice] if twice else [])),
        remarks=tuple(map(named, account.remarks)),
        limited=subset is not None,
        contents=digests,
    )


def apart_from(test: Split, train: Split, names: tuple[str, str], own: bool) -> Split:
    """The tested split, flagged where some of its pictures are trained on.

    Args:
        names: of the two splits, the tested one first.
        own: whether the set is one's own, and not a benchmark whose splits are as published.

    Raises:
        ClipevalError: all of them are, for both splits are the same files.
    """
    inner = test.images.images if isinstance(test.images, SubsetImages) else test.images
    same = inner.digest == train.images.digest
    count = 0
    if own and not same and test.contents is not None and train.contents is not None:
        count = int(np.isin(test.contents, train.contents).sum())
    if same or (count and count == len(test.images)):
        raise ClipevalError(
            f"the splits {names[0]!r} and {names[1]!r} are the same pictures, so that what is tested was trained on. Give each a "
            f"folder or file called like its split ({names[1]}/, {names[0]}/), or a table with a column split (task=labels)."
        )
    if not count:
        return test
    of = f"{count:,} of {len(test.images):,} tested pictures"
    flag = f"{of} are in the split {names[1]!r} too, byte for byte: they were trained on"
    return replace(test, flags=(*test.flags, flag))


def _copy_of(address: str, config: DataConfig, cache: Path | None) -> Path:
    from clipeval.data import remote

    keep = cache.parent if cache else Path(tempfile.gettempdir(), "clipeval")
    return remote.local_copy(address, keep, by_range=config.kind == "webdataset")


def read_instances(path: Path) -> list[Mapping[str, Any]]:
    """The questions in a .jsonl file, one JSON object a line."""
    return [question for _, question in parse_lines(path, decode(path))]


def read_text(path: Path, encoding: str | None = None) -> str:
    """A text file's content; see `clipeval.data.text_table.decode`."""
    return decode(path, encoding)


def _readers() -> dict[str, Reader]:
    from clipeval.data import (
        caption_files,
        caption_rows,
        huggingface,
        image_folder,
        pairs,
        path_pictures,
        qrels,
        queries,
        table,
        videos,
        webdataset,
    )

    return {
        "webdataset": webdataset.read,
        "folder": image_folder.read,
        "table": table.read,
        "captions": caption_files.read,
        "caption_rows": caption_rows.read,
        "huggingface": huggingface.read,
        "pairs": pairs.read,
        "paths": path_pictures.read,
        "qrels": qrels.read,
        "queries": queries.read,
        "videos": videos.read,
        "video_captions": videos.read_captions,
    }


def _check_labels(samples: Samples, location: Path) -> None:
    labels, classes = samples.labels, len(samples.classnames)
    if labels is None or labels.ndim != 1 or not classes:
        return
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        key, label = samples.keys[int(wrong[0])], int(labels[wrong[0]])
        raise ClipevalError(
            f"{location}: key {key!r} has label {label}, and classnames.txt names {classes} classes (0 to {classes - 1}). "
            f"{len(wrong)} samples are out of range: the class names belong to another version of the set, or the labels do."
        )


def _count_flags(config: DataConfig, samples: Samples, split: str) -> list[str]:
    flags = []
    count = len(samples.instances) if samples.instances is not None else len(samples.keys)
    if split == "test" and config.samples is not None and count != config.samples:
        flags.append(f"{count:,} samples, where the full set has {config.samples:,}")
    if config.classes is not None and samples.classnames and len(samples.classnames) != config.classes:
        flags.append(f"{len(samples.classnames):,} classes, where the full set has {config.classes:,}")
    return flags


def split_digest(images: Images, samples: Samples) -> str:
    """sha256 of everything that a score depends on, prompts left out."""
    labels = b"" if samples.labels is None else np.ascontiguousarray(samples.labels).tobytes()
    return digest_of(
        images.digest,
        "\0".join(samples.keys),
        labels,
        json.dumps([list(c) for c in samples.captions] if samples.captions is not None else None),
        json.dumps(samples.instances, sort_keys=True, default=str),
        samples.metadata.to_csv(index=False),
        json.dumps(list(samples.classnames)),
        *([] if samples.positions is None else [samples.positions.tobytes()]),
        *([] if samples.tree is None else [json.dumps([samples.tree.paths, samples.tree.heights], sort_keys=True)]),
    )
