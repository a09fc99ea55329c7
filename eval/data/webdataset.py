"""The folders of DataComp and of clip_benchmark: classnames.txt, templates, and a tar or several for each split."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from configs.errors import ClipevalError
from eval.data.account import Account
from eval.data.depth import flag_deep
from eval.data.images import FileImages, digest_of
from eval.data.labels import classes_of, given_names, named_wnids
from eval.data.shards import plain_tar, shard_paths
from eval.data.split import DataConfig, read_instances, read_text
from eval.data.tar_index import TarIndex, index_tars
from eval.data.text_table import lines_of, read_table
from eval.hub.lock import check_lock, expected_digests
from tasks.base import Samples

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
    keys = _unique_keys(indices)
    columns = _columns(location / split / TABLE, keys, config, account)
    classnames = _classnames(config, location, account)
    labels, captions = _labels_and_captions(config, indices, keys, kind, location)
    if labels is not None and config.label is None:
        labels, classnames = _named(labels, classnames, config, location, account)
    if config.label is not None:
        values = _column(columns, config.label, location)
        places = [f"{location / split / TABLE}, key {key!r}" for key in keys]
        labels, classnames = classes_of(values, config, classnames, location, places, account)
    if config.caption is not None:
        captions = [[str(text)] for text in _column(columns, config.caption, location)]
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
    metadata = pd.DataFrame(index=range(len(keys))) if is_vector else _metadata(config, indices, keys)
    samples = Samples(
        keys=keys,
        labels=labels,
        captions=captions,
        instances=instances,
        metadata=pd.concat([metadata, columns], axis=1),
        classnames=classnames,
        templates=_optional_lines(location / TEMPLATES),
    )
    return shard_images(paths, indices), samples


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
        files=[str(path) for path in paths],
        file=np.repeat(np.arange(len(paths), dtype=np.int32), [len(index.keys) for index in indices]),
        offset=np.concatenate([index.offset for index in indices]),
        size=np.concatenate([index.size for index in indices]),
        keys=keys,
        digest=digest_of(*(index.digest for index in indices)),
    )


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
    extra = len(classnames) and not classnames[-1] and config.classes != len(classnames) and labels.ndim == 1
    if extra and given is None and labels.max() < len(classnames) - 1:
        account.assume(f"the blank line at the end of {CLASSNAMES} is no class")
        return labels, classnames[:-1]
    return labels, classnames


def _labels_and_captions(
    config: DataConfig, indices: list[TarIndex], keys: list[str], kind: list[str], location: Path
) -> tuple[np.ndarray | None, list[list[str]] | None]:
    texts = [text for index in indices for text in index.txt]
    captions = None
    if kind == ["retrieval"] and config.caption is None:
        missing = [key for key, text in zip(keys, texts, strict=True) if text is None]
        if missing:
            raise ClipevalError(
                f"{location}: key {missing[0]!r} has no txt member, its captions ({len(missing)} such keys)."
            )
        captions = [[line for line in lines_of(text) if line.strip()] for text in texts if text is not None]
    if config.label is not None:
        return None, captions
    if kind == ["multilabel"]:
        return _label_vectors(indices, keys, location), captions
    values = [value for index in indices for value in index.cls]
    if all(value is None for value in values):
        return None, captions
    return _class_labels(values, keys, location), captions


def _class_labels(values: list[str | None], keys: list[str], location: Path) -> np.ndarray:
    labels = np.empty(len(values), dtype=np.int64)
    for i, value in enumerate(values):
        if value is None:
            raise ClipevalError(
                f"{location}: key {keys[i]!r} has an image and no cls member (its label): {values.count(None)} of "
                f"{len(values)} images have none."
            )
        if _INTEGER.fullmatch(value.strip()):
            labels[i] = int(value)
        else:
            raise ClipevalError(f"{location}: key {keys[i]!r} has {value[:40]!r} for a label; an integer was expected.")
    return labels


def _label_vectors(indices: list[TarIndex], keys: list[str], location: Path) -> np.ndarray:
    vectors = [array for index in indices for array in index.npy]
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


def _metadata(config: DataConfig, indices: list[TarIndex], keys: list[str]) -> pd.DataFrame:
    """The named fields of every sample's npy member, which may hold one value more than there are names."""
    if not config.fields:
        return pd.DataFrame(index=range(len(keys)))
    rows = [array for index in indices for array in index.npy]
    wanted = len(config.fields)
    for key, row in zip(keys, rows, strict=True):
        if row is None or row.size < wanted:
            found = "none" if row is None else str(row.size)
            raise ClipevalError(
                f"key {key!r} of {config.folder or config.path}: its metadata (npy) has {found} of the {wanted} values that the "
                f"task's data.fields name ({', '.join(config.fields)})."
            )
    table = np.stack([row.ravel()[:wanted] for row in rows if row is not None])
    return pd.DataFrame({name: table[:, i] for i, name in enumerate(config.fields)})


def _columns(path: Path, keys: list[str], config: DataConfig, account: Account) -> pd.DataFrame:
    """samples.csv in the images' order, its `key` column dropped; no columns where there is no such file."""
    if not path.exists():
        return pd.DataFrame(index=range(len(keys)))
    table = read_table(path, ["key"], account, config.sep, config.encoding)
    rows: dict[str, int] = {}
    for row, content in enumerate(table.rows):
        key = content["key"]
        if key in rows:
            raise ClipevalError(f"{table.where(row)}: the key {key!r} stands on line {table.lines[rows[key]]} already.")
        rows[key] = row
    known = set(keys)
    for key, row in rows.items():
        if key not in known:
            account.leave_out(table.where(row), "a row for an image that is in no shard")
    missing = [key for key in keys if key not in rows]
    if missing:
        raise ClipevalError(f"{path}: no row for the image {missing[0]!r} ({len(missing)} images have none).")
    columns = [name for name in table.columns if name != "key"]
    return pd.DataFrame([{c: table.rows[rows[key]][c] for c in columns} for key in keys], columns=columns)


def _column(columns: pd.DataFrame, name: str, location: Path) -> list[object]:
    from configs.errors import nearest

    if name not in columns:
        raise ClipevalError(f"{location}: {nearest('column of ' + TABLE, name, list(columns))}")
    return list(columns[name])
