"""The folders of DataComp and of clip_benchmark: classnames.txt, templates, and a tar or several for each split."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipeval.configs.addresses import is_address
from clipeval.configs.errors import ClipevalError, nearest
from clipeval.data.account import Account
from clipeval.data.config import DataConfig
from clipeval.data.depth import flag_deep
from clipeval.data.images import FileImages, digest_of
from clipeval.data.labels import classes_of, given_names, named_wnids, nothing_at_zero
from clipeval.data.lock import check_lock, expected_digests
from clipeval.data.remote import pointer_at
from clipeval.data.shards import plain_tar, shard_paths
from clipeval.data.split import read_instances, read_text
from clipeval.data.tar_index import TarIndex, index_tars
from clipeval.data.text_table import lines_of, read_table
from clipeval.tasks.base import Samples

CLASSNAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
DATASET_TYPE = "dataset_type.txt"
TABLE = "samples.csv"
INSTANCES = "instances.jsonl"
_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)  # int() also takes 1_000 and digits of other scripts


def read(
    config: DataConfig, location: Path, split: str, cache: Path | None, account: Account
) -> tuple[FileImages, Samples]:
    """Reads the layout described in the module's docstring.

    Beside the shards there may lie `samples.csv`, a row an image (column `key`), whose columns are further labels, captions
    and metadata, and the file of questions of an association or caption selection task.

    Raises:
        ClipevalError: a file is missing or damaged, or the parts contradict each other.
    """
    if not location.is_dir():
        if config.elsewhere is not None:  # fetching it would not help
            raise ClipevalError(
                f"{location} does not exist, and this copy of the set has no split that this task needs. {config.for_split()}"
            )
        raise ClipevalError(f"{location} does not exist. Fetch it with `clipeval download`, or set data.root.")
    kind = _optional_lines(location / DATASET_TYPE)
    paths = [plain_tar(path, cache, account) for path in shard_paths(location, split, account, config.for_split())]
    indices = index_tars(paths, cache)
    for path, index in zip(paths, indices, strict=True):
        index.tell(path, account)
    flag_deep([key for index in indices for key in index.deep], account)
    _check_lock(location, split, paths, indices)
    table = location / split / TABLE
    elsewhere = sum(is_address(name) for name in _sources(paths))
    if elsewhere:
        account.remark(f"shards of {location.name}/{split} are read where they are, by range: {elsewhere:,}")
    images, content, columns = _usable(paths, indices, table, config, kind, location, account)
    keys = list(images.keys)
    classnames = _classnames(config, location, account)
    labels, captions = _labels(content, keys, config, kind, location), None
    if labels is not None:
        labels, classnames = _named(labels, classnames, config, location, account)
    if config.label is not None:
        places = [f"{table}, key {key!r}" for key in keys]
        labels, classnames = classes_of(list(columns[config.label]), config, classnames, location, places, account)
    if config.caption is not None:
        captions = [[str(text)] for text in columns[config.caption]]
    elif kind == ["retrieval"]:
        captions = [[line for line in lines_of(text or "") if line.strip()] for text in content["txt"]]
    used = [name for name in (config.label, config.caption) if name in columns]
    columns = columns.drop(columns=list(dict.fromkeys(used)))  # what became a label or a caption is no metadata
    instances = None
    questions = config.instances or (INSTANCES if kind in (["association"], ["selection"]) else None)
    if questions:
        if not (location / split / questions).is_file():
            raise ClipevalError(
                f"{location / split / questions} is missing, the questions of this task. Fetch the set with `clipeval "
                "download`, or make it of its own files with `clipeval convert`."
            )
        instances = read_instances(location / split / questions)
    is_vector = kind == ["multilabel"]
    metadata = pd.DataFrame(index=range(len(keys))) if is_vector else _metadata(config, content["npy"], keys)
    samples = Samples(
        keys=keys,
        labels=labels,
        captions=captions,
        instances=instances,
        metadata=pd.concat([metadata, columns], axis=1),
        classnames=classnames,
        templates=_optional_lines(location / TEMPLATES),
    )
    return images, samples


@dataclass
class _Unusable:
    """Samples that cannot be scored, by their rows."""

    account: Account
    rows: set[int] = field(default_factory=set)

    def __call__(self, row: int, location: str, why: str) -> None:
        """Raises ClipevalError unless `data.on_error=skip`."""
        if row not in self.rows:
            self.account.unusable(location, why)
            self.rows.add(row)


def _usable(
    paths: list[Path],
    indices: list[TarIndex],
    table: Path,
    config: DataConfig,
    kind: list[str],
    location: Path,
    account: Account,
) -> tuple[FileImages, dict[str, list[Any]], pd.DataFrame]:
    """The images that can be scored; the content of their cls, txt and npy members; their rows of samples.csv."""
    keys, unusable = _unique_keys(indices), _Unusable(account)
    content = {name: [v for index in indices for v in getattr(index, name)] for name in ("cls", "txt", "npy")}
    columns = _columns(table, keys, config, unusable)
    if kind == ["retrieval"] and config.caption is None:
        for row, (key, text) in enumerate(zip(keys, content["txt"], strict=True)):
            if text is None:
                unusable(row, f"{location}: key {key!r}", "the image has no txt member, its captions")
            elif not text.strip():
                unusable(row, f"{location}: key {key!r}", "the caption is empty")
    for name, what in ((config.label, "label"), (config.caption, "caption")):
        for row, value in enumerate(_column(columns, name, location) if name is not None else ()):
            if row not in unusable.rows and not str(value).strip():
                unusable(row, f"{table}, key {keys[row]!r}, column {name!r}", f"the {what} is empty")
    if config.label is None and kind != ["multilabel"] and any(value is not None for value in content["cls"]):
        for row, (key, value) in enumerate(zip(keys, content["cls"], strict=True)):
            if value is None:
                unusable(row, f"{location}: key {key!r}", "the image has no cls member, its label")
            elif not value.strip():
                unusable(row, f"{location}: key {key!r}", "the label is empty; an integer was expected")
    images = shard_images(paths, indices)
    if not unusable.rows:
        return images, content, columns
    kept = np.array([row for row in range(len(keys)) if row not in unusable.rows], dtype=np.int64)
    chosen = {name: [values[row] for row in kept] for name, values in content.items()}
    return images.subset(kept), chosen, columns.iloc[kept].reset_index(drop=True)


def _check_lock(location: Path, split: str, paths: list[Path], indices: list[TarIndex]) -> None:
    """Compares the shards and the small files beside them with what `clipeval download` locked, where there is a lock."""
    known = {path: index.digest for path, index in zip(paths, indices, strict=True)}
    names = [Path(name) for name in expected_digests(location) or {}]
    small = [location / n for n in names if n.suffix != ".tar" and n.parent in (Path(), Path(split))]
    check_lock(location, [*paths, *small], known)


def _unique_keys(indices: list[TarIndex]) -> list[str]:
    keys = [key for index in indices for key in index.keys]
    if len(set(keys)) == len(keys):
        return keys
    return [f"{shard}/{key}" for shard, index in enumerate(indices) for key in index.keys]  # each shard counts anew


def shard_images(paths: list[Path], indices: list[TarIndex]) -> FileImages:
    """The images of some shards, in order."""
    keys = _unique_keys(indices)
    return FileImages(
        files=_sources(paths),
        file=np.repeat(np.arange(len(paths), dtype=np.int32), [len(index.keys) for index in indices]),
        offset=np.concatenate([index.offset for index in indices]),
        size=np.concatenate([index.size for index in indices]),
        keys=keys,
        digest=digest_of(*(index.digest for index in indices)),
    )


def _sources(paths: list[Path]) -> list[str]:
    """Where the shards' bytes are: their paths, or the addresses that lie in their places."""
    pointers = [(path, pointer_at(path)) for path in paths]
    return [str(path) if pointer is None else pointer.address for path, pointer in pointers]


def _optional_lines(path: Path) -> list[str]:
    """A file's lines, stripped, none dropped: a blank line of classnames.txt is a class. Empty where there is no file."""
    return [line.strip() for line in lines_of(read_text(path))] if path.exists() else []


def _classnames(config: DataConfig, location: Path, account: Account) -> list[str]:
    given = given_names(config, location)
    if isinstance(given, list):
        return given
    return named_wnids(_optional_lines(location / CLASSNAMES), str(location / CLASSNAMES), account)


def _named(
    labels: np.ndarray, classnames: list[str], config: DataConfig, location: Path, account: Account
) -> tuple[np.ndarray, list[str]]:
    """Labels of `cls` members and their names, where names are given by label, or the file's last line is blank."""
    given = given_names(config, location)
    if isinstance(given, Mapping) and labels.ndim == 1:
        return classes_of(labels.tolist(), config, (), location, [str(location)] * len(labels), account)
    if labels.ndim == 1 and classnames and labels.min() == 1 and labels.max() == len(classnames):
        classes_of(
            labels.tolist(), config, classnames, location, [str(location)] * len(labels), account
        )  # says what is wrong
    if config.samples is None and labels.ndim == 1 and classnames and labels.min() > 0:
        account.assume(nothing_at_zero(labels, classnames))
    extra = len(classnames) and not classnames[-1] and config.classes != len(classnames) and labels.ndim == 1
    if extra and given is None and labels.max() < len(classnames) - 1:
        account.assume(f"the blank line at the end of {CLASSNAMES} is no class")
        return labels, classnames[:-1]
    return labels, classnames


def _labels(
    content: Mapping[str, list[Any]], keys: list[str], config: DataConfig, kind: list[str], location: Path
) -> np.ndarray | None:
    """Labels of the cls members, int64 [N], or of the npy members, [N, C]; None where there are none."""
    if config.label is not None:
        return None
    if kind == ["multilabel"]:
        return _label_vectors(content["npy"], keys, location)
    if all(value is None for value in content["cls"]):
        return None
    for key, value in zip(keys, content["cls"], strict=True):
        if not _INTEGER.fullmatch(value.strip()):
            raise ClipevalError(f"{location}: key {key!r} has {value[:40]!r} for a label; an integer was expected.")
    return np.array([int(value) for value in content["cls"]], dtype=np.int64)


def _label_vectors(vectors: list[np.ndarray | None], keys: list[str], location: Path) -> np.ndarray:
    shapes = {None if v is None else v.shape for v in vectors}
    if len(shapes) != 1 or None in shapes:
        bad = next(k for k, v in zip(keys, vectors, strict=True) if v is None or v.shape != vectors[0].shape)  # type: ignore[union-attr]
        raise ClipevalError(
            f"{location}: key {bad!r} has no label vector of the others' length (npy member, multi-label)."
        )
    stacked = np.stack([v for v in vectors if v is not None])
    if not np.isin(stacked, (0, 1)).all():
        raise ClipevalError(f"{location}: multi-label vectors hold values other than 0 and 1.")
    return stacked


def _metadata(config: DataConfig, rows: list[np.ndarray | None], keys: list[str]) -> pd.DataFrame:
    """The named fields of every sample's npy member, which may hold one value more than there are names."""
    if not config.fields:
        return pd.DataFrame(index=range(len(keys)))
    wanted = len(config.fields)
    for key, row in zip(keys, rows, strict=True):
        if row is None or row.size < wanted:
            width = "none" if row is None else str(row.size)
            raise ClipevalError(
                f"key {key!r} of {config.folder or config.path}: its metadata (npy) has {width} of the {wanted} values that the "
                f"task's data.fields name ({', '.join(config.fields)})."
            )
    table = np.stack([row.ravel()[:wanted] for row in rows if row is not None])
    return pd.DataFrame({name: table[:, i] for i, name in enumerate(config.fields)})


def _columns(path: Path, keys: list[str], config: DataConfig, unusable: _Unusable) -> pd.DataFrame:
    """samples.csv in the images' order, its `key` column dropped; no columns where there is no such file."""
    account = unusable.account
    if not path.exists():
        return pd.DataFrame(index=range(len(keys)))
    table = read_table(path, ["key"], account, config.sep, config.encoding)
    rows: dict[str, int] = {}
    for row, content in enumerate(table.rows):
        key = content["key"]
        if key in rows:
            raise ClipevalError(
                f"{table.location(row)}: the key {key!r} stands on line {table.lines[rows[key]]} already."
            )
        rows[key] = row
    known = set(keys)
    for key, row in rows.items():
        if key not in known:
            account.leave_out(table.location(row), "a row for an image that is in no shard")
    columns = [name for name in table.columns if name != "key"]
    contents = []
    for row, key in enumerate(keys):
        if key not in rows:
            unusable(row, f"{path}, key {key!r}", "no row for the image")
        contents.append({c: table.rows[rows[key]][c] if key in rows else "" for c in columns})
    return pd.DataFrame(contents, columns=columns)


def _column(columns: pd.DataFrame, name: str, location: Path) -> list[object]:
    if name not in columns:
        raise ClipevalError(f"{location}: {nearest('column of ' + TABLE, name, list(columns))}")
    return list(columns[name])
